//go:build !linux

package main

func boundCapabilities() {}

// dropCapabilities has nothing to drop: here, what root may goes with the user id.
func dropCapabilities() (report string, err error) { return "no_new_privs=off", nil }
