package singleport

import "math/bits"

// window is what a sender of RFC 1350 and RFC 7440 knows of one transfer. It cuts the engine's
// segments into the client's blocks. Blocks are counted from 1 without end; on the wire a number
// is that count modulo 65,536.
//
// At all times acked < next <= high+1, and blocks up to high were sent at least once.
type window struct {
	terms
	acked uint64 // last block that the client has with all before it
	next  uint64 // to be sent next
	high  uint64 // last that was ever sent
	last  uint64 // the one that ends the transfer; 0 until it is known

	// trusting says that the client may take any block for the next, as U-Boot before 2020.10
	// does, and acknowledge what came behind a gap: then only an ACK of each block shows that it
	// has all. beyond are those that came of blocks behind acked+1, a bit each.
	trusting bool
	beyond   uint64

	// Blocks at hand: those of tail, then those of segment, which begins with block first.
	first   uint64
	segment []byte // the engine's own bytes, until the next segment is asked for
	tail    []byte // copies of unacknowledged blocks before first, if the file is read once

	size int64 // bytes of the file; negative if it can be read only once, from its beginning
}

// newWindow returns the window of a file with size bytes; a negative size means that the file can
// be read only once, and that its end is known when it comes.
func newWindow(t terms, size int64) window {
	w := window{terms: t, next: 1, first: 1, size: size, trusting: t.windowSize == 1}
	if size >= 0 {
		w.last = uint64(size/int64(t.blockSize)) + 1
	}
	return w
}

// offset returns where a block begins in the file, bytes.
func (w *window) offset(block uint64) int64 { return int64(block-1) * int64(w.blockSize) }

// available returns the last block at hand.
func (w *window) available() uint64 {
	if w.segment != nil && w.last > 0 && (w.size < 0 || w.offset(w.first)+int64(len(w.segment)) >= w.size) {
		return w.last
	}
	return w.first + uint64(len(w.segment)/w.blockSize) - 1
}

// lowest returns the first block at hand.
func (w *window) lowest() uint64 { return w.first - uint64(len(w.tail)/w.blockSize) }

// end returns the last block that a flight of that many blocks may reach.
func (w *window) end(flight int) uint64 {
	end := w.acked + uint64(flight)
	switch {
	case w.last == 0:
		return end
	case w.trusting && w.acked+1 < w.last:
		return min(end, w.last-1) // with the last block it believes to have the whole file
	}
	return min(end, w.last)
}

// wantsSegment reports whether a flight of that many blocks has room for a block that is not at
// hand.
func (w *window) wantsSegment(flight int) bool {
	return w.next <= w.end(flight) && (w.next > w.available() || w.next < w.lowest())
}

// release gives the segment back and returns the block with which the next one is to begin. A
// loss may lie in front of a segment: then the file is read there again, or, if it cannot be,
// what may be lost is copied. capacity is the size of a segment, bytes.
func (w *window) release(capacity int) uint64 {
	if w.size < 0 {
		w.keep()
		w.first = w.available() + 1
	} else {
		w.first = w.next
		// Few blocks more make the segment hold all that may be lost.
		if unacked := w.next - w.acked - 1; unacked <= uint64(capacity/w.blockSize/2) {
			w.first = w.acked + 1
		}
	}
	w.segment = nil
	return w.first
}

// keep copies the unacknowledged blocks of the segment to the tail.
func (w *window) keep() {
	from := w.acked + 1
	if lowest := w.lowest(); from > lowest {
		n := copy(w.tail, w.tail[min(int(from-lowest)*w.blockSize, len(w.tail)):])
		w.tail = w.tail[:n]
	}
	if from <= w.available() {
		w.tail = append(w.tail, w.segment[int(max(from, w.first)-w.first)*w.blockSize:]...)
	}
}

// load takes the segment that begins with block first. Of a file that is read once, final says
// that its end is in the segment: its last block is the one that is shorter than the block size.
func (w *window) load(segment []byte, final bool) {
	if w.size >= 0 {
		// Without what fills it up.
		segment = segment[:min(int64(len(segment)), w.size-w.offset(w.first))]
	} else if final {
		w.last = w.first + uint64(len(segment)/w.blockSize)
	}
	w.segment = segment
}

// sendable returns how many blocks at hand, from next on, a flight of that many blocks has room
// for.
func (w *window) sendable(flight int) int {
	if w.next < w.lowest() {
		return 0
	}
	if end := min(w.end(flight), w.available()); end >= w.next {
		return int(end - w.next + 1)
	}
	return 0
}

// take returns the data of the blocks from next on, at most limit and no more than lie side by
// side, as sent: it moves next. fresh is how many of them were never sent before.
func (w *window) take(limit int) (data []byte, count, fresh int) {
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
	if w.next-1 > w.high {
		fresh = int(w.next - 1 - w.high)
		w.high = w.next - 1
	}
	return data, count, fresh
}

// untake notes that the last blocks which take returned were not sent: count of them, fresh of
// which had never been sent before.
func (w *window) untake(count, fresh int) {
	w.next = max(w.next-uint64(count), w.acked+1)
	w.high = max(w.high-uint64(fresh), w.acked)
}

// acknowledgement is what an ACK says.
type acknowledgement int

const (
	ackStale     acknowledgement = iota // nothing: of an older block, or one that was not sent
	ackDuplicate                        // of the last block that was acknowledged
	ackNew                              // of new blocks, as many as make windows
	ackPartial                          // of new blocks, but it ends no window (RFC 7440 section 4)
	ackBeyond                           // of a block behind one that a trusting client skipped
	ackAgain                            // the same, of the last such block, as before
	ackLast                             // all there is
)

// ack takes the block number of an ACK. Whatever it says, it makes nothing be sent again: see
// shard.suspect.
func (w *window) ack(number uint16) acknowledgement {
	ahead := uint64(number - uint16(w.acked))
	switch {
	case ahead == 0:
		return ackDuplicate
	case ahead > w.high-w.acked:
		return ackStale
	case w.trusting && ahead > 1:
		return w.note(ahead)
	}
	w.acked += ahead
	for w.beyond >>= ahead; w.beyond&1 != 0 && w.acked < w.high; w.beyond >>= 1 {
		w.acked++
	}
	w.next = max(w.next, w.acked+1)
	switch {
	case w.acked == w.last:
		return ackLast
	case ahead%uint64(w.windowSize) != 0:
		return ackPartial
	}
	return ackNew
}

// note takes the ACK of a block behind the next one of a trusting client.
func (w *window) note(ahead uint64) acknowledgement {
	bit := uint64(1) << (ahead - 1)
	switch {
	case ahead > maxBeyond:
		return ackStale
	case w.beyond>>(ahead-1) == 1:
		return ackAgain
	}
	w.beyond |= bit
	return ackBeyond
}

// maxBeyond bounds the flight of a trusting client: the bits of beyond.
const maxBeyond = 64

// trust takes the blocks for acknowledged that were, for the client minds their order after all:
// it returns the number of the last.
func (w *window) trust() uint16 {
	number := uint16(w.acked) + uint16(bits.Len64(w.beyond))
	w.trusting, w.beyond = false, 0
	return number
}

// inFlight returns how many blocks were sent and not acknowledged since the last rewind.
func (w *window) inFlight() int { return int(w.next - 1 - w.acked) }

// rewind goes back to the first unacknowledged block.
func (w *window) rewind() { w.next = w.acked + 1 }

// bytesAcked returns how many bytes the client has.
func (w *window) bytesAcked() int64 { return w.bytesUpTo(w.acked) }

// bytesUpTo returns how many bytes all blocks up to one have.
func (w *window) bytesUpTo(block uint64) int64 {
	switch {
	case w.last == 0 || block < w.last:
		return w.offset(block + 1)
	case w.size >= 0:
		return w.size
	}
	return w.offset(w.first) + int64(len(w.segment))
}
