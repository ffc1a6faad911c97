package e2e

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// fails fails the test unless the program ends with that status and one line on standard error
// that has all the wanted parts.
func fails(t *testing.T, args []string, env string, status int, want ...string) {
	t.Helper()
	stdout, stderr, got := output(t, []string{env}, args...)
	if got != status || stdout != "" {
		t.Errorf("%q %s: status %d, output %q", args, env, got, stdout)
	}
	oneLine := strings.Count(stderr, "\n") == 1 && strings.HasSuffix(stderr, "\n")
	if !strings.HasPrefix(stderr, "flytftp: ") || !oneLine {
		t.Errorf("%q %s: not one line: %q", args, env, stderr)
	}
	for _, want := range want {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q %s: no %q in %q", args, env, want, stderr)
		}
	}
}

func TestStartFailures(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", nil)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	defer socket.Close()
	taken := socket.LocalAddr().String()
	for _, c := range []struct {
		args   []string
		env    string
		status int
		want   []string
	}{
		{[]string{"-nonsense"}, "", 2, []string{`unknown flag "-nonsense"`, "-h"}},
		{[]string{"argument"}, "", 2, []string{`unexpected argument "argument"`}},
		{[]string{"-max-blksize", "9"}, "", 2, []string{"-max-blksize", "512 to 65464"}},
		{[]string{"-rate", "\x1b[2J"}, "", 2, []string{`\x1b[2J`}},
		{nil, "TFTP_RATE=many", 2, []string{"TFTP_RATE"}},
		{[]string{"-root", folder + "/absent"}, "", 1, []string{"absent", "-root"}},
		{[]string{"-root", folder + "/a.txt"}, "", 1, []string{"not a folder", "-root"}},
		{[]string{"-root", folder, "-listen", taken}, "", 1, []string{taken, "in use", "-listen"}},
		{[]string{"-root", folder, "-listen", "127.0.0.1:0," + taken}, "", 1,
			[]string{taken, "in use"}},
		{[]string{"-root", folder, "-listen", "192.0.2.1:0"}, "", 1,
			[]string{"192.0.2.1", "assign", "-listen"}},
		{[]string{"-healthcheck", "-listen", "127.0.0.1:0"}, "", 1, []string{"-healthcheck"}},
	} {
		fails(t, c.args, c.env, c.status, c.want...)
	}
}

// A start waits a while for a host name that may yet appear, and then gives up.
func TestStartWithoutAddress(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	// No name of the DNS, so nobody is asked.
	args := []string{"-root", testkit.PublicFolder(t), "-listen", "no..name:0"}
	fails(t, args, "", 1, "no..name", "-listen")
}

// -h prints what README's table of options says, and no other option.
func TestHelp(t *testing.T) {
	stdout, stderr, status := output(t, nil, "-h")
	if stderr != "" || status != 0 {
		t.Errorf("status %d, %q", status, stderr)
	}
	rows := testkit.TableRows(testkit.ReadSection(t, "../README.md", "## Options"))
	for _, row := range rows {
		flag, variable := strings.Trim(row[0], "`"), strings.Trim(row[1], "`")
		initial, values, meaning := row[2], row[3], row[4]
		want := fmt.Sprintf("\n  %s  %s\n        %s\n        %s, default %s\n",
			flag, values, meaning, variable, initial)
		if variable == "-" {
			want = fmt.Sprintf("\n  %s\n        %s\n", flag, meaning)
		}
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q", want)
		}
	}
	if options := strings.Count(stdout, "\n  -"); len(rows) == 0 || options != len(rows) {
		t.Errorf("%d options, README.md has %d", options, len(rows))
	}
	list := regexp.MustCompile(`\n-allow default stands for these [a-z ]+:\n( ( [a-z0-9_.*?/-]+)+\n)+$`)
	if !strings.HasPrefix(stdout, "flytftp serves ") || !list.MatchString(stdout) || t.Failed() {
		t.Errorf("-h prints\n%s", stdout)
	}
}

func TestVersion(t *testing.T) {
	stdout, stderr, status := output(t, nil, "-version")
	if stdout != "flytftp devel\n" || stderr != "" || status != 0 {
		t.Errorf("%q %q %d", stdout, stderr, status)
	}
}

func TestSeveralAddresses(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := start(t, folder, "-listen", "127.0.0.1:0,127.0.0.2:0,[::1]:0,:0")
	if len(d.addrs) != 4 {
		t.Fatalf("%q", d.addrs)
	}
	_, port, err := net.SplitHostPort(d.addrs[3])
	testkit.Must(t, err)
	every := append(d.addrs[:3:3], "127.0.0.1:"+port, "127.0.0.2:"+port, "[::1]:"+port)
	for _, addr := range every {
		if strings.HasSuffix(addr, ":0") {
			t.Errorf("port 0 in %q", d.addrs)
		}
		fetches(t, addr, "a.txt", "hello")
		if _, stderr, status := output(t, nil, "-healthcheck", "-listen", addr); status != 0 {
			t.Errorf("%s: %s", addr, stderr)
		}
	}
	listen := "TFTP_LISTEN=:" + port + "," + d.addr
	if _, stderr, status := output(t, []string{listen}, "-healthcheck"); status != 0 {
		t.Error(stderr)
	}
	if strings.Contains(d.logged(), "denied") {
		t.Errorf("health checks in the log:\n%s", d.logged())
	}
}

// A health check gives up soon when nobody answers: container engines wait 3 s and more.
func TestHealthcheckFails(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0") // it never answers
	testkit.Must(t, err)
	defer socket.Close()
	began := time.Now()
	args := []string{"-healthcheck", "-listen", socket.LocalAddr().String()}
	fails(t, args, "", 1, "no TFTP server answers")
	if waited := time.Since(began); waited > 10*time.Second { // 3 s with room for a busy machine
		t.Errorf("took %v", waited)
	}
}

// Where several processors are asked for, there are several sockets on one port. Clients see no
// difference.
func TestProcessors(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	env := []string{"GOMAXPROCS=3"}
	d := startCommand(t, command(context.Background(), env, "-listen", "127.0.0.1:0", "-root", folder))
	for range 20 {
		fetches(t, d.addr, "a.txt", "hello")
	}
}
