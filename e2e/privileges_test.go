package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"flytftp/internal/testkit"
)

// The beginnings of the log's lines about the user that the program runs as, and about its sandbox.
const (
	runningAs = "running as user="
	sandbox   = "sandbox "
)

// runsAs returns the beginning of the log's line about the user that the program becomes by
// default.
func runsAs() string {
	if os.Geteuid() == 0 {
		return runningAs + "65532:65532 "
	}
	return fmt.Sprintf("%s%d:%d ", runningAs, os.Geteuid(), os.Getegid())
}

// needRoot skips a test that only root can make.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "not root")
	}
}

// asUser makes cmd start as an unprivileged user.
func asUser(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	needRoot(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: 12345, Gid: 12345},
	}
}

// The program says who it is and what guards it, before it serves.
func TestReportsOfPrivileges(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	own := fmt.Sprintf("%s%d:%d ", runningAs, os.Geteuid(), os.Getegid())
	for user, report := range map[string]string{"65532:65532": runsAs(), "root": own} {
		d := start(t, folder, "-user", user)
		fetches(t, d.addr, "a.txt", "hello")
		lines := strings.Split(d.logged(), "\n")
		for i, beginning := range []string{report, sandbox + "landlock=", sandbox + "seccomp="} {
			if !strings.HasPrefix(lines[i], beginning) {
				t.Errorf("%s: line %d is not %q: %q", user, i+1, beginning, lines)
			}
		}
	}
}

// Started as root it becomes another user for good, before it answers anybody.
func TestDropPrivileges(t *testing.T) {
	needRoot(t)
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	testkit.WriteFile(t, folder+"/closed.txt", []byte("for root alone"))
	testkit.Must(t, os.Chmod(folder+"/closed.txt", 0o600))
	d := start(t, folder)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if os.IsNotExist(err) {
			continue
		}
		has := map[string]bool{}
		for line := range strings.Lines(string(status)) {
			has[strings.TrimRight(line, " \n")] = true
		}
		for _, want := range []string{
			"Uid:\t65532\t65532\t65532\t65532", "Gid:\t65532\t65532\t65532\t65532", "Groups:\t",
			"NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
			"CapInh:\t0000000000000000", "CapAmb:\t0000000000000000",
		} {
			if !has[want] {
				t.Errorf("%s: no %q in\n%s", thread, want, status)
			}
		}
	}
	fetches(t, d.addr, "a.txt", "hello")
	if _, refusal := dial(t, d.addr).fetch(rrq("closed.txt", "octet"), nil); refusal != notFound {
		t.Errorf("%q", refusal)
	}
	d.waitFor(`denied file="closed.txt"`)

	// A folder that root can read and the user cannot ends the start.
	testkit.Must(t, os.Chmod(folder, 0o700))
	_, stderr, status := output(t, nil, "-listen", "127.0.0.1:0", "-root", folder)
	if status != 1 || !strings.Contains(stderr, "user 65532 cannot read the folder") {
		t.Errorf("%d %q", status, stderr)
	}
}

// Root that may not become another user does not serve as root.
func TestDropPrivilegesFails(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		testkit.Skip(t, err.Error())
	}
	folder := testkit.PublicFolder(t)
	for bounds, step := range map[string]string{"-all": "setgroups", "-all,+setgid": "setuid"} {
		out, err := exec.Command("setpriv", "--bounding-set="+bounds,
			program(), "-listen", "127.0.0.1:0", "-root", folder).CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		want := "flytftp: cannot become user 65532:65532: " + step + ": operation not permitted: "
		if !ok || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), want) ||
			bytes.Count(out, []byte("\n")) != 1 {
			t.Errorf("%s: %v %q", bounds, err, out)
		}
	}
}

// A server that may not take the send buffer that it wants says so before it serves.
func TestSmallSendBuffer(t *testing.T) {
	limit, err := os.ReadFile("/proc/sys/net/core/wmem_max")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(limit)))
	testkit.Must(t, err)
	const wanted = 4 << 20 // docs/systemd.md
	cmd := command(context.Background(), nil, "-listen", "127.0.0.1:0", "-root", testkit.PublicFolder(t))
	asUser(t, cmd)
	want := fmt.Sprintf("send buffer size=%d wanted=%d why=", most, wanted)
	if got := strings.Contains(startCommand(t, cmd).logged(), want); got != (most < wanted) {
		t.Errorf("net.core.wmem_max=%d, and the line is there: %v", most, got)
	}
}

func TestStartUnprivileged(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	cmd := command(context.Background(), nil, "-listen", "127.0.0.1:0", "-root", folder)
	asUser(t, cmd)
	d := startCommand(t, cmd)
	fetches(t, d.addr, "a.txt", "hello")

	testkit.Must(t, os.Mkdir(folder+"/closed", 0o700))
	cmd = command(t.Context(), nil, "-listen", "127.0.0.1:0", "-root", folder+"/closed")
	asUser(t, cmd)
	out, err := cmd.CombinedOutput()
	const unreadable = "user 12345 cannot read the folder"
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), unreadable) {
		t.Errorf("%q %v", out, err)
	}

	first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil || strings.TrimSpace(string(first)) != "1024" {
		t.Logf("low ports are open to all here (%s): the error where they are not is not tested",
			bytes.TrimSpace(first))
		return
	}
	cmd = command(t.Context(), nil, "-listen", "127.0.0.1:69", "-root", folder)
	asUser(t, cmd)
	out, err = cmd.CombinedOutput()
	const forbidden = "permission denied: ports below 1024 need root"
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), forbidden) {
		t.Errorf("%q %v", out, err)
	}
}
