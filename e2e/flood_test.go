package e2e

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// flood makes datagrams that no client sends, and some that one does.
type flood struct {
	*rand.Rand
	long []byte // 64 KiB
}

func (f *flood) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(f.Uint32())
	}
	return b
}

func (f *flood) pick(from ...string) string { return from[f.IntN(len(from))] }

// digits returns a number of n digits.
func (f *flood) digits(n int) string { return strings.Repeat(f.pick("0", "1", "9"), n-1) + "8" }

func (f *flood) request() []byte {
	value := func() string {
		return f.pick("0", "1", "8", "512", "1428", "65464", "65535", "-1", "1e3", " 512", "",
			f.digits(20), f.digits(600))
	}
	var options []string
	for range f.IntN(5) {
		options = append(options, f.pick("blksize", "BLKSIZE", "tsize", "timeout", "windowsize",
			"multicast", "", "x\xff"), value())
	}
	name := f.pick("a.img", "empty.txt", "absent.txt", "../a.img", "a.key", "",
		string(f.bytes(f.IntN(40))), strings.Repeat("a/", 300))
	mode := f.pick("octet", "octet", "netascii", "OcTeT", "mail", "", "octet\xff")
	return []byte(rrq(name, mode, options...))
}

// next returns one datagram.
func (f *flood) next() []byte {
	switch f.IntN(12) {
	case 0:
		return f.bytes(f.IntN(40))
	case 1:
		return append([]byte{0, byte(f.IntN(8))}, f.bytes(f.IntN(600))...)
	case 2: // a request that is cut off: no terminator, an option without its value
		b := f.request()
		return b[:f.IntN(len(b)+1)]
	case 3: // a request with some bytes changed
		b := f.request()
		for range 1 + f.IntN(4) {
			b[f.IntN(len(b))] = byte(f.Uint32())
		}
		return b
	case 4: // a request with something inside of it twice
		b := f.request()
		at := f.IntN(len(b))
		return append(bytes.Clone(b[:at]), b[f.IntN(at+1):]...)
	case 5:
		b := f.request()
		b[1] = 2 // WRQ
		return b
	case 6:
		return []byte(ack(uint16(f.IntN(3))))
	case 7:
		return append([]byte(ack(uint16(f.IntN(3)))), f.bytes(500+f.IntN(1000))...)
	case 8:
		code := binary.BigEndian.AppendUint16([]byte{0, 5}, uint16(f.IntN(9)))
		return append(code, f.bytes(f.IntN(200))...)
	case 9:
		if f.IntN(20) > 0 {
			return nil
		}
		f.long[1] = byte(f.IntN(8))
		copy(f.long[2:], f.request()[2:])
		return f.long[:60_000+f.IntN(5_507)]
	}
	return f.request()
}

// Hundreds of thousands of random and mutated datagrams on the wire: the daemon goes on to serve
// good clients, and gives back the memory and the descriptors that the flood took. FLYTFTP_FLOOD
// sets another number of datagrams.
func TestFlood(t *testing.T) {
	testkit.SkipIfShort(t)
	datagrams := 300_000
	if value := os.Getenv("FLYTFTP_FLOOD"); value != "" {
		n, err := strconv.Atoi(value)
		testkit.Must(t, err)
		datagrams = n
	}
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(40_000)
	testkit.WriteFile(t, folder+"/a.img", content)
	testkit.WriteFile(t, folder+"/empty.txt", nil)
	d := start(t, folder, "-rate", "1000000", "-max-blksize", "65464")
	f := &flood{rand.New(rand.NewPCG(516, 600)), make([]byte, 65_507)}

	// A good client whose own port sends nonsense during its transfer.
	fetch := func() {
		t.Helper()
		c := dial(t, d.addr)
		got, failure := c.fetch(rrq("a.img", "octet"), func(blocks int) {
			for _, head := range []string{"\x00\x04\xff\xff", "\x00\x03\x00\x01",
				"\x00\x06blksize\x00", "\x00\x00", "\x00\x01", "\xff\xff\xff\xff"} {
				c.conn.Write(append([]byte(head), bytes.Repeat([]byte{'x'}, 513+f.IntN(2000))...))
			}
		})
		if failure != "" || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %q", len(got), failure)
		}
		c.conn.Close()
	}
	fetch()
	// wait returns when everything that the flood began is over.
	wait := func(what string, met func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * patience); !met(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s: %d KiB resident, %d descriptors",
					what, d.residentKiB("VmRSS"), d.descriptors())
				return
			}
		}
	}
	descriptors := d.descriptors()
	before := d.residentKiB("VmRSS")

	var sockets []net.Conn
	for range 200 {
		sockets = append(sockets, dial(t, d.addr).conn)
	}
	probe := dial(t, d.addr)
	began := time.Now()
	rounds := make([]int, 2) // resident after the first half of the flood, and after the second
	for round := range rounds {
		queued := 0
		for range datagrams / len(rounds) {
			b := f.next()
			sockets[f.IntN(len(sockets))].Write(b)
			// The answer to a probe says that the server has read all that came before it: nothing
			// was lost in a full buffer.
			if queued += len(b) + 700; queued > 60_000 {
				queued = 0
				probe.ask(rrq("absent.txt", "octet"))
			}
		}
		fetch()
		for _, socket := range sockets { // a transfer that it confirmed would live for 30 s
			socket.Write([]byte("\x00\x05\x00\x00the end\x00"))
		}
		wait("descriptors are not closed", func() bool { return d.descriptors() <= descriptors })
		rounds[round] = d.residentKiB("VmRSS")
	}
	t.Logf("%d datagrams in %v; resident: %d KiB before, %d and %d after, %d at most", datagrams,
		time.Since(began).Round(time.Millisecond), before, rounds[0], rounds[1], d.residentKiB("VmHWM"))
	// Go may keep some for the next flood, and the next one takes no more.
	const kept, growth = 12 << 10, 4 << 10 // KiB
	wait("memory is not given back", func() bool { return d.residentKiB("VmRSS") <= before+kept })
	if rounds[1] > rounds[0]+growth {
		t.Errorf("%d KiB resident after the first half of the flood, %d after the second",
			rounds[0], rounds[1])
	}
	fetch()
	if strings.Contains(d.logged(), "panic") {
		t.Error("a panic was logged")
	}
}
