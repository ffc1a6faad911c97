//go:build amd64 || arm64

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// What the fences refuse is tried from inside. The process within is this test's own binary, without cgo and started again with this
// variable, whose value is what to do: the shipped program has no door for a test.
const within = "FLYTFTP_WITHIN"

func init() {
	if task, ok := os.LookupEnv(within); ok {
		if err := runWithin(task); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// buildWithin returns the path of the binary.
var buildWithin = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "flytftp")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "within.test")
	build := exec.Command("go", "test", "-c", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

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

// command prepares the process within; args may begin with another command that starts it.
func (s *surroundings) command(t *testing.T, task string, wrapper ...string) *exec.Cmd {
	t.Helper()
	path, err := buildWithin()
	testkit.Must(t, err)
	testkit.Must(t, os.Chmod(filepath.Dir(path), 0o755))
	args := append(wrapper, path, s.folder, s.outside, strconv.Itoa(s.target), strconv.Itoa(s.tcp), s.unix)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = []string{within + "=" + task, "PATH=" + os.Getenv("PATH"), "GOMAXPROCS=4"}
	return cmd
}

func (s *surroundings) output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd.Env[0], err, out)
	}
	return string(out)
}

// patience bounds what should take milliseconds, for a machine that is busy with other work.
const patience = 30 * time.Second

// asUser makes cmd start as an unprivileged user, where the test may.
func asUser(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "only root can start a process as another user")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
}

// withinThreads are the threads that attempts are made on.
const withinThreads = 5

// runWithin does a task, which is of the form ACTION:FENCES: "all" or the name of one attempt, "wait" or "serve".
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
	if err := raise(fences, root); err != nil {
		return err
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
				// What would succeed could end the process, or change it for what comes after.
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

// raise puts up fences: none, landlock, seccomp, strict, or as the program does, for a user.
func raise(fences string, root *os.Root) error {
	switch fences {
	case "none":
		return nil
	case "landlock":
		if err := forbidNewPrivileges(); err != nil {
			return err
		}
		report, err := landlock(root)
		fmt.Println(report)
		return err
	case "seccomp":
		if err := forbidNewPrivileges(); err != nil {
			return err
		}
		report, err := seccomp()
		fmt.Println(report)
		return err
	case "strict":
		if err := forbidNewPrivileges(); err != nil {
			return err
		}
		if _, err := landlock(root); err != nil {
			return err
		}
		if errno := install(strict(filter(runtime.GOARCH, uint32(os.Getpid())))); errno != 0 {
			return errno
		}
		return nil
	}
	if fences == "saved root" {
		if err := syscall.Setresuid(12345, 12345, 0); err != nil {
			return err
		}
		fences = "65532:65532"
	}
	user, unfenced := strings.CutPrefix(fences, "unfenced ")
	report, err := dropPrivileges(user)
	if err != nil {
		return err
	}
	fmt.Println(report)
	if unfenced {
		return nil
	}
	reports, err := fence(root)
	fmt.Println(strings.Join(reports, "\n"))
	return err
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

// handles are open before the fences, so that what is done with them can be refused too.
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

// attempt is a thing that the server never does.
type attempt struct {
	name string
	try  func(*surroundings, handles) syscall.Errno
	// How each layer refuses it; 0 where that is not its business.
	user, landlock, seccomp syscall.Errno
}

// refusal returns the error that refuses the attempt behind those fences, or 0.
func (a attempt) refusal(fences string) syscall.Errno {
	switch {
	case fences == "landlock":
		return a.landlock
	case fences == "seccomp":
		return a.seccomp
	case strings.HasPrefix(fences, "unfenced "):
		return a.user
	case a.seccomp != 0: // the filter is asked first
		return a.seccomp
	}
	return a.landlock
}

// raw makes a system call without the runtime's help or hindrance.
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
		// Where it succeeds, it writes what its success would.
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

// results returns what came of each attempt on each thread.
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

// needFences skips a test where the kernel has not all of the fences.
func needFences(t *testing.T) {
	t.Helper()
	testkit.SkipIfShort(t)
	if os.Geteuid() != 0 {
		testkit.Skip(t, "only root may do what is to be refused")
	}
	abi, errno := createRuleset(nil, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < 6 || fixed()&(1<<1) == 0 {
		testkit.Skip(t, fmt.Sprintf("this kernel's Landlock is ABI %d (%v), 6 is needed", abi, errno))
	}
	if filter(runtime.GOARCH, 1) == nil {
		testkit.Skip(t, "no filter for "+runtime.GOARCH)
	}
}

// Without a fence nothing refuses: else the other tests would show nothing.
func TestWithoutFences(t *testing.T) {
	needFences(t)
	for _, a := range attempts {
		s := newSurroundings(t)
		got := results(t, s.output(t, s.command(t, a.name+":none")))[a.name]
		if len(got) != 1 || got[0] == eperm || got[0] == eacces || got[0] == syscall.ENOSYS {
			t.Errorf("%s: %v", a.name, got)
		}
	}
}

// Each layer refuses what is its business, on threads that were there before it and on new ones; all together refuse everything,
// whoever the process runs as.
func TestFences(t *testing.T) {
	needFences(t)
	for _, c := range []struct{ fences, report string }{
		{"landlock", "landlock=abi"},
		{"seccomp", "seccomp=on\n"},
		{"unfenced 65532:65532", "became user=65532:65532 capabilities=0x0 no_new_privs=on\n"},
		{"65532:65532", "became user=65532:65532 capabilities=0x0 no_new_privs=on\nfenced landlock=abi"},
		{"root", "stayed user=0:0 capabilities=0x4 no_new_privs=on\nfenced landlock=abi"},
	} {
		s := newSurroundings(t)
		checkRefused(t, c.fences, s.output(t, s.command(t, "all:"+c.fences)), c.report)
	}

	// Not started as root.
	s := newSurroundings(t)
	cmd := s.command(t, "all:65532:65532")
	asUser(t, cmd)
	checkRefused(t, "12345", s.output(t, cmd), "stayed user=12345:12345 capabilities=0x0 no_new_privs=on\nfenced landlock=abi")
}

func checkRefused(t *testing.T, fences, output, report string) {
	t.Helper()
	if !strings.Contains(output, report) {
		t.Errorf("%s: no %q in\n%s", fences, report, output)
	}
	got := results(t, output)
	for _, a := range attempts {
		want := a.refusal(fences)
		if want == 0 {
			continue
		}
		if len(got[a.name]) != withinThreads {
			t.Errorf("%s: %s was tried on %d threads", fences, a.name, len(got[a.name]))
		}
		for thread, errno := range got[a.name] {
			if errno != want {
				t.Errorf("%s: %s on thread %d: %d (%v), want %v", fences, a.name, thread, errno, errno, want)
			}
		}
	}
}

// Every thread has what the report says.
func TestEveryThread(t *testing.T) {
	needFences(t)
	const none = "0000000000000000"
	for _, c := range []struct {
		task    string
		prepare func(*testing.T, *exec.Cmd)
		wrapper []string
		report  string
		uid     string
		want    []string
	}{
		{"65532:65532", func(t *testing.T, cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{4, 27}}}
		}, nil, "became user=65532:65532 capabilities=0x0 no_new_privs=on", "65532", []string{"CapPrm " + none, "CapEff " + none, "CapBnd " + none}},
		// What a hardened container gives.
		{"65532:65532", nil, []string{"setpriv", "--bounding-set=-all,+setuid,+setgid,+net_bind_service"},
			"became user=65532:65532 capabilities=0x0 no_new_privs=on", "65532", []string{"CapPrm " + none, "CapEff " + none}},
		{"root", nil, nil, "stayed user=0:0 capabilities=0x4 no_new_privs=on", "0", []string{"CapPrm 0000000000000004", "CapEff 0000000000000004", "CapBnd " + none}},
		{"root", nil, []string{"setpriv", "--bounding-set=-all,+dac_override,+chown,+setpcap"},
			"stayed user=0:0 capabilities=0x2 no_new_privs=on", "0", []string{"CapPrm 0000000000000002", "CapEff 0000000000000002", "CapBnd " + none}},
		{"root", nil, []string{"setpriv", "--bounding-set=-all"},
			"stayed user=0:0 capabilities=0x0 no_new_privs=on", "0", []string{"CapPrm " + none, "CapEff " + none, "CapBnd " + none}},
		{"65532:65532", asUser, nil, "stayed user=12345:12345 capabilities=0x0 no_new_privs=on", "12345", []string{"CapPrm " + none, "CapEff " + none}},
		{"65532:65532", func(t *testing.T, cmd *exec.Cmd) {
			asUser(t, cmd)
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP}
		}, nil, "stayed user=12345:12345 capabilities=0x0 no_new_privs=on", "12345", []string{"CapPrm " + none, "CapEff " + none, "CapBnd " + none}},
	} {
		if len(c.wrapper) > 0 {
			if _, err := exec.LookPath(c.wrapper[0]); err != nil {
				testkit.Skip(t, err.Error())
			}
		}
		s := newSurroundings(t)
		cmd := s.command(t, "wait:"+c.task, c.wrapper...)
		if c.prepare != nil {
			c.prepare(t, cmd)
		}
		stdin, err := cmd.StdinPipe()
		testkit.Must(t, err)
		stdout, err := cmd.StdoutPipe()
		testkit.Must(t, err)
		cmd.Stderr = os.Stderr
		testkit.Must(t, cmd.Start())
		report := ""
		lines := bufio.NewScanner(stdout)
		for lines.Scan() && lines.Text() != "ready" {
			report += lines.Text() + "\n"
		}
		if !strings.HasPrefix(report, c.report+"\nfenced landlock=abi") {
			t.Errorf("%s: report %q", c.task, report)
		}
		statuses, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
		testkit.Must(t, err)
		if len(statuses) < withinThreads {
			t.Errorf("%s: %d threads", c.task, len(statuses))
		}
		ids := strings.Repeat(" "+c.uid, 4)
		want := append(c.want, "Uid"+ids, "Gid"+ids, "CapInh "+none, "CapAmb "+none, "NoNewPrivs 1", "Seccomp 2")
		if c.uid == "65532" {
			want = append(want, "Groups")
		}
		for _, path := range statuses {
			status, err := os.ReadFile(path)
			testkit.Must(t, err)
			has := map[string]bool{}
			for _, line := range strings.Split(string(status), "\n") {
				has[strings.Join(strings.Fields(strings.Replace(line, ":", " ", 1)), " ")] = true
			}
			for _, line := range want {
				if !has[line] {
					t.Errorf("%s %q: no %q in\n%s", c.task, c.wrapper, line, status)
				}
			}
		}
		stdin.Close()
		testkit.Must(t, cmd.Wait())
	}
}

// Serving needs nothing that is refused: under load from every side, in a process that the filter ends where it would refuse.
func TestServeWithinFences(t *testing.T) {
	needFences(t)
	s := newSurroundings(t)
	testkit.WriteFile(t, s.folder+"/big.img", testkit.Pattern(300_000))
	testkit.WriteFile(t, s.folder+"/sub/below.img", testkit.Pattern(70_000))
	testkit.Must(t, os.Symlink("sub/below.img", s.folder+"/link.img"))
	testkit.Must(t, os.Symlink("/etc/passwd", s.folder+"/out.img"))
	cmd := s.command(t, "serve:strict")
	stdout, err := cmd.StdoutPipe()
	testkit.Must(t, err)
	var log bytes.Buffer
	cmd.Stderr = &log
	testkit.Must(t, cmd.Start())
	out := ""
	for lines := bufio.NewScanner(stdout); lines.Scan(); out += lines.Text() + "\n" {
		// What may happen to a process while it works.
		if lines.Text() == "serving" {
			for range 20 {
				testkit.Must(t, cmd.Process.Signal(syscall.SIGSTOP))
				testkit.Must(t, cmd.Process.Signal(syscall.SIGCONT))
				testkit.Must(t, cmd.Process.Signal(syscall.SIGUSR1))
			}
		}
	}
	if err := cmd.Wait(); err != nil || out != "serving\nserved\n" {
		t.Errorf("%v: %q\n%s", err, out, log.String())
	}
}

// A user who kept a way back to root, as a program with the setuid bit does, is not served as if there were none.
func TestWayBackToRoot(t *testing.T) {
	needFences(t)
	s := newSurroundings(t)
	out, err := s.command(t, "all:saved root").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "could become root again") {
		t.Errorf("%v: %s", err, out)
	}
}

// service does what the server does, as much of it as can be done at once.
type service struct {
	root   *os.Root
	socket *net.UDPConn
	client *net.UDPConn
}

func newService(root *os.Root) (*service, error) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	return &service{root, socket, client}, err
}

func (s *service) run() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	debug.SetGCPercent(10)
	fmt.Println("serving")
	ended := make(chan error)
	tasks := []func(i int) error{
		func(i int) error { return s.read("big.img", 300_000) },
		func(i int) error { return s.read("sub/below.img", 70_000) },
		func(i int) error { return s.read("link.img", 70_000) },
		func(i int) error {
			if err := s.read("out.img", 0); err == nil {
				return errors.New("a link led out of the root")
			}
			return nil
		},
		func(i int) error { // the heap grows, shrinks and is given back
			for range 8 {
				garbage = append(garbage[:0:0], make([]byte, i<<14+1)...)
			}
			debug.FreeOSMemory()
			return nil
		},
		func(i int) error { // a thread that ends with its goroutine
			runtime.LockOSThread()
			_, err := fmt.Fprintln(os.Stderr, "thread", i)
			return err
		},
		func(i int) error { // a goroutine that must be preempted, and timers
			until := time.Now().Add(12 * time.Millisecond)
			for n := 0; ; n++ {
				if n&0xffff == 0 && time.Now().After(until) {
					break
				}
			}
			<-time.After(time.Millisecond)
			return nil
		},
		func(i int) error { return s.echo() },
	}
	const rounds = 20
	for _, task := range tasks {
		for range 4 {
			go func() {
				for i := range rounds {
					failed := make(chan error)
					go func() { failed <- task(i) }()
					if err := <-failed; err != nil {
						ended <- err
						return
					}
				}
				ended <- nil
			}()
		}
	}
	for range 4 * len(tasks) {
		if err := <-ended; err != nil {
			return err
		}
	}
	select {
	case <-signals:
	case <-time.After(patience):
		return errors.New("no signal arrived")
	}
	fmt.Println("served")
	return nil
}

var garbage []byte

func (s *service) read(path string, size int) error {
	file, err := open(s.root, path)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err == nil && !bytes.Equal(content, testkit.Pattern(size)) {
		err = fmt.Errorf("%d bytes of %s", len(content), path)
	}
	return err
}

// echo sends a datagram from one socket to the other; several may, so it takes any.
func (s *service) echo() error {
	if _, err := s.client.WriteTo([]byte("datagram"), s.socket.LocalAddr()); err != nil {
		return err
	}
	s.socket.SetReadDeadline(time.Now().Add(patience))
	_, _, err := s.socket.ReadFrom(make([]byte, 100))
	return err
}
