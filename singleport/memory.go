package singleport

import (
	"hash/maphash"
	"time"
)

// memory is what a shard remembers of clients whose transfers are over, in fixed room: a boot is
// a dozen files, and each would learn anew what the client takes. The newest takes the place of
// whoever was there.
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

// taker is what the client of an address took. A room behind one address is many clients, of which
// nothing is remembered.
type taker struct {
	address uint64 // hash
	running int    // confirmed transfers
	at      int64  // when the rest was learned; 0 if nothing was
	pace    pace
	limit   int // blocks of a flight
	ceiling int // blocks; what losses on a local network left, 0 if none did
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

// recall notes that t is confirmed, and gives it what its client took before.
func (m *memory) recall(t *Transfer, now int64) {
	known, hash := m.taker(t)
	if known.address != hash {
		if known.running > 0 {
			return
		}
		*known = taker{address: hash}
	}
	known.running++
	t.known = true
	if known.running > 1 {
		known.at = 0
	}
	if known.at == 0 || now-known.at > int64(takerTime) {
		return
	}
	t.pace = known.pace
	w := t.window.windowSize
	if known.ceiling > 0 {
		t.flight.ceiling = max(min(t.flight.ceiling, known.ceiling), w)
		t.flight.threshold = t.flight.ceiling
	}
	t.shard.limit(t, max(min(known.limit, t.flight.ceiling, t.pace.burst), w))
}

// note remembers what t shows of its client, if that is the only one at its address.
func (m *memory) note(t *Transfer, now int64) {
	known, hash := m.taker(t)
	if !t.known || known.address != hash || known.running != 1 {
		return
	}
	known.at, known.pace, known.limit, known.ceiling = max(now, 1), t.pace.rested(), t.flight.limit, 0
	if t.flight.isLocal() && t.flight.lostAt > 0 {
		known.ceiling = t.flight.ceiling
	}
}

// former returns the digest of the RRQ that came before from a port; 0 if it is not known or too
// old.
func (m *memory) former(s *shard, client endpoint, now int64) uint64 {
	hash := maphash.Comparable(s.seed, client)
	if p := &m.ports[hash%memorySize]; p.port == hash && now-p.at <= int64(formerTime) {
		return p.digest
	}
	return 0
}

// over remembers the RRQ of a transfer that ended.
func (m *memory) over(t *Transfer) {
	if known, hash := m.taker(t); t.known && known.address == hash {
		known.running--
	}
	hash := maphash.Comparable(t.shard.seed, t.route.client)
	m.ports[hash%memorySize] = formerRequest{hash, t.digest, t.ended}
}
