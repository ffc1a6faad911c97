package singleport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// shard is one socket with the transfers that came by it and the engine that runs them. Shards
// share the admission, the memory and the bound of files that are waited for.
//
// Most of the work is done in receive, in the goroutine that reads the socket: an ACK is answered
// there with the next blocks of the segment. The engine's goroutines come in through WriteTo, the
// timer's through expire. What they queue on the socket must be flushed before mu is released,
// because a segment that is released changes once the engine runs on.
//
// How a transfer ends:
//
//	verb     who calls it                             the client gets  what it frees
//	end      receive (ERROR, last ACK, replaced),     nothing          the port, the timer
//	         expire
//	fail     the engine, abandon, endAll              an ERROR         the same
//	makeWay  accept.go, for another request           nothing          the same, its admission
//	abandon  the engine, when pin/tftp panicked       ERROR (fail)     by fail and dispose
//	endAll   Shutdown                                 ERROR (fail)     the same, of all
//	forget   end and fail alone                       -                the port, the timer
//	dispose  end, where no goroutine is at it         -                starts one for finish
//	finish   the last goroutine of a transfer         -                file, admission, memory
type shard struct {
	server *Server
	socket socket
	engine *engine
	seed   maphash.Seed
	own    netip.Addr // of the socket
	self   endpoint   // of the socket, for itself; zero if it sends itself nothing

	reader, expirer loop
	echo            *echo // of the address
	sendsEcho       bool  // for all sockets of the address

	mu          sync.Mutex
	closed      bool
	clients     map[endpoint]*Transfer // that are not over
	unconfirmed list                   // the first to begin or to be answered comes first
	timers      timers
	timer       alarm
	armed       int64 // when timer fires; 0 if it is not set
	scratch     []byte
	takeBack    func(t *Transfer, blocks, fresh int) // unsent, allocated once
	blocked     []*Transfer                          // wait for the socket
	awaiting    bool                                 // for the socket to call resume
	memory      memory
	queue       queue

	tally        Tally
	confirmed    int   // transfers
	segmentBytes int64 // that transfers hold

	lookedForRoom int64 // see makeRoom
	drained       int64 // when all that had arrived was read
}

func newShard(server *Server, socket socket) *shard {
	s := &shard{server: server, socket: socket, seed: maphash.MakeSeed(), clients: map[endpoint]*Transfer{}, queue: newQueue()}
	s.own = socket.addr().AddrPort().Addr().Unmap().WithZone("")
	s.self = socket.self()
	s.reader.name, s.expirer.name = "reads the socket", "keeps the time"
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
	last := t.window.next - 1
	bytes := t.window.bytesUpTo(last) - t.window.bytesUpTo(last-min(uint64(blocks), last))
	s.countData(blocks, fresh, int(bytes), -1)
	if t.over {
		return
	}
	t.window.untake(blocks, fresh)
	if !t.blocked {
		t.blocked = true
		s.blocked = append(s.blocked, t)
	}
}

// resume goes on with the transfers that the socket kept waiting, in turn. It reports whether the
// socket took all.
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

// receive takes what has arrived, or nothing, if the socket was woken. A fault of ours in it costs
// the datagram, not the server.
func (s *shard) receive(batch []received) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.reader.turns()
	if s.closed {
		return
	}
	defer s.flush()
	now := s.server.now()
	if asked {
		s.beat(now)
	}
	if len(batch) < fullBatch {
		s.drained = now
	}
	for i := range batch {
		s.take(&batch[i], now)
	}
	s.serveQueue(now)
}

func (s *shard) take(r *received, now int64) {
	defer func() {
		if v := recover(); v != nil {
			s.server.panicked(v)
		}
	}()
	if r.route.client == s.self && s.self.port != 0 {
		s.takeOwn(r)
		return
	}
	if !s.hears(r) {
		s.refused(r, RefusedClient)
		return
	}
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
			if t.datagrams > 0 {
				s.server.admission.confirm(&t.pass) // it is where it says, as with an ACK
			}
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

// hears reports whether Config.Clients lets a datagram in.
func (s *shard) hears(r *received) bool {
	clients := s.server.config.Clients
	if clients == nil {
		return true
	}
	ip := netip.AddrFrom16(r.route.client.ip).Unmap()
	for _, prefix := range clients {
		if prefix.Contains(ip) {
			return true
		}
	}
	// The kernel lets no other machine send from these, but for an own address of IPv6.
	own := ip.IsLoopback() || ip == s.own
	return own && bytes.HasPrefix(r.data, []byte{0, opRRQ, 0})
}

const maxClientMessage = 128 // bytes

func (s *shard) refused(r *received, why Refusal) {
	s.server.config.Observer.Refused(r.route.client.addrPort(), "", why)
}

// schedule sets the shard's timer to its first transfer's, or to the next look at the queue.
func (s *shard) schedule(now int64) {
	next := int64(0)
	if len(s.timers) > 0 {
		next = s.timers[0].look
	}
	if look := s.queue.lookedAt + int64(queueLook); len(s.queue.requests) > 0 && (next == 0 || look < next) {
		next = look
	}
	if next == 0 || s.armed != 0 && s.armed <= next {
		return
	}
	s.armed = next
	s.timer.set(time.Duration(max(s.armed-now, 0)))
}

// sleepTime is how late the timer must fire to show that the process did not run.
const sleepTime = 500 * time.Millisecond

// expire looks after the transfers whose time has come.
func (s *shard) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expirer.turns()
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
	s.serveQueue(now)
	s.flush()
	s.schedule(now)
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

// fail ends t with the ERROR that err carries, ErrRead if it has none. It does nothing once t is
// over.
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
	now := s.server.now()
	switch {
	case t.confirmed:
		s.send(&t.route, s.scratch, nil)
	case t.datagrams == 0 && !s.sparesERROR(t.again, networkOf(t.route.client.ip), now, len(s.scratch)):
		s.queue.note(s.keyOf(t.route.client, t.digest), s.portOf(t.route.client), now)
	case t.datagrams < unconfirmedDatagrams && s.charge(t, len(s.scratch), now):
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
		s.countEnd(t, err)
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
	s.segmentBytes -= int64(t.segmentHeld)
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
