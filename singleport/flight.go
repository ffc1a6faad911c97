package singleport

import "time"

// A flight is what is under way to a client: the blocks that were sent and not acknowledged. Boot programs
// take blocks that they have not asked for yet, as long as these come in order, so the flight of a confirmed
// transfer may be larger than the window that was agreed. Its limit is a congestion window in blocks.

const (
	// lanTime bounds the round trips of a local network. There a block ahead gains little and a loss costs
	// much, so the limit grows a step a round trip, and only while next to nothing queues.
	lanTime = 5 * time.Millisecond
	// lanQueue, in blocks beside the window, is what may queue at a client on a local network: boards have
	// rings of 4 frames.
	lanQueue = 2
	// longRoundTrip, in least round trips, is where the limit stops growing: more blocks would only queue.
	longRoundTrip = 2
	// mostMarks bounds the sent blocks whose time is remembered.
	mostMarks = 32
)

// flightLimit is that of one transfer, and what it follows from.
type flightLimit struct {
	limit     int // blocks; never less than the window
	ceiling   int // blocks; the most that limit may become
	threshold int // blocks; below it the limit grows with each ACK, above it with each round trip
	credit    int // blocks acknowledged towards the next step
	lostAt    uint64
	least     time.Duration // the shortest round trip; 0 before the first
	latest    time.Duration
	marks     []mark
}

// mark notes when a block was sent that was never sent before.
type mark struct {
	block uint64
	at    int64
}

func newFlight(windowSize, ahead int) flightLimit {
	ceiling := max(windowSize, ahead)
	return flightLimit{limit: windowSize, ceiling: ceiling, threshold: ceiling}
}

// sent notes that a block was sent for the first time.
func (f *flightLimit) sent(block uint64, now int64) {
	if len(f.marks) == mostMarks {
		f.marks = f.marks[:mostMarks-1]
	}
	f.marks = append(f.marks, mark{block, now})
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

// forget drops all marks: an ACK would not tell which copy of a block it answers (Karn's rule).
func (f *flightLimit) forget() { f.marks = f.marks[:0] }

// measure takes the ACK of a block and returns its round trip; 0 if that is not known.
func (f *flightLimit) measure(block uint64, now int64) time.Duration {
	n := 0
	for n < len(f.marks) && f.marks[n].block <= block {
		n++
	}
	if n == 0 {
		return 0
	}
	newest := f.marks[n-1]
	f.marks = f.marks[:copy(f.marks, f.marks[n:])]
	if newest.block != block {
		return 0 // the ACK that would have told it was lost
	}
	f.latest = max(time.Duration(now-newest.at), 1)
	if f.least == 0 || f.latest < f.least {
		f.least = f.latest
	}
	return f.latest
}

// isLocal reports whether the client is on a local network, as far as is known.
func (f *flightLimit) isLocal() bool { return f.least < lanTime }

// queue returns how many blocks of a full flight wait somewhere on their way, as the round trip tells.
func (f *flightLimit) queue() int {
	if f.latest == 0 {
		return f.limit
	}
	return int(int64(f.limit) * int64(f.latest-f.least) / int64(f.latest))
}

// next returns the limit after an ACK of so many new blocks.
func (f *flightLimit) next(windowSize, blocks int) int {
	queue, allowed := f.queue(), windowSize-1+lanQueue
	switch {
	case f.isLocal() && queue > 2*allowed:
		return max(f.limit-1, windowSize)
	case f.limit >= f.ceiling || f.latest == 0 || f.latest > longRoundTrip*f.least || f.isLocal() && queue > allowed:
		return f.limit
	case f.limit < f.threshold && !f.isLocal():
		return min(f.limit+blocks, f.ceiling)
	}
	if f.credit += blocks; f.credit < f.limit {
		return f.limit
	}
	f.credit -= f.limit
	return min(f.limit+windowSize, f.ceiling)
}

// lost returns the limit after a loss: a burst, and never less than the window. acked is the last block
// that was acknowledged, inFlight how many were sent behind it.
func (f *flightLimit) lost(windowSize, inFlight, burst int, acked uint64) int {
	f.forget()
	f.credit = 0
	f.threshold = max(min(f.limit, inFlight)/2, windowSize)
	switch {
	case f.isLocal():
		f.ceiling = f.threshold
	case f.lostAt > 0 && acked-f.lostAt < uint64(f.limit):
		// Again within a flight: this is no accident of the path.
		f.ceiling = max(f.ceiling/2, windowSize)
	}
	f.lostAt = max(acked, 1)
	return max(min(f.threshold, burst), windowSize)
}
