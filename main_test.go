package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// program is the path of the daemon that the tests of this package start.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "flytftp")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		// As it is shipped, without cgo: only so can the process drop its privileges.
		program = filepath.Join(folder, "flytftp")
		build := exec.Command("go", "build", "-o", program, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
			return 1
		}
		return m.Run()
	}())
}

// patience bounds what should take milliseconds, for a machine that has other work.
const patience = 30 * time.Second

// command prepares the program with nothing of the caller's environment but env.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// output runs the program to its end.
func output(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := command(ctx, env, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%q: %v\n%s", args, err, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// daemon is a started server.
type daemon struct {
	t     *testing.T
	cmd   *exec.Cmd
	addr  string // the first it listens on
	lines chan string
	ended chan struct{}

	mu  sync.Mutex
	log []string
}

// start starts the program on a free loopback port and waits until it serves; the test's end kills it.
func start(t *testing.T, root string, args ...string) *daemon {
	t.Helper()
	args = append([]string{"-listen", "127.0.0.1:0", "-root", root}, args...)
	return startCommand(t, command(context.Background(), nil, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: cmd, lines: make(chan string, 10_000), ended: make(chan struct{})}
	stderr, err := cmd.StderrPipe()
	testkit.Must(t, err)
	testkit.Must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-d.ended
		if t.Failed() {
			t.Logf("log:\n%s", d.logged())
		}
	})
	go func() {
		defer close(d.ended)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			d.mu.Lock()
			d.log = append(d.log, scanner.Text())
			d.mu.Unlock()
			d.lines <- scanner.Text()
		}
		cmd.Wait()
	}()
	d.addr, _, _ = strings.Cut(field(d.waitFor("serving "), "listen"), ",")
	return d
}

func (d *daemon) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.log, "\n")
}

// waitFor returns the next line that begins with prefix.
func (d *daemon) waitFor(prefix string) string {
	d.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-d.lines:
			if strings.HasPrefix(line, prefix) {
				return line
			}
		case <-deadline:
			d.t.Fatalf("no line %q in\n%s", prefix, d.logged())
		}
	}
}

// waitEnd returns the exit status.
func (d *daemon) waitEnd() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Fatal("still runs")
	}
	return d.cmd.ProcessState.ExitCode()
}

// field returns the value of key=value in a line.
func field(line, key string) string {
	_, after, _ := strings.Cut(line, " "+key+"=")
	value, _, _ := strings.Cut(after, " ")
	return value
}

// client is a TFTP client that does one step at a time.
type client struct {
	t    *testing.T
	conn net.Conn
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn}
}

// ask sends a datagram, again every second, until one comes back.
func (c *client) ask(datagram string) string {
	c.t.Helper()
	b := make([]byte, 65536)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c.conn.Write([]byte(datagram))
		c.conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.conn.Read(b); err == nil {
			return string(b[:n])
		}
	}
	c.t.Fatalf("no answer to %q", datagram)
	return ""
}

func rrq(name, mode string, options ...string) string {
	request := "\x00\x01" + name + "\x00" + mode + "\x00"
	for _, option := range options {
		request += option + "\x00"
	}
	return request
}

func ack(block uint16) string {
	return string(binary.BigEndian.AppendUint16([]byte{0, 4}, block))
}

// fetch reads a file in lock-step from its first answer on, calling during with the number of blocks before each ACK. It ends
// with the last block or with an ERROR, which it returns.
func (c *client) fetch(request string, during func(blocks int)) (content []byte, errorPacket string) {
	c.t.Helper()
	answer := c.ask(request)
	for blocks := 1; ; {
		switch {
		case strings.HasPrefix(answer, "\x00\x05"):
			return content, answer
		case strings.HasPrefix(answer, "\x00\x03") && len(answer) >= 4 && binary.BigEndian.Uint16([]byte(answer[2:])) == uint16(blocks):
			content = append(content, answer[4:]...)
			if during != nil {
				during(blocks)
			}
			if len(answer) < 4+512 {
				c.conn.Write([]byte(ack(uint16(blocks))))
				return content, ""
			}
			blocks++
		}
		answer = c.ask(ack(uint16(blocks - 1)))
	}
}

func TestStartFailures(t *testing.T) {
	folder := t.TempDir()
	testkit.Must(t, os.Chmod(folder, 0o755))
	testkit.WriteFile(t, folder+"/a.txt", nil)
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	defer taken.Close()
	for _, c := range []struct {
		args   []string
		env    string
		status int
		want   []string // in the one line on standard error
	}{
		{[]string{"-nonsense"}, "", 2, []string{`unknown flag "-nonsense"`, "-h"}},
		{[]string{"argument"}, "", 2, []string{`unexpected argument "argument"`}},
		{[]string{"-max-blksize", "9"}, "", 2, []string{"-max-blksize", "512 to 65464"}},
		{[]string{"-rate", "\x1b[2J"}, "", 2, []string{`\x1b[2J`}},
		{nil, "TFTP_RATE=many", 2, []string{"TFTP_RATE"}},
		{[]string{"-root", folder + "/absent"}, "", 1, []string{"absent", "-root"}},
		{[]string{"-root", folder + "/a.txt"}, "", 1, []string{"not a folder", "-root"}},
		{[]string{"-root", folder, "-listen", taken.LocalAddr().String()}, "", 1, []string{taken.LocalAddr().String(), "in use", "-listen"}},
		{[]string{"-root", folder, "-listen", "127.0.0.1:0," + taken.LocalAddr().String()}, "", 1, []string{taken.LocalAddr().String(), "in use"}},
		{[]string{"-root", folder, "-listen", "192.0.2.1:0"}, "", 1, []string{"192.0.2.1", "assign", "-listen"}},
		{[]string{"-root", folder, "-listen", "no..name:0"}, "", 1, []string{"no..name", "-listen"}},
		{[]string{"-healthcheck", "-listen", "127.0.0.1:0"}, "", 1, []string{"-healthcheck"}},
	} {
		stdout, stderr, status := output(t, []string{c.env}, c.args...)
		if status != c.status || stdout != "" {
			t.Errorf("%q %s: status %d, output %q", c.args, c.env, status, stdout)
		}
		if !strings.HasPrefix(stderr, "flytftp: ") || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") {
			t.Errorf("%q %s: not one line: %q", c.args, c.env, stderr)
		}
		for _, want := range c.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q %s: no %q in %q", c.args, c.env, want, stderr)
			}
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	stdout, stderr, status := output(t, nil, "-h")
	if stdout != usage() || stderr != "" || status != 0 {
		t.Errorf("-h: %q %q %d", stdout, stderr, status)
	}
	stdout, stderr, status = output(t, nil, "-version")
	if stdout != "flytftp devel\n" || stderr != "" || status != 0 {
		t.Errorf("-version: %q %q %d", stdout, stderr, status)
	}
}

// asUser makes cmd start as an unprivileged user, where the test may.
func asUser(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "only root can start a process as another user")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	testkit.Must(t, os.Chmod(filepath.Dir(program), 0o755))
}

func TestStartUnprivileged(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	cmd := command(context.Background(), nil, "-listen", "127.0.0.1:0", "-root", folder)
	asUser(t, cmd)
	d := startCommand(t, cmd)
	if content, refusal := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" || refusal != "" {
		t.Errorf("%q %q", content, refusal)
	}

	testkit.Must(t, os.Mkdir(folder+"/closed", 0o700))
	cmd = command(context.Background(), nil, "-listen", "127.0.0.1:0", "-root", folder+"/closed")
	asUser(t, cmd)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "user 12345 cannot read the folder") {
		t.Errorf("%q %v", out, err)
	}

	first, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil || strings.TrimSpace(string(first)) != "1024" {
		t.Logf("low ports are open to all here (%s): no test of what is said where they are not", bytes.TrimSpace(first))
		return
	}
	cmd = command(context.Background(), nil, "-listen", "127.0.0.1:69", "-root", folder)
	asUser(t, cmd)
	out, err = cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "permission denied: ports below 1024 need root") {
		t.Errorf("%q %v", out, err)
	}
}

// Started as root it becomes another user for good, before it answers anybody.
func TestDropPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Skip(t, "not root")
	}
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
		for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "Gid:\t65532\t65532\t65532\t65532", "Groups:\t", "NoNewPrivs:\t1",
			"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
			found := false
			for _, line := range strings.Split(string(status), "\n") {
				found = found || strings.TrimRight(line, " ") == want
			}
			if !found {
				t.Errorf("%s: no %q in\n%s", thread, want, status)
			}
		}
	}
	if content, _ := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
		t.Errorf("%q", content)
	}
	if _, refusal := dial(t, d.addr).fetch(rrq("closed.txt", "octet"), nil); refusal != "\x00\x05\x00\x02Access violation\x00" {
		t.Errorf("%q", refusal)
	}
	d.waitFor(`denied file="closed.txt"`)

	// What root can read and the user cannot ends the start.
	testkit.Must(t, os.Chmod(folder, 0o700))
	_, stderr, status := output(t, nil, "-listen", "127.0.0.1:0", "-root", folder)
	if status != 1 || !strings.Contains(stderr, "user 65532 cannot read the folder") {
		t.Errorf("%d %q", status, stderr)
	}
}

// Every answer that a request can get, byte by byte, and its line in the log.
func TestAnswersOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("a\nb"))
	testkit.WriteFile(t, folder+"/a.key", []byte("key"))
	testkit.WriteFile(t, folder+"/sub/b.txt", []byte("below"))
	testkit.Must(t, os.Symlink("/etc/hostname", folder+"/out.txt"))
	testkit.Must(t, syscall.Mkfifo(folder+"/fifo.txt", 0o644))
	const (
		denied  = "\x00\x05\x00\x02Access violation\x00"
		illegal = "\x00\x05\x00\x04Illegal TFTP operation\x00"
	)
	d := start(t, folder)
	for _, c := range []struct{ request, answer, line string }{
		{rrq("a.txt", "octet"), "\x00\x03\x00\x01a\nb", `sent file="a.txt" client=`},
		{rrq("a.txt", "NetASCII"), "\x00\x03\x00\x01a\r\nb", `sent file="a.txt" client=`},
		{rrq(`\sub\\b.txt`+"\xff", "octet"), "\x00\x03\x00\x01below", `sent file="sub/b.txt" client=`},
		{rrq("a.txt", "octet", "tsize", "0"), "\x00\x06tsize\x003\x00", ""},
		{rrq("absent.txt", "octet"), notFound, `not found file="absent.txt" client=`},
		{rrq("a.key", "octet"), denied, `denied file="a.key" client=`},
		{rrq("absent.key", "octet"), denied, `denied file="absent.key" client=`},
		{rrq("../a.txt", "octet"), denied, `denied file="../a.txt" client=`},
		{rrq("sub", "octet"), denied, `denied file="sub" client=`},
		{rrq("out.txt", "octet"), denied, `denied file="out.txt" client=`},
		{rrq("fifo.txt", "octet"), denied, `denied file="fifo.txt" client=`},
		{rrq("\x1b]0;x\x07.txt", "octet"), denied, `denied file="\x1b]0;x\a.txt" client=`},
		{rrq("a.txt", "mail"), illegal, `denied file="a.txt" client=`},
		{"\x00\x02a.txt\x00octet\x00", denied, `denied file="a.txt" client=`},
	} {
		c1 := dial(t, d.addr)
		if got := c1.ask(c.request); got != c.answer {
			t.Errorf("%q is answered %q, want %q", c.request, got, c.answer)
		}
		if strings.HasPrefix(c.answer, "\x00\x03") {
			c1.conn.Write([]byte(ack(1)))
		}
		if c.line != "" {
			d.waitFor(c.line + c1.conn.LocalAddr().String())
		}
	}
	for i, b := range []byte(d.logged()) {
		if b != '\n' && (b < ' ' || b > '~') {
			t.Fatalf("byte %#x at %d of the log", b, i)
		}
	}
}

// A file that changes while it is sent arrives whole as it was, or not at all.
func TestChangedFileOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	d := start(t, folder)
	content := testkit.Pattern(300_000)
	for _, c := range []struct {
		what   string
		change func(path string) error
		whole  bool
	}{
		{"removed", os.Remove, true},
		{"replaced", func(path string) error {
			if err := os.WriteFile(path+".new", testkit.Pattern(200_000), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, true},
		{"truncated", func(path string) error { return os.Truncate(path, 150_000) }, false},
		{"written again", func(path string) error { return os.WriteFile(path, testkit.Pattern(300_000)[1:], 0o644) }, false},
	} {
		path := folder + "/a.img"
		testkit.WriteFile(t, path, content)
		testkit.Must(t, os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)))
		got, failure := dial(t, d.addr).fetch(rrq("a.img", "octet"), func(blocks int) {
			if blocks == 10 {
				testkit.Must(t, c.change(path))
			}
		})
		if c.whole {
			if failure != "" || !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes, %q", c.what, len(got), failure)
			}
			d.waitFor(`sent file="a.img"`)
			continue
		}
		if failure != "\x00\x05\x00\x00Read failed\x00" {
			t.Errorf("%s: %d bytes, %q", c.what, len(got), failure)
		}
		d.waitFor(`failed file="a.img"`)
	}
}

func TestStop(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(5000))
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		d := start(t, folder, "-grace", "1h")
		began := time.Now()
		testkit.Must(t, d.cmd.Process.Signal(signal))
		if status := d.waitEnd(); status != 0 || time.Since(began) > 10*time.Second {
			t.Errorf("%v: status %d after %v", signal, status, time.Since(began))
		}
	}

	// A running transfer is finished, a new one is refused.
	d := start(t, folder, "-grace", "1h")
	content, failure := dial(t, d.addr).fetch(rrq("a.img", "octet"), func(blocks int) {
		if blocks == 3 {
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
			d.waitFor("stopping ")
			if answer := dial(t, d.addr).ask(rrq("a.img", "octet")); answer != "\x00\x05\x00\x00Server stopping\x00" {
				t.Errorf("answer while it stops: %q", answer)
			}
		}
	})
	if len(content) != 5000 || failure != "" {
		t.Errorf("%d bytes, %q", len(content), failure)
	}
	if status := d.waitEnd(); status != 0 {
		t.Errorf("status %d", status)
	}

	// The end of the grace, and a second signal, end a transfer that does not end.
	for _, grace := range []string{"50ms", "0s", "1h"} {
		d := start(t, folder, "-grace", grace)
		c := dial(t, d.addr)
		c.ask(rrq("a.img", "octet"))
		testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
		d.waitFor("stopping ")
		if grace == "1h" {
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
		}
		if status := d.waitEnd(); status != 0 {
			t.Errorf("grace %s: status %d", grace, status)
		}
	}
}

func TestSeveralAddresses(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := start(t, folder, "-listen", "127.0.0.1:0,127.0.0.2:0,[::1]:0,:0")
	addrs := strings.Split(field(d.logged()[strings.Index(d.logged(), "serving "):], "listen"), ",")
	if len(addrs) != 4 {
		t.Fatalf("%q", addrs)
	}
	_, port, err := net.SplitHostPort(addrs[3])
	testkit.Must(t, err)
	for _, addr := range append(addrs[:3], "127.0.0.1:"+port, "127.0.0.2:"+port, "[::1]:"+port) {
		if strings.HasSuffix(addr, ":0") {
			t.Errorf("port 0 in %q", addrs)
		}
		if content, failure := dial(t, addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
			t.Errorf("%s: %q %q", addr, content, failure)
		}
		if _, stderr, status := output(t, nil, "-healthcheck", "-listen", addr); status != 0 {
			t.Errorf("%s: %s", addr, stderr)
		}
	}
	if _, stderr, status := output(t, []string{"TFTP_LISTEN=:" + port + "," + addrs[0]}, "-healthcheck"); status != 0 {
		t.Error(stderr)
	}
	if strings.Contains(d.logged(), "denied") {
		t.Errorf("health checks in the log:\n%s", d.logged())
	}
}

// At the limit of descriptors a request gets an answer, and the log says what to do.
func TestDescriptorLimit(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(5000))
	shell := exec.Command("sh", "-c", `ulimit -n 24 && exec "$0" -listen 127.0.0.1:0 -root "$1"`, program, folder)
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	d := startCommand(t, shell)
	busy := false
	for range 24 {
		answer := dial(t, d.addr).ask(rrq("a.img", "octet"))
		busy = busy || answer == "\x00\x05\x00\x00Server busy\x00"
	}
	if !busy {
		t.Error("24 transfers with 24 descriptors, and none was refused")
	}
	if line := d.waitFor("busy "); !strings.Contains(line, "raise the limit") {
		t.Error(line)
	}
}

// Where several processors are asked for, there are several sockets on one port; clients see no difference.
func TestProcessors(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := startCommand(t, command(context.Background(), []string{"GOMAXPROCS=3"}, "-listen", "127.0.0.1:0", "-root", folder))
	for i := range 20 {
		if content, failure := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
			t.Errorf("%s: %q %q", strconv.Itoa(i), content, failure)
		}
	}
}

// A log whose reader went away does not end the server.
func TestLogReaderGone(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	read, write, err := os.Pipe()
	testkit.Must(t, err)
	cmd := command(context.Background(), nil, "-listen", "127.0.0.1:0", "-root", folder)
	cmd.Stderr = write
	testkit.Must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	write.Close()
	addr := ""
	for scanner := bufio.NewScanner(read); addr == "" && scanner.Scan(); {
		if strings.HasPrefix(scanner.Text(), "serving ") {
			addr = field(scanner.Text(), "listen")
		}
	}
	read.Close()
	for range 3 {
		if content, failure := dial(t, addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
			t.Errorf("%q %q", content, failure)
		}
	}
}
