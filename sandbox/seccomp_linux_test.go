package sandbox

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// judge runs the filter as the kernel does. The virtual machine reads big-endian words; so
// written, the low halves are where the kernel of a little-endian machine has them.
func judge(t *testing.T, program []syscall.SockFilter, audit, number uint32, args ...uint64) uint32 {
	t.Helper()
	var raw []bpf.RawInstruction
	for _, i := range program {
		raw = append(raw, bpf.RawInstruction{Op: i.Code, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	instructions, all := bpf.Disassemble(raw)
	if !all {
		t.Fatal("not a program")
	}
	machine, err := bpf.NewVM(instructions)
	testkit.Must(t, err)
	data := make([]byte, offsetArgs+6*8) // struct seccomp_data
	binary.BigEndian.PutUint32(data[offsetNumber:], number)
	binary.BigEndian.PutUint32(data[offsetArch:], audit)
	for i, arg := range args {
		binary.BigEndian.PutUint32(data[offsetArgs+8*i:], uint32(arg))
		binary.BigEndian.PutUint32(data[offsetArgs+8*i+4:], uint32(arg>>32))
	}
	verdict, err := machine.Run(data)
	testkit.Must(t, err)
	return uint32(verdict)
}

// callNumbers returns the numbers of an architecture's system calls, from the source of
// golang.org/x/sys/unix.
func callNumbers(t *testing.T, arch string) map[string]uint32 {
	t.Helper()
	folder, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	testkit.Must(t, err)
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), "unix", "zsysnum_linux_"+arch+".go"))
	testkit.Must(t, err)
	numbers := map[string]uint32{}
	for _, match := range regexp.MustCompile(`(?m)^\s*SYS_(\w+)\s*=\s*(\d+)$`).FindAllStringSubmatch(string(source), -1) {
		number, err := strconv.ParseUint(match[2], 10, 32)
		testkit.Must(t, err)
		numbers[strings.ToLower(match[1])] = uint32(number)
	}
	if len(numbers) < 300 {
		t.Fatalf("%d numbers for %s", len(numbers), arch)
	}
	return numbers
}

const (
	refused = unix.SECCOMP_RET_ERRNO | uint32(syscall.EPERM)
	allowed = uint32(unix.SECCOMP_RET_ALLOW)
	killed  = uint32(unix.SECCOMP_RET_KILL_PROCESS)
)

// The list allows the calls that it is meant to allow, by their numbers, and no others.
func TestFilterNumbers(t *testing.T) {
	const pid = 4711
	pass := map[string][]uint64{ // with arguments that pass
		"openat": {0, 0, syscall.O_CLOEXEC}, "mmap": {0, 0, syscall.PROT_READ | syscall.PROT_WRITE}, "mprotect": {0, 0, syscall.PROT_NONE},
		"prctl": {unix.PR_SET_VMA}, "clone": {threadFlags}, "tgkill": {pid, 1, 1},
		"fcntl": {0, unix.F_GETFL},
	}
	for _, name := range strings.Fields(`recvmmsg sendmmsg timerfd_settime sendmsg sendto recvmsg recvfrom epoll_pwait futex nanosleep sched_yield clock_gettime
		getpid rt_sigreturn read fstat newfstatat close readlinkat epoll_ctl write madvise munmap gettid sigaltstack rt_sigprocmask rt_sigaction exit
		exit_group restart_syscall getrandom epoll_create1 eventfd2 sched_getaffinity pread64 accept4`) {
		pass[name] = nil
	}
	for arch, audit := range map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64} {
		program := filter(arch, pid)
		numbers := callNumbers(t, arch)
		names := map[uint32]string{}
		for name, number := range numbers {
			names[number] = name
		}
		for number := range uint32(2000) {
			name := names[number]
			args, want := pass[name], refused
			if _, ok := pass[name]; ok {
				want = allowed
			}
			if got := judge(t, program, audit, number, args...); got != want {
				t.Errorf("%s %s (%d): %#x, want %#x", arch, name, number, got, want)
			}
			// The x32 convention of amd64 has the same architecture and this bit (asm/unistd.h
			// __X32_SYSCALL_BIT).
			if got := judge(t, program, audit, number|1<<30, args...); got != refused {
				t.Errorf("%s %s (%d), x32: %#x", arch, name, number, got)
			}
		}
		for _, foreign := range []uint32{0, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, audit ^ unix.AUDIT_ARCH_X86_64 ^ unix.AUDIT_ARCH_AARCH64} {
			if got := judge(t, program, foreign, numbers["read"]); got != killed {
				t.Errorf("%s: read of architecture %#x: %#x", arch, foreign, got)
			}
		}
		if got := len(calls(pid)); got != len(pass) {
			t.Errorf("%d calls in the list, %d are named here", got, len(pass))
		}
	}
	for _, arch := range []string{"arm", "386", "riscv64", "s390x"} {
		if filter(arch, pid) != nil {
			t.Errorf("a filter for %s", arch)
		}
	}
}

// Arguments are judged as the kernel reads them. The bits of O_DIRECTORY, O_NOFOLLOW, O_DIRECT
// and O_LARGEFILE differ between the architectures.
func TestFilterArguments(t *testing.T) {
	const pid = 4711
	const high = 1 << 32 // the kernel ignores these bits, so no check may trip over them
	open := func(flags uint64) []uint64 { return []uint64{^uint64(99), 1, flags, 0} }
	for arch, audit := range map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64} {
		directory, nofollow := uint64(0x10000), uint64(0x20000)
		if arch == "arm64" {
			directory, nofollow = 0x4000, 0x8000
		}
		program, numbers := filter(arch, pid), callNumbers(t, arch)
		for _, c := range []struct {
			name string
			args []uint64
			want uint32
		}{
			{"openat", open(0), allowed},
			{"openat", open(syscall.O_CLOEXEC | syscall.O_NONBLOCK | nofollow), allowed},
			{"openat", open(syscall.O_CLOEXEC | directory | nofollow), allowed},
			{"openat", open(syscall.O_WRONLY), refused},
			{"openat", open(syscall.O_RDWR), refused},
			{"openat", open(syscall.O_WRONLY | syscall.O_RDWR), refused}, // for ioctl alone
			{"openat", open(syscall.O_CREAT), refused},
			{"openat", open(syscall.O_CREAT | syscall.O_CLOEXEC), refused},
			{"openat", open(syscall.O_TRUNC), refused},
			{"openat", open(syscall.O_APPEND), refused},
			{"openat", open(0x400000 | directory | syscall.O_RDWR), refused}, // O_TMPFILE
			{"openat", open(0x400000 | directory), refused},
			{"openat", open(unix.O_PATH), refused},
			{"openat", open(syscall.O_ASYNC), refused},
			{"mmap", []uint64{0, 4096, syscall.PROT_NONE}, allowed},
			{"mmap", []uint64{0, 4096, syscall.PROT_READ | syscall.PROT_WRITE}, allowed},
			{"mmap", []uint64{0, 4096, syscall.PROT_EXEC}, refused},
			{"mmap", []uint64{0, 4096, syscall.PROT_READ | syscall.PROT_WRITE | syscall.PROT_EXEC}, refused},
			{"mmap", []uint64{0, 4096, syscall.PROT_EXEC | high}, refused},
			{"mprotect", []uint64{4096, 4096, syscall.PROT_READ}, allowed},
			{"mprotect", []uint64{4096, 4096, syscall.PROT_READ | syscall.PROT_EXEC}, refused},
			{"clone", []uint64{threadFlags}, allowed},
			{"clone", []uint64{threadFlags | unix.CLONE_SETTLS}, allowed},
			{"clone", []uint64{threadFlags &^ unix.CLONE_THREAD}, refused},
			{"clone", []uint64{threadFlags | unix.CLONE_NEWUSER}, refused},
			{"clone", []uint64{threadFlags | unix.CLONE_PTRACE}, refused},
			{"clone", []uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(syscall.SIGCHLD)}, refused},
			{"clone", []uint64{uint64(syscall.SIGCHLD)}, refused},
			{"prctl", []uint64{unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME}, allowed},
			{"prctl", []uint64{unix.PR_SET_SECCOMP}, refused},
			{"prctl", []uint64{unix.PR_CAP_AMBIENT}, refused},
			{"tgkill", []uint64{pid, 4712, 23}, allowed},
			{"tgkill", []uint64{pid + 1, 4712, 23}, refused},
			{"tgkill", []uint64{1, 1, 9}, refused},
		} {
			if got := judge(t, program, audit, numbers[c.name], c.args...); got != c.want {
				t.Errorf("%s: %s %#x: %#x, want %#x", arch, c.name, c.args, got, c.want)
			}
		}
	}
}
