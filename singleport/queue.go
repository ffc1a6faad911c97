package singleport

import (
	"bytes"
	"hash/maphash"
	"time"
)

// Requests over the share of their network wait here: a room that boots at once asks for more than
// may be unconfirmed at a time, and room comes with each confirmation.

const (
	// queueTime is how long a request may wait. Then its client has asked again, or given up.
	queueTime = time.Second
	// queuePace and queueLook are the least and the most between two looks at those that wait.
	queuePace = time.Millisecond
	queueLook = 20 * time.Millisecond
	// queueLimit of one network, and queueSize in all, wait at a socket, of at most queuedLength
	// bytes each: 256 KiB.
	queueLimit   = 256
	queueSize    = 512
	queuedLength = 512

	// askedTime is how long a request is remembered that got no answer: the one that repeats it
	// may take what is kept for such. A forged flood seldom asks twice.
	askedTime = 10 * time.Second
	askedSets = 2048
	askedWays = 8
	// vainTime is how long it is remembered of a port that a request got all its datagrams and none
	// was acknowledged: a forger that repeats itself from the same ports does not get what is kept
	// for clients that do.
	vainTime = 10 * time.Minute
	vainMark = 2 // in a tag
)

// queue holds what waits, and remembers who asked in vain, in fixed room.
type queue struct {
	requests []queuedRequest // the oldest first
	count    map[network]int
	denied   map[network]bool // of one look
	lookedAt int64
	asked    [askedSets][askedWays]asked
}

// queuedRequest is an RRQ that waits.
type queuedRequest struct {
	from  network
	key   uint64
	again bool // it repeats one that got no answer
	until int64
	route route
	data  []byte
}

// asked is a request that got no answer, or, with vainMark, a port whose request got answers in
// vain.
type asked struct {
	tag uint32
	at  uint32 // milliseconds
}

// tagOf returns what of a key is kept, without vainMark. It is not 0.
func tagOf(key uint64) uint32 { return uint32(key>>32)&^vainMark | 1 }

func newQueue() queue { return queue{count: map[network]int{}, denied: map[network]bool{}} }

// keyOf returns what a request is known by when it comes again.
func (s *shard) keyOf(client endpoint, digest uint64) uint64 {
	return maphash.Comparable(s.seed, client) ^ digest
}

// portOf returns what the port of a client is known by.
func (s *shard) portOf(client endpoint) uint64 { return s.keyOf(client, 0) }

// again reports whether a request came before in vain. It can say so once for each note.
func (q *queue) again(key uint64, now int64) bool {
	set, tag := &q.asked[key%askedSets], tagOf(key)
	for i := range set {
		if a := &set[i]; a.tag == tag && uint32(now/1e6)-a.at <= uint32(askedTime/time.Millisecond) {
			*a = asked{}
			return true
		}
	}
	return false
}

// note remembers a request that got no answer, unless its port got answers in vain.
func (q *queue) note(key, port uint64, now int64) {
	tag, ms := tagOf(key), uint32(now/1e6)
	for _, a := range q.asked[port%askedSets] {
		if a.tag == tagOf(port)|vainMark && ms-a.at <= uint32(vainTime/time.Millisecond) {
			return
		}
	}
	q.remember(key, tag, ms)
}

// vain remembers a port whose request got answers in vain.
func (q *queue) vain(port uint64, now int64) {
	q.remember(port, tagOf(port)|vainMark, uint32(now/1e6))
}

// remember keeps a tag in place of the one that came first.
func (q *queue) remember(key uint64, tag, ms uint32) {
	set := &q.asked[key%askedSets]
	oldest := &set[0]
	for i := range set {
		if ms-set[i].at > ms-oldest.at {
			oldest = &set[i]
		}
	}
	*oldest = asked{tag, ms}
}

// wait has a request wait that was not admitted, if there is room.
func (s *shard) wait(r *received, key uint64, again bool, now int64) {
	q := &s.queue
	from := networkOf(r.route.client.ip)
	q.note(key, s.portOf(r.route.client), now)
	until := now + int64(queueTime)
	limit := queueLimit
	if again {
		if w := q.find(key); w != nil {
			w.until, w.again = until, true
			return
		}
		limit = queueSize
	}
	if len(r.data) > queuedLength || len(q.requests) == queueSize || q.count[from] >= limit {
		s.refused(r, RefusedRate)
		return
	}
	q.count[from]++
	q.requests = append(q.requests, queuedRequest{from, key, again, until, r.route, bytes.Clone(r.data)})
	if len(q.requests) == 1 {
		q.lookedAt = now
		s.schedule(now)
	}
}

// serveQueue admits what there is room for now, and gives up what waited too long.
func (s *shard) serveQueue(now int64) {
	q := &s.queue
	if len(q.requests) == 0 || now-q.lookedAt < int64(queuePace) {
		return
	}
	q.lookedAt = now
	clear(q.denied)
	kept := 0
	for _, w := range q.requests {
		if s.stillWaits(&w, now) {
			q.requests[kept] = w
			kept++
		} else if q.count[w.from]--; q.count[w.from] == 0 {
			delete(q.count, w.from)
		}
	}
	clear(q.requests[kept:])
	q.requests = q.requests[:kept]
}

// stillWaits asks for one that waits, and reports whether it goes on waiting.
func (s *shard) stillWaits(w *queuedRequest, now int64) bool {
	r := &received{w.route, w.data}
	switch {
	case w.until == 0 || s.server.stopping.Load() || s.clients[w.route.client] != nil:
		return false // its client came in otherwise
	case now >= w.until:
		s.refused(r, RefusedRate)
		return false
	case s.queue.denied[w.from] && !w.again:
		return true
	}
	req, _ := parseRequest(w.data)
	mode, _ := req.servedMode()
	if s.attempt(r, &req, mode, maphash.Bytes(s.seed, w.data), w.again, now) == overRate {
		s.queue.denied[w.from] = true
		return true
	}
	s.queue.again(w.key, now)
	return false
}

// drop takes a request out that its client repeated with success.
func (q *queue) drop(key uint64) {
	if w := q.find(key); w != nil {
		w.until = 0
	}
}

func (q *queue) find(key uint64) *queuedRequest {
	for i := range q.requests {
		if q.requests[i].key == key {
			return &q.requests[i]
		}
	}
	return nil
}
