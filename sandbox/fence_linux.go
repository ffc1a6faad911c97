package sandbox

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fence makes the kernel refuse what a server never does, in all threads and for good. Landlock
// decides which files, TCP ports and processes can be reached: of files, those beneath root, to
// read. seccomp decides which system calls can be made. A kernel without one of them runs the
// process with less.
//
// The reports are two lines, such as "sandbox landlock=abi6 files=beneath-root tcp=none
// signals=none" and "sandbox seccomp=on"; landlock=off or seccomp=off is followed by why="...".
// After an error, some of the fences may stand.
//
// There is no chroot. os.Root keeps names within the folder, and Landlock keeps the process
// there, whatever it executes. Unlike a chroot, Landlock also forbids to write and to execute,
// needs no capability (a container rightly withholds the one for chroot), works for every user,
// and lets nobody out through an open descriptor, not even root.
func Fence(root *os.Root) (reports []string, err error) {
	if isBuiltWithCgo() {
		return []string{off("landlock", builtWithCgo), off("seccomp", builtWithCgo)}, nil
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
	return []string{files, calls}, nil
}

// off returns the report of a fence that does not stand.
func off(fence, why string) string { return fmt.Sprintf("sandbox %s=off why=%q", fence, why) }

// missing tells whether the first call to a fence failed because there is none: the kernel is
// older, or was built or started without it, or a container or an emulator refuses the call.
func missing(errno syscall.Errno) bool {
	return errno == syscall.ENOSYS || errno == syscall.EOPNOTSUPP || errno == syscall.EINVAL || errno == syscall.EPERM
}

// landlock lets the process open files beneath root for reading, and nothing else.
func landlock(root *os.Root) (report string, err error) {
	abi, errno := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if missing(errno) {
		return off("landlock", errno.Error()), nil
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
	_, _, errno = syscall.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE,
		ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
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
	// An older kernel accepts a longer attr if the fields that it does not know are zero.
	result, _, errno := syscall.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), size, flags)
	return result, errno
}

// fixed returns the errata that are fixed in the kernel's Landlock, a bit each.
func fixed() uintptr {
	errata, errno := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if errno != 0 {
		return 0
	}
	return errata
}

// handled returns what a Landlock of that ABI can forbid. ABI 7 and later guard doors that
// seccomp shuts.
func handled(abi, errata uintptr) (attr unix.LandlockRulesetAttr, report string) {
	// The rights are bits in the order in which they came: here all up to the last of an ABI.
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
	report = fmt.Sprintf("sandbox landlock=abi%d files=beneath-root", abi)
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		report += " tcp=none"
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		// Each thread has a domain of its own here. Before erratum 2 was fixed, such threads
		// could not signal each other, and the runtime would wait for ever (Linux
		// Documentation/userspace-api/landlock.rst, Errata).
		if errata&(1<<1) != 0 {
			attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
			report += " signals=none"
		}
	}
	return attr, report
}
