package sandbox

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// builtWithCgo is why a program that links the C library, as "go run" makes one where it finds a
// C compiler, has neither no_new_privs nor fences. Capabilities and Landlock hold for one thread,
// and syscall.AllThreadsSyscall, which sets them on all, refuses to work beside C. seccomp
// reaches all threads by itself, but each C library makes new ones in its own way (glibc with
// clone3, whose flags no filter sees), and one call that is missing in the list aborts the
// server.
const builtWithCgo = "built with cgo, where the C library makes the threads: build with CGO_ENABLED=0"

func isBuiltWithCgo() bool {
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_GETPID, 0, 0, 0)
	return errno == syscall.ENOTSUP
}

// boundCapabilities takes every capability out of the bounding set, where this process may
// (CAP_SETPCAP), so that no file that is executed can bring one back. no_new_privs shuts the same
// door; this is its second lock, and may fail.
func boundCapabilities() {
	for capability := uintptr(0); ; capability++ {
		// EINVAL after the last one that the kernel knows.
		_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0)
		if errno != 0 {
			return
		}
	}
}

// dropCapabilities gives up all capabilities, and with no_new_privs all ways to gain any. Root
// that stays root keeps one to read the files of others: without it, root would read less than
// the user that it does not want to be.
func dropCapabilities() (report string, err error) {
	permitted, err := capabilities()
	if err != nil {
		return "", err
	}
	if isBuiltWithCgo() {
		return fmt.Sprintf("capabilities=%#x no_new_privs=off why=%q", permitted, builtWithCgo), nil
	}
	var keep uint64
	if os.Geteuid() == 0 {
		keep = permitted & (1 << unix.CAP_DAC_READ_SEARCH)
		if keep == 0 {
			keep = permitted & (1 << unix.CAP_DAC_OVERRIDE) // what containers have
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// The kernel takes from the ambient set what leaves the permitted or the inheritable one.
	data := [2]unix.CapUserData{
		{Effective: uint32(keep), Permitted: uint32(keep)},
		{Effective: uint32(keep >> 32), Permitted: uint32(keep >> 32)},
	}
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		return "", fmt.Errorf("cannot drop capabilities: %w", errno)
	}
	if err := forbidNewPrivileges(); err != nil {
		return "", err
	}
	return fmt.Sprintf("capabilities=%#x no_new_privs=on", keep), nil
}

// forbidNewPrivileges sets no_new_privs, without which the kernel accepts fences from root alone.
func forbidNewPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != 0 {
		return fmt.Errorf("cannot set no_new_privs: %w", errno)
	}
	return nil
}

// capabilities returns the permitted set of the calling thread.
func capabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	_, _, errno := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("cannot read capabilities: %w", errno)
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}
