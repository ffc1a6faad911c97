//go:build linux

package firmware

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
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

// datagram is a UDP datagram to or from the server's TFTP port.
type datagram struct {
	client     netip.AddrPort
	fromServer bool
	payload    []byte
}

// parseDatagram finds the datagram in an Ethernet frame. Fragments are not looked into: nothing
// here may cause any.
func parseDatagram(frame []byte) (d datagram, ok bool) {
	if len(frame) < 14+20 {
		return d, false
	}
	var source, target netip.Addr
	var udp []byte
	packet := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		length := int(packet[0]&15) * 4
		if packet[9] != 17 || len(packet) < length {
			return d, false
		}
		source, target = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		udp = packet[length:]
	case 0x86dd:
		if len(packet) < 40 || packet[6] != 17 {
			return d, false
		}
		source, target = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		udp = packet[40:]
	default:
		return d, false
	}
	if len(udp) < 8 {
		return d, false
	}
	from, to := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:])
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if from != portTFTP && to != portTFTP || size < 8+2 || size > len(udp) {
		return d, false
	}
	d = datagram{client: netip.AddrPortFrom(source, from), payload: udp[8:size]}
	if from == portTFTP {
		d.client, d.fromServer = netip.AddrPortFrom(target, to), true
	}
	return d, true
}

// transfer is one request and what came of it, as the client sees it.
type transfer struct {
	name    string
	options string // as asked, "blksize=1432 tsize=0"
	granted string
	began   time.Time
	ended   time.Time // when the last block was acknowledged, or an ERROR came; zero until then
	content []byte
	again   int    // blocks that reached the client more than once
	failure string // of the ERROR that ended it, of either side: "1 File not found"

	blockSize int
	seen      map[int]bool // blocks, from 1
	latest    int          // block
	last      int          // the short block, 0 while none came
}

// delivered tells whether every block reached the client.
func (tr *transfer) delivered() bool { return tr.last > 0 && len(tr.seen) == tr.last }

// complete tells whether the client was satisfied.
func (tr *transfer) complete() bool {
	return !tr.ended.IsZero() && (tr.failure == "" || tr.failure == closedByGRUB)
}

// closedByGRUB ends a transfer that has as many bytes as tsize said, or none, before its last
// block is acknowledged.
const closedByGRUB = "0 closed"

// traffic is what clients and server said to each other.
type traffic struct {
	all     []*transfer
	current map[netip.AddrPort]*transfer
}

func newTraffic() *traffic { return &traffic{current: make(map[netip.AddrPort]*transfer)} }

func (tf *traffic) add(now time.Time, d datagram) {
	operation, tr := binary.BigEndian.Uint16(d.payload), tf.current[d.client]
	switch {
	case operation == opRRQ && !d.fromServer:
		name, options := parseRequest(d.payload)
		if tr != nil && tr.name == name && tr.options == options && len(tr.seen) == 0 && tr.ended.IsZero() {
			return // sent again
		}
		tr = &transfer{name: name, options: options, began: now, blockSize: 512, seen: make(map[int]bool)}
		tf.all = append(tf.all, tr)
		tf.current[d.client] = tr
	case tr == nil || len(d.payload) < 4 && operation != opOACK:
	case operation == opERROR && tr.ended.IsZero():
		text, _, _ := strings.Cut(string(d.payload[4:]), "\x00")
		tr.ended, tr.failure = now, string('0'+rune(d.payload[3]))+" "+text
	case operation == opOACK && d.fromServer:
		tr.granted = joinOptions(strings.Split(string(d.payload[2:]), "\x00"))
		for _, option := range strings.Fields(tr.granted) {
			if text, ok := strings.CutPrefix(option, "blksize="); ok {
				tr.blockSize, _ = strconv.Atoi(text)
			}
		}
	case operation == opDATA && d.fromServer:
		tr.data(tr.number(d.payload), d.payload[4:])
	case operation == opACK && !d.fromServer && tr.last > 0 && tr.ended.IsZero():
		// iPXE acknowledges the only block of an empty file with ACK 0.
		if n := tr.number(d.payload); n == tr.last || len(tr.content) == 0 {
			if tr.delivered() {
				tr.ended = now
			}
		}
	}
}

// number is the number of a block beyond the 16 bits of the datagram.
func (tr *transfer) number(payload []byte) int {
	return tr.latest + int(int16(binary.BigEndian.Uint16(payload[2:])-uint16(tr.latest)))
}

func (tr *transfer) data(block int, b []byte) {
	if block < 1 || len(b) > tr.blockSize {
		return
	}
	if tr.seen[block] {
		tr.again++
		return
	}
	tr.seen[block] = true
	tr.latest = max(tr.latest, block)
	at := (block - 1) * tr.blockSize
	if short := at + len(b) - len(tr.content); short > 0 {
		tr.content = append(tr.content, make([]byte, short)...)
	}
	copy(tr.content[at:], b)
	if len(b) < tr.blockSize {
		tr.last = block
	}
}

// parseRequest returns the name and the options of an RRQ, "name=value" each, in their order.
func parseRequest(payload []byte) (name, options string) {
	fields := strings.Split(string(payload[2:]), "\x00")
	if len(fields) < 3 {
		return fields[0], ""
	}
	return fields[0], joinOptions(fields[2:])
}

func joinOptions(fields []string) string {
	var options []string
	for i := 0; i+1 < len(fields); i += 2 {
		options = append(options, fields[i]+"="+fields[i+1])
	}
	return strings.Join(options, " ")
}

// String is a line about the transfer.
func (tr *transfer) String() string {
	what := fmt.Sprintf("%s (%s): ", tr.name, tr.options)
	switch {
	case !tr.complete() && tr.failure != "":
		return what + "ERROR " + tr.failure
	case tr.ended.IsZero():
		return what + fmt.Sprintf("%d bytes, no end", len(tr.content))
	}
	return what + fmt.Sprintf("%d bytes in %v, %d blocks came again", len(tr.content), tr.ended.Sub(tr.began).Round(time.Millisecond), tr.again)
}
