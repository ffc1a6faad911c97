package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// olderKernel is set for a process that becomes the program in its arguments on a kernel without
// fences.
const olderKernel = "FLYTFTP_OLDER_KERNEL"

func init() {
	if os.Getenv(olderKernel) != "" {
		fmt.Fprintln(os.Stderr, execOnOlderKernel(os.Args[1:]))
		os.Exit(1)
	}
}

// execOnOlderKernel replaces this process by a program for which the first calls of both fences
// do not exist. A filter of the one thread is enough: no other survives.
func execOnOlderKernel(args []string) error {
	runtime.LockOSThread()
	const number = 0 // its offset in struct seccomp_data
	program := []syscall.SockFilter{{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS, K: number}}
	for _, call := range []uint32{unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_SECCOMP} {
		program = append(program,
			syscall.SockFilter{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, Jf: 1, K: call},
			syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(syscall.ENOSYS)})
	}
	program = append(program, syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := syscall.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return syscall.Exec(args[0], args, []string{"PATH=" + os.Getenv("PATH")})
}

// Where the kernel has no fences, the program serves without, and says so.
func TestOlderKernel(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	if log := start(t, folder).logged(); strings.Contains(log, "=off") {
		testkit.Skip(t, "a fence is missing here anyway:\n"+log)
	}
	own, err := os.Executable()
	testkit.Must(t, err)
	cmd := exec.Command(own, program, "-listen", "127.0.0.1:0", "-root", folder)
	cmd.Env = []string{olderKernel + "=1", "PATH=" + os.Getenv("PATH")}
	d := startCommand(t, cmd)
	for _, line := range []string{
		`sandbox landlock=off why="function not implemented"`,
		`sandbox seccomp=off why="function not implemented"`,
	} {
		if !strings.Contains(d.logged(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if content, failure := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
		t.Errorf("%q %q", content, failure)
	}
}

// A program built with cgo, as `go run` builds it where a C compiler is, serves too, and says
// what it lacks.
func TestBuiltWithCgo(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		testkit.Skip(t, err.Error())
	}
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	path := filepath.Join(t.TempDir(), "flytftp")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := startCommand(t, exec.Command(path, "-listen", "127.0.0.1:0", "-root", folder))
	who := fmt.Sprintf("%d:%d capabilities=", os.Geteuid(), os.Getegid())
	if os.Geteuid() == 0 {
		who = "65532:65532 capabilities=0x0"
	}
	lines := strings.Split(d.logged(), "\n")
	for i, beginning := range []string{"running as user=" + who, "sandbox landlock=off ", "sandbox seccomp=off ", "serving "} {
		if !strings.HasPrefix(lines[i], beginning) {
			t.Errorf("line %d is not %q: %q", i, beginning, lines)
		}
		if i < 3 && !strings.HasSuffix(lines[i], ` why="built with cgo, where the C library makes the threads: build with CGO_ENABLED=0"`) {
			t.Errorf("line %d does not say why: %q", i, lines)
		}
	}
	if !strings.Contains(lines[0], " no_new_privs=off ") {
		t.Errorf("log %q", lines)
	}
	if content, failure := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
		t.Errorf("%q %q", content, failure)
	}
}

// Root that may not become another user does not serve as root.
func TestDropPrivilegesFails(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Skip(t, "not root")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		testkit.Skip(t, err.Error())
	}
	args := []string{"--bounding-set=-all", program, "-listen", "127.0.0.1:0", "-root", testkit.PublicFolder(t)}
	out, err := exec.Command("setpriv", args...).CombinedOutput()
	const want = "flytftp: cannot become user 65532:65532: setgroups: operation not permitted: "
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), want) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v %q", err, out)
	}
}
