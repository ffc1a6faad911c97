package e2e

import (
	"net"
	"os"
	"runtime"
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
	testkit.SkipIfShort(t)
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
	size, most := 20+8+len(readOnly), full+refill*(int(took/time.Second)+1)
	if len(got) == 0 || len(got)*size > most {
		t.Errorf("%d answers of %d bytes in %v, want at most %d bytes", len(got), size, took, most)
	}
	if answer := dialFrom(t, "127.0.1.1", d.addr).ask(wrq("a.img")); answer != readOnly {
		t.Errorf("another network is answered %q", answer)
	}
}

// dialFrom is dial from an address of this machine.
func dialFrom(t *testing.T, from, addr string) *client {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("udp", addr)
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn}
}

// Only the networks of -clients are heard. Others get silence, whatever they send, and are counted
// by network; the health check works all the same.
func TestClientsOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	for _, c := range []struct {
		listen, clients  string
		listed, unlisted []string // addresses of clients
	}{
		{"127.0.0.1:0", "127.1.0.0/16,127.2.0.7", []string{"127.1.0.1", "127.1.255.9", "127.2.0.7"}, []string{"127.2.0.6", "127.0.0.1"}},
		{":0", "127.1.0.0/16,2001:db8::/48", []string{"127.1.0.1"}, []string{"127.0.0.1", "::1"}},
		{":0", "::1", []string{"::1"}, []string{"127.0.0.1"}},
		{"[::1]:0", "2001:db8::/48", nil, []string{"::1"}},
	} {
		d := start(t, folder, "-listen", c.listen, "-clients", c.clients)
		_, port, err := net.SplitHostPort(d.addr)
		testkit.Must(t, err)
		from := func(address string) *client {
			to := "127.0.0.1"
			if strings.Contains(address, ":") {
				to = "::1"
			}
			return dialFrom(t, address, net.JoinHostPort(to, port))
		}
		for _, address := range c.listed {
			content, refusal := from(address).fetch(rrq("a.txt", "octet"), nil)
			if string(content) != "hello" || refusal != "" {
				t.Errorf("-clients %s: %s gets %q, ERROR %q", c.clients, address, content, refusal)
			}
		}
		for _, address := range c.unlisted {
			client := from(address)
			for _, datagram := range []string{
				rrq("a.txt", "octet"), rrq("absent.txt", "octet"), rrq("a.txt", "mail"), wrq(""), wrq("a.txt"), ack(0), "", "\x00", "\x00\x01",
				"\x00\x05\x00\x00\x00", rrq("a.txt", "octet", "tsize", "0"), "GET / HTTP/1.1\r\n", rrq("\xff", "octet"),
			} {
				client.conn.Write([]byte(datagram))
			}
			if got := client.ask(rrq("", "octet")); got != notFound {
				t.Errorf("-clients %s: %s is answered %q", c.clients, address, got)
			}
		}
		if _, stderr, status := output(t, nil, "-healthcheck", "-listen", d.addr); status != 0 {
			t.Errorf("-clients %s: %s", c.clients, stderr)
		}
		testkit.Must(t, d.cmd.Process.Signal(os.Interrupt))
		network := map[bool]string{true: "127.", false: "::/56 "}[strings.HasPrefix(c.unlisted[0], "127.")]
		if line := d.waitFor("unlisted network=" + network); !strings.Contains(line, " suppressed=13 ") {
			t.Error(line)
		}
	}
}

// At the limit of descriptors a request gets an answer, and the log says what to do.
func TestDescriptorLimit(t *testing.T) {
	testkit.SkipIfShort(t)
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

// A client that acknowledged and is gone is given up when its host says that the port is closed,
// long before it would time out.
func TestClientThatIsGone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("docs/log.md promises it for Linux alone")
	}
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", make([]byte, 100_000))
	eachFamily(t, func(t *testing.T, host string) {
		d := start(t, folder, "-listen", net.JoinHostPort(host, "0"))
		c := dial(t, d.addr)
		c.ask(rrq("a.img", "octet"))
		c.ask(ack(1))
		c.conn.Close()
		line := d.waitFor(`failed file="a.img" `)
		if why := `why="the client's host says that the port is closed"`; !strings.Contains(line, why) {
			t.Errorf("%s, want %s", line, why)
		}
	})
}
