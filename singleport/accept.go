package singleport

import (
	"bytes"
	"hash/maphash"
	"time"
)

// Who gets in: what becomes of an RRQ or a WRQ, and who makes room for it. Admission holds the
// limits.

// request answers an RRQ or a WRQ.
func (s *shard) request(r *received, now int64) {
	req, ok := parseRequest(r.data)
	if !ok {
		s.refused(r, RefusedMalformed)
		return
	}
	mode, ok := req.servedMode()
	switch {
	case req.write:
		s.refuse(r, &req, ErrAccess, RefusedWrite, now)
		return
	case !ok:
		s.refuse(r, &req, ErrIllegal, RefusedMode, now)
		return
	}
	digest := maphash.Bytes(s.seed, r.data)
	t := s.clients[r.route.client]
	if t != nil && (digest == t.digest || digest == t.former) {
		s.repeated(t, r, digest, now)
		return
	}
	if s.server.stopping.Load() {
		s.refuse(r, &req, ErrStopping, RefusedStopping, now)
		return
	}
	key := s.keyOf(r.route.client, digest)
	again := s.queue.again(key, now)
	first := again || s.queue.count[networkOf(r.route.client.ip)] == 0
	if !first || s.attempt(r, &req, mode, digest, again, now) == overRate {
		s.wait(r, key, again, now)
	} else if again {
		s.queue.drop(key)
	}
}

// attempt begins a transfer if it is admitted, and answers what is refused but for a network over
// its rate. again says that the request repeats one that got no answer.
func (s *shard) attempt(r *received, req *request, mode Mode, digest uint64, again bool, now int64) verdict {
	pass, verdict := s.admit(r, req, again, now)
	switch verdict {
	case admitted:
		if t := s.clients[r.route.client]; t != nil {
			s.end(t, ErrReplaced)
		}
		s.begin(r, req, mode, digest, pass, now).again = again
	case overRate:
	case busy:
		s.scratch = appendError(s.scratch[:0], ErrBusy)
		s.send(&r.route, s.scratch, nil)
		s.refusedRequest(r, req, RefusedBusy)
	default:
		s.refusedRequest(r, req, RefusedBusy)
	}
	return verdict
}

// lateCopy is an RRQ that repeats the one of a running transfer, or the one before it from the
// same port: it came late, or its client began again.
type lateCopy struct {
	until int64 // an ACK of something new until then shows that it came late
	route route
	data  []byte
}

// copyTime is how long a running transfer has to show that a copy of its RRQ came late.
const copyTime = time.Second

// repeated takes an RRQ that came before: with the first answer again while t is unconfirmed,
// else as a copy that may be a new one.
func (s *shard) repeated(t *Transfer, r *received, digest uint64, now int64) {
	if digest == t.digest && !t.confirmed {
		s.repeat(t, now)
		return
	}
	if t.copy != nil {
		return
	}
	t.copy = &lateCopy{now + int64(copyTime), r.route, bytes.Clone(r.data)}
	if t.stage != opening {
		s.arm(t, now)
	}
}

// renew ends t in favour of the copy of its RRQ: the client acknowledged nothing since.
func (s *shard) renew(t *Transfer, now int64) {
	c := t.copy
	s.end(t, ErrReplaced)
	s.request(&received{c.route, c.data}, now)
}

// admit asks the admission, and ends older transfers where that lets the request in.
func (s *shard) admit(r *received, req *request, again bool, now int64) (pass, verdict) {
	from := networkOf(r.route.client.ip)
	if !again && !s.server.admission.sparesFirst(from, now, req.largestAnswer()) {
		return pass{}, overRate
	}
	pass, verdict := s.ask(from, req, now)
	if (verdict == busy || verdict == crowded) && s.server.Active() >= s.server.config.MaxTransfers && s.makeRoom(from, now) {
		return s.ask(from, req, now)
	}
	return pass, verdict
}

// ask asks the admission, and ends unconfirmed transfers as it demands.
func (s *shard) ask(from network, req *request, now int64) (pass, verdict) {
	for {
		oldest := now
		if t := s.unconfirmed.first; t != nil {
			// An ACK may have arrived and wait to be read: what counts is how long there was
			// surely none.
			oldest -= max(s.drained-t.offeredAt, 0)
		}
		pass, verdict := s.server.admission.admit(from, now, req.largestAnswer(), oldest)
		switch {
		case verdict == makeWay:
			s.makeWay(s.unconfirmed.first)
		case verdict == crowded && s.unconfirmed.first == nil && s.askNeighbours(now):
		default:
			return pass, verdict
		}
	}
}

// askNeighbours ends the oldest unconfirmed transfer of another socket, if it had its time.
func (s *shard) askNeighbours(now int64) bool {
	shards, unlock := s.neighbours()
	defer unlock()
	var oldest *Transfer
	for _, other := range shards[1:] {
		if t := other.unconfirmed.first; t != nil && other.drained-t.offeredAt >= confirmTime &&
			(oldest == nil || t.offeredAt < oldest.offeredAt) {
			oldest = t
		}
	}
	if oldest != nil {
		oldest.shard.makeWay(oldest)
	}
	return oldest != nil
}

// refuse answers a request that gets no transfer with e, unless its sender is over its rate.
func (s *shard) refuse(r *received, req *request, e *Error, why Refusal, now int64) {
	s.scratch = appendError(s.scratch[:0], e)
	from, key := networkOf(r.route.client.ip), s.keyOf(r.route.client, maphash.Bytes(s.seed, r.data))
	if !s.sparesERROR(s.queue.again(key, now), from, now, len(s.scratch)) || !s.server.admission.draw(from, now, len(s.scratch)) {
		s.queue.note(key, s.portOf(r.route.client), now)
		s.refused(r, RefusedRate)
		return
	}
	s.send(&r.route, s.scratch, nil)
	s.refusedRequest(r, req, why)
}

// sparesERROR reports whether an ERROR of size bytes may be the first answer to a request. One that
// comes again may take what is kept for those.
func (s *shard) sparesERROR(again bool, from network, now int64, size int) bool {
	if again {
		return s.server.admission.sparesRepeat(from, now, size)
	}
	return s.server.admission.sparesERROR(from, now, size)
}

func (s *shard) refusedRequest(r *received, req *request, why Refusal) {
	s.server.config.Observer.Refused(r.route.client.addrPort(), string(req.name), why)
}

// begin makes a transfer of a request and has the Handler answer it.
func (s *shard) begin(r *received, req *request, mode Mode, digest uint64, pass pass, now int64) *Transfer {
	t := &Transfer{
		shard: s, route: r.route, name: string(req.name), mode: mode, digest: digest,
		former: s.memory.former(s, r.route.client, now),
		pass:   pass, began: now, offeredAt: now, progress: now, slot: noSlot,
	}
	t.turn.name = t.name
	for _, o := range req.options() {
		o.name = bytes.Clone(o.name)
		t.options = append(t.options, o)
	}
	s.clients[t.route.client] = t
	s.unconfirmed.add(t)
	s.server.active.Add(1)
	s.arm(t, now)
	go s.open(t)
	return t
}

// When a server is full, who waits is not only a matter of who came first: whoever holds
// transfers without using them, and whoever holds most of them, makes room.
const (
	// roomTime lies between two looks for room, which cost a step for each transfer.
	roomTime = 20 * time.Millisecond
	// stalledTime without an ACK of something new makes a transfer one that others need not wait
	// for.
	stalledTime = 5 * time.Second
	// slowTime and slowRate, bytes a second, do the same for one that gets its ACKs now and then.
	// A boot program in lock-step over the worst of links is ten times as fast.
	slowTime = 30 * time.Second
	slowRate = 512
	// hoardTime and hoardRate, bytes a second, do the same within a network that holds more than
	// half of all transfers.
	hoardTime = time.Second
	hoardRate = 8 << 10
)

// makeRoom ends confirmed transfers for the sake of a request from a network: all that are idle,
// else, if another network holds more than half of all, its longest and what more of its slow
// ones is over that half. It reports whether there were any.
func (s *shard) makeRoom(from network, now int64) bool {
	if now-s.lookedForRoom < int64(roomTime) {
		return false
	}
	s.lookedForRoom = now
	shards, unlock := s.neighbours()
	defer unlock()
	var all []*Transfer
	for _, shard := range shards {
		for _, t := range shard.clients {
			all = append(all, t)
		}
	}
	found := false
	for _, t := range all {
		if t.canMakeWay() && t.isIdle(now) {
			t.shard.makeWay(t)
			found = true
		}
	}
	if found {
		return true
	}
	majority := majorityOf(all)
	if majority == from {
		return false
	}
	return makeRoomOf(all, majority, now)
}

// majorityOf returns the network that holds more than half of the transfers, or any if none does:
// what is left when each member is set against one of the others (Boyer and Moore).
func majorityOf(all []*Transfer) network {
	var majority network
	surplus := 0
	for _, t := range all {
		switch n := networkOf(t.route.client.ip); {
		case surplus == 0:
			majority, surplus = n, 1
		case n == majority:
			surplus++
		default:
			surplus--
		}
	}
	return majority
}

// makeRoomOf ends the longest transfer of a network that holds more than half of all, and its
// slow ones as far as they are over that half.
func makeRoomOf(all []*Transfer, majority network, now int64) bool {
	held := 0
	var longest *Transfer
	for _, t := range all {
		if networkOf(t.route.client.ip) == majority {
			held++
			if t.canMakeWay() && (longest == nil || t.began < longest.began) {
				longest = t
			}
		}
	}
	surplus := held - len(all)/2
	if longest == nil || surplus <= 0 {
		return false
	}
	longest.shard.makeWay(longest)
	for _, t := range all {
		if surplus == 1 { // that was longest
			break
		}
		if t.canMakeWay() && networkOf(t.route.client.ip) == majority && t.isSlow(now, hoardTime, hoardRate) {
			t.shard.makeWay(t)
			surplus--
		}
	}
	return true
}

// neighbours returns this shard and the others, locked, but for those that another processor
// works on now.
func (s *shard) neighbours() (shards []*shard, unlock func()) {
	shards = append(shards, s)
	for _, other := range s.server.shards {
		if other != s && other.mu.TryLock() {
			shards = append(shards, other)
		}
	}
	return shards, func() {
		for _, other := range shards[1:] {
			other.mu.Unlock()
		}
	}
}

// canMakeWay reports whether t is confirmed. Its goroutine ends with it, unless its file keeps it,
// which disk bounds.
func (t *Transfer) canMakeWay() bool { return t.confirmed }

// isIdle reports whether the client of a confirmed transfer makes next to no use of it.
func (t *Transfer) isIdle(now int64) bool {
	return now-t.progress >= int64(stalledTime) || t.isSlow(now, slowTime, slowRate)
}

// isSlow reports whether a transfer of at least the age had fewer bytes a second than the rate.
func (t *Transfer) isSlow(now int64, age time.Duration, rate int64) bool {
	ran := time.Duration(now - t.began)
	return ran >= age && t.window.bytesAcked() < int64(ran)*rate/int64(time.Second)
}

// makeWay ends t silently, and its account with admission at once.
func (s *shard) makeWay(t *Transfer) {
	s.end(t, ErrMadeWay)
	s.server.admission.end(&t.pass)
}
