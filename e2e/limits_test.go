package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// A client that never answers draws three datagrams, and then the transfer is over.
func TestSilentClient(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := start(t, folder)
	c := dial(t, d.addr)
	c.conn.Write([]byte(rrq("a.txt", "octet", "timeout", "1")))
	line := d.waitFor(`timed out file="a.txt" client=` + c.conn.LocalAddr().String())
	if !strings.Contains(line, " bytes=0 ") || !strings.Contains(line, " retransmits=2 ") {
		t.Error(line)
	}
	oack := "\x00\x06timeout\x001\x00"
	c.plays("silent client", says("", oack, oack, oack))
}

// At -max-transfers one answer a second says so, and over -rate there is none.
func TestLimitsOnTheWire(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(5000))
	answers := func(c *client, request string, times int) (got []string, took time.Duration) {
		began := time.Now()
		for range times {
			c.conn.Write([]byte(request))
		}
		b := make([]byte, 2000)
		for {
			c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // after the last answer
			n, err := c.conn.Read(b)
			if err != nil {
				return got, time.Since(began)
			}
			got = append(got, string(b[:n]))
		}
	}

	d := start(t, folder, "-max-transfers", "1")
	first := dial(t, d.addr)
	first.ask(rrq("a.img", "octet", "blksize", "1024"))
	if answer := first.ask(ack(0)); !strings.HasPrefix(answer, "\x00\x03\x00\x01") {
		t.Fatalf("%q", answer)
	}
	got, took := answers(dial(t, d.addr), rrq("a.img", "octet"), 50)
	if len(got) == 0 || len(got) > 1+int(took/time.Second) || got[0] != serverBusy {
		t.Errorf("%d answers in %v: %q", len(got), took, got)
	}
	d.waitFor(`busy file="a.img"`)

	// docs/security.md promises 64 bytes a second for each request of -rate. At once, the lowest
	// rate gives what a request without options draws over IPv6: three DATA with their headers.
	const (
		refill = 64
		full   = 3 * (40 + 8 + 4 + defaultBlockSize)
	)
	d = start(t, folder, "-rate", "1")
	got, took = answers(dial(t, d.addr), wrq("a.img"), 200)
	size, most := 20+8+len(denied), full+refill*(int(took/time.Second)+1)
	if len(got) == 0 || len(got)*size > most {
		t.Errorf("%d answers of %d bytes in %v, want at most %d bytes", len(got), size, took, most)
	}
	local, err := net.ResolveUDPAddr("udp", "127.0.1.1:0")
	testkit.Must(t, err)
	server, err := net.ResolveUDPAddr("udp", d.addr)
	testkit.Must(t, err)
	conn, err := net.DialUDP("udp", local, server)
	testkit.Must(t, err)
	defer conn.Close()
	if answer := (&client{t, conn}).ask(wrq("a.img")); answer != denied {
		t.Errorf("another network is answered %q", answer)
	}
}

// At the limit of descriptors a request gets an answer, and the log says what to do.
func TestDescriptorLimit(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(5000))
	d := startLimited(t, 24, folder)
	busy := false
	for range 24 {
		busy = dial(t, d.addr).ask(rrq("a.img", "octet")) == serverBusy || busy
	}
	if !busy {
		t.Error("24 transfers with 24 descriptors, and none was refused")
	}
	if line := d.waitFor("busy "); !strings.Contains(line, "raise the limit") {
		t.Error(line)
	}
}
