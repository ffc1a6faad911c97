//go:build amd64 || arm64

package sandbox

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Landlock forbids what its ABI can, and signals only without erratum 2, on which the runtime
// would hang.
func TestHandled(t *testing.T) {
	for _, c := range []struct {
		abi, errata uintptr
		fs          uint64
		net, scoped uint64
		report      string
	}{
		{1, 0, 0x1fff, 0, 0, "sandbox landlock=abi1 files=beneath-root"},
		{2, 0, 0x3fff, 0, 0, "sandbox landlock=abi2 files=beneath-root"},
		{3, 0, 0x7fff, 0, 0, "sandbox landlock=abi3 files=beneath-root"},
		{4, 0, 0x7fff, 3, 0, "sandbox landlock=abi4 files=beneath-root tcp=none"},
		{5, 3, 0xffff, 3, 0, "sandbox landlock=abi5 files=beneath-root tcp=none"},
		{6, 1, 0xffff, 3, 1, "sandbox landlock=abi6 files=beneath-root tcp=none"},
		{6, 3, 0xffff, 3, 3, "sandbox landlock=abi6 files=beneath-root tcp=none signals=none"},
		{9, 7, 0xffff, 3, 3, "sandbox landlock=abi9 files=beneath-root tcp=none signals=none"},
	} {
		attr, report := handled(c.abi, c.errata)
		want := unix.LandlockRulesetAttr{Handled_access_fs: c.fs, Handled_access_net: c.net, Scoped: c.scoped}
		if attr != want || report != c.report {
			t.Errorf("ABI %d, errata %#x: %+v %q", c.abi, c.errata, attr, report)
		}
	}
}

// A fence that the kernel lacks is left out; a fence that it has must stand.
func TestMissing(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{
		0: false, syscall.ENOSYS: true, syscall.EOPNOTSUPP: true, syscall.EINVAL: true, syscall.EPERM: true,
		syscall.EACCES: false, syscall.ENOMEM: false, syscall.ESRCH: false, syscall.E2BIG: false,
	} {
		if missing(errno) != want {
			t.Errorf("%v: %v", errno, !want)
		}
	}
}

// Without a fence every attempt succeeds, or fails for a reason of its own: otherwise the other
// tests would show nothing.
func TestWithoutFences(t *testing.T) {
	needFences(t)
	needRoot(t)
	s := newSurroundings(t)
	for _, a := range attempts {
		got := results(t, output(t, s.command(t, a.name+":none")))[a.name]
		if len(got) != 1 || got[0] == eperm || got[0] == eacces || got[0] == syscall.ENOSYS {
			t.Errorf("%s: %v", a.name, got)
		}
	}
}

// Each fence refuses its part, on threads that were there before it and on new ones. Together they
// refuse everything, also to a user who was never root. The log says which of them stand.
func TestFences(t *testing.T) {
	needFences(t)
	user := fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
	if os.Geteuid() == 0 {
		user = "65532:65532"
	}
	landlock, seccomp, _ := strings.Cut(fenced(), "\n")
	for _, c := range []struct{ fences, report string }{
		{"landlock", landlock + "\n"},
		{"seccomp", seccomp},
		{"65532:65532", running(user, 0) + fenced()},
	} {
		s := newSurroundings(t)
		checkRefused(t, c.fences, output(t, s.command(t, "all:"+c.fences)), c.report)
	}
}

// Root gives up what it may do and no other user may; if it stays root, the fences refuse the rest.
func TestFencesOfRoot(t *testing.T) {
	needFences(t)
	needRoot(t)
	for _, c := range []struct{ fences, report string }{
		{"unfenced 65532:65532", running("65532:65532", 0)},
		{"root", running("0:0", 1<<unix.CAP_DAC_READ_SEARCH) + fenced()},
	} {
		s := newSurroundings(t)
		checkRefused(t, c.fences, output(t, s.command(t, "all:"+c.fences)), c.report)
	}
}

// A kernel without fences leaves the privileges to refuse what they can, and the log says so.
func TestOlderKernel(t *testing.T) {
	needFences(t)
	needRoot(t)
	s := newSurroundings(t)
	const fences = "older 65532:65532"
	checkRefused(t, fences, output(t, s.command(t, "all:"+fences)), running("65532:65532", 0)+
		`sandbox landlock=off why="function not implemented"`+"\n"+
		`sandbox seccomp=off why="function not implemented"`+"\n")
}

// checkRefused fails unless the output of the process within begins with the report and says that
// each attempt was refused on every thread.
func checkRefused(t *testing.T, fences, output, report string) {
	t.Helper()
	attempted, found := strings.CutPrefix(output, report)
	if !found || strings.Contains(attempted, "sandbox ") {
		t.Errorf("%s: the report is not %q in\n%s", fences, report, output)
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
