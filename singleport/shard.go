package singleport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"sync"
	"time"
)

// shard is one socket with the transfers that came by it and the engine that runs them. Shards share the
// admission, the memory and the bound of files that are waited for.
//
// Most of the work is done in receive, in the goroutine that reads the socket: an ACK is answered there with
// the next blocks of the segment. The engine's goroutines come in through WriteTo, the timer's through
// expire. What they queue on the socket must be flushed before mu is released, because a segment that is
// released changes once the engine runs on.
//
// How a transfer ends:
//
//	verb     who calls it                                the client gets   what it frees
//	end      receive: ERROR, last ACK, replaced; expire  nothing           the port, the timer
//	fail     the engine, abandon, endAll: a file or pin  an ERROR          the same
//	makeWay  accept.go, for another request              nothing           the same, and its admission
//	abandon  the engine, when pin/tftp panicked          ERROR by fail     by fail and dispose
//	endAll   Shutdown                                    ERROR by fail     the same, of all
//	forget   end and fail alone                          -                 the port, the timer
//	finish   the last goroutine of a transfer            -                 the file, admission, memory
//	dispose  end, where no goroutine is at a transfer    -                 starts one that calls finish
type shard struct {
	server *Server
	socket socket
	engine *engine
	seed   maphash.Seed

	mu          sync.Mutex
	closed      bool
	clients     map[endpoint]*Transfer // that are not over
	unconfirmed list                   // the one that was answered or began first comes first
	timers      timers
	timer       alarm
	armed       int64 // when timer fires; 0 if it is not set
	scratch     []byte
	takeBack    func(t *Transfer, blocks, fresh int) // unsent, which would else be allocated for each flush
	blocked     []*Transfer                          // whose blocks the socket did not take, the longest waiting first
	awaiting    bool                                 // the socket calls resume when it can take more
	memory      memory

	lookedForRoom int64 // see makeRoom
	drained       int64 // when all that had arrived was read
}

func newShard(server *Server, socket socket) *shard {
	s := &shard{server: server, socket: socket, seed: maphash.MakeSeed(), clients: map[endpoint]*Transfer{}}
	s.engine = newEngine(s)
	s.takeBack = s.unsent
	s.timer = socket.alarm(s.expire)
	return s
}

// close ends the shard once its engine has.
func (s *shard) close() {
	s.mu.Lock()
	s.closed = true
	s.timer.stop()
	s.mu.Unlock() // receive may wait for it, and close for that
	s.socket.close()
}

// flush sends what is queued. What the socket does not take waits with its transfer.
func (s *shard) flush() {
	if !s.closed && !s.socket.flush(s.takeBack) && !s.awaiting {
		s.awaiting = true
		s.socket.awaitWritable(s.resume)
	}
}

// send queues one datagram.
func (s *shard) send(to *route, datagram []byte, owner *Transfer) {
	if s.socket.space(nil) == 0 {
		s.flush()
	}
	s.socket.send(to, datagram, owner)
}

// unsent takes back blocks of t that the socket did not take, or its OACK, which is none.
func (s *shard) unsent(t *Transfer, blocks, fresh int) {
	if t.over {
		return
	}
	t.window.untake(blocks, fresh)
	if !t.blocked {
		t.blocked = true
		s.blocked = append(s.blocked, t)
	}
}

// resume goes on with the transfers that the socket kept waiting, in turn. It reports whether the socket
// took all.
func (s *shard) resume() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	now := s.server.now()
	for len(s.blocked) > 0 {
		t := s.blocked[0]
		s.blocked = s.blocked[:copy(s.blocked, s.blocked[1:])]
		t.blocked = false
		switch {
		case t.over:
			continue
		case t.oack != nil:
			s.send(&t.route, t.oack, t)
		default:
			s.advance(t, now)
		}
		if !s.socket.flush(s.takeBack) {
			return false
		}
	}
	s.awaiting = false
	return true
}

// receive takes what has arrived. A fault of ours in it costs the datagram, not the server.
func (s *shard) receive(batch []received) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	defer s.flush()
	now := s.server.now()
	if len(batch) < fullBatch {
		s.drained = now
	}
	for i := range batch {
		s.take(&batch[i], now)
	}
}

func (s *shard) take(r *received, now int64) {
	defer func() {
		if v := recover(); v != nil {
			s.server.panicked(v)
		}
	}()
	if len(r.data) < 4 || r.route.client.port == 0 {
		s.refused(r, RefusedMalformed)
		return
	}
	switch binary.BigEndian.Uint16(r.data) {
	case opRRQ, opWRQ:
		s.request(r, now)
	case opACK:
		if t := s.clients[r.route.client]; t != nil {
			s.acknowledge(t, binary.BigEndian.Uint16(r.data[2:]), now)
		} else {
			s.refused(r, RefusedStray)
		}
	case opERROR:
		if t := s.clients[r.route.client]; t != nil {
			message, _, _ := bytes.Cut(r.data[4:], []byte{0})
			s.end(t, &ClientError{binary.BigEndian.Uint16(r.data[2:]), string(message[:min(len(message), maxClientMessage)])})
		} else {
			s.refused(r, RefusedStray)
		}
	case opDATA, opOACK:
		s.refused(r, RefusedStray)
	default:
		s.refused(r, RefusedMalformed)
	}
}

const maxClientMessage = 128 // bytes

func (s *shard) refused(r *received, why Refusal) {
	s.server.config.Observer.Refused(r.route.client.addrPort(), "", why)
}

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

// offer answers the request of t, now that its file is known: with an OACK, or with the first block, for
// which the engine is asked.
func (s *shard) offer(t *Transfer) {
	c := &s.server.config
	size := t.file.Size()
	if t.mode != Octet {
		size = -1
	}
	agreed, oack := negotiate(t.options, c.MaxBlockSize, c.MaxWindowSize, size)
	t.options = nil
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
	return s.server.admission.charge(&t.pass, now, size)
}

// advance sends what the flight of t has room for, as far as its pace allows, and asks the engine for more
// when it runs out.
func (s *shard) advance(t *Transfer, now int64) {
	w := &t.window
	for n := s.sendable(t, now); n > 0 && !t.blocked; {
		if w.inFlight() == 0 {
			t.pace.begin(w.acked, now)
		}
		sent := s.sendBlocks(t, n, now)
		t.pace.sent(sent, now)
		n -= sent
	}
	if t.tries > 0 {
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

// sendable returns how many blocks of t may be sent now.
func (s *shard) sendable(t *Transfer, now int64) int {
	n := t.window.sendable(t.flight.limit)
	if n == 0 || now < t.resumeAt {
		return 0
	}
	allowed, _ := t.pace.allowed(now)
	return min(n, allowed)
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
	case t.oack == nil && !t.blocked && t.window.sendable(t.flight.limit) > 0:
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

// patience returns when the ACK of what is in flight is overdue. On a local network that counts from now,
// for a client may be busy; elsewhere, and if there is a sign of a loss, from when the blocks were sent that
// it is to acknowledge next.
func (s *shard) patience(t *Transfer, now int64) int64 {
	e := &t.estimator
	wait := int64(e.timeout(time.Duration(t.window.timeout)*time.Second, t.flight.isLocal()))
	switch {
	case t.window.beyond != 0: // it is not silent, so its answer comes soon
		return now + int64(max(2*t.trip(), minLossyTimeout))
	case e.smoothed == 0 && t.doubted:
		return now + int64(max(4*t.leastTrip(), 2*minTimeout))
	case e.smoothed == 0 || t.flight.isLocal() && !t.doubted:
		return now + wait
	}
	if t.doubted {
		wait = int64(e.smoothed + 2*e.variation + t.suspicion())
	}
	at := t.flight.sentAt(t.window.end(t.window.windowSize))
	if at == 0 {
		at = now
	}
	return max(at+wait, now+int64(max(e.smoothed/2, suspicionTime)))
}

// schedule sets the shard's timer to its first transfer's.
func (s *shard) schedule(now int64) {
	if len(s.timers) == 0 || s.armed != 0 && s.armed <= s.timers[0].look {
		return
	}
	s.armed = s.timers[0].look
	s.timer.set(time.Duration(max(s.armed-now, 0)))
}

// sleepTime is how late the timer must fire to show that the process did not run.
const sleepTime = 500 * time.Millisecond

// expire looks after the transfers whose time has come.
func (s *shard) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	now := s.server.now()
	if late := now - s.armed; s.armed != 0 && late > int64(sleepTime) {
		// The process was stopped, and ACKs may wait in the socket: that time counts for no client.
		s.server.sleep(time.Duration(late))
		now = s.server.now()
		s.armed = now + int64(clockGranularity)
		s.timer.set(clockGranularity)
		return
	}
	s.armed = 0
	for t := s.timers.pop(now); t != nil; t = s.timers.pop(now) {
		s.elapsed(t, now)
	}
	s.flush()
	s.schedule(now)
}

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
	case now-t.progress >= int64(t.lifetime()) && (w.inFlight() > 0 || !t.confirmed):
		s.end(t, ErrTimedOut)
	case !t.confirmed:
		s.repeatUnconfirmed(t, now)
	case w.beyond != 0 && w.sendable(t.flight.limit) == 0 || w.beyond != 0 && t.suspectAt != 0 && now >= t.suspectAt:
		s.probe(t, now)
	case t.suspectAt != 0 && now >= t.suspectAt:
		s.goBack(t, t.progress, now)
	case w.sendable(t.flight.limit) > 0: // the next burst
		s.advance(t, now)
	case t.declined && (t.tries > 0 || t.unreachable):
		s.end(t, nil)
	case t.unreachable:
		s.end(t, ErrGone)
	case t.tries >= maxTries && t.lifetime() == progressTime, t.tries >= lastTries && w.acked+1 == w.last:
		s.end(t, ErrTimedOut)
	default:
		t.tries++
		t.estimator.backoff++
		if t.tries == 2 {
			t.uncut = true // some paths swallow datagrams that the kernel cut
		}
		s.goBack(t, 0, now)
	}
}

// leastTrip returns the shortest round trip that is known, the OACK's among them; 0 if none is.
func (t *Transfer) leastTrip() time.Duration {
	if t.flight.least == 0 || 0 < t.flight.offer && t.flight.offer < t.flight.least {
		return t.flight.offer
	}
	return t.flight.least
}

// repeatUnconfirmed does what is due of an unconfirmed transfer.
func (s *shard) repeatUnconfirmed(t *Transfer, now int64) {
	switch {
	case t.unreachable:
		s.end(t, ErrGone)
	case t.datagrams >= unconfirmedDatagrams:
		s.end(t, ErrTimedOut)
	default:
		s.repeat(t, now)
	}
}

// awaitsFile reports whether t can send nothing before its file is opened or read.
func (t *Transfer) awaitsFile() bool {
	w := &t.window
	return t.stage == opening || t.oack == nil && w.inFlight() == 0 && w.sendable(t.flight.limit) == 0
}

// hang ends t, whose file does not answer. Its goroutine may be kept for ever; its account with admission is not.
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

// goBack sends what is in flight again, from its first block: a client in lock-step throws away what comes
// behind a gap. toldAt is when an ACK told of the loss, 0 if none did.
func (s *shard) goBack(t *Transfer, toldAt, now int64) {
	w := &t.window
	t.suspectAt, t.doubted, t.blind, t.repairedAt = 0, false, toldAt == 0, now
	t.alarmed = toldAt != 0
	t.estimator.lossy = true
	t.pace.lost(w.acked, toldAt, t.leastTrip(), t.flight.isLocal(), t.flight.isFull() || t.tries > 1)
	s.limit(t, t.flight.lost(w.windowSize, w.inFlight(), t.pace.burst, w.acked, toldAt != 0))
	s.memory.note(t, now)
	w.rewind()
	t.resumeAt = 0
	s.advance(t, now)
}

// probe sends the block again whose ACK is missing while those of later ones are there. If the client lacks it,
// it takes it; else it says how far it is, or nothing.
func (s *shard) probe(t *Transfer, now int64) {
	w := &t.window
	t.suspectAt, t.repairedAt = 0, now
	t.flight.marks = t.flight.marks[:0]
	if t.probes++; t.probes > mostProbes {
		number := uint16(w.acked + 1) // it has that one, as far as can be known
		t.probed = false
		if t.mute++; t.mute == mostMute {
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
	mostProbes = 4
	// mostMute times that, it minds the order of blocks.
	mostMute = 5
)

// lull returns how long to wait for an ACK after a burst that answered a timeout: there may be nobody left, or
// all is just slow.
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

// acknowledge takes an ACK.
func (s *shard) acknowledge(t *Transfer, number uint16, now int64) {
	w := &t.window
	if t.oack != nil {
		if number == 0 {
			t.oack = nil
			if t.datagrams == 1 {
				t.flight.offer = time.Duration(now - t.offeredAt)
			}
			s.confirm(t, now)
			s.engine.add(t)
			s.arm(t, now)
		}
		return
	}
	before := w.acked
	answer := w.ack(number)
	switch answer {
	case ackStale:
		return
	case ackDuplicate:
		s.duplicate(t, now)
		return
	case ackBeyond:
		if t.suspectAt == 0 {
			t.suspectAt = now + int64(t.suspicion())
			s.arm(t, now)
		}
		return
	case ackAgain:
		// Asked for the missing ACK, it says how far it is, unless it is the answer to another copy, or its own timer.
		since, trip := now-t.repairedAt, int64(t.trip())
		if t.probed && since >= int64(t.flight.least) && since <= 2*trip && now-t.copiedAt > 4*trip {
			s.acknowledge(t, w.trust(), now)
		}
		return
	}
	if t.probed && number == uint16(before+1) {
		t.mute = 0 // it answers a copy
	}
	t.progress, t.tries, t.unreachable, t.suspectAt, t.doubted, t.copy, t.resumeAt, t.probes, t.probed = now, 0, false, 0, false, nil, 0, 0, false
	if !t.confirmed {
		s.confirm(t, now)
	}
	s.judge(t, now)
	sentAt := t.flight.sentAt(w.acked)
	if r := t.flight.measure(w.acked, now); r > 0 {
		t.estimator.sample(r)
	} else if t.estimator.smoothed > 0 {
		t.estimator.backoff = 0
	}
	arrived := int(w.acked - before)
	t.pace.tick(arrived, w.inFlight(), sentAt, now)
	switch answer {
	case ackLast:
		s.memory.note(t, now)
		s.end(t, nil)
		return
	case ackPartial:
		// The client misses the next block, or it acknowledges each, and the next ACK is under way. Or it saw a
		// copy of a block that it had: then nothing but a silence tells of another loss.
		if t.blind {
			t.blind, t.doubted = false, true
		} else if s.server.config.Ahead == 1 && w.inFlight() > 0 {
			s.goBack(t, now, now) // RFC 7440 section 4 to the letter
			return
		} else if w.inFlight() > 0 {
			sent := t.flight.sentAt(w.acked+1) + int64(t.trip())
			t.suspectAt = max(sent, now) + int64(t.suspicion())
		}
	case ackNew:
		t.blind = false
		t.pace.arrived(arrived, sentAt, now, t.leastTrip(), t.flight.isLocal())
		t.flight.quick = t.pace.isQuick()
		if next := t.flight.next(w.windowSize, arrived, w.acked); next <= t.flight.limit ||
			s.server.mayGrow((next-w.windowSize)*w.blockSize) {
			s.limit(t, next)
		}
	}
	s.advance(t, now)
}

// judge takes an ACK of new blocks for what it says of an alarm: of the sign of a loss that waits, and of the
// last one for which the flight was sent again. An ACK that comes too soon to answer a copy answers the block
// that was thought lost (RFC 3522's idea, by time). Then nothing was lost, and the next sign has longer to
// prove itself.
func (s *shard) judge(t *Transfer, now int64) {
	if !t.alarmed {
		return
	}
	t.alarmed = false
	if now-t.repairedAt < int64(t.leastTrip())*3/4 {
		t.alarms = min(t.alarms+1, mostAlarms)
		s.limit(t, t.flight.undo(t.window.windowSize))
		t.window.next = max(t.window.next, t.window.high+1)
	}
}

// mostAlarms bounds the doublings of a suspicion.
const mostAlarms = 5

// suspicion returns how long a sign of a loss waits for an ACK that disproves it: the longer the more often
// one did so too late.
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

// duplicate takes an ACK of the last block that was acknowledged. It draws nothing (RFC 1123 section
// 4.2.3.1, the Sorcerer's Apprentice). But if blocks behind the next one are in flight, it may be the
// client's word that it misses that one: then it is lost if its ACK is overdue.
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
	s.memory.recall(t, now)
	s.unconfirmed.remove(t)
	s.server.admission.confirm(&t.pass)
}

// unreachable takes the word of a host that the port is closed to which a datagram was sent: quoted is how
// that began. It can be forged, so it must fit what is in flight, and ends a transfer that stays silent alone.
func (s *shard) unreachable(client endpoint, quoted []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.clients[client]
	if t == nil || len(quoted) < 4 {
		return
	}
	switch binary.BigEndian.Uint16(quoted) {
	case opOACK:
		t.unreachable = t.unreachable || t.oack != nil
	case opDATA:
		ahead := binary.BigEndian.Uint16(quoted[2:]) - uint16(t.window.acked)
		t.unreachable = t.unreachable || 0 < ahead && uint64(ahead) <= t.window.high-t.window.acked
	}
}

// end ends t without a word to the client: err says why, nil that the client has the whole file.
func (s *shard) end(t *Transfer, err error) {
	s.forget(t, err)
	switch {
	case t.stage == offered:
		s.dispose(t)
	case t.stage == engaged && t.delivery != deliverRequest && (t.waiting || t.delivery != deliverNothing):
		s.engine.enqueue(t, deliverEnd)
	}
	// Else open or ReadFrom sees that it is over, or the engine comes by itself.
}

// fail ends t with the ERROR that err carries, ErrRead if it has none. It does nothing once t is over.
func (s *shard) fail(t *Transfer, err error) {
	if t.over {
		return
	}
	if err == nil {
		err = ErrRead
	}
	answer := ErrRead
	errors.As(err, &answer)
	s.scratch = appendError(s.scratch[:0], answer)
	if t.confirmed || t.datagrams < unconfirmedDatagrams && s.charge(t, len(s.scratch), s.server.now()) {
		s.send(&t.route, s.scratch, nil)
	}
	s.forget(t, err)
}

// endAll ends what still runs, for the server stops.
func (s *shard) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.clients {
		s.fail(t, ErrStopping)
		s.end(t, ErrStopped)
	}
	s.flush()
}

// forget takes t out of all that can find it but the engine.
func (s *shard) forget(t *Transfer, err error) {
	t.end = err
	if !t.over {
		t.over, t.ended = true, s.server.now()
		s.server.disk.cancel(&t.turn)
		delete(s.clients, t.route.client)
		s.timers.remove(t)
		s.unconfirmed.remove(t)
		s.memory.over(t)
	}
}

// dispose has finish called for a transfer that no goroutine is at.
func (s *shard) dispose(t *Transfer) {
	if t.stage != disposed {
		t.stage = disposed
		delete(s.engine.byID, t.id)
		go s.finish(t)
	}
}

// finish tells the file that t is over, and closes the account of t.
func (s *shard) finish(t *Transfer) {
	s.mu.Lock() // so that what is queued of t has left
	file, err := t.file, t.end
	s.mu.Unlock()
	if file != nil {
		s.server.closeFile(t.name, file, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.stage = disposed
	delete(s.engine.byID, t.id)
	s.server.admission.end(&t.pass)
	s.limit(t, t.window.windowSize)
	s.server.active.Add(-1)
	if s.server.stopping.Load() {
		s.server.signalLeft()
	}
}

// list is a queue of transfers that any can leave.
type list struct{ first, last *Transfer }

func (l *list) add(t *Transfer) {
	t.listed, t.before = true, l.last
	if l.last == nil {
		l.first = t
	} else {
		l.last.after = t
	}
	l.last = t
}

func (l *list) remove(t *Transfer) {
	if !t.listed {
		return
	}
	if t.before == nil {
		l.first = t.after
	} else {
		t.before.after = t.after
	}
	if t.after == nil {
		l.last = t.before
	} else {
		t.after.before = t.before
	}
	t.listed, t.before, t.after = false, nil, nil
}
