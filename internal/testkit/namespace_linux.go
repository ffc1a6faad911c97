package testkit

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a network and a view of the file system of their own. The end of the test ends them.
type Namespace struct {
	work   chan func()
	thread int
}

// NewNamespace makes one with nothing but loopback. It takes root.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good, so that the thread ends with this function
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			// What is mounted here is not seen elsewhere.
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		n.thread = unix.Gettid()
		made <- err
		for f := range n.work {
			f()
		}
	}()
	t.Cleanup(func() { close(n.work) })
	Must(t, <-made)
	n.IP(t, "link set lo up")
	return n
}

// Do runs f in the namespace. What f opens or starts belongs to it.
func (n *Namespace) Do(f func() error) error {
	result := make(chan error)
	n.work <- func() { result <- f() }
	return <-result
}

// IP runs the program ip with each of the commands.
func (n *Namespace) IP(t testing.TB, commands ...string) {
	t.Helper()
	Must(t, n.Do(func() error {
		for _, command := range commands {
			if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w\n%s", command, err, out)
			}
		}
		return nil
	}))
}

// Path returns a file that stands for the namespace of a kind: "net" or "mnt".
func (n *Namespace) Path(kind string) string {
	return fmt.Sprintf("/proc/%d/task/%d/ns/%s", unix.Getpid(), n.thread, kind)
}

// Command prepares a program that runs in the namespace. nsenter becomes it.
func (n *Namespace) Command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + n.Path("net"), "--mount=" + n.Path("mnt"), "--"}, args...)...)
}
