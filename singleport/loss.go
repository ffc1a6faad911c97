package singleport

import (
	"encoding/binary"
	"time"
)

// What an ACK or its absence says, and what is sent again.

// elapsed does what is due of t.
func (s *shard) elapsed(t *Transfer, now int64) {
	w := &t.window
	switch {
	case t.awaitsFile() && now-t.progress >= int64(t.lifetime()):
		s.hang(t)
	case t.copy != nil && now >= t.copy.until:
		s.renew(t, now)
	case t.awaitsFile():
		s.arm(t, now)
	case now-t.progress >= int64(t.lifetime()):
		s.end(t, ErrTimedOut)
	case !t.confirmed:
		s.repeatUnconfirmed(t, now)
	case t.unreachable && t.probes > 0:
		s.end(t, ErrGone)
	case w.beyond != 0 && w.sendable(t.flight.limit) == 0 || w.beyond != 0 && t.suspectAt != 0 && now >= t.suspectAt:
		s.probe(t, now)
	case t.suspectAt != 0 && now >= t.suspectAt:
		s.goBack(t, t.progress, now)
	case w.sendable(t.flight.limit) > 0 && !t.isHeld(): // the next burst
		s.advance(t, now)
	case t.declined && (t.tries > 0 || t.unreachable):
		s.end(t, nil)
	case t.unreachable && (t.tries > 0 || w.sendable(t.flight.limit) == 0):
		s.end(t, ErrGone) // else the rest of the flight waits, and a burst asks the host once more
	case t.tries >= maxTries && t.lifetime() == progressTime, t.tries >= lastTries && w.acked+1 == w.last:
		s.end(t, ErrTimedOut)
	default:
		s.tally.Timeouts++
		t.tries++
		t.estimator.backoff++
		if t.tries == 2 {
			t.uncut = true // some paths swallow datagrams that the kernel cut
		}
		s.goBack(t, 0, now)
		s.remind(t, now)
	}
}

// remind sends the last block of a flight that nobody answers, beside the first. A client that has
// them all, and whose ACKs were lost, acknowledges that one again; without windows, tftp-hpa and
// curl are silent about those before it, and wait the longer the more of them come.
func (s *shard) remind(t *Transfer, now int64) {
	w := &t.window
	if w.windowSize > 1 || !t.isHeld() || t.blocked || w.high < w.next || w.high < w.lowest() || w.high > w.available() {
		return
	}
	next := w.next
	w.next = w.high
	s.sendBlocks(t, 1, now)
	w.next = next
}

// repeatUnconfirmed does what is due of an unconfirmed transfer.
func (s *shard) repeatUnconfirmed(t *Transfer, now int64) {
	switch {
	case t.unreachable:
		s.end(t, ErrGone)
	case t.datagrams >= unconfirmedDatagrams:
		s.queue.vain(s.portOf(t.route.client), now)
		s.end(t, ErrTimedOut)
	default:
		s.tally.Timeouts++
		s.repeat(t, now)
	}
}

// awaitsFile reports whether t can send nothing before its file is opened or read.
func (t *Transfer) awaitsFile() bool {
	w := &t.window
	return t.stage == opening || t.oack == nil && w.inFlight() == 0 && w.sendable(t.flight.limit) == 0
}

// hang ends t, whose file does not answer. Its goroutine may be kept for ever; its account with
// admission is not.
func (s *shard) hang(t *Transfer) {
	s.server.config.Observer.Refused(t.route.client.addrPort(), t.name, RefusedHanging)
	s.fail(t, ErrHung)
	s.end(t, ErrHung)
	s.server.admission.end(&t.pass)
}

// lifetime is how long t lives without an ACK of something new.
func (t *Transfer) lifetime() time.Duration {
	if t.oack == nil && t.window.high == 0 {
		return fileTime
	}
	return max(progressTime, progressTimeouts*time.Duration(t.window.timeout)*time.Second)
}

// loss is what is known of one when the flight goes back for it.
type loss struct {
	acked    uint64        // the last block that was acknowledged
	inFlight int           // blocks that were sent behind it
	toldAt   int64         // when an ACK told of it; 0 if none did
	trip     time.Duration // the round trip of that ACK; 0 if it is not known
	full     bool          // it was most likely too much, see flightLimit.isFull
	tries    int           // repeats without an ACK of something new
}

// goBack sends what is in flight again, from its first block: a client in lock-step throws away
// what comes behind a gap. toldAt is when an ACK told of the loss, 0 if none did.
func (s *shard) goBack(t *Transfer, toldAt, now int64) {
	w := &t.window
	s.tally.GoBacks++
	t.suspectAt, t.doubted, t.blind, t.repairedAt = 0, false, toldAt == 0, now
	t.unreachable = false // the copies show whether it still is
	t.alarmed, t.timedOutAt = toldAt != 0, 0
	if toldAt == 0 && t.tries == 1 && t.estimator.smoothed > 0 {
		t.timedOutAt = t.flight.sentAt(w.end(w.windowSize))
	}
	t.estimator.lossy = true
	l := loss{
		acked: w.acked, inFlight: w.inFlight(), toldAt: toldAt, trip: t.flight.gap, full: t.flight.isFull(w.windowSize), tries: t.tries,
	}
	t.pace.lost(l, t.flight.leastTrip(), t.flight.isLocal())
	s.limit(t, t.flight.lost(l, w.windowSize, t.pace.burst))
	s.memory.note(t, now)
	w.rewind()
	t.resumeAt = 0
	s.advance(t, now)
}

// probe sends the block again whose ACK is missing while those of later ones are there. If the
// client lacks it, it takes it; else it says how far it is, or nothing.
func (s *shard) probe(t *Transfer, now int64) {
	w := &t.window
	t.suspectAt, t.repairedAt, t.unreachable = 0, now, false
	t.flight.marks = t.flight.marks[:0]
	most, mute := mostProbes, mostMute
	if t.simple {
		most, mute = mostProbesSimple, mostMuteSimple
	}
	if t.probes++; t.probes > most {
		number := uint16(w.acked + 1) // it has that one, as far as can be known
		t.probed = false
		if t.mute++; t.mute == mute {
			number = w.trust()
		}
		s.acknowledge(t, number, now)
		return
	}
	next := w.next
	w.rewind()
	if t.probed = w.sendable(1) > 0; t.probed {
		s.sendBlocks(t, 1, now)
		w.next = max(w.next, next)
	}
	s.advance(t, now)
}

const (
	// mostProbes unanswered, a client has that block, and says nothing to a copy.
	mostProbes, mostProbesSimple = 2, 4
	// mostMute times that, it minds the order of blocks.
	mostMute, mostMuteSimple = 1, 5
)

// acknowledge takes an ACK.
func (s *shard) acknowledge(t *Transfer, number uint16, now int64) {
	if t.oack != nil {
		if number == 0 {
			s.accepted(t, now)
		}
		return
	}
	before, next := t.window.acked, t.window.next
	switch answer := t.window.ack(number); answer {
	case ackStale:
	case ackDuplicate:
		s.duplicate(t, now)
	case ackBeyond:
		if t.suspectAt == 0 {
			t.suspectAt = now + int64(t.suspicion())
			s.arm(t, now)
		}
	case ackAgain:
		// Asked for the missing ACK, it says how far it is, unless that answers another copy, or
		// its own timer.
		since, trip := now-t.repairedAt, int64(t.trip())
		if t.probed && since >= int64(t.flight.least) && since <= 2*trip && now-t.copiedAt > 4*trip {
			s.acknowledge(t, t.window.trust(), now)
		}
	default:
		if t.probed && number == uint16(before+1) {
			t.mute = 0 // it answers a copy
		}
		if t.timedOutAt != 0 && t.window.acked >= next && answer == ackNew {
			s.forgive(t, now)
		}
		s.progress(t, answer, int(t.window.acked-before), now)
	}
}

// accepted takes the ACK of an OACK.
func (s *shard) accepted(t *Transfer, now int64) {
	t.oack = nil
	// After a while it may be the second ACK, and the first one was lost.
	if trip := time.Duration(now - t.offeredAt); t.datagrams == 1 && trip < tellTime {
		t.flight.offer = trip
	}
	s.confirm(t, now)
	s.engine.add(t)
	s.arm(t, now)
}

// progress takes an ACK of so many new blocks.
func (s *shard) progress(t *Transfer, answer acknowledgement, blocks int, now int64) {
	w := &t.window
	t.progress, t.tries, t.resumeAt, t.timedOutAt = now, 0, 0, 0
	t.suspectAt, t.doubted, t.probes, t.probed = 0, false, 0, false
	t.unreachable, t.copy = false, nil
	if !t.confirmed {
		s.confirm(t, now)
	}
	s.judge(t, now)
	sentAt := t.flight.sentAt(w.acked)
	trip := time.Duration(now - sentAt) // if that is known
	switch r := t.flight.measure(w.acked, answer == ackPartial, now); {
	case r > 0:
		t.estimator.sample(r)
	case t.estimator.smoothed > 0:
		t.estimator.backoff = 0
	case t.retransmits == 0 && sentAt != 0:
		// It tells of a block in the middle of a burst. The others take longer over a slow link.
		if r := trip + t.pace.toDrain(w.inFlight(), blocks, now, t.flight.leastTrip()); r < mostFirstTrip {
			t.estimator.sample(r)
		}
	}
	t.flight.gap = 0
	if answer == ackPartial && sentAt != 0 {
		// It came when the block behind the gap did.
		t.flight.gap = max(trip-2*t.pace.perBlock, 1)
	}
	t.pace.tick(blocks, w.inFlight(), sentAt, now)
	switch answer {
	case ackLast:
		s.memory.note(t, now)
		s.end(t, nil)
		return
	case ackPartial:
		if s.partial(t, now) {
			return
		}
	case ackNew:
		t.blind = false
		t.pace.arrived(w.acked, blocks, sentAt, now, t.flight.leastTrip(), t.flight.isLocal())
		t.flight.quick = t.pace.isQuick()
		if next := t.flight.next(w.windowSize, blocks, w.acked); next <= t.flight.limit ||
			s.server.mayGrow((next-w.windowSize)*w.blockSize) {
			s.limit(t, next)
		}
	}
	s.advance(t, now)
}

// partial takes an ACK that ends no window. The client misses the next block, or it acknowledges
// each, and the next ACK is under way. Or it saw a copy of a block that it had: then nothing but
// a silence tells of another loss. It reports whether the flight went back.
func (s *shard) partial(t *Transfer, now int64) bool {
	w := &t.window
	switch {
	case t.blind:
		t.blind, t.doubted = false, true
	case w.inFlight() == 0:
	case s.server.config.Ahead == 1:
		s.goBack(t, now, now) // RFC 7440 section 4 to the letter
		return true
	default:
		sent := t.flight.sentAt(w.acked+1) + int64(t.trip())
		t.suspectAt = max(sent, now) + int64(t.suspicion())
	}
	return false
}

// judge takes an ACK of new blocks for what it says of an alarm: of the sign of a loss that
// waits, and of the last one for which the flight was sent again. An ACK that comes too soon to
// answer a copy answers the block that was thought lost (RFC 3522's idea, by time). Then nothing
// was lost, and the next sign has longer to prove itself.
func (s *shard) judge(t *Transfer, now int64) {
	if !t.alarmed {
		return
	}
	t.alarmed = false
	if now-t.repairedAt < int64(t.flight.leastTrip())*3/4 {
		t.alarms = min(t.alarms+1, mostAlarms)
		s.undo(t)
	}
}

// forgive takes an ACK of blocks that were not sent again since the timer went back: nothing was
// lost, and the round trip was longer than the timer. It is the only sample that Karn's rule leaves
// of one that always is.
func (s *shard) forgive(t *Transfer, now int64) {
	t.estimator.sample(time.Duration(now - t.timedOutAt))
	s.undo(t)
}

// undo has a flight go on where it was, because it went back for nothing.
func (s *shard) undo(t *Transfer) {
	s.limit(t, t.flight.undo(t.window.windowSize))
	t.window.next = max(t.window.next, t.window.high+1)
}

// mostAlarms bounds the doublings of a suspicion.
const mostAlarms = 5

// suspicion returns how long a sign of a loss waits for an ACK that disproves it: the longer the
// more often one did so too late.
func (t *Transfer) suspicion() time.Duration { return max(t.trip()/8, suspicionTime) << t.alarms }

// trip returns the round trip that an ACK is expected to take.
func (t *Transfer) trip() time.Duration {
	switch {
	case t.estimator.smoothed > 0:
		return t.estimator.smoothed
	case t.flight.offer > 0:
		return 2 * t.flight.offer // an OACK is short
	}
	return firstTimeout / 2
}

// duplicate takes an ACK of the last block that was acknowledged. It draws nothing (RFC 1123
// section 4.2.3.1, the Sorcerer's Apprentice). But if blocks behind the next one are in flight,
// it may be the client's word that it misses that one: then it is lost if its ACK is overdue.
func (s *shard) duplicate(t *Transfer, now int64) {
	w := &t.window
	// iPXE acknowledges the block before an empty one, again and again.
	t.declined = t.declined || w.acked == 0 && w.last == 1 && w.high == 1 && len(w.segment) == 0
	if w.inFlight() < 2 || t.suspectAt != 0 || t.doubted {
		return
	}
	if t.blind || now-t.repairedAt < int64(t.trip()+t.suspicion()) {
		return // it is about what was in flight before that went back
	}
	if at := t.flight.sentAt(w.end(w.windowSize)); at != 0 {
		t.suspectAt = max(at+int64(t.trip()), now) + int64(t.suspicion())
	} else {
		t.doubted = true // the window is still being sent
	}
	s.arm(t, now)
}

// confirm notes that the client is where it says.
func (s *shard) confirm(t *Transfer, now int64) {
	t.confirmed, t.progress, t.estimator.backoff = true, now, 0
	s.confirmed++
	s.memory.recall(t, now)
	s.unconfirmed.remove(t)
	s.server.admission.confirm(&t.pass)
}

// unreachable takes the word of a host that the port is closed to which a datagram was sent:
// quoted is how that began. It can be forged, so it must fit what is in flight. It holds back the
// rest of the flight, and ends a transfer that stays silent alone.
func (s *shard) unreachable(client endpoint, quoted []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.clients[client]
	if t == nil || t.unreachable || len(quoted) < 4 {
		return
	}
	switch binary.BigEndian.Uint16(quoted) {
	case opOACK:
		t.unreachable = t.oack != nil
	case opDATA:
		ahead := binary.BigEndian.Uint16(quoted[2:]) - uint16(t.window.acked)
		t.unreachable = 0 < ahead && uint64(ahead) <= t.window.high-t.window.acked
	}
	if t.unreachable && t.confirmed {
		s.arm(t, s.server.now())
	}
}
