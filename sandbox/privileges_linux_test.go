//go:build amd64 || arm64

package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// Every thread has what the report says.
func TestEveryThread(t *testing.T) {
	needFences(t)
	needRoot(t)
	const readSearch, override = 1 << unix.CAP_DAC_READ_SEARCH, 1 << unix.CAP_DAC_OVERRIDE
	groups := func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{4, 27}}}
	}
	ambient := func(cmd *exec.Cmd) {
		asUser(cmd)
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_SETPCAP}
	}
	setpriv := func(bounds string) []string { return []string{"setpriv", "--bounding-set=-all" + bounds} }
	for _, c := range []struct {
		user    string
		prepare func(*exec.Cmd)
		wrapper []string
		id      string // of the user and the group
		left    uint64 // capabilities
		bounded bool   // the process may empty the bounding set
	}{
		{"65532:65532", groups, nil, "65532", 0, true},
		// A hardened container gives these.
		{"65532:65532", nil, setpriv(",+setuid,+setgid,+net_bind_service"), "65532", 0, false},
		{"root", nil, nil, "0", readSearch, true},
		{"root", nil, setpriv(",+dac_override,+chown,+setpcap"), "0", override, true},
		{"root", nil, setpriv(""), "0", 0, true},
		{"65532:65532", asUser, nil, "12345", 0, false},
		{"65532:65532", ambient, nil, "12345", 0, true},
	} {
		if len(c.wrapper) > 0 {
			if _, err := exec.LookPath(c.wrapper[0]); err != nil {
				testkit.Skip(t, err.Error())
			}
		}
		s := newSurroundings(t)
		cmd := s.command(t, "wait:"+c.user, c.wrapper...)
		if c.prepare != nil {
			c.prepare(cmd)
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
		if want := running(c.id+":"+c.id, c.left) + fenced(); report != want {
			t.Errorf("%s %q: report %q, want %q", c.user, c.wrapper, report, want)
		}
		statuses, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
		testkit.Must(t, err)
		if len(statuses) < withinThreads {
			t.Errorf("%s %q: %d threads", c.user, c.wrapper, len(statuses))
		}
		ids, none, left := strings.Repeat(" "+c.id, 4), strings.Repeat("0", 16), fmt.Sprintf("%016x", c.left)
		want := []string{"Uid" + ids, "Gid" + ids, "CapPrm " + left, "CapEff " + left, "CapInh " + none, "CapAmb " + none,
			"NoNewPrivs 1", "Seccomp 2"}
		if c.bounded {
			want = append(want, "CapBnd "+none)
		}
		if c.id == "65532" {
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
					t.Errorf("%s %q: no %q in\n%s", c.user, c.wrapper, line, status)
				}
			}
		}
		stdin.Close()
		testkit.Must(t, cmd.Wait())
	}
}

// Root that may not become the user gets an error at the first step that it may not take.
func TestDropPrivilegesFails(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		testkit.Skip(t, err.Error())
	}
	for bounds, step := range map[string]string{"-all": "setgroups", "-all,+setgid": "setuid"} {
		s := newSurroundings(t)
		out, err := s.command(t, "all:65532:65532", "setpriv", "--bounding-set="+bounds).CombinedOutput()
		want := "cannot become user 65532:65532: " + step + ": operation not permitted: "
		if err == nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%s: %v %q", bounds, err, out)
		}
	}
}

// A process that kept a way back to root, as one with the setuid bit does, gets an error too.
func TestWayBackToRoot(t *testing.T) {
	needRoot(t)
	s := newSurroundings(t)
	out, err := s.command(t, "all:saved 65532:65532").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "user 12345 could become root again") {
		t.Errorf("%v: %s", err, out)
	}
}
