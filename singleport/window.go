package singleport

// window is what a sender of RFC 1350 and RFC 7440 knows of one transfer; lock-step is a window of one block. It cuts the engine's
// segments into the client's blocks. Blocks are counted from 1 without end; on the wire a number is that count modulo 65,536.
//
// At all times acked < next <= acked+windowSize+1 and acked <= high <= acked+windowSize.
type window struct {
	terms
	acked uint64 // last block that the client has with all before it
	next  uint64 // to be sent next
	high  uint64 // last that was ever sent
	last  uint64 // the one that ends the transfer; 0 until it is known

	// What can be sent: the blocks of tail, then those of segment, which begins with block first.
	first   uint64
	segment []byte // the engine's own bytes, from load to release
	tail    []byte // copies of unacknowledged blocks of earlier segments, up to block first-1
}

func newWindow(t terms) window { return window{terms: t, next: 1, first: 1} }

// available returns the last block that can be sent now.
func (w *window) available() uint64 {
	if w.last > 0 {
		return w.last
	}
	return w.first + uint64(len(w.segment)/w.blockSize) - 1
}

// load takes the next segment: a multiple of the block size, or, if it is final, any size, and then its last block is the one that
// is shorter than the block size, which may be empty.
func (w *window) load(segment []byte, final bool) {
	w.segment = segment
	if final {
		w.last = w.first + uint64(len(segment)/w.blockSize)
	}
}

// wantsSegment reports whether the window has room for a block that is still to be read.
func (w *window) wantsSegment() bool {
	return w.last == 0 && w.next > w.available() && w.next <= w.acked+uint64(w.windowSize)
}

// release gives the segment back, having copied what may have to be sent again.
func (w *window) release() {
	keep := w.acked + 1
	w.trim()
	if end := w.available() + 1; keep < end {
		if need := int(end-keep) * w.blockSize; cap(w.tail) < need {
			// Room for the most that can be unacknowledged when a segment is wanted: once for the whole transfer.
			grown := make([]byte, len(w.tail), (w.windowSize-1)*w.blockSize)
			copy(grown, w.tail)
			w.tail = grown
		}
		w.tail = append(w.tail, w.segment[int(max(keep, w.first)-w.first)*w.blockSize:]...)
	}
	w.first = w.available() + 1
	w.segment = nil
}

// trim drops acknowledged blocks from tail.
func (w *window) trim() {
	tailFirst := w.first - uint64(len(w.tail)/w.blockSize)
	if drop := w.acked + 1 - tailFirst; w.acked >= tailFirst {
		n := copy(w.tail, w.tail[min(int(drop)*w.blockSize, len(w.tail)):])
		w.tail = w.tail[:n]
	}
}

// sendable returns how many blocks, from next on, the window has room for.
func (w *window) sendable() int {
	if end := min(w.acked+uint64(w.windowSize), w.available()); end >= w.next {
		return int(end - w.next + 1)
	}
	return 0
}

// take returns the data of the blocks from next on, at most limit and no more than lie side by side, as sent: it moves next. again is how many
// of them were sent before.
func (w *window) take(limit int) (data []byte, count, again int) {
	from := w.next
	if from < w.first {
		count = min(limit, int(w.first-from))
		at := len(w.tail) - int(w.first-from)*w.blockSize
		data = w.tail[at : at+count*w.blockSize]
	} else {
		count = min(limit, int(w.available()-from+1))
		at := int(from-w.first) * w.blockSize
		data = w.segment[at:min(at+count*w.blockSize, len(w.segment))]
	}
	w.next += uint64(count)
	if from <= w.high {
		again = int(min(w.high, w.next-1) - from + 1)
	}
	w.high = max(w.high, w.next-1)
	return data, count, again
}

// acknowledgement is what an ACK says.
type acknowledgement int

const (
	ackStale   acknowledgement = iota // nothing: a duplicate, or of a block that was not sent
	ackPartial                        // blocks that were sent after it are lost (RFC 7440 section 4): the window begins anew behind it
	ackAll                            // all that was sent has arrived
	ackLast                           // all there is
)

// ack takes the block number of an ACK. A duplicate changes nothing, so it never draws a second DATA (the Sorcerer's
// Apprentice, RFC 1123 section 4.2.3.1).
func (w *window) ack(number uint16) acknowledgement {
	ahead := uint64(number - uint16(w.acked))
	if ahead == 0 || ahead > w.high-w.acked {
		return ackStale
	}
	before := w.next
	w.acked += ahead
	w.next = w.acked + 1
	switch {
	case w.acked == w.last:
		return ackLast
	case w.next < before:
		return ackPartial
	}
	return ackAll
}

// inFlight returns how many blocks were sent and not acknowledged since the window began.
func (w *window) inFlight() int { return int(w.next - 1 - w.acked) }

// rewind begins the window anew: all that is unacknowledged is sent again.
func (w *window) rewind() { w.next = w.acked + 1 }

// bytesAcked returns how many bytes of the file the client has.
func (w *window) bytesAcked() int64 {
	if w.last > 0 && w.acked == w.last {
		return int64(w.first-1)*int64(w.blockSize) + int64(len(w.segment))
	}
	return int64(w.acked) * int64(w.blockSize)
}
