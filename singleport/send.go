package singleport

import (
	"math/bits"
	"time"
)

// What leaves: the first answer, bursts of blocks, and when the next ones are due.

// open has the Handler answer t, in a goroutine of its own.
func (s *shard) open(t *Transfer) {
	s.mu.Lock() // so that what is queued of the transfer before has left
	over := t.over
	s.mu.Unlock()
	if over {
		s.finish(t)
		return
	}
	file, err := s.server.handle(t)
	s.mu.Lock()
	t.file = file
	if err != nil || file == nil {
		s.fail(t, err)
	} else if !t.over {
		s.offer(t)
	}
	s.flush()
	over = t.over
	s.mu.Unlock()
	if over {
		s.finish(t)
	}
}

// offer answers the request of t, now that its file is known: with an OACK, or with the first
// block, for which the engine is asked.
func (s *shard) offer(t *Transfer) {
	c := &s.server.config
	size := t.file.Size()
	if t.mode != Octet {
		size = -1
	}
	agreed, oack := negotiate(t.options, c.MaxBlockSize, c.MaxWindowSize, size)
	t.simple, t.options = isSimple(t.options), nil
	t.window = newWindow(agreed, size)
	t.segmentSize = s.server.segmentSize(agreed.blockSize, size)
	t.flight = newFlight(agreed.windowSize, c.Ahead)
	t.pace = newPace(agreed.blockSize)
	if oack == nil {
		s.engine.add(t)
		return
	}
	t.stage, t.oack = offered, oack
	s.repeat(t, s.server.now())
}

// load takes the next segment from the engine.
func (s *shard) load(t *Transfer, segment []byte) {
	t.window.load(segment, len(segment) < t.segmentSize)
	s.advance(t, s.server.now())
}

// repeat sends the first answer of an unconfirmed transfer, at most as often as one may be sent.
func (s *shard) repeat(t *Transfer, now int64) {
	switch {
	case t.datagrams >= unconfirmedDatagrams:
		return
	case t.oack != nil:
		if s.charge(t, len(t.oack), now) {
			s.send(&t.route, t.oack, t)
			t.retransmits += min(t.datagrams, 1)
		}
		s.answered(t, now)
	case t.window.high > 0:
		t.window.rewind()
		s.advance(t, now)
	}
}

// answered counts a first answer, and waits for the client.
func (s *shard) answered(t *Transfer, now int64) {
	if t.datagrams++; t.datagrams > 1 {
		t.estimator.backoff++
	} else {
		t.offeredAt = now
		s.unconfirmed.remove(t)
		s.unconfirmed.add(t)
	}
	s.arm(t, now)
}

// charge asks whether an unconfirmed transfer may send size bytes.
func (s *shard) charge(t *Transfer, size int, now int64) bool {
	if t.datagrams > 0 && !t.confirmed && !t.again &&
		!s.server.admission.sparesRepeat(networkOf(t.route.client.ip), now, size) {
		return false
	}
	return s.server.admission.charge(&t.pass, now, size)
}

// advance sends what the flight of t has room for, as far as its pace allows, and asks the engine
// for more when it runs out.
func (s *shard) advance(t *Transfer, now int64) {
	w := &t.window
	before := t.bursts()
	n := s.sendable(t, now)
	if n > 0 && w.inFlight() == 0 {
		t.pace.begin(w.acked, now)
		n = min(n, s.sendable(t, now))
	}
	for n > 0 && !t.blocked {
		sent := s.sendBlocks(t, n, now)
		t.largestFlight = max(t.largestFlight, w.inFlight())
		t.pace.sent(sent, now)
		n -= sent
	}
	if t.tries > 0 && s.pauses(t, before) {
		t.resumeAt = now + int64(s.lull(t))
	}
	if w.wantsSegment(t.flight.limit) && t.waiting && t.delivery == deliverNothing {
		if w.size < 0 {
			s.flush() // release moves what was taken from the tail
		}
		t.segmentFrom = w.offset(w.release(t.segmentSize))
		s.engine.enqueue(t, deliverACK)
	}
	if !t.confirmed && w.high > 0 {
		s.answered(t, now)
		return
	}
	s.arm(t, now)
}

// bursts returns how many bursts are in flight.
func (t *Transfer) bursts() int { return t.window.inFlight() / t.pace.burst }

// pauses reports whether t waits for an ACK after what it sent for a timeout, with so many bursts
// in flight before. It does after each burst. But if the client is far away, it lost an ACK or a
// block most likely, and has taken a flight at this pace before: then each pause is for twice as
// many bursts as the one before.
func (s *shard) pauses(t *Transfer, before int) bool {
	if t.tries > 1 || !t.pace.spread || t.flight.isLocal() {
		return true
	}
	return bits.Len(uint(before+1)) != bits.Len(uint(t.bursts()+1))
}

// sendable returns how many blocks of t may be sent now.
func (s *shard) sendable(t *Transfer, now int64) int {
	n := t.window.sendable(t.flight.limit)
	if n == 0 || now < t.resumeAt || t.isHeld() {
		return 0
	}
	allowed, _ := t.pace.allowed(now)
	return min(n, allowed)
}

// isHeld reports whether t gets a burst for each timeout and no more: nobody answered two of them,
// or its host says that nobody is there.
func (t *Transfer) isHeld() bool {
	return t.unreachable || t.tries > 1 && t.window.inFlight() >= t.pace.burst
}

// sendBlocks queues up to limit blocks that lie side by side, and returns how many.
func (s *shard) sendBlocks(t *Transfer, limit int, now int64) int {
	w := &t.window
	space := s.socket.space(t)
	if space == 0 {
		s.flush()
		space = s.socket.space(t)
	}
	number := uint16(w.next)
	data, count, fresh := w.take(min(limit, space))
	if t.confirmed || s.charge(t, 4+len(data), now) {
		s.socket.sendBlocks(blocks{owner: t, number: number, count: count, fresh: fresh, data: data})
		s.countData(count, fresh, len(data), 1)
	}
	t.retransmits += count - fresh
	if fresh < count && !t.probed {
		t.copiedAt = now
	}
	// An ACK is expected of the last block of a window.
	sent, again := w.next-1, fresh == 0
	if end := sent - (sent-w.acked)%uint64(w.windowSize); sent-uint64(count) < end && end < sent {
		t.flight.sent(end, again, now)
	}
	t.flight.sent(sent, again, now)
	return count
}

// arm sets the timer of t: to go on with a burst, else to give up waiting for an ACK.
func (s *shard) arm(t *Transfer, now int64) {
	due := t.progress + int64(t.lifetime())
	switch {
	case t.awaitsFile():
	case t.oack == nil && !t.blocked && !t.isHeld() && t.window.sendable(t.flight.limit) > 0:
		_, wait := t.pace.allowed(now)
		due = min(due, max(now+int64(wait), t.resumeAt))
	default:
		due = min(due, s.patience(t, now))
	}
	if t.suspectAt != 0 {
		due = min(due, t.suspectAt)
	}
	if t.copy != nil {
		due = min(due, t.copy.until)
	}
	due = max(due, now)
	if s.timers.set(t, due) {
		s.schedule(now)
	}
}

// patience returns when the ACK of what is in flight is overdue. On a local network that counts
// from now, for a client may be busy; elsewhere, and if there is a sign of a loss, from when the
// blocks were sent that it is to acknowledge next.
func (s *shard) patience(t *Transfer, now int64) int64 {
	e := &t.estimator
	wait := int64(e.timeout(time.Duration(t.window.timeout)*time.Second, t.flight.isLocal()))
	if e.smoothed == 0 && t.tries == 0 && t.window.timeout == 0 {
		wait += int64(t.window.windowSize-1) * int64(firstBlockTime)
	}
	if t.tries == quietTry && t.window.windowSize == 1 {
		wait = max(wait, int64(t.quiet()))
	}
	switch {
	case t.unreachable:
		return now + min(wait, int64(max(2*t.flight.leastTrip(), firstTimeout/2)))
	case t.window.beyond != 0: // it is not silent, so its answer comes soon
		return now + int64(max(2*t.trip(), minLossyTimeout))
	case e.smoothed == 0 && t.doubted:
		return now + int64(max(4*t.flight.leastTrip(), 2*minTimeout))
	case e.smoothed == 0 || t.flight.isLocal() && !t.doubted:
		return now + wait
	}
	wait += int64(t.pace.mayWait())
	if t.doubted {
		wait = int64(e.smoothed + 2*e.variation + t.suspicion())
	}
	at := t.flight.sentAt(t.window.end(t.window.windowSize))
	if at == 0 {
		at = now
	}
	return max(at+wait, now+int64(max(e.smoothed/2, suspicionTime)))
}

// quiet returns how long a client is left alone once, so that its own timer runs out: that is the
// timeout that was agreed, if one was.
func (t *Transfer) quiet() time.Duration {
	agreed := time.Duration(t.window.timeout) * time.Second
	if agreed == 0 || agreed > quietTime {
		return quietTime
	}
	return agreed + agreed/quietPart
}

// lull returns how long to wait for an ACK after a burst that answered a timeout: there may be
// nobody left, or all is just slow.
func (s *shard) lull(t *Transfer) time.Duration {
	wait := min(t.estimator.timeout(time.Duration(t.window.timeout)*time.Second, t.flight.isLocal())/4, minTimeout)
	bursts := t.window.sendable(t.flight.limit)/t.pace.burst + 1
	return min(max(wait, min(t.trip(), minTimeout)), longestLull/time.Duration(bursts))
}

// limit sets the limit of a flight.
func (s *shard) limit(t *Transfer, blocks int) {
	s.server.ahead.Add(int64((blocks - t.flight.limit) * t.window.blockSize))
	t.flight.limit = blocks
}
