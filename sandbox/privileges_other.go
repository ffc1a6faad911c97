//go:build !linux

package sandbox

func boundCapabilities() {}

// dropCapabilities has nothing to drop: here, root's privileges go with the user id.
func dropCapabilities() (report string, err error) { return "no_new_privs=off", nil }
