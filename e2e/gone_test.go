package e2e

import (
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// A client that is gone is forgotten within 3 s where its host says so, and draws at most two
// bursts. A kernel says so a bounded number of times a second for all its ports together, and
// other tests knock at closed ports as well: one client of several has its host's word in time.
func TestGoneClientIsForgotten(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(1<<20))
	d := start(t, folder)
	for _, options := range [][]string{nil, {"windowsize", "64"}} {
		const tries = 4
		for try := 1; ; try++ {
			again, lived := d.leave(options)
			if again <= 16 && lived <= 3*time.Second {
				break
			}
			t.Logf("%q: forgotten after %v and %d blocks again", options, lived, again)
			if try == tries {
				t.Fatalf("%q: none of %d clients was forgotten in time", options, tries)
			}
		}
	}
}

// leave acknowledges one block and closes the port. It returns how many blocks were sent again, and
// how long the transfer lived.
func (d *daemon) leave(options []string) (again int, lived time.Duration) {
	d.t.Helper()
	c := dial(d.t, d.addr)
	if first := c.ask(rrq("a.img", "octet", options...)); strings.HasPrefix(first, "\x00\x06") {
		c.ask(ack(0))
	}
	addr := c.conn.LocalAddr().String()
	c.conn.Write([]byte(ack(1)))
	c.conn.Close()
	line := d.waitFor(`failed file="a.img" client=` + addr)
	if !strings.Contains(line, `why="the client's host says that the port is closed"`) {
		d.t.Errorf("%q: %s", options, line)
	}
	again, err := strconv.Atoi(field(line, "retransmits"))
	testkit.Must(d.t, err)
	lived, err = time.ParseDuration(field(line, "duration"))
	testkit.Must(d.t, err)
	return again, lived
}

// The time in which the process was stopped counts for no client: the ACK that waits in the
// socket is read before anything is sent again.
func TestStoppedProcessSendsNothingAgain(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(100*defaultBlockSize))
	d := start(t, folder, "-ahead", "1")
	c := dial(t, d.addr)
	block := uint16(1)
	got := c.ask(rrq("a.img", "octet"))
	for ; block < 20; block++ {
		got = c.ask(ack(block))
	}
	if !strings.HasPrefix(got, data(block, nil)) {
		t.Fatalf("%.8q is not block %d", got, block)
	}
	testkit.Must(t, d.cmd.Process.Signal(syscall.SIGSTOP))
	c.conn.Write([]byte(ack(block)))
	// Longer than every timer of the transfer: nothing arrives here.
	quiet, err := net.ListenUDP("udp4", nil)
	testkit.Must(t, err)
	defer quiet.Close()
	quiet.SetReadDeadline(time.Now().Add(3 * time.Second))
	quiet.Read(make([]byte, 1))
	testkit.Must(t, d.cmd.Process.Signal(syscall.SIGCONT))
	b := make([]byte, 2048)
	c.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := c.conn.Read(b)
	testkit.Must(t, err)
	if next := data(block+1, nil); !strings.HasPrefix(string(b[:n]), next) {
		t.Errorf("%.8q came first, want block %d", b[:n], block+1)
	}
	for block++; block <= 100; block++ {
		if got = c.ask(ack(block)); !strings.HasPrefix(got, data(block+1, nil)) {
			t.Fatalf("%.8q is not block %d", got, block+1)
		}
	}
	c.conn.Write([]byte(ack(101)))
	if line := d.waitFor(`sent file="a.img"`); field(line, "retransmits") != "0" {
		t.Error(line)
	}
}
