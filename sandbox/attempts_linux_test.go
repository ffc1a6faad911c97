//go:build amd64 || arm64

package sandbox

import (
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// handles are opened before the fences, so that the use of them can be refused too.
type handles struct {
	tcp, udp, unix int
	page           []byte
}

func openHandles() (h handles, err error) {
	if h.tcp, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0); err != nil {
		return h, err
	}
	if h.udp, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0); err != nil {
		return h, err
	}
	if h.unix, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err != nil {
		return h, err
	}
	h.page, err = syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	return h, err
}

// attempt is something that a server never does.
type attempt struct {
	name string
	try  func(*surroundings, handles) syscall.Errno
	// The error by which each layer refuses it; 0 where the layer lets it pass.
	user, landlock, seccomp syscall.Errno
}

// refusal returns the error that the attempt gets behind those fences, or 0 where it may succeed.
func (a attempt) refusal(fences string) syscall.Errno {
	switch {
	case fences == "landlock":
		return a.landlock
	case fences == "seccomp":
		return a.seccomp
	case strings.HasPrefix(fences, "unfenced "), strings.HasPrefix(fences, "older "):
		return a.user
	case a.seccomp != 0: // the filter is asked first
		return a.seccomp
	}
	return a.landlock
}

// raw makes a system call past the runtime.
func raw(trap uintptr, args ...uintptr) syscall.Errno {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := syscall.RawSyscall6(trap, a[0], a[1], a[2], a[3], a[4], a[5])
	return errno
}

// text returns the address of a string for the kernel. The memory is never freed.
func text(s string) uintptr {
	b := append([]byte(s), 0)
	texts = append(texts, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

var texts [][]byte

const (
	atCwd  = ^uintptr(99) // AT_FDCWD, -100
	eperm  = syscall.EPERM
	eacces = syscall.EACCES
)

func openat(path string, flags uintptr) syscall.Errno {
	return raw(unix.SYS_OPENAT, atCwd, text(path), flags, 0o666)
}

func in4(port int) (uintptr, uintptr) {
	addr := &syscall.RawSockaddrInet4{Family: syscall.AF_INET, Port: uint16(port)>>8 | uint16(port)<<8, Addr: [4]byte{127, 0, 0, 1}}
	addrs = append(addrs, addr)
	return uintptr(unsafe.Pointer(addr)), unsafe.Sizeof(*addr)
}

var addrs []*syscall.RawSockaddrInet4

var attempts = []attempt{
	// Processes.
	{"execve", func(s *surroundings, h handles) syscall.Errno {
		// Success replaces this process by one that reports it.
		argv := []uintptr{text("echo"), text("thread=0 execve: 0"), 0}
		return raw(unix.SYS_EXECVE, text("/bin/echo"), uintptr(unsafe.Pointer(&argv[0])), 0)
	}, 0, eacces, eperm},
	{"execveat", func(s *surroundings, h handles) syscall.Errno {
		argv := []uintptr{text("echo"), text("thread=0 execveat: 0"), 0}
		return raw(unix.SYS_EXECVEAT, atCwd, text("/bin/echo"), uintptr(unsafe.Pointer(&argv[0])), 0, 0)
	}, 0, eacces, eperm},
	{"fork", func(s *surroundings, h handles) syscall.Errno {
		pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 && pid == 0 {
			raw(unix.SYS_EXIT_GROUP)
		}
		return errno
	}, 0, 0, eperm},
	{"ptrace", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(s.target))
	}, eperm, eperm, eperm},
	{"process_vm_readv", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_PROCESS_VM_READV, uintptr(s.target))
	}, 0, 0, eperm},
	{"kill", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_KILL, uintptr(s.target), 0)
	}, eperm, eperm, eperm},
	{"tgkill", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_TGKILL, uintptr(s.target), uintptr(s.target), 0)
	}, eperm, eperm, eperm},
	{"pidfd_open", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_PIDFD_OPEN, uintptr(s.target), 0)
	}, 0, 0, eperm},

	// Files.
	{"open to write", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.folder+"/write.txt", syscall.O_WRONLY)
	}, 0, eacces, eperm},
	{"open to read and write", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.folder+"/write.txt", syscall.O_RDWR)
	}, 0, eacces, eperm},
	{"open to create", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.folder+"/created.txt", syscall.O_RDONLY|syscall.O_CREAT)
	}, 0, eacces, eperm},
	{"open to truncate", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.folder+"/truncate.txt", syscall.O_RDONLY|syscall.O_TRUNC)
	}, 0, eacces, eperm},
	{"open an unnamed file", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.folder, syscall.O_RDWR|unix.O_TMPFILE)
	}, 0, eacces, eperm},
	{"openat2", func(s *surroundings, h handles) syscall.Errno {
		how := unix.OpenHow{Flags: syscall.O_WRONLY}
		return raw(unix.SYS_OPENAT2, atCwd, text(s.folder+"/write.txt"), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how))
	}, 0, eacces, eperm},
	{"unlink", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_UNLINKAT, atCwd, text(s.folder+"/unlink.txt"), 0)
	}, 0, eacces, eperm},
	{"rename", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_RENAMEAT2, atCwd, text(s.folder+"/rename.txt"), atCwd, text(s.folder+"/renamed.txt"), 0)
	}, 0, eacces, eperm},
	{"link", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_LINKAT, atCwd, text(s.folder+"/link.txt"), atCwd, text(s.folder+"/linked.txt"), 0)
	}, 0, eacces, eperm},
	{"mkdir", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_MKDIRAT, atCwd, text(s.folder+"/folder"), 0o777)
	}, 0, eacces, eperm},
	{"symlink", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_SYMLINKAT, text("read.txt"), atCwd, text(s.folder+"/symbolic.txt"))
	}, 0, eacces, eperm},
	{"truncate", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_TRUNCATE, text(s.folder+"/truncate.txt"), 0)
	}, 0, eacces, eperm},
	{"chmod", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_FCHMODAT, atCwd, text(s.folder+"/mode.txt"), 0o600)
	}, eperm, 0, eperm},
	{"open outside", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.outside, syscall.O_RDONLY)
	}, 0, eacces, 0},
	{"open /etc/passwd", func(s *surroundings, h handles) syscall.Errno {
		return openat("/etc/passwd", syscall.O_RDONLY)
	}, 0, eacces, 0},
	{"open /proc/self/mem", func(s *surroundings, h handles) syscall.Errno {
		return openat("/proc/self/mem", syscall.O_RDONLY)
	}, 0, eacces, 0},
	{"open the folder above", func(s *surroundings, h handles) syscall.Errno {
		return openat(s.folder+"/..", syscall.O_RDONLY|syscall.O_DIRECTORY)
	}, 0, eacces, 0},
	{"mount", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_MOUNT, text("none"), text(s.folder), text("no such type"), 0, 0)
	}, eperm, eperm, eperm},
	{"chroot", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_CHROOT, text(s.folder))
	}, eperm, 0, eperm},

	// The network.
	{"TCP connect", func(s *surroundings, h handles) syscall.Errno {
		addr, length := in4(s.tcp)
		return raw(unix.SYS_CONNECT, uintptr(h.tcp), addr, length)
	}, 0, eacces, eperm},
	{"TCP bind", func(s *surroundings, h handles) syscall.Errno {
		addr, length := in4(0)
		return raw(unix.SYS_BIND, uintptr(h.tcp), addr, length)
	}, 0, eacces, eperm},
	{"TCP socket", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_STREAM, 0)
	}, 0, 0, eperm},
	{"TCP listen", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_LISTEN, uintptr(h.tcp), 1)
	}, 0, 0, eperm},
	{"fcntl that changes", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_FCNTL, uintptr(h.udp), unix.F_SETFL, unix.O_NONBLOCK)
	}, 0, 0, eperm},
	{"abstract socket", func(s *surroundings, h handles) syscall.Errno {
		addr := append([]byte{byte(syscall.AF_UNIX), 0, 0}, s.unix[1:]...)
		return raw(unix.SYS_CONNECT, uintptr(h.unix), uintptr(unsafe.Pointer(&addr[0])), uintptr(len(addr)))
	}, 0, eperm, eperm},
	{"UDP socket", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	}, 0, 0, eperm},
	{"UDP bind", func(s *surroundings, h handles) syscall.Errno {
		addr, length := in4(0)
		return raw(unix.SYS_BIND, uintptr(h.udp), addr, length)
	}, 0, 0, eperm},
	{"UDP connect", func(s *surroundings, h handles) syscall.Errno {
		addr, length := in4(69)
		return raw(unix.SYS_CONNECT, uintptr(h.udp), addr, length)
	}, 0, 0, eperm},

	// Memory.
	{"executable mmap", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_MMAP, 0, 4096, syscall.PROT_READ|syscall.PROT_EXEC, syscall.MAP_PRIVATE|syscall.MAP_ANON, ^uintptr(0), 0)
	}, 0, 0, eperm},
	{"executable mprotect", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_MPROTECT, uintptr(unsafe.Pointer(&h.page[0])), 4096, syscall.PROT_READ|syscall.PROT_EXEC)
	}, 0, 0, eperm},
	{"memfd_create", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_MEMFD_CREATE, text("x"), 0)
	}, 0, 0, eperm},
	{"personality", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_PERSONALITY, 0x0400000) // READ_IMPLIES_EXEC
	}, 0, 0, eperm},

	// Root, and what only root needs.
	{"setuid", func(s *surroundings, h handles) syscall.Errno { return raw(unix.SYS_SETUID, 0) }, eperm, 0, eperm},
	{"setresuid", func(s *surroundings, h handles) syscall.Errno { return raw(unix.SYS_SETRESUID, 0, 0, 0) }, eperm, 0, eperm},
	{"setgid", func(s *surroundings, h handles) syscall.Errno { return raw(unix.SYS_SETGID, 0) }, eperm, 0, eperm},
	{"setgroups", func(s *surroundings, h handles) syscall.Errno { return raw(unix.SYS_SETGROUPS, 0, 0) }, eperm, 0, eperm},
	{"capset", func(s *surroundings, h handles) syscall.Errno {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Effective: 1, Permitted: 1}}
		return raw(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)))
	}, eperm, 0, eperm},
	{"prctl", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)
	}, 0, 0, eperm},
	{"unshare", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_UNSHARE, unix.CLONE_NEWUTS)
	}, eperm, 0, eperm},
	{"keyctl", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(1), 1)
	}, 0, 0, eperm},
	{"io_uring_setup", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_IO_URING_SETUP, 1, 0)
	}, 0, 0, eperm},
	{"ioctl", func(s *surroundings, h handles) syscall.Errno {
		return raw(unix.SYS_IOCTL, 0, syscall.TIOCSTI, 0)
	}, 0, 0, eperm},
}

var attemptLine = regexp.MustCompile(`(?m)^thread=(\d) (.+): (\d+)$`)

// results returns the errors of each attempt, one for each thread.
func results(t *testing.T, output string) map[string][]syscall.Errno {
	t.Helper()
	found := map[string][]syscall.Errno{}
	for _, match := range attemptLine.FindAllStringSubmatch(output, -1) {
		errno, err := strconv.Atoi(match[3])
		testkit.Must(t, err)
		found[match[2]] = append(found[match[2]], syscall.Errno(errno))
	}
	return found
}
