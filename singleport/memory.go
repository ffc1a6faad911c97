package singleport

import (
	"hash/maphash"
	"time"
)

// memory is what a shard remembers of clients whose transfers are over, in fixed room: a boot is a dozen
// files, and each would learn anew what the client takes. The newest takes the place of whoever was there.
type memory struct {
	takers [memorySize]taker
	ports  [memorySize]formerRequest
}

const (
	memorySize = 512
	takerTime  = 10 * time.Minute
	// formerTime is how long after its end a copy of an RRQ may come late.
	formerTime = 10 * time.Second
)

// taker is what the clients of one address took.
type taker struct {
	address      uint64 // hash
	at           int64
	pace         pace
	limit, floor int // blocks of a flight: what it reached, and its ceiling if losses lowered that
}

// formerRequest is the last RRQ of a port.
type formerRequest struct {
	port   uint64 // hash of the address and the port
	digest uint64 // of the RRQ
	at     int64
}

func (m *memory) taker(t *Transfer) (*taker, uint64) {
	address := t.route.client
	address.port = 0
	hash := maphash.Comparable(t.shard.seed, address)
	return &m.takers[hash%memorySize], hash
}

// recall gives t what its client took before.
func (m *memory) recall(t *Transfer, now int64) {
	known, hash := m.taker(t)
	if known.address != hash || now-known.at > int64(takerTime) {
		return
	}
	t.pace = known.pace
	w := t.window.windowSize
	if known.floor > 0 {
		t.flight.ceiling = max(min(t.flight.ceiling, known.floor), w)
		t.flight.threshold = t.flight.ceiling
	}
	t.shard.limit(t, max(min(known.limit, t.flight.ceiling, t.pace.burst), w))
}

// note remembers what t shows of its client.
func (m *memory) note(t *Transfer, now int64) {
	known, hash := m.taker(t)
	*known = taker{address: hash, at: now, pace: t.pace, limit: t.flight.limit}
	known.pace.began, known.pace.ticked, known.pace.waiting = 0, 0, 0
	if t.flight.ceiling < newFlight(t.window.windowSize, t.shard.server.config.Ahead).ceiling {
		known.floor = t.flight.ceiling
	}
}

// former returns the digest of the RRQ that came before from a port; 0 if it is not known or too old.
func (m *memory) former(s *shard, client endpoint, now int64) uint64 {
	hash := maphash.Comparable(s.seed, client)
	if p := &m.ports[hash%memorySize]; p.port == hash && now-p.at <= int64(formerTime) {
		return p.digest
	}
	return 0
}

// over remembers the RRQ of a transfer that ended.
func (m *memory) over(t *Transfer) {
	hash := maphash.Comparable(t.shard.seed, t.route.client)
	m.ports[hash%memorySize] = formerRequest{hash, t.digest, t.ended}
}
