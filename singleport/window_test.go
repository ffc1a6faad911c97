package singleport

import (
	"bytes"
	"testing"
)

// FuzzWindow drives a window and its flight as a shard, an engine and a client would, in any order,
// and holds them against a model of the file: a flight never has more unacknowledged than its
// limit, never reaches beyond the end, and always gets there.
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
		// From wherever it is, a client that acknowledges all it is sent has the file in as few
		// steps as there are windows.
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
	l := loss{acked: d.acked, inFlight: d.inFlight(), toldAt: 1 - d.now&1, full: d.flight.isFull(d.windowSize)}
	d.flight.limit = d.flight.lost(l, d.windowSize, nearBurst)
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
	d.flight.measure(d.acked, false, d.now)
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
