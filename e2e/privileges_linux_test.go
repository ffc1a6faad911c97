//go:build amd64 || arm64

package e2e

import (
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

// olderKernel is the variable with which the binary of these tests, when it is started again,
// becomes the command in its arguments, on a kernel that seems older than this one.
const olderKernel = "FLYTFTP_OLDER_KERNEL"

func init() {
	if os.Getenv(olderKernel) != "" {
		fmt.Fprintln(os.Stderr, execOnOlderKernel(os.Args[1:]))
		os.Exit(1)
	}
}

// returning is the instruction of a filter that ends it with a verdict.
func returning(verdict uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict}
}

// execOnOlderKernel becomes a command for which the system calls of Landlock and seccomp do not
// exist. It returns only with an error.
func execOnOlderKernel(command []string) error {
	// The kernel asks the filter for the number of a call, the first word of struct seccomp_data.
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
	for _, number := range []uint32{unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_SECCOMP} {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: number},
			returning(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	filter = append(filter, returning(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	// The filter is this thread's alone, and this thread alone is left after the exec.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	address := uintptr(unsafe.Pointer(&program))
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, address, 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return fmt.Errorf("exec: %w", syscall.Exec(command[0], command, nil))
}

// Where the kernel has no fences, the program serves without, and says so.
func TestOlderKernel(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	if log := start(t, folder).logged(); strings.Contains(log, "=off") {
		testkit.Skip(t, "a fence is missing here anyway:\n"+log)
	}
	self, err := os.Executable()
	testkit.Must(t, err)
	cmd := exec.Command(self, program(), "-listen", "127.0.0.1:0", "-root", folder)
	cmd.Env = []string{olderKernel + "=1"}
	d := startCommand(t, cmd)
	for _, line := range []string{
		runsAs() + "capabilities=0x0 no_new_privs=on",
		sandbox + `landlock=off why="function not implemented"`,
		sandbox + `seccomp=off why="function not implemented"`,
	} {
		if !strings.Contains(d.logged(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	fetches(t, d.addr, "a.txt", "hello")
}

// A program that `go run` makes on a machine with a C compiler serves too, and says what it lacks.
func TestBuiltWithCgo(t *testing.T) {
	testkit.SkipIfShort(t)
	if _, err := exec.LookPath("gcc"); err != nil {
		testkit.Skip(t, err.Error())
	}
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	readSourceFolders()
	path := filepath.Join(t.TempDir(), "flytftp")
	testkit.Must(t, build(path, "CGO_ENABLED=1"))
	d := startCommand(t, exec.Command(path, "-listen", "127.0.0.1:0", "-root", folder))
	lines := strings.Split(d.logged(), "\n")
	const why = ` why="built with cgo, where the C library makes the threads: build with CGO_ENABLED=0"`
	for i, beginning := range []string{runsAs() + "capabilities=0x0 ", sandbox + "landlock=off ", sandbox + "seccomp=off "} {
		if !strings.HasPrefix(lines[i], beginning) || !strings.HasSuffix(lines[i], why) {
			t.Errorf("line %d is not %q, and why: %q", i+1, beginning, lines)
		}
	}
	if !strings.Contains(lines[0], " no_new_privs=off ") {
		t.Errorf("log %q", lines)
	}
	fetches(t, d.addr, "a.txt", "hello")
}
