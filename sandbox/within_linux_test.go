//go:build amd64 || arm64

package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// The tests try from inside what the fences refuse. The process within is this package's test
// binary, built without cgo and started again with this variable, whose value is its task.
const within = "SANDBOX_WITHIN"

// The process within never leaves init, which runs on the main thread.
func init() {
	if task, ok := os.LookupEnv(within); ok {
		if err := runWithin(task); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// patience bounds what should take milliseconds, for a machine that has other work.
const patience = 30 * time.Second

// built is the folder of the binary of the process within. Every user can reach it.
var built string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if built, err = os.MkdirTemp("", "sandbox"); err == nil {
			defer os.RemoveAll(built)
			err = os.Chmod(built, 0o755)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// buildWithin returns the path of the binary.
var buildWithin = sync.OnceValues(func() (string, error) {
	path := filepath.Join(built, "within.test")
	build := exec.Command("go", "test", "-c", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// needFences skips a test where the kernel lacks a fence, or has less of it than is known here.
func needFences(t *testing.T) {
	t.Helper()
	abi, errno := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 6 || fixed()&(1<<1) == 0 {
		testkit.Skip(t, fmt.Sprintf("this kernel's Landlock is ABI %d (%v), 6 is needed", abi, errno))
	}
}

// needRoot skips a test that only root can run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "not root")
	}
}

// fenced returns the report of both fences, as needFences asks for them.
func fenced() string {
	abi, _ := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return fmt.Sprintf("sandbox landlock=abi%d files=beneath-root tcp=none signals=none\nsandbox seccomp=on\n", abi)
}

// running returns the report of privileges for UID:GID.
func running(user string, capabilities uint64) string {
	return fmt.Sprintf("running as user=%s capabilities=%#x no_new_privs=on\n", user, capabilities)
}

// asUser makes cmd start as an unprivileged user.
func asUser(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
}

// surroundings are what the process within finds and may not touch.
type surroundings struct {
	folder  string // the root
	outside string // a file
	target  int    // a process
	tcp     int    // a port that is listened at
	unix    string // an abstract socket that is listened at
}

func newSurroundings(t *testing.T) *surroundings {
	t.Helper()
	testkit.SkipIfShort(t) // they build a process and start it
	s := &surroundings{folder: testkit.PublicFolder(t), outside: testkit.PublicFolder(t) + "/outside.txt"}
	for _, name := range []string{"read.txt", "write.txt", "truncate.txt", "unlink.txt", "rename.txt", "link.txt", "mode.txt"} {
		testkit.WriteFile(t, filepath.Join(s.folder, name), []byte("hello"))
		testkit.Must(t, os.Chmod(filepath.Join(s.folder, name), 0o666))
	}
	testkit.Must(t, os.Chmod(s.folder, 0o777))
	testkit.WriteFile(t, s.outside, []byte("secret"))
	target := exec.Command("sleep", "1000")
	testkit.Must(t, target.Start())
	t.Cleanup(func() {
		target.Process.Kill()
		target.Wait()
	})
	s.target = target.Process.Pid
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	testkit.Must(t, err)
	t.Cleanup(func() { tcp.Close() })
	s.tcp = tcp.Addr().(*net.TCPAddr).Port
	s.unix = fmt.Sprintf("@flytftp-%d-%d", os.Getpid(), s.tcp)
	abstract, err := net.Listen("unix", s.unix)
	testkit.Must(t, err)
	t.Cleanup(func() { abstract.Close() })
	return s
}

// command prepares the process within, started by wrapper if there is one.
func (s *surroundings) command(t *testing.T, task string, wrapper ...string) *exec.Cmd {
	t.Helper()
	path, err := buildWithin()
	testkit.Must(t, err)
	args := append(wrapper, path, s.folder, s.outside, strconv.Itoa(s.target), strconv.Itoa(s.tcp), s.unix)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = []string{within + "=" + task, "PATH=" + os.Getenv("PATH"), "GOMAXPROCS=4"}
	return cmd
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd.Env[0], err, out)
	}
	return string(out)
}

// withinThreads are the threads that attempts are made on.
const withinThreads = 5

// runWithin does a task of the form ACTION:FENCES. The action is "all", the name of one attempt,
// "wait" or "serve"; raise explains the fences.
func runWithin(task string) error {
	action, fences, _ := strings.Cut(task, ":")
	if len(os.Args) != 6 {
		return fmt.Errorf("arguments %q", os.Args)
	}
	s := &surroundings{folder: os.Args[1], outside: os.Args[2], unix: os.Args[5]}
	s.target, _ = strconv.Atoi(os.Args[3])
	s.tcp, _ = strconv.Atoi(os.Args[4])
	h, err := openHandles()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(s.folder)
	if err != nil {
		return err
	}
	// The main thread, others that exist before the fences, and later one that does not.
	threads := []func(func()){func(f func()) { f() }, newThread(), newThread(), newThread()}
	serve, err := newService(root)
	if err != nil {
		return err
	}
	reports, err := raise(fences, root)
	if err != nil {
		return err
	}
	for _, report := range reports {
		fmt.Println(report)
	}
	threads = append(threads, newThread())
	switch action {
	case "wait":
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		return nil
	case "serve":
		return serve.run()
	}
	for i, on := range threads {
		on(func() {
			for _, a := range attempts {
				// An attempt that succeeds could end the process, or change it for the next one.
				if action == a.name || action == "all" && a.refusal(fences) != 0 {
					fmt.Printf("thread=%d %s: %d\n", i, a.name, a.try(s, h))
				}
			}
		})
		if action != "all" {
			break
		}
	}
	return nil
}

// newThread returns a function that runs others on a thread of its own.
func newThread() func(func()) {
	work, done := make(chan func()), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
			done <- struct{}{}
		}
	}()
	on := func(f func()) {
		work <- f
		<-done
	}
	on(func() {})
	return on
}

// raise puts up fences and returns their reports. The fences are "none", a name that alone knows,
// or UID:GID or root for all that a server puts up. Before a user may stand "unfenced", to drop
// privileges and no more, "older", for a kernel without fences, or "saved", to start with root as
// the saved user id.
func raise(fences string, root *os.Root) (reports []string, err error) {
	switch fences {
	case "none":
		return nil, nil
	case "landlock", "seccomp", "strict":
		report, err := alone(fences, root)
		return []string{report}, err
	}
	start, name, found := strings.Cut(fences, " ")
	if !found {
		name = fences
	}
	switch start {
	case "older":
		err = refuseFences()
	case "saved":
		err = syscall.Setresuid(12345, 12345, 0)
	}
	if err != nil {
		return nil, err
	}
	user, err := ParseUser(name)
	if err != nil {
		return nil, err
	}
	report, err := DropPrivileges(user)
	if err != nil || start == "unfenced" {
		return []string{report}, err
	}
	reports, err = Fence(root)
	return append([]string{report}, reports...), err
}

// alone puts up landlock, seccomp, or strict: both, with a filter that ends the process.
func alone(fence string, root *os.Root) (report string, err error) {
	if err := forbidNewPrivileges(); err != nil {
		return "", err
	}
	switch fence {
	case "landlock":
		return landlock(root)
	case "seccomp":
		return seccomp()
	}
	if _, err := landlock(root); err != nil {
		return "", err
	}
	if errno := install(strict(filter(runtime.GOARCH, uint32(os.Getpid())))); errno != 0 {
		return "", errno
	}
	return fence, nil
}

// refuseFences makes the first calls of both fences fail as they do in a kernel that has none.
func refuseFences() error {
	program := []syscall.SockFilter{{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS, K: offsetNumber}}
	for _, number := range []uint32{unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_SECCOMP} {
		program = append(program,
			syscall.SockFilter{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, Jf: 1, K: number},
			syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(syscall.ENOSYS)})
	}
	program = append(program, syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	if err := forbidNewPrivileges(); err != nil {
		return err
	}
	if errno := install(program); errno != 0 {
		return errno
	}
	return nil
}

// strict makes a filter end the process where it would refuse.
func strict(program []syscall.SockFilter) []syscall.SockFilter {
	for i := range program {
		if program[i].Code == syscall.BPF_RET|syscall.BPF_K && program[i].K != unix.SECCOMP_RET_ALLOW {
			program[i].K = unix.SECCOMP_RET_KILL_PROCESS
		}
	}
	return program
}
