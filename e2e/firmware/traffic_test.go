//go:build linux

package firmware

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The operation codes of RFC 1350 and RFC 2347.
const (
	opRRQ   = 1
	opDATA  = 3
	opACK   = 4
	opERROR = 5
	opOACK  = 6
)

const portTFTP = 69

// datagram is a UDP datagram to or from the server's port of TFTP.
type datagram struct {
	client     netip.AddrPort
	fromServer bool
	payload    []byte // of two bytes or more
}

// parseDatagram finds the datagram in an Ethernet frame. It leaves fragments aside: nothing here
// may cause any.
func parseDatagram(frame []byte) (d datagram, ok bool) {
	const udp = 17
	if len(frame) < 14+20 {
		return d, false
	}
	var source, target netip.Addr
	packet := frame[14:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == 0x0800 && packet[9] == udp:
		source, _ = netip.AddrFromSlice(packet[12:16])
		target, _ = netip.AddrFromSlice(packet[16:20])
		packet = packet[min(int(packet[0]&15)*4, len(packet)):]
	case kind == 0x86dd && len(packet) >= 40 && packet[6] == udp:
		source, _ = netip.AddrFromSlice(packet[8:24])
		target, _ = netip.AddrFromSlice(packet[24:40])
		packet = packet[40:]
	default:
		return d, false
	}
	if len(packet) < 8 {
		return d, false
	}
	from, to := binary.BigEndian.Uint16(packet), binary.BigEndian.Uint16(packet[2:])
	size := int(binary.BigEndian.Uint16(packet[4:]))
	if from != portTFTP && to != portTFTP || size < 8+2 || size > len(packet) {
		return d, false
	}
	d = datagram{client: netip.AddrPortFrom(source, from), payload: packet[8:size]}
	if from == portTFTP {
		d.client, d.fromServer = netip.AddrPortFrom(target, to), true
	}
	return d, true
}

// transfer is one request and what came of it, as the client sees it.
type transfer struct {
	name    string
	options string // as asked: "blksize=1432 tsize=0"
	began   time.Time
	ended   time.Time // when the last block came and was acknowledged, or an ERROR came; else zero
	content []byte
	again   int    // blocks that reached the client more than once
	failure string // code and text of the ERROR that ended it, from either side

	blockSize int
	seen      map[int]bool // blocks, from 1
	latest    int          // block
	last      int          // the short block, 0 until it came
	confirmed bool         // the last block is acknowledged; lpxelinux.0 may go on without that
}

// closedByGRUB ends a transfer that brought as much as tsize said, or an empty one: GRUB does not
// wait for the last block.
const closedByGRUB = "0 closed"

// whole tells whether each block came.
func (tr *transfer) whole() bool { return tr.last > 0 && len(tr.seen) == tr.last }

// complete tells whether the client had what it wanted.
func (tr *transfer) complete() bool {
	return !tr.ended.IsZero() && (tr.failure == "" || tr.failure == closedByGRUB)
}

func (tr *transfer) took() time.Duration { return tr.ended.Sub(tr.began) }

// String is a line about the transfer.
func (tr *transfer) String() string {
	outcome := fmt.Sprintf("%d bytes in %v, %d blocks came again",
		len(tr.content), tr.took().Round(time.Millisecond), tr.again)
	switch {
	case tr.ended.IsZero():
		outcome = fmt.Sprintf("%d bytes without an end", len(tr.content))
	case !tr.complete():
		outcome = "ERROR " + tr.failure
	}
	return fmt.Sprintf("%s (%s): %s", tr.name, tr.options, outcome)
}

// traffic is what the clients and the server said to each other.
type traffic struct {
	all     []*transfer
	current map[netip.AddrPort]*transfer
}

func (tf *traffic) add(now time.Time, d datagram) {
	tr := tf.current[d.client]
	operation := binary.BigEndian.Uint16(d.payload)
	switch {
	case operation == opRRQ && !d.fromServer:
		tf.request(now, d)
	case tr == nil || len(d.payload) < 4 || tr.failure != "" || tr.confirmed:
	case operation == opERROR:
		text, _, _ := strings.Cut(string(d.payload[4:]), "\x00")
		tr.ended, tr.failure = now, fmt.Sprintf("%d %s", d.payload[3], text)
	case operation == opOACK && d.fromServer:
		for _, option := range strings.Fields(joinOptions(d.payload[2:])) {
			if size, ok := strings.CutPrefix(option, "blksize="); ok {
				tr.blockSize, _ = strconv.Atoi(size)
			}
		}
	case operation == opDATA && d.fromServer:
		if tr.data(tr.number(d.payload), d.payload[4:]) && tr.whole() {
			tr.ended = now
		}
	case operation == opACK && !d.fromServer && tr.whole():
		// iPXE acknowledges the only block of an empty file with ACK 0.
		if tr.number(d.payload) == tr.last || len(tr.content) == 0 {
			tr.ended, tr.confirmed = now, true
		}
	}
}

// request begins a transfer, unless the client repeats a request that was not answered with DATA.
func (tf *traffic) request(now time.Time, d datagram) {
	name, options, _ := strings.Cut(string(d.payload[2:]), "\x00")
	_, options, _ = strings.Cut(options, "\x00") // after the mode
	asked := &transfer{name: name, options: joinOptions([]byte(options)), began: now,
		blockSize: 512, seen: make(map[int]bool)}
	tr := tf.current[d.client]
	if tr != nil && tr.name == name && tr.options == asked.options && len(tr.seen) == 0 && tr.ended.IsZero() {
		return
	}
	if tf.current == nil {
		tf.current = make(map[netip.AddrPort]*transfer)
	}
	tf.current[d.client] = asked
	tf.all = append(tf.all, asked)
}

// number is the number of a block, beyond the 16 bits that a datagram has for it.
func (tr *transfer) number(payload []byte) int {
	return tr.latest + int(int16(binary.BigEndian.Uint16(payload[2:])-uint16(tr.latest)))
}

// data takes a block, and tells whether it is a new one.
func (tr *transfer) data(block int, b []byte) bool {
	if block < 1 || len(b) > tr.blockSize {
		return false
	}
	if tr.seen[block] {
		tr.again++
		return false
	}
	tr.seen[block] = true
	tr.latest = max(tr.latest, block)
	at := (block - 1) * tr.blockSize
	if missing := at + len(b) - len(tr.content); missing > 0 {
		tr.content = append(tr.content, make([]byte, missing)...)
	}
	copy(tr.content[at:], b)
	if len(b) < tr.blockSize {
		tr.last = block
	}
	return true
}

// joinOptions returns names and values, each followed by a NUL, as "name=value name=value".
func joinOptions(b []byte) string {
	fields := strings.Split(string(b), "\x00")
	var options []string
	for i := 0; i+1 < len(fields); i += 2 {
		options = append(options, fields[i]+"="+fields[i+1])
	}
	return strings.Join(options, " ")
}

// A transfer is complete when each block came, in any order, or when GRUB says so.
func TestTraffic(t *testing.T) {
	client := netip.MustParseAddrPort(guestAddr + ":2000")
	says := func(payload string) datagram { return datagram{client: client, payload: []byte(payload)} }
	hears := func(payload string) datagram {
		return datagram{client: client, fromServer: true, payload: []byte(payload)}
	}
	rrq := says("\x00\x01a\x00octet\x00blksize\x008\x00tsize\x000\x00")
	oack := hears("\x00\x06blksize\x008\x00tsize\x0010\x00")
	first, second := hears("\x00\x03\x00\x0112345678"), hears("\x00\x03\x00\x0290")
	ack := says("\x00\x04\x00\x02")
	for _, c := range []struct {
		what      string
		datagrams []datagram
		want      string
	}{
		{"whole", []datagram{rrq, rrq, oack, first, second, ack}, "10 bytes in 1s, 0 blocks came again"},
		{"out of order", []datagram{rrq, oack, second, first, first, ack}, "10 bytes in 1s, 1 blocks came again"},
		{"a gap", []datagram{rrq, oack, second, ack}, "10 bytes without an end"},
		{"not acknowledged", []datagram{rrq, oack, first, second}, "10 bytes in 1s, 0 blocks came again"},
		{"the last is missing", []datagram{rrq, oack, first, says("\x00\x04\x00\x01")}, "8 bytes without an end"},
		{"refused", []datagram{rrq, hears("\x00\x05\x00\x01File not found\x00")}, "ERROR 1 File not found"},
		{"closed by GRUB", []datagram{rrq, oack, first, second, says("\x00\x05\x00\x00closed\x00")},
			"10 bytes in 1s, 0 blocks came again"},
	} {
		var tf traffic
		for i, d := range c.datagrams {
			tf.add(time.Unix(int64(i/(len(c.datagrams)-1)), 0), d)
		}
		if got, want := tf.all[0].String(), "a (blksize=8 tsize=0): "+c.want; len(tf.all) != 1 || got != want {
			t.Errorf("%s: %d transfers, %s; want %s", c.what, len(tf.all), got, want)
		}
	}
}
