package sandbox

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call that serving needs: its number on each architecture, and the condition
// that one of its arguments must meet.
type call struct {
	amd64, arm64 uint16
	arg          uint8  // 0 is the first
	mask, want   uint32 // arg&mask == want; a mask of 0 lets every argument pass
}

// readFlags are the flags of openat that do not write: O_NONBLOCK, O_CLOEXEC, and O_DIRECT,
// O_DIRECTORY, O_NOFOLLOW and O_LARGEFILE, which are the same four bits on both architectures, in
// another order. O_RDONLY is 0.
const readFlags = unix.O_NONBLOCK | unix.O_CLOEXEC | 0x3c000

// threadFlags are the flags of clone with which the runtime makes a thread (runtime/os_linux.go
// cloneFlags), except for CLONE_SETTLS, which it adds on some architectures. With CLONE_THREAD,
// clone cannot make a process.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// calls returns the list of the calls that the process with that id may make. A list of what is
// allowed also refuses the calls of kernels to come, and it can be complete: the program is one
// static binary, so its calls are known. The most frequent ones come first, because kernels
// before 5.11 walk the list at every call.
func calls(pid uint32) []call {
	return []call{
		// Datagrams, on the sockets that are there: no socket, bind or connect.
		{amd64: 299, arm64: 243}, // recvmmsg
		{amd64: 307, arm64: 269}, // sendmmsg
		{amd64: 286, arm64: 86},  // timerfd_settime, of their retransmission
		{amd64: 46, arm64: 211},  // sendmsg
		{amd64: 44, arm64: 206},  // sendto
		{amd64: 47, arm64: 212},  // recvmsg
		{amd64: 45, arm64: 207},  // recvfrom

		// Connections to the socket that listens, if there is one. os.NewFile asks whether they
		// block.
		{amd64: 288, arm64: 242}, // accept4
		{amd64: 72, arm64: 25, arg: 1, mask: 1<<32 - 1, want: unix.F_GETFL}, // fcntl

		// The runtime at work: waiting, waking and preempting.
		{amd64: 281, arm64: 22},  // epoll_pwait
		{amd64: 202, arm64: 98},  // futex
		{amd64: 35, arm64: 101},  // nanosleep
		{amd64: 24, arm64: 124},  // sched_yield
		{amd64: 228, arm64: 113}, // clock_gettime, where the vDSO has none
		{amd64: 39, arm64: 172},  // getpid
		{amd64: 234, arm64: 131, arg: 0, mask: 1<<32 - 1, want: pid}, // tgkill: our own threads
		{amd64: 15, arm64: 139}, // rt_sigreturn

		// Files, and the log.
		{amd64: 17, arm64: 67}, // pread64, also of the container's CPU limit
		{amd64: 0, arm64: 63},  // read
		{amd64: 257, arm64: 56, arg: 2, mask: ^uint32(readFlags)}, // openat
		{amd64: 5, arm64: 80},   // fstat
		{amd64: 3, arm64: 57},   // close
		{amd64: 262, arm64: 79}, // newfstatat
		{amd64: 267, arm64: 78}, // readlinkat
		{amd64: 233, arm64: 21}, // epoll_ctl
		{amd64: 1, arm64: 64},   // write

		// Memory, but none that can be executed. The runtime names it with prctl.
		{amd64: 28, arm64: 233},                                                  // madvise
		{amd64: 9, arm64: 222, arg: 2, mask: unix.PROT_EXEC},                     // mmap
		{amd64: 11, arm64: 215},                                                  // munmap
		{amd64: 10, arm64: 226, arg: 2, mask: unix.PROT_EXEC},                    // mprotect
		{amd64: 157, arm64: 167, arg: 0, mask: 1<<32 - 1, want: unix.PR_SET_VMA}, // prctl

		// The birth and death of threads, and of the process.
		{amd64: 56, arm64: 220, // clone
			arg: 0, mask: ^uint32(unix.CLONE_SETTLS), want: threadFlags},
		{amd64: 186, arm64: 178}, // gettid
		{amd64: 131, arm64: 132}, // sigaltstack
		{amd64: 14, arm64: 135},  // rt_sigprocmask
		{amd64: 13, arm64: 134},  // rt_sigaction
		{amd64: 60, arm64: 93},   // exit
		{amd64: 231, arm64: 94},  // exit_group

		// The runtime may need these late.
		{amd64: 219, arm64: 128}, // restart_syscall, after a SIGSTOP
		{amd64: 318, arm64: 278}, // getrandom
		{amd64: 291, arm64: 20},  // epoll_create1
		{amd64: 290, arm64: 19},  // eventfd2
		{amd64: 204, arm64: 123}, // sched_getaffinity
	}
}

// Offsets in the kernel's struct seccomp_data, in bytes. Of an argument the filter reads the low
// half, which comes first on these little-endian architectures: the kernel ignores the high half
// of every argument for which a call has a mask.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// filter returns the program by which the kernel judges every system call, or nil for an
// architecture that has no list.
func filter(arch string, pid uint32) []syscall.SockFilter {
	var audit uint32
	switch arch {
	case "amd64":
		audit = unix.AUDIT_ARCH_X86_64
	case "arm64":
		audit = unix.AUDIT_ARCH_AARCH64
	default:
		return nil
	}
	const (
		// An error, not the end of the process: a call that the list forgot must not be a way to
		// kill it.
		refuse = unix.SECCOMP_RET_ERRNO | uint32(syscall.EPERM)
		allow  = unix.SECCOMP_RET_ALLOW
	)
	load := func(offset uint32) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS, K: offset}
	}
	skipUnless := func(value uint32, instructions uint8) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, Jf: instructions, K: value}
	}
	end := func(verdict uint32) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: verdict}
	}
	program := []syscall.SockFilter{
		// 32-bit calls of a 64-bit process have numbers of their own. No mistake leads here.
		load(offsetArch),
		{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, Jt: 1, K: audit},
		end(unix.SECCOMP_RET_KILL_PROCESS),
		load(offsetNumber),
	}
	for _, c := range calls(pid) {
		number := c.amd64
		if arch == "arm64" {
			number = c.arm64
		}
		if c.mask == 0 {
			program = append(program, skipUnless(uint32(number), 1), end(allow))
			continue
		}
		program = append(program,
			skipUnless(uint32(number), 5),
			load(offsetArgs+8*uint32(c.arg)),
			syscall.SockFilter{Code: syscall.BPF_ALU | syscall.BPF_AND | syscall.BPF_K, K: c.mask},
			skipUnless(c.want, 1),
			end(allow),
			end(refuse))
	}
	return append(program, end(refuse))
}

// seccomp lets the process make the system calls of the list, and no others.
func seccomp() (report string, err error) {
	program := filter(runtime.GOARCH, uint32(os.Getpid()))
	if program == nil {
		return off("seccomp", "no filter for "+runtime.GOARCH), nil
	}
	errno := install(program)
	if missing(errno) {
		return off("seccomp", errno.Error()), nil
	}
	if errno != 0 {
		return "", errno
	}
	return "sandbox seccomp=on", nil
}

// install puts the filter on all threads.
func install(program []syscall.SockFilter) syscall.Errno {
	prog := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP,
		unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno == 0 && thread != 0 {
		return syscall.ESRCH // that thread has a filter of its own, and this one is on no thread
	}
	return errno
}
