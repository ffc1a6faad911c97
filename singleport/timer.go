package singleport

import (
	"container/heap"
	"time"
)

// Times of a transfer.
const (
	// firstTimeout is the retransmission timer before the round trip of a DATA was measured, RFC
	// 6298 section 2.1.
	firstTimeout = time.Second
	// firstBlockTime is added to it for each further block of a window, whose ACK comes after the
	// last: over 512 kbit/s a window of 64 takes 1.5 s.
	firstBlockTime = 8 * time.Millisecond
	// mostFirstTrip bounds a first measurement that has to guess.
	mostFirstTrip = firstTimeout / 8
	// minTimeout and minLocalTimeout are its lower bounds afterwards. RFC 6298 asks for 1 s for
	// the sake of TCP's congestion control. On a local network nothing is lost in general, and a
	// client that does not answer erases flash, 300 ms at a time; some boot ROMs die of a copy.
	minTimeout      = 100 * time.Millisecond
	minLocalTimeout = 400 * time.Millisecond
	// minLossyTimeout is the lower bound once a loss was repaired, on a local network minTimeout.
	minLossyTimeout = 20 * time.Millisecond
	// longestLull bounds the time that a flight takes which is sent burst by burst after a timeout.
	longestLull = 500 * time.Millisecond
	// maxTimeout is how long it may become by doubling, unless a round trip takes longer.
	maxTimeout = 4 * time.Second
	// quietTime is how long a client without windows is left alone once, after quietTry timeouts in
	// a row: it acknowledges again after up to 6 s, but some, such as atftp, count from the last
	// copy that they were sent.
	quietTime = 7 * time.Second
	quietTry  = 4
	quietPart = 16 // of a timeout that was agreed is added to it
	// clockGranularity is RFC 6298's G.
	clockGranularity = time.Millisecond
	// progressTime is how long a transfer lives without an ACK of something new, whatever else
	// arrives; with an agreed timeout it is progressTimeouts of those, if that is longer.
	progressTime     = 30 * time.Second
	progressTimeouts = 3
	// maxTries is how often a flight is sent again without an ACK of something new.
	maxTries = 20
	// lastTries is the same when only the last ACK is missing: it was most likely sent, and the
	// client is gone.
	lastTries = 8
	// unconfirmedDatagrams is all that a client draws that never acknowledged anything: the first
	// answer and two repeats.
	unconfirmedDatagrams = 3
	// suspicionTime is how long a sign of a loss waits for an ACK that disproves it, at least.
	suspicionTime = time.Millisecond
)

// estimator is the retransmission timer of RFC 6298.
type estimator struct {
	smoothed, variation time.Duration // SRTT, RTTVAR; 0 before the first sample
	backoff             int           // doublings since the last sample (Karn)
	lossy               bool          // a loss was repaired
}

// sample takes the round trip of a DATA that was sent once.
func (e *estimator) sample(r time.Duration) {
	if e.smoothed == 0 {
		e.smoothed, e.variation = r, r/2
	} else {
		e.variation += ((e.smoothed - r).Abs() - e.variation) / 4
		e.smoothed += (r - e.smoothed) / 8
	}
	e.smoothed = max(e.smoothed, 1)
	e.backoff = 0
}

// timeout returns the timer to set now. agreed is the timeout option, an upper bound; 0 is none.
// local says that the client is on a local network.
func (e *estimator) timeout(agreed time.Duration, local bool) time.Duration {
	t, bound := firstTimeout, maxTimeout
	if e.smoothed > 0 {
		t = max(e.smoothed+max(clockGranularity, 4*e.variation), e.least(local))
		bound = max(maxTimeout, t)
	}
	if agreed > 0 {
		bound = agreed
	}
	for i := 0; i < e.backoff && t < bound; i++ {
		t *= 2
	}
	return min(t, bound)
}

// least returns the lower bound of the timer.
func (e *estimator) least(local bool) time.Duration {
	switch {
	case local && !e.lossy:
		return minLocalTimeout
	case local || !e.lossy:
		return minTimeout
	}
	return max(minLossyTimeout, e.smoothed+e.smoothed/2)
}

// timers is a heap of transfers by the time at which their timer is looked at, which is not later
// than due. A timer that is set to a later time, as every ACK does, leaves the heap as it is.
type timers []*Transfer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].look < h[j].look }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i, j
}

func (h *timers) Push(x any) {
	t := x.(*Transfer)
	t.slot = len(*h)
	*h = append(*h, t)
}

func (h *timers) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.slot = noSlot
	return t
}

const noSlot = -1

// set has t looked at when due, in monotonic nanoseconds; it reports whether the next look at any
// transfer is earlier than it was.
func (h *timers) set(t *Transfer, due int64) bool {
	t.due = due
	switch {
	case t.slot == noSlot:
		t.look = due
		heap.Push(h, t)
	case due < t.look:
		t.look = due
		heap.Fix(h, t.slot)
	default:
		return false
	}
	return t.slot == 0
}

// remove ends the timer of t.
func (h *timers) remove(t *Transfer) {
	if t.slot != noSlot {
		heap.Remove(h, t.slot)
	}
}

// pop returns a transfer that is due, or nil. Its timer has ended.
func (h *timers) pop(now int64) *Transfer {
	for len(*h) > 0 && (*h)[0].look <= now {
		t := (*h)[0]
		if t.due <= now {
			heap.Pop(h)
			return t
		}
		t.look = t.due
		heap.Fix(h, 0)
	}
	return nil
}
