//go:build linux

package firmware

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// The network of a boot: addresses of documentation, one machine.
const (
	serverAddr  = "192.0.2.1"
	serverAddr6 = "2001:db8::1"
	guestAddr   = "192.0.2.100"
	guestMAC    = "52:54:00:12:34:56"
	tapName     = "tap0"
)

// namespace is a network of its own. It goes when the test is over, and with it the processes
// that it started.
type namespace struct{ work chan func() }

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nothing else gets the thread
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.work {
			f()
		}
	}()
	t.Cleanup(func() { close(n.work) })
	testkit.Must(t, <-made)
	return n
}

// do runs f in the namespace. A process that f starts belongs to the namespace.
func (n *namespace) do(f func() error) error {
	result := make(chan error)
	n.work <- func() { result <- f() }
	return <-result
}

// openTap creates the network's only interface and gives it the addresses of the server.
func (n *namespace) openTap(t *testing.T) *os.File {
	t.Helper()
	var tap *os.File
	testkit.Must(t, n.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(tapName)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("TUNSETIFF: %w", err)
		}
		tap = os.NewFile(uintptr(fd), tapName) // only a tap that has its name can be waited for
		for _, args := range []string{
			"link set lo up",
			"link set " + tapName + " up",
			"address add " + serverAddr + "/24 dev " + tapName,
			"address add " + serverAddr6 + "/64 dev " + tapName + " nodad",
		} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w\n%s", args, err, out)
			}
		}
		return nil
	}))
	t.Cleanup(func() { tap.Close() })
	return tap
}

// process is a started program whose output is kept.
type process struct {
	name  string
	stdin io.WriteCloser
	ended chan struct{}

	mu      sync.Mutex
	output  strings.Builder
	changed chan struct{} // closed and replaced with each piece of output
}

// start starts a program in the namespace, with its output in one text. The end of the test kills
// it.
func (n *namespace) start(t *testing.T, path string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{name: path, ended: make(chan struct{}), changed: make(chan struct{})}
	output, into, err := os.Pipe()
	testkit.Must(t, err)
	cmd.Stdout, cmd.Stderr = into, into
	p.stdin, err = cmd.StdinPipe()
	testkit.Must(t, err)
	testkit.Must(t, n.do(cmd.Start))
	into.Close()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.ended
	})
	go func() {
		defer close(p.ended)
		defer output.Close()
		buffered := bufio.NewReader(output)
		b := make([]byte, 4096)
		for {
			count, err := buffered.Read(b)
			p.mu.Lock()
			p.output.Write(b[:count])
			close(p.changed)
			p.changed = make(chan struct{})
			p.mu.Unlock()
			if err != nil {
				break
			}
		}
		cmd.Wait()
	}()
	return p
}

// text returns the output so far, and what is closed when there is more.
func (p *process) text() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String(), p.changed
}

// await waits until the output holds one of the texts beyond its first bytes. It returns that
// text and the length of the output up to its end.
func (p *process) await(ctx context.Context, from int, wanted ...string) (found string, end int, err error) {
	for {
		raw, changed := p.text()
		output := plain(raw)
		for _, text := range wanted {
			if at := strings.Index(output[min(from, len(output)):], text); at >= 0 {
				return text, from + at + len(text), nil
			}
		}
		select {
		case <-changed:
		case <-p.ended:
			return "", 0, fmt.Errorf("%s ended without %q", p.name, wanted)
		case <-ctx.Done():
			return "", 0, fmt.Errorf("%s: no %q in time", p.name, wanted)
		}
	}
}

// controls are what a text has for a terminal alone.
var controls = regexp.MustCompile("\x1b\\[[0-9;?=]*[A-Za-z]|[\x00-\x08\x0b-\x1a]")

func plain(text string) string { return controls.ReplaceAllString(text, "") }

// startServer starts flytftp on port 69 with its default options but for args.
func (n *namespace) startServer(t *testing.T, root string, args ...string) *process {
	t.Helper()
	server := n.start(t, program, append([]string{"-root", root}, args...)...)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, _, err := server.await(ctx, 0, "serving ")
	testkit.Must(t, err)
	return server
}

// startDHCP starts dnsmasq as a DHCP server, and nothing else: its DNS and its TFTP are off.
func (n *namespace) startDHCP(t *testing.T, folder string, args ...string) *process {
	t.Helper()
	dhcp := n.start(t, "dnsmasq", append([]string{
		"--conf-file=/dev/null", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--user=root",
		"--port=0", "--interface=" + tapName, "--pid-file=", "--dhcp-leasefile=" + folder + "/leases",
		"--no-ping", "--dhcp-authoritative", "--dhcp-range=" + guestAddr + "," + guestAddr + ",255.255.255.0,1h",
	}, args...)...)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, _, err := dhcp.await(ctx, 0, "DHCP, IP range")
	testkit.Must(t, err)
	return dhcp
}
