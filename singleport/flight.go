package singleport

import "time"

// A flight is what is under way to a client: the blocks that were sent and not acknowledged. Boot
// programs take blocks that they have not asked for yet, as long as these come in order, so the
// flight of a confirmed transfer may be larger than the window that was agreed. Its limit is a
// congestion window in blocks.

const (
	// lanTime bounds the round trips of a local network. There a block ahead gains little and a
	// loss costs much, so the limit grows a step a round trip, and only while next to nothing
	// queues.
	lanTime = 5 * time.Millisecond
	// lanQueue, in blocks beside the window, is what may queue at a client on a local network:
	// boards have rings of 4 frames.
	lanQueue = 1
	// lanFlight, in blocks, is the largest flight there, unless the window is larger. It is whole
	// windows.
	lanFlight = 8
	// farQueue, in blocks, is the same elsewhere, where round trips vary.
	farQueue = 6
	// quickQueue, in blocks, is the same for a client whose ACKs show that it is no boot program.
	quickQueue = 16
	// longRoundTrip, in least round trips, is where the limit stops growing: more blocks would
	// only queue.
	longRoundTrip = 2
	// mostStrikes losses in a row are no accident of the path.
	mostStrikes = 2
	// mostMarks bounds the sent blocks whose time is remembered. It is even.
	mostMarks = 32
)

// flightLimit is that of one transfer, and what it follows from.
type flightLimit struct {
	limit     int // blocks; never less than the window
	ceiling   int // blocks; the most that limit may become
	threshold int // blocks; below it the limit grows with each ACK, above it a step a round

	// The limit grows in rounds: a round ends with the ACK of a block that was sent under it.
	round   uint64 // that block
	open    bool   // the limit may grow in this round
	doubled int    // blocks; twice the limit at the beginning of the round
	credit  int    // blocks acknowledged towards the next step

	lostAt  uint64 // the last block acknowledged when one was lost last; 0 if none was
	strikes int    // losses in a row, each within a flight of the one before
	// limitBefore and ceilingBefore are what the last loss changed.
	limitBefore, ceilingBefore int

	least  time.Duration // the shortest round trip; 0 before the first
	latest time.Duration
	gap    time.Duration // the round trip of an ACK that ended no window; 0 after another one
	offer  time.Duration // the round trip of the OACK; 0 if it is not known
	quick  bool          // the client is faster than any boot program
	marks  []mark
	stride uint64 // blocks; a mark is not closer to the last but one before it
}

// mark notes when a block was sent last.
type mark struct {
	block uint64
	at    int64
	again bool // it was sent before: an ACK does not tell which copy it answers (Karn's rule)
}

// newFlight returns the limit of a transfer. ahead is rounded up to whole windows: a client says
// nothing about a part of one.
func newFlight(windowSize, ahead int) flightLimit {
	if windowSize == 1 {
		ahead = min(ahead, maxBeyond)
	}
	ceiling := (max(ahead, 1) + windowSize - 1) / windowSize * windowSize
	return flightLimit{limit: windowSize, ceiling: ceiling, threshold: ceiling}
}

// sent notes that a block was sent.
func (f *flightLimit) sent(block uint64, again bool, now int64) {
	n := len(f.marks)
	switch {
	case n < 2:
		f.stride = 1
	case block < f.marks[n-2].block+f.stride:
		f.marks = f.marks[:n-1]
	case n == mostMarks: // of two, the later one stays
		for i := range mostMarks / 2 {
			f.marks[i] = f.marks[2*i+1]
		}
		f.marks, f.stride = f.marks[:mostMarks/2], 2*max(f.stride, f.marks[1].block-f.marks[0].block)
	}
	f.marks = append(f.marks, mark{block, now, again})
}

// sentAt returns when a block was sent, or one soon after it; 0 if that is not known.
func (f *flightLimit) sentAt(block uint64) int64 {
	for _, m := range f.marks {
		if m.block >= block {
			return m.at
		}
	}
	return 0
}

// measure takes the ACK of a block and returns its round trip; 0 if that is not known. partial says
// that it ended no window: the client may have waited for more.
func (f *flightLimit) measure(block uint64, partial bool, now int64) time.Duration {
	n := 0
	for n < len(f.marks) && f.marks[n].block <= block {
		n++
	}
	if n == 0 {
		return 0
	}
	newest := f.marks[n-1]
	f.marks = f.marks[:copy(f.marks, f.marks[n:])]
	if newest.block != block || newest.again || partial && now-newest.at >= int64(tellTime) {
		return 0 // the ACK that would have told it was lost, or is of another copy
	}
	f.latest = max(time.Duration(now-newest.at), 1)
	if f.least == 0 || f.latest < f.least {
		f.least = f.latest
	}
	return f.latest
}

// isLocal reports whether the client is known to be on a local network.
func (f *flightLimit) isLocal() bool { return 0 < f.least && f.least < lanTime }

// isFull reports whether what was lost was most likely too much for the way, or for the client's
// card. Elsewhere losses are accidents.
func (f *flightLimit) isFull(windowSize int) bool {
	least := f.leastTrip()
	return f.isLocal() || f.latest > f.least+f.least/4 && f.queue() > 1 ||
		windowSize >= farBurst && least > 0 && least+least/4 < f.gap && f.gap < tellTime
}

// leastTrip returns the shortest round trip that is known, the OACK's among them; 0 if none is.
func (f *flightLimit) leastTrip() time.Duration {
	if f.least == 0 || 0 < f.offer && f.offer < f.least {
		return f.offer
	}
	return f.least
}

// queue returns how many blocks of a full flight wait somewhere on their way, as the round trip
// tells.
func (f *flightLimit) queue() int {
	if f.latest == 0 {
		return f.limit
	}
	// That of a window has the time that its blocks take on a slow wire.
	return int(int64(f.limit) * int64(f.latest-f.leastTrip()) / int64(f.latest))
}

// next returns the limit after an ACK of so many new blocks, the last of which is acked. How the
// present limit does is known when a block was acknowledged that was sent under it, and so for a
// round of them.
func (f *flightLimit) next(windowSize, blocks int, acked uint64) int {
	if acked >= f.round {
		f.open = f.isRoomy(windowSize)
		f.round, f.doubled = acked+uint64(f.limit), 2*f.limit
		if f.isLocal() && f.queue() > 2*f.allowed(windowSize) {
			return max(f.limit-1, windowSize)
		}
	}
	limit, ceiling := f.limit, f.ceiling
	if f.isLocal() && !f.quick {
		ceiling = min(ceiling, max(windowSize, lanFlight/windowSize*windowSize))
	}
	switch {
	case !f.open || limit >= ceiling:
		return limit
	case limit < f.threshold && !f.isLocal():
		limit = min(limit+blocks, f.doubled, ceiling)
	default:
		if f.credit += blocks; f.credit < limit {
			return limit
		}
		f.credit -= limit
		limit = min(limit+windowSize, ceiling)
	}
	if limit > f.limit {
		f.round = acked + uint64(limit)
	}
	return limit
}

// allowed returns how many blocks may queue.
func (f *flightLimit) allowed(windowSize int) int {
	switch {
	case f.isLocal() && f.quick:
		return quickQueue
	case f.isLocal():
		return windowSize - 1 + lanQueue
	}
	return farQueue
}

// isRoomy reports whether the last round trip leaves room for more blocks: none would only queue.
func (f *flightLimit) isRoomy(windowSize int) bool {
	return f.latest > 0 && (f.latest <= longRoundTrip*f.least || f.quick) && f.queue() <= f.allowed(windowSize)
}

// lost returns the limit after a loss. If no ACK told of it, that is a burst. It is never less than
// the window.
func (f *flightLimit) lost(l loss, windowSize, burst int) int {
	f.limitBefore, f.ceilingBefore = f.limit, f.ceiling
	f.marks = f.marks[:0]
	f.credit, f.round, f.open = 0, 0, false
	f.threshold = max(min(f.limit, l.inFlight)*3/4/windowSize*windowSize, windowSize)
	if f.lostAt > 0 && l.acked-f.lostAt < uint64(f.limit) {
		f.strikes++
	} else {
		f.strikes = 0
	}
	f.lostAt = max(l.acked, 1)
	switch {
	case l.full:
		f.ceiling = f.threshold
	case f.strikes == mostStrikes:
		f.ceiling, f.strikes = max(f.ceiling/2, windowSize), 0
	}
	if l.toldAt != 0 {
		return f.threshold
	}
	return max(min(f.threshold, burst), windowSize)
}

// undo returns the limit after it turned out that nothing was lost.
func (f *flightLimit) undo(windowSize int) int {
	f.ceiling, f.lostAt, f.strikes = f.ceilingBefore, 0, 0
	f.threshold = max(f.limitBefore, windowSize)
	return f.threshold
}
