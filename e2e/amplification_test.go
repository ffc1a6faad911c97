package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// family is a kind of address, and the headers of a datagram between two of them.
type family struct {
	name    string
	network string
	victim  string // an address that is not the server's, in another /24 where loopback has several
	headers int    // bytes, IP and UDP
}

// families are by the address of the server.
var families = map[string]family{
	"127.0.0.1": {"IPv4", "udp4", "127.0.9.9", 20 + 8},
	"::1":       {"IPv6", "udp6", "::1", 40 + 8},
}

// eachVictim runs a test for IPv4 and IPv6 with a daemon each, which listens on IPv4 as well.
func eachVictim(t *testing.T, root string, test func(*testing.T, family, *daemon, string)) {
	eachFamily(t, func(t *testing.T, host string) {
		d := start(t, root, "-listen", "127.0.0.1:0,"+net.JoinHostPort(host, "0"))
		test(t, families[host], d, d.addrs[1])
	})
}

// silentClient sends requests and answers nothing, like a victim in whose name they are forged.
type silentClient struct {
	conn    *net.UDPConn
	headers int
}

func newSilentClient(t *testing.T, f family, server string) *silentClient {
	t.Helper()
	to, err := net.ResolveUDPAddr(f.network, server)
	testkit.Must(t, err)
	conn, err := net.DialUDP(f.network, &net.UDPAddr{IP: net.ParseIP(f.victim)}, to)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		testkit.Skip(t, "loopback has one address only: "+err.Error())
	}
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &silentClient{conn, f.headers}
}

// send returns the bytes on the wire.
func (p *silentClient) send(t *testing.T, request string) int {
	t.Helper()
	_, err := p.conn.Write([]byte(request))
	testkit.Must(t, err)
	return p.headers + len(request)
}

// drawn returns what has arrived, in bytes on the wire.
func (p *silentClient) drawn(t *testing.T) (datagrams, bytes int) {
	t.Helper()
	raw, err := p.conn.SyscallConn()
	testkit.Must(t, err)
	buffer := make([]byte, 65536)
	testkit.Must(t, raw.Read(func(fd uintptr) bool {
		for {
			n, _, err := syscall.Recvfrom(int(fd), buffer, syscall.MSG_DONTWAIT)
			if err != nil {
				return true
			}
			datagrams++
			bytes += p.headers + n
		}
	}))
	return datagrams, bytes
}

// awaitTimeouts waits until the server has given up its transfers with all of the clients: nothing
// more will come.
func awaitTimeouts(d *daemon, clients ...*silentClient) {
	d.t.Helper()
	waiting := map[string]bool{}
	for _, p := range clients {
		waiting[p.conn.LocalAddr().String()] = true
	}
	for len(waiting) > 0 {
		delete(waiting, field(d.waitFor("timed out "), "client"))
	}
}

// A request whose answer nobody acknowledges draws no more than this. docs/security.md quotes the
// table.
func TestAmplification(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	root := testkit.PublicFolder(t)
	testkit.WriteFile(t, root+"/undionly.kpxe", make([]byte, 70_274))
	testkit.WriteFile(t, root+"/a.0", nil)
	testkit.Must(t, os.Truncate(root+"/a.0", 1<<32)) // ten digits of tsize
	options := []string{"blksize", "1432", "tsize", "0"}
	eachVictim(t, root, func(t *testing.T, f family, d *daemon, addr string) {
		blocks := float64(3 * (f.headers + 4 + defaultBlockSize))
		cases := []struct {
			name      string
			request   string
			datagrams int
			most      float64 // of the factor
		}{
			{"with options", rrq("undionly.kpxe", "octet", options...), 3, 3},
			{"with one option, shortest name", rrq("a.0", "octet", "tsize", "0"), 3, 3},
			{"without options", rrq("undionly.kpxe", "octet"), 3, blocks / float64(f.headers+22)},
			{"without options, shortest name", rrq("a.0", "octet"), 3, blocks / float64(f.headers+12)},
			{"refused name", rrq("undionly.key", "octet"), 1, 1.2},
			{"absent file", rrq("absent.kpxe", "octet"), 1, 1.2},
			{"WRQ", wrq("undionly.kpxe"), 1, 1.2},
			{"mode mail", rrq("undionly.kpxe", "mail"), 1, 1.2},
			{"refused name of one letter", rrq("x", "octet"), 1, 1.3},
			{"mode and name of one letter", rrq("x", "x"), 1, 1.7},
		}
		var clients, unanswered []*silentClient
		var sent []int
		for _, c := range cases {
			p := newSilentClient(t, f, addr)
			clients = append(clients, p)
			sent = append(sent, p.send(t, c.request))
			if c.datagrams > 1 {
				unanswered = append(unanswered, p)
			}
		}
		awaitTimeouts(d, unanswered...)
		table := "| Request | bytes | datagrams drawn | bytes drawn | factor |\n|---|--:|--:|--:|--:|\n"
		for i, c := range cases {
			datagrams, bytes := clients[i].drawn(t)
			factor := float64(bytes) / float64(sent[i])
			table += fmt.Sprintf("| %s | %d | %d | %d | %.2f |\n", c.name, sent[i], datagrams, bytes, factor)
			if datagrams != c.datagrams {
				t.Errorf("%s: %d datagrams, want %d", c.name, datagrams, c.datagrams)
			}
			if factor > c.most {
				t.Errorf("%s: %d bytes drew %d, %.2f times as many, want at most %.2f",
					c.name, sent[i], bytes, factor, c.most)
			}
		}
		t.Logf("over %s, with IP and UDP headers:\n\n%s", f.name, table)
	})
}

// Thousands of requests a second in one victim's name draw fewer bytes than they have, and no more
// than docs/security.md promises for the victim's network. Another client is served meanwhile.
func TestForgedFlood(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	const (
		ports    = 64
		requests = 6000
		burst    = 3     // requests in a millisecond
		refill   = 4096  // bytes a second at the default of -rate
		full     = 32768 // bytes once
	)
	root := testkit.PublicFolder(t)
	content := make([]byte, 70_274)
	testkit.WriteFile(t, root+"/undionly.kpxe", content)
	testkit.WriteFile(t, root+"/ipxe.efi", content)
	flood := []string{rrq("undionly.kpxe", "octet"), rrq("ipxe.efi", "octet")}
	eachVictim(t, root, func(t *testing.T, f family, d *daemon, addr string) {
		var victims []*silentClient
		for range ports {
			victims = append(victims, newSilentClient(t, f, addr))
		}
		sent := 0
		began := time.Now()
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for i := range requests {
			sent += victims[i%ports].send(t, flood[i/ports%len(flood)])
			if i == requests/2 {
				got, refusal := dial(t, d.addr).fetch(rrq("ipxe.efi", "octet"), nil)
				if len(got) != len(content) || refusal != "" {
					t.Errorf("another client got %d bytes, ERROR %q", len(got), refusal)
				}
			}
			if i%burst == 0 {
				<-ticker.C
			}
		}
		flooded := time.Since(began)
		// The transfer that begins now is given up last.
		last := newSilentClient(t, family{network: "udp4", victim: "127.0.10.1"}, d.addr)
		last.send(t, flood[0])
		awaitTimeouts(d, last)
		elapsed := time.Since(began)
		datagrams, drawn := 0, 0
		for _, v := range victims {
			n, bytes := v.drawn(t)
			datagrams, drawn = datagrams+n, drawn+bytes
		}
		most := full + int(elapsed.Seconds()*refill) + 1
		t.Logf("over %s: %d requests in %.1f s, %d bytes, drew %d datagrams, %d bytes in %.1f s: "+
			"factor %.2f; the most is %d", f.name, requests, flooded.Seconds(), sent,
			datagrams, drawn, elapsed.Seconds(), float64(drawn)/float64(sent), most)
		if drawn > most || drawn >= sent || drawn == 0 {
			t.Errorf("the victim received %d bytes, want at most %d and fewer than the %d that were sent",
				drawn, most, sent)
		}
	})
}

// forgery is a transfer whose ACKs are forged.
type forgery struct {
	name      string
	d         *daemon
	options   []string
	blockSize int // bytes
	every     int // blocks for an ACK; 0 acknowledges what came before a pause, never is silent
}

// never, as forgery.every, has a forger acknowledge the OACK alone.
const never = -1

// copies allows for blocks that a busy machine has sent twice.
const copies = 1.1

// longestTimer is longer than the server waits between two copies, as docs/protocol.md promises.
const longestTimer = 8 * time.Second

// pause in what comes shows a forger on the path that a flight has ended.
const pause = 10 * time.Millisecond

// draw has the forger draw a file of size bytes. It returns the bytes on the wire that it sent, and
// those that it drew.
func (f forgery) draw(t *testing.T, request string, size int) (sent, drawn int) {
	t.Helper()
	p := newSilentClient(t, families["127.0.0.1"], f.d.addr)
	testkit.Must(t, p.conn.SetReadBuffer(4<<20))
	sent = p.send(t, request)
	b := make([]byte, 2048)
	last := size/f.blockSize + 1
	for acked, high := 0, 0; acked < last; {
		wait := patience
		switch {
		case f.every == 0 && high > acked:
			wait = pause
		case f.every == never:
			wait = longestTimer
		}
		p.conn.SetReadDeadline(time.Now().Add(wait))
		n, err := p.conn.Read(b)
		if wait == patience || !errors.Is(err, os.ErrDeadlineExceeded) {
			testkit.Must(t, err)
		}
		switch {
		case err != nil && f.every == never:
			return sent, drawn
		case err != nil:
		case b[1] == 6:
			sent += p.send(t, ack(0))
		case b[1] == 3:
			high += max(int(int16(binary.BigEndian.Uint16(b[2:])-uint16(high))), 0)
		default:
			t.Fatalf("%q", b[:n])
		}
		if err == nil {
			drawn += p.headers + n
		}
		if err != nil || f.every > 0 && high-acked >= f.every || f.every != never && high == last {
			acked = high
			sent += p.send(t, ack(uint16(acked)))
		}
	}
	return sent, drawn
}

// A forger that forges the ACKs as well draws no more than this. docs/security.md quotes the table.
func TestForgedACKs(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	root := testkit.PublicFolder(t)
	const size = 4 << 20
	testkit.WriteFile(t, root+"/a.img", testkit.Pattern(size))
	byDefault := start(t, root)
	strict := start(t, root, "-ahead", "1", "-max-windowsize", "1")
	windows := func(n string) []string { return []string{"blksize", "1468", "windowsize", n} }
	promised := testkit.TableRows(testkit.ReadSection(t, "../docs/security.md", "### Forged ACKs"))
	table := "| Transfer | sent | drawn | factor |\n|---|--:|--:|--:|\n"
	for i, f := range []forgery{
		{"512 bytes a block, no windows", byDefault, nil, 512, 1},
		{"1468 bytes a block, no windows", byDefault, windows("1")[:2], 1468, 1},
		{"1468 bytes a block, windows of 2, an ACK for each flight", byDefault, windows("2"), 1468, 0},
		{"1468 bytes a block, windows of 64", byDefault, windows("64"), 1468, 64},
		{"1468 bytes a block, a window of 64, then silence", byDefault, windows("64"), 1468, never},
		{"an ACK for each block at `-ahead 1 -max-windowsize 1`", strict, windows("64"), 1468, 1},
		{"silence at `-ahead 1 -max-windowsize 1`", strict, windows("64"), 1468, never},
	} {
		if i >= len(promised) || promised[i][0] != f.name {
			t.Fatalf("docs/security.md has %q, want %s at %d", promised, f.name, i)
		}
		most, err := strconv.ParseFloat(strings.ReplaceAll(promised[i][2], ",", ""), 64)
		testkit.Must(t, err)
		sent, drawn := f.draw(t, rrq("a.img", "octet", f.options...), size)
		factor := float64(drawn) / float64(sent)
		table += fmt.Sprintf("| %s | %d | %d | %.0f |\n", f.name, sent, drawn, factor)
		if factor > most*copies {
			t.Errorf("%s: %d bytes drew %d, %.0f times as many, docs/security.md says %.0f at most",
				f.name, sent, drawn, factor, most)
		}
	}
	t.Logf("over IPv4, with IP and UDP headers:\n\n%s", table)
}
