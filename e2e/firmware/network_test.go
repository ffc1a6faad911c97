//go:build linux

package firmware

import (
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

// The addresses of RFC 5737 and RFC 3849 are for documentation: they lead nowhere.
const (
	serverAddr  = "192.0.2.1"
	guestAddr   = "192.0.2.100"
	network6    = "2001:db8::"
	serverAddr6 = network6 + "1"
	guestRange6 = network6 + "100," + network6 + "1ff"
	tapName     = "tap0"
)

// patience bounds the start of a program, for a machine that has other work.
const patience = 30 * time.Second

// namespace is a network of its own. The end of the test ends it, and with it the programs that
// were started there.
type namespace struct{ work chan func() }

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good, so that the thread ends with this function
		made <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.work {
			f()
		}
	}()
	t.Cleanup(func() { close(n.work) })
	testkit.Must(t, <-made)
	return n
}

// do runs f in the namespace. What f starts or opens belongs to the namespace.
func (n *namespace) do(f func() error) error {
	result := make(chan error)
	n.work <- func() { result <- f() }
	return <-result
}

// openTap creates the only interface of the namespace and gives it the addresses of the server.
func (n *namespace) openTap(t *testing.T) (tap *os.File) {
	t.Helper()
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
		tap = os.NewFile(uintptr(fd), tapName) // not before: a nameless tap cannot be polled
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
	return tap
}

// process is a started program whose output is kept.
type process struct {
	name  string
	stdin io.WriteCloser
	ended chan struct{}

	mu      sync.Mutex // guards what follows
	output  strings.Builder
	changed chan struct{} // closed and replaced with each piece of output
}

// start starts a program in the namespace. The end of the test kills it.
func (n *namespace) start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{name: name, ended: make(chan struct{}), changed: make(chan struct{})}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = p, p
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	p.stdin, err = cmd.StdinPipe()
	testkit.Must(t, err)
	testkit.Must(t, n.do(cmd.Start))
	go func() {
		defer close(p.ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// Write keeps a piece of output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
	return p.output.Write(b)
}

// text returns the output so far, and what is closed when there is more.
func (p *process) text() (output string, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String(), p.changed
}

// await waits until the plain output holds one of the texts, from a place on. It returns that text
// and the place behind it.
func (p *process) await(ctx context.Context, from int, wanted ...string) (found string, end int, err error) {
	for over := false; ; {
		output, changed := p.text()
		output = plain(output)
		for _, text := range wanted {
			if at := strings.Index(output[min(from, len(output)):], text); at >= 0 {
				return text, from + at + len(text), nil
			}
		}
		if over {
			return "", 0, fmt.Errorf("%s ended without %q", p.name, wanted)
		}
		select {
		case <-changed:
		case <-p.ended:
			over = true
		case <-ctx.Done():
			return "", 0, fmt.Errorf("%s: no %q in time", p.name, wanted)
		}
	}
}

// controls are what is for the terminal alone in a text.
var controls = regexp.MustCompile("\x1b\\[[0-9;?=]*[A-Za-z]|[\x00-\x08\x0b-\x1a]")

func plain(text string) string { return controls.ReplaceAllString(text, "") }

// startServer starts the server on port 69, with its default options but for args.
func (n *namespace) startServer(t *testing.T, root string, args ...string) *process {
	t.Helper()
	server := n.start(t, program, append([]string{"-root", root}, args...)...)
	server.awaitStart(t, "serving ")
	return server
}

// startDHCP starts dnsmasq as a DHCP server. Its DNS and its TFTP are off.
func (n *namespace) startDHCP(t *testing.T, folder string, args ...string) *process {
	t.Helper()
	dhcp := n.start(t, "dnsmasq", append([]string{
		"--conf-file=/dev/null", "--keep-in-foreground", "--log-facility=-", "--log-dhcp",
		"--user=root", "--pid-file=", "--port=0", "--interface=" + tapName,
		"--dhcp-authoritative", "--no-ping", "--dhcp-leasefile=" + folder + "/leases",
		"--dhcp-range=" + guestAddr + "," + guestAddr + ",255.255.255.0",
		// iPXE waits for a router of IPv6, and for a second DHCP server unless told of none.
		"--enable-ra", "--dhcp-range=" + network6 + ",ra-only", "--dhcp-option=encap:175,176,1b",
	}, args...)...)
	dhcp.awaitStart(t, "DHCP, IP range")
	return dhcp
}

func (p *process) awaitStart(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, _, err := p.await(ctx, 0, text); err != nil {
		output, _ := p.text()
		t.Fatalf("%v\n%s", err, output)
	}
}
