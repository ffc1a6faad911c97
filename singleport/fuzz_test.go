package singleport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"testing"
	"time"
)

// script feeds a fuzzer's bytes to the server as datagrams of four clients, each step led by one byte: two bits choose the client, three
// what it does.
type script struct {
	n       *rig
	clients [4]*port
	bytes   []byte
}

func (s *script) next(n int) []byte {
	n = min(n, len(s.bytes))
	head := s.bytes[:n]
	s.bytes = s.bytes[n:]
	return head
}

func (s *script) number() int {
	b := s.next(1)
	if len(b) == 0 {
		return 0
	}
	return int(b[0])
}

func (s *script) run() {
	for step := 0; len(s.bytes) > 0 && step < 300; step++ {
		lead := s.number()
		client := s.clients[lead&3]
		switch lead >> 2 & 7 {
		case 0:
			client.send(s.next(s.number()))
		case 1:
			name := []string{"a", "b", "c", "absent"}[s.number()&3]
			request := requestOf(name, []string{"octet", "NetASCII", "mail", ""}[s.number()&3])
			client.send(append(request, s.next(s.number()&63)...))
		case 2:
			options := []string{}
			for _, option := range []string{"blksize", "windowsize", "timeout", "tsize"} {
				if n := s.number(); n != 0 {
					options = append(options, option, fmt.Sprint(n&15*(n>>4)))
				}
			}
			client.send(requestOf("b", "octet", options...))
		case 3:
			client.send(ackOf(s.number() << 8 >> (s.number() & 15)))
		case 4: // what a client would acknowledge
			for len(client.arrived) > 0 {
				if data := <-client.arrived; len(data) >= 4 && data[1] == wireDATA {
					client.send(ackOf(int(binary.BigEndian.Uint16(data[2:]))))
				} else if data[1] == wireOACK {
					client.send(ackOf(0))
				}
			}
		case 5:
			client.send(errorOf(uint16(s.number()), string(s.next(s.number()))))
		case 6: // longer than what the engine can take
			long := make([]byte, 500+s.number()*256)
			copy(long, s.next(s.number()&15))
			client.send(long)
		case 7:
			time.Sleep(time.Duration(s.number()) * 20 * time.Millisecond)
		}
		if lead&0x80 != 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// Whatever arrives in whatever order: no panic, no datagram that the link objects to (an unconfirmed client gets at most three, a
// request at most one ERROR), nothing left at the end, and a good client is served during it all.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte("\x84\x00\x00\x00\x90\x90\x90\x90"), uint8(0))
	f.Add([]byte("\x88\x80\x22\x00\x11\x90\x90\x90\x1c\xff\x1c\xff\x90"), uint8(3))
	f.Add([]byte("\x84\x01\x00\x18\x02\x00\x04\x84\x01\x00\x14\x00\x04stop"), uint8(1))
	f.Add([]byte("\x85\x03\x00\x00\x86\x01\x02\x00\x87\x01\x03\x00\x00\x08\x00\x02a\x00octet\x00"), uint8(7))
	files := map[string][]byte{"a": nil, "b": content(70_000), "c": content(1024)}
	f.Fuzz(func(t *testing.T, steps []byte, batch uint8) {
		inRig(t, files, generous, uint64(len(steps)), func(t *testing.T, n *rig) {
			n.batch = 1 + int(batch&15)
			s := script{n: n, bytes: steps}
			for i := range s.clients {
				s.clients[i] = n.client(i, 2000, 4096)
			}
			s.run()
			m := model{name: "good client", blockSize: 1428, requests: seconds(1), quiet: seconds(1), deaf: true}
			m.fetchAll(n, 100, "b", 1)
			n.stop(time.Second)
		})
	})
}

// rebuilt returns a request with what is kept of r.
func (r *request) rebuilt() []byte {
	options := []string{}
	for _, a := range r.options() {
		options = append(options, string(a.name), strconv.Itoa(a.value))
	}
	b := requestOf(string(r.name), string(r.mode), options...)
	if r.write {
		b[1] = wireWRQ
	}
	return b
}

func seedRequests(f *testing.F, add func(request []byte)) {
	for _, request := range [][]byte{
		requestOf("a", "octet"),
		requestOf("undionly.kpxe", "octet", "blksize", "1432", "tsize", "0"),
		requestOf("a", "NETASCII", "TSize", "0", "BlkSize", "1468", "WindowSize", "4", "timeout", "5"),
		requestOf("a", "octet", "blksize", "8", "blksize", "9", "windowsize", "0", "timeout", "256", "multicast", ""),
		requestOf("a", "mail", "blksize", "0000000512", "tsize", "-1", "windowsize", "65535"),
		[]byte("\x00\x01a"), []byte("\x00\x01a\x00octet"), []byte("\x00\x02\x00\x00"), []byte("\x00\x01a\x00octet\x00blksize"),
		[]byte("\x00\x01a\x00octet\x00blksize\x00512"), requestOf(string(bytes.Repeat([]byte("x"), 600)), "octet", "tsize", "0"),
		requestOf("a", "octet", "tsize", string(bytes.Repeat([]byte("9"), 600))),
	} {
		add(request)
	}
}

// A request is never more than it may be, and reads the same when it is put together again from what was kept of it.
func FuzzRequest(f *testing.F) {
	seedRequests(f, func(request []byte) { f.Add(request) })
	f.Fuzz(func(t *testing.T, datagram []byte) {
		if len(datagram) < 4 {
			return // malformed, as receive says
		}
		r, ok := parseRequest(datagram)
		if !ok {
			if bytes.Count(datagram[2:], []byte{0}) >= 2 {
				t.Fatal("name and mode end, and it is refused")
			}
			return
		}
		var seen [optionCount]bool
		for _, a := range r.options() {
			if seen[a.option] || a.value < optionBounds[a.option][0] || a.value > optionBounds[a.option][1] || !equalFold(a.name, optionNames[a.option]) {
				t.Fatalf("option %q = %d", a.name, a.value)
			}
			seen[a.option] = true
		}
		again, ok := parseRequest(r.rebuilt())
		if !ok || !bytes.Equal(again.rebuilt(), r.rebuilt()) {
			t.Fatalf("%q was read as %q and again as %q", datagram, r.rebuilt(), again.rebuilt())
		}
		if mode, ok := r.servedMode(); ok {
			transfer := Transfer{name: string(r.name), mode: mode, segmentSize: largestSegment}
			// More overflows a buffer of pin/tftp (sender.go, sendDatagram).
			if b := transfer.appendDelivery(nil, deliverRequest); len(b) > 516 {
				t.Fatalf("the engine is given %d bytes", len(b))
			}
		}
	})
}

// What is granted was asked for, in the words and in the order of the request, within every limit.
func FuzzNegotiate(f *testing.F) {
	seedRequests(f, func(request []byte) { f.Add(request, uint16(1468), uint16(64), int64(70_274)) })
	f.Add(requestOf("a", "octet", "windowsize", "64", "blksize", "65464", "tsize", "0"), uint16(65464), uint16(32767), int64(0))
	f.Add(requestOf("a", "octet", "tsize", "0"), uint16(512), uint16(1), int64(-1))
	f.Fuzz(func(t *testing.T, datagram []byte, maxBlockSize, maxWindowSize uint16, size int64) {
		if len(datagram) < 4 {
			return
		}
		r, ok := parseRequest(datagram)
		if !ok {
			return
		}
		mostBlock, mostWindow := max(int(maxBlockSize), DefaultBlockSize), max(int(maxWindowSize), 1)
		agreed, oack := negotiate(r.options(), mostBlock, mostWindow, size)
		if agreed.blockSize < MinBlockSize || agreed.blockSize > mostBlock || agreed.windowSize < 1 || agreed.windowSize > mostWindow ||
			agreed.timeout < 0 || agreed.timeout > MaxTimeout {
			t.Fatalf("%+v", agreed)
		}
		if oack == nil {
			if agreed != (terms{DefaultBlockSize, 1, 0}) {
				t.Fatalf("%+v without an OACK", agreed)
			}
			return
		}
		if most := r.largestAnswer(); len(oack) > most {
			t.Fatalf("an OACK of %d bytes, foreseen were %d", len(oack), most)
		}
		if !bytes.HasPrefix(oack, []byte{0, wireOACK}) || oack[len(oack)-1] != 0 {
			t.Fatalf("OACK %q", oack)
		}
		fields := bytes.Split(oack[2:len(oack)-1], []byte{0})
		asked := r.options()
		for i := 0; i < len(fields); i += 2 {
			for len(asked) > 0 && !bytes.Equal(asked[0].name, fields[i]) {
				asked = asked[1:]
			}
			if len(asked) == 0 || i+1 == len(fields) {
				t.Fatalf("OACK %q of %q", oack, datagram)
			}
			granted := map[option]int64{optionBlockSize: int64(agreed.blockSize), optionTimeout: int64(agreed.timeout),
				optionTransferSize: size, optionWindowSize: int64(agreed.windowSize)}[asked[0].option]
			if string(fields[i+1]) != strconv.FormatInt(granted, 10) || granted > int64(asked[0].value) && asked[0].option != optionTransferSize || granted < 1 {
				t.Fatalf("OACK %q of %q", oack, datagram)
			}
			asked = asked[1:]
		}
	})
}

// FuzzWindow drives a window and its flight as a shard, an engine and a client would, in any order, and
// holds them against a model of the file: a flight never has more unacknowledged than its limit, never
// reaches beyond the end, and always gets there.
func FuzzWindow(f *testing.F) {
	f.Add(uint16(100), uint16(1), uint16(2000), uint8(3), uint8(24), true, []byte("\x00\x08\x01\x00\x08\x01\x02\x03"))
	f.Add(uint16(8), uint16(64), uint16(60_000), uint8(1), uint8(24), false, []byte("\x00\xf8\x09\x00\xf8\x11\x02\x00\xf8\x03\x0b\x00\xf8"))
	f.Add(uint16(512), uint16(5), uint16(512*5), uint8(4), uint8(1), true, []byte("\x00\x18\x09\x00\x03\x00\x28\x05"))
	f.Add(uint16(8), uint16(7), uint16(0), uint8(0), uint8(24), false, []byte("\x00\x01\x03"))
	f.Add(uint16(8), uint16(1), uint16(6000), uint8(9), uint8(200), true, []byte("\x00\xf8\x2b\xf8\xff\x04\xf8\x33\xf8\x07\xf8\x06\xf8\x2b"))
	f.Fuzz(func(t *testing.T, blockSize, windowSize, size uint16, perSegment, ahead uint8, twice bool, steps []byte) {
		agreed := terms{blockSize: max(int(blockSize), MinBlockSize), windowSize: min(max(int(windowSize), 1), MaxWindowSize)}
		d := windowDriver{t: t, file: content(int(size)), segment: (1 + int(perSegment)) * agreed.blockSize}
		known := int64(-1)
		if twice {
			known = int64(len(d.file))
		}
		d.window = newWindow(agreed, known)
		d.flight = newFlight(agreed.windowSize, int(ahead))
		d.most = d.flight.ceiling
		for ; len(steps) > 0 && !d.done; steps = steps[1:] {
			argument := int(steps[0] >> 3)
			d.now += int64(argument) * 1e6
			switch steps[0] & 7 {
			case 0, 1, 2:
				d.send(1 + argument)
			case 3:
				d.acknowledge(int(d.acked) + argument) // a part, a duplicate, or what was not sent
			case 4:
				d.acknowledge(int(d.acked) - argument)
			case 5:
				d.acknowledge(int(d.high))
			case 6:
				d.unsend(argument)
			case 7:
				d.goBack()
			}
			d.check()
		}
		// From wherever it is, a client that acknowledges all it is sent has the file in as few steps as there
		// are windows.
		for left := len(d.file)/d.blockSize + 3; !d.done; left-- {
			if left == 0 {
				t.Fatal("no progress")
			}
			d.rewind()
			d.send(1 << 16)
			if d.trusting {
				for end := d.high; d.acked < end && !d.done; {
					d.acknowledge(int(d.acked) + 1)
				}
			} else {
				d.acknowledge(int(d.high))
			}
			d.check()
		}
		if got := d.bytesAcked(); got != int64(len(d.file)) {
			t.Fatalf("%d bytes acknowledged of %d", got, len(d.file))
		}
	})
}

// windowDriver is a window with the file that it is to carry.
type windowDriver struct {
	window
	flight  flightLimit
	now     int64
	t       *testing.T
	file    []byte
	read    int      // bytes that were read of a file that is read once
	segment int      // bytes that the engine reads at a time
	most    int      // the most that the limit ever was
	done    bool     // the last block was acknowledged
	taken   [][2]int // blocks and fresh ones of what was taken since the last ACK
}

// send sends up to limit blocks, as shard.advance does with a faithful engine.
func (d *windowDriver) send(limit int) {
	for {
		if d.wantsSegment(d.flight.limit) {
			from := int(d.offset(d.release(d.segment)))
			if d.size < 0 {
				from = d.read
			}
			d.read = min(from+d.segment, len(d.file))
			segment := bytes.Clone(d.file[min(from, d.read):d.read])
			final := len(segment) < d.segment
			if d.size >= 0 {
				segment = append(segment, make([]byte, d.segment-len(segment))...)
			}
			d.load(segment, final)
		}
		n := min(d.sendable(d.flight.limit), limit)
		if n == 0 {
			return
		}
		first := int(d.next)
		data, count, fresh := d.take(n)
		d.taken = append(d.taken, [2]int{count, fresh})
		d.flight.sent(d.next-1, fresh == 0, d.now)
		limit -= count
		if count < 1 || count > n || fresh < 0 || fresh > count {
			d.t.Fatalf("take(%d) gives %d blocks, %d of them fresh", n, count, fresh)
		}
		end := min((first-1+count)*d.blockSize, len(d.file))
		if want := d.file[(first-1)*d.blockSize : end]; !bytes.Equal(data, want) {
			d.t.Fatalf("blocks %d to %d: %d bytes that are not those %d of the file", first, first+count-1, len(data), len(want))
		}
	}
}

// unsend takes back what was taken last, as a shard does when the socket is full.
func (d *windowDriver) unsend(n int) {
	for ; n > 0 && len(d.taken) > 0; n-- {
		last := d.taken[len(d.taken)-1]
		d.taken = d.taken[:len(d.taken)-1]
		d.untake(last[0], last[1])
	}
}

func (d *windowDriver) goBack() {
	inFlight := d.inFlight()
	d.flight.limit = d.flight.lost(d.windowSize, inFlight, nearBurst, d.acked, d.now&1 == 0)
	d.taken = nil
	d.rewind()
}

func (d *windowDriver) acknowledge(block int) {
	before, high, next := d.acked, d.high, d.next
	ahead := int(uint16(block) - uint16(before))
	answer := d.ack(uint16(block))
	switch {
	case ahead == 0:
		if answer != ackDuplicate || d.acked != before || d.next != next {
			d.t.Fatalf("a duplicate ACK of %d is taken for %d", before, answer)
		}
		return
	case ahead > int(high-before):
		if answer != ackStale || d.acked != before || d.next != next {
			d.t.Fatalf("ACK %d counts, %d to %d are unacknowledged", block, before+1, high)
		}
		return
	case answer == ackBeyond || answer == ackAgain || answer == ackStale && d.trusting && ahead > maxBeyond:
		if !d.trusting || ahead == 1 || d.acked != before || d.next != next {
			d.t.Fatalf("ACK %d behind a gap makes %d of %d", block, d.acked, before)
		}
		if answer == ackAgain {
			d.acknowledge(int(d.trust()))
		}
		return
	case d.acked < before+uint64(ahead) || !d.trusting && d.acked > before+uint64(ahead) || answer == ackStale || answer == ackDuplicate || d.next < next:
		d.t.Fatalf("ACK %d makes %d of %d, and next %d of %d", block, d.acked, before, d.next, next)
	}
	if (answer == ackLast) != (d.acked == d.last && d.last > 0) {
		d.t.Fatalf("ACK %d: %d, the last block is %d", block, answer, d.last)
	}
	d.taken = nil
	d.flight.measure(d.acked, d.now)
	if limit := d.flight.limit; answer == ackNew {
		if d.flight.limit = d.flight.next(d.windowSize, ahead, d.acked); d.flight.limit > limit+max(ahead, d.windowSize) {
			d.t.Fatalf("an ACK of %d blocks raises the limit from %d to %d", ahead, limit, d.flight.limit)
		}
	}
	d.done = d.done || answer == ackLast
}

func (d *windowDriver) check() {
	w := &d.window
	if w.next <= w.acked || w.next > w.high+1 || w.high < w.acked {
		d.t.Fatalf("acked %d, next %d, high %d", w.acked, w.next, w.high)
	}
	if limit := d.flight.limit; limit < w.windowSize || limit > d.flight.ceiling || d.flight.ceiling < w.windowSize ||
		w.high > w.acked+uint64(max(int(d.most), d.windowSize)) {
		d.t.Fatalf("acked %d, high %d, limit %d, ceiling %d, windowsize %d", w.acked, w.high, limit, d.flight.ceiling, w.windowSize)
	}
	if end := uint64(len(d.file)/w.blockSize + 1); w.high > end || w.last > 0 && w.last != end {
		d.t.Fatalf("high %d, last %d, the file ends with block %d", w.high, w.last, end)
	}
	if len(d.flight.marks) > mostMarks {
		d.t.Fatalf("%d marks", len(d.flight.marks))
	}
}
