package singleport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"sync"
	"time"
)

// shard is one socket with the transfers that came by it and the engine that runs them. Shards share the admission alone.
//
// Most of the work is done in receive, in the goroutine that reads the socket: an ACK is answered there with the next blocks of the
// segment. The engine's goroutines come in through WriteTo, the timer's through expire. What they queue on the socket must be
// flushed before mu is released, because a segment that is released changes once the engine runs on.
type shard struct {
	server *Server
	socket socket
	engine *engine
	seed   maphash.Seed

	mu          sync.Mutex
	closed      bool
	clients     map[endpoint]*Transfer // that are not over
	unconfirmed list                   // answered, the oldest first
	timers      timers
	timer       *time.Timer
	armed       int64 // when timer fires; 0 if it is not set
	scratch     []byte

	lookedForRoom int64 // see makeRoom
	drained       int64 // when all that had arrived was read
}

func newShard(server *Server, socket socket) *shard {
	s := &shard{server: server, socket: socket, seed: maphash.MakeSeed(), clients: map[endpoint]*Transfer{}}
	s.engine = newEngine(s)
	return s
}

// close ends the shard once its engine has.
func (s *shard) close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock() // receive may wait for it, and close for that
	s.socket.close()
}

// flush sends what is queued.
func (s *shard) flush() {
	if !s.closed {
		s.socket.flush()
	}
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

// offer answers the request of t, now that the size of its file is known: with an OACK, or with the first block, for which the
// engine is asked.
func (s *shard) offer(t *Transfer) {
	c := &s.server.config
	agreed, oack := negotiate(t.options, c.MaxBlockSize, c.MaxWindowSize, s.server.windowBytes(), t.size)
	t.options = nil
	t.window = newWindow(agreed)
	if agreed.windowSize > 1 {
		t.reserved = int64(agreed.windowSize * agreed.blockSize)
		s.server.reserved.Add(t.reserved)
	}
	t.setSegmentSize()
	if oack == nil {
		s.engine.enqueue(t, deliverTerms)
		return
	}
	t.oack = oack
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
			s.socket.send(&t.route, t.oack)
			t.retransmits += min(t.datagrams, 1)
		}
		t.sampledAt = now
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
		s.unconfirmed.add(t)
	}
	s.arm(t, now)
}

// charge asks whether an unconfirmed transfer may send size bytes.
func (s *shard) charge(t *Transfer, size int, now int64) bool {
	return s.server.admission.charge(&t.pass, now, size)
}

// advance sends what the window of t has room for, and asks the engine for more when it runs out.
func (s *shard) advance(t *Transfer, now int64) {
	w := &t.window
	for n := min(w.sendable(), paces[t.pace.level].blocks); n > 0; {
		number := uint16(w.next)
		data, count, again := w.take(n)
		n -= count
		if t.confirmed || s.charge(t, 4+len(data), now) {
			s.socket.sendBlocks(&t.route, number, count, w.blockSize, data)
		}
		t.retransmits += again
		if count > again {
			t.sampled, t.sampledAt = w.next-1, now
		} else if w.next > t.sampled {
			t.sampled = 0 // Karn: its ACK would not tell which of the two it answers
		}
	}
	if w.wantsSegment() && t.waiting && t.delivery == deliverNothing {
		if len(w.tail) > 0 {
			s.flush() // release moves what was taken from it
		}
		w.release()
		s.engine.enqueue(t, deliverACK)
	}
	if !t.confirmed && w.high > 0 {
		s.answered(t, now)
		return
	}
	s.arm(t, now)
}

// arm sets the timer of t: to go on with a paced window, else to give up waiting for an ACK.
func (s *shard) arm(t *Transfer, now int64) {
	wait := t.estimator.timeout(time.Duration(t.window.timeout) * time.Second)
	if t.oack == nil && t.window.sendable() > 0 {
		wait = paces[t.pace.level].gap
	}
	if s.timers.set(t, now+int64(wait)) {
		s.schedule(now)
	}
}

// schedule sets the shard's timer to its first transfer's.
func (s *shard) schedule(now int64) {
	if len(s.timers) == 0 || s.armed != 0 && s.armed <= s.timers[0].look {
		return
	}
	s.armed = s.timers[0].look
	wait := time.Duration(max(s.armed-now, 0))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.expire)
	} else {
		s.timer.Reset(wait)
	}
}

// expire looks after the transfers whose time has come.
func (s *shard) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.armed = 0
	now := s.server.now()
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
	case now-t.progress >= int64(progressTime) && (w.inFlight() > 0 || !t.confirmed):
		s.end(t, ErrTimedOut)
	case !t.confirmed && t.datagrams >= unconfirmedDatagrams:
		s.end(t, ErrTimedOut)
	case !t.confirmed:
		s.repeat(t, now)
	case w.sendable() > 0: // paced
		s.advance(t, now)
	case w.inFlight() == 0: // the file is being read
		s.arm(t, now)
	case t.declined && t.tries > 0:
		s.end(t, nil)
	case t.tries >= maxTries, t.tries >= lastTries && w.last > 0 && w.acked == w.last-1:
		s.end(t, ErrTimedOut)
	default: // something was lost
		t.tries++
		t.estimator.backoff++
		if w.windowSize > 1 {
			t.pace.lost()
		}
		w.rewind()
		s.advance(t, now)
	}
}

// acknowledge takes an ACK.
func (s *shard) acknowledge(t *Transfer, number uint16, now int64) {
	w := &t.window
	if t.oack != nil {
		if number == 0 {
			t.oack = nil
			if t.datagrams == 1 {
				t.estimator.sample(time.Duration(now - t.sampledAt))
			}
			s.confirm(t, now)
			s.engine.enqueue(t, deliverTerms)
			s.arm(t, now)
		}
		return
	}
	answer := w.ack(number)
	switch answer {
	case ackStale:
		// iPXE acknowledges the block before an empty one, again and again.
		t.declined = t.declined || number == 0 && w.last == 1 && w.high == 1 && len(w.segment) == 0
		return
	case ackPartial:
		t.pace.lost()
	default:
		t.pace.arrived()
	}
	t.progress, t.tries = now, 0
	if !t.confirmed {
		s.confirm(t, now)
	}
	if t.sampled > 0 && w.acked >= t.sampled {
		t.estimator.sample(time.Duration(now - t.sampledAt))
		t.sampled = 0
	}
	if answer == ackLast {
		s.end(t, nil)
		return
	}
	s.advance(t, now)
}

// confirm notes that the client is where it says.
func (s *shard) confirm(t *Transfer, now int64) {
	t.confirmed, t.confirmedAt, t.progress = true, now, now
	s.unconfirmed.remove(t)
	s.server.admission.confirm(&t.pass)
}

// end ends t without a word to the client: err says why, nil that the client has the whole file.
func (s *shard) end(t *Transfer, err error) {
	s.forget(t, err)
	if t.delivery == deliverRequest || !t.waiting && t.delivery == deliverNothing {
		return // ReadFrom releases a request that is over; else the engine comes by itself
	}
	if err == nil {
		s.engine.enqueue(t, deliverACK)
	} else {
		s.engine.enqueue(t, deliverFailure)
	}
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
		s.socket.send(&t.route, s.scratch)
	}
	s.forget(t, err)
}

// endAll ends what still runs, for the server stops.
func (s *shard) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.clients {
		s.fail(t, ErrStopping)
		t.end = ErrStopped
		s.end(t, ErrStopped)
	}
	s.flush()
}

// forget takes t out of all that can find it but the engine, and lets go of what it held.
func (s *shard) forget(t *Transfer, err error) {
	if !t.over {
		t.over, t.end, t.ended = true, err, s.server.now()
		delete(s.clients, t.route.client)
		s.timers.remove(t)
		s.unconfirmed.remove(t)
	}
}

// release ends the account of t, whose goroutine is about to end.
func (s *shard) release(t *Transfer) {
	if t.released {
		return
	}
	t.released = true
	delete(s.engine.byID, t.id)
	s.server.admission.end(&t.pass)
	s.server.reserved.Add(-t.reserved)
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
