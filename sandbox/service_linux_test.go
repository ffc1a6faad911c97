//go:build amd64 || arm64

package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// Serving needs nothing that is refused: a filter that ends the process where it would refuse
// lets one live that does everything at once.
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
		// Stops and signals may come while it works.
		if lines.Text() == "serving" {
			for range 20 {
				testkit.Must(t, cmd.Process.Signal(syscall.SIGSTOP))
				testkit.Must(t, cmd.Process.Signal(syscall.SIGCONT))
				testkit.Must(t, cmd.Process.Signal(syscall.SIGUSR1))
			}
		}
	}
	if err := cmd.Wait(); err != nil || out != "strict\nserving\nserved\n" {
		t.Errorf("%v: %q\n%s", err, out, log.String())
	}
}

// service does what a server does, all of it at once.
type service struct {
	root   *os.Root
	socket *net.UDPConn
	client *net.UDPConn
	timer  int // a timerfd
}

func newService(root *os.Root) (*service, error) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK)
	return &service{root, socket, client, timer}, err
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
		func(i int) error { // the timer of retransmissions
			spec := unix.ItimerSpec{Value: unix.NsecToTimespec(1)}
			return unix.TimerfdSettime(s.timer, 0, &spec, nil)
		},
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
	// As the product does: O_NONBLOCK for FIFOs, fstat for the size, any part of the file.
	file, err := s.root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Stat(); err != nil {
		return err
	}
	content, err := io.ReadAll(io.NewSectionReader(file, 0, int64(size)+1))
	if err == nil && !bytes.Equal(content, testkit.Pattern(size)) {
		err = fmt.Errorf("%d bytes of %s", len(content), path)
	}
	return err
}

// echo sends a datagram from one socket to the other. Others do too, so it accepts any.
func (s *service) echo() error {
	if _, err := s.client.WriteTo([]byte("datagram"), s.socket.LocalAddr()); err != nil {
		return err
	}
	s.socket.SetReadDeadline(time.Now().Add(patience))
	_, _, err := s.socket.ReadFrom(make([]byte, 100))
	return err
}
