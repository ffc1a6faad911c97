//go:build !linux

package singleport

// sharedSockets is how many sockets tests have share an address.
const sharedSockets = 1
