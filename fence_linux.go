package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fence makes the kernel refuse what the server never does, so that a bug in it reaches nothing: Landlock decides what files, TCP ports
// and processes may be reached, seccomp which system calls may be made. Both hold for all threads and for good. A kernel without one
// of them runs the server with less, and the report says so.
//
// There is no chroot. os.Root keeps names within the folder, and Landlock keeps the process there whatever it executes; beyond
// what a chroot could do it forbids to write and to execute, needs no capability (a chroot would take one that a container rightly
// does not give), works for every user, and is not left through a descriptor or by root.
func fence(root *os.Root) (reports []string, err error) {
	if isBuiltWithCgo() {
		// The C library makes threads in its own way, which the filter does not know.
		return []string{"fenced landlock=off seccomp=off why=" + builtWithCgo}, nil
	}
	// Landlock first: the filter refuses its calls.
	files, err := landlock(root)
	if err != nil {
		return nil, fmt.Errorf("landlock: %w", err)
	}
	calls, err := seccomp()
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	return []string{"fenced " + files, "fenced " + calls}, nil
}

// missing reports whether a first call to a fence failed as it does where the kernel is older, was built or started without the
// fence, or where what runs it (a container, an emulator) refuses the call.
func missing(errno syscall.Errno) bool {
	return errno == syscall.ENOSYS || errno == syscall.EOPNOTSUPP || errno == syscall.EINVAL || errno == syscall.EPERM
}

// landlock lets the process open files beneath the root for reading, and nothing else.
func landlock(root *os.Root) (report string, err error) {
	abi, errno := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if missing(errno) {
		return fmt.Sprintf("landlock=off why=%q", errno), nil
	}
	if errno != 0 {
		return "", errno
	}
	attr, report := handled(abi, fixed())
	ruleset, errno := createRuleset(&attr, 0)
	if errno != 0 {
		return "", fmt.Errorf("ruleset: %w", errno)
	}
	defer syscall.Close(int(ruleset))
	folder, err := root.Open(".")
	if err != nil {
		return "", err
	}
	defer folder.Close()
	beneath := unix.LandlockPathBeneathAttr{
		Allowed_access: unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR,
		Parent_fd:      int32(folder.Fd()),
	}
	_, _, errno = syscall.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
	if errno != 0 {
		return "", fmt.Errorf("rule: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return "", fmt.Errorf("restrict: %w", errno)
	}
	return report, nil
}

func createRuleset(attr *unix.LandlockRulesetAttr, flags uintptr) (uintptr, syscall.Errno) {
	size := unsafe.Sizeof(*attr)
	if attr == nil {
		size = 0
	}
	// An older kernel takes a longer attr if what it does not know is zero.
	result, _, errno := syscall.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), size, flags)
	return result, errno
}

// fixed returns the errata that the kernel's Landlock is free of, a bit each.
func fixed() uintptr {
	errata, errno := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if errno != 0 {
		return 0
	}
	return errata
}

// handled returns what a Landlock of that ABI can forbid. What came after ABI 6 guards doors that seccomp shuts.
func handled(abi, errata uintptr) (attr unix.LandlockRulesetAttr, report string) {
	// The rights are bits in the order in which they came: up to the last of an ABI.
	attr.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1
	if abi >= 2 {
		attr.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_REFER<<1 - 1
	}
	if abi >= 3 {
		attr.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_TRUNCATE<<1 - 1
	}
	if abi >= 5 {
		attr.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV<<1 - 1
	}
	report = fmt.Sprintf("landlock=abi%d files=beneath-root", abi)
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		report += " tcp=none"
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		// Before erratum 2 was mended, threads with a domain of their own, as all are here, could not signal each other: the runtime would
		// wait for ever (Linux Documentation/userspace-api/landlock.rst, Errata).
		if errata&(1<<1) != 0 {
			attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
			report += " signals=none"
		}
	}
	return attr, report
}
