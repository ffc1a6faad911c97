// Package e2e tests the program from the outside: it builds and starts flytftp as it is shipped,
// and speaks TFTP to it with clients of its own, with the clients of Debian, with the firmware of
// an emulated machine and with attacks. It knows no internals: a figure that a test needs is one
// that the README promises or an RFC fixes.
//
// `go test -short` leaves out what takes seconds.
package e2e
