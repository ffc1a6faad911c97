// Package e2e tests the program from the outside: it builds and starts flytftp as it is shipped,
// and speaks TFTP to it with clients of its own, with the clients of Debian, with the firmware of
// an emulated machine and with attacks. It knows no internals: a figure that a test needs is one
// that the pages promise or an RFC fixes.
//
// `go test -short` leaves out what takes seconds.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// built is the path of the program that buildAndRun built. Tests call program.
var built string

// program returns the path of the daemon that the tests start.
func program() string {
	readSourceFolders()
	return built
}

// readSourceFolders makes a test that starts the program run again after a change of the source:
// `go test` repeats its last result until a file or a folder changes that the test has read itself,
// and it is `go build` that reads the source.
var readSourceFolders = sync.OnceFunc(func() {
	filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != ".." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return nil
	})
})

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

// buildAndRun builds the program, runs the tests and returns the exit status.
func buildAndRun(m *testing.M) int {
	folder, err := os.MkdirTemp("", "flytftp")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	built = filepath.Join(folder, "flytftp")
	// Without cgo, as it is shipped: only then can the process drop all privileges.
	err = build(built, "CGO_ENABLED=0")
	if err == nil {
		err = os.Chmod(folder, 0o755) // some tests start the program as another user
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds the program with variables of go build.
func build(path string, env ...string) error {
	cmd := exec.Command("go", "build", "-o", path, "..")
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// patience bounds what should take milliseconds, for a machine that is busy with other work.
const patience = 30 * time.Second

// command prepares the program with nothing of the caller's environment but PATH, and with env.
func command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program(), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// output runs the program to its end.
func output(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
	addrs []string // that it listens on
	addr  string   // the first of them
	lines chan string
	ended chan struct{}

	mu  sync.Mutex
	log []string
}

// start starts the program on a free loopback port and waits until it serves. The end of the test
// kills it.
func start(t *testing.T, root string, args ...string) *daemon {
	t.Helper()
	args = append([]string{"-listen", "127.0.0.1:0", "-root", root}, args...)
	return startCommand(t, command(context.Background(), nil, args...))
}

// startLimited is start with a limit of open files, if this process may set it.
func startLimited(t *testing.T, files int, root string, args ...string) *daemon {
	t.Helper()
	limit := fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)
	args = append([]string{"-c", limit, program(), "-listen", "127.0.0.1:0", "-root", root}, args...)
	shell := exec.Command("sh", args...)
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	return startCommand(t, shell)
}

// startCommand is start for a command that is, or becomes, the program.
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
	d.addrs = strings.Split(field(d.waitFor("serving "), "listen"), ",")
	d.addr = d.addrs[0]
	return d
}

// logged returns the log so far.
func (d *daemon) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.log, "\n")
}

// waitFor returns the next line of the log that begins with prefix.
func (d *daemon) waitFor(prefix string) string {
	d.t.Helper()
	return d.waitForAll(prefix)[0]
}

// waitForAll returns the next lines with those prefixes, one for each, in whatever order they come.
func (d *daemon) waitForAll(prefixes ...string) (lines []string) {
	d.t.Helper()
	deadline := time.After(patience)
	for len(prefixes) > 0 {
		select {
		case line := <-d.lines:
			if i := slices.IndexFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(line, prefix) }); i >= 0 {
				lines, prefixes = append(lines, line), slices.Delete(prefixes, i, i+1)
			}
		case <-deadline:
			d.t.Fatalf("no line %q in\n%s", prefixes, d.logged())
		}
	}
	return lines
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

// field returns the value of key=value in a line of the log.
func field(line, key string) string {
	_, after, _ := strings.Cut(line, " "+key+"=")
	value, _, _ := strings.Cut(after, " ")
	return value
}

// proc returns the first number after name in a file of the daemon's /proc folder.
func (d *daemon) proc(file, name string) int {
	d.t.Helper()
	if runtime.GOOS != "linux" {
		d.t.Skip("only Linux tells what a process uses")
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.cmd.Process.Pid, file))
	testkit.Must(d.t, err)
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.Atoi(strings.Fields(strings.TrimPrefix(rest, ":"))[0])
			testkit.Must(d.t, err)
			return n
		}
	}
	d.t.Fatalf("no %s in\n%s", name, content)
	return 0
}

// residentKiB returns a figure of the daemon's memory: VmRSS, or VmHWM for the most that it was.
func (d *daemon) residentKiB(figure string) int { return d.proc("status", figure) }

// descriptors returns how many files the daemon has open.
func (d *daemon) descriptors() int {
	d.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
	testkit.Must(d.t, err)
	return len(entries)
}

// eachFamily runs a test over IPv4 and over IPv6, with the loopback address of each.
func eachFamily(t *testing.T, run func(t *testing.T, host string)) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			conn, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil {
				testkit.Skip(t, err.Error())
			}
			conn.Close()
			run(t, host)
		})
	}
}
