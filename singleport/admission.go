package singleport

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
)

// Anyone can write any source address on a request. Until a client has acknowledged something it
// is unconfirmed: the address may be a victim's, and all that the server sends goes to the
// victim. So what unconfirmed clients draw is weighed in bytes, and taken from the bucket of
// their network; a client that confirms is given back what its answers weighed. Confirmed
// transfers take from no bucket and wait for none.

// Bounds of Config.Rate.
const (
	// DefaultRate, in requests a second from one network, serves a lab of 30 machines that boot
	// at the same moment behind one address: their 600 requests weigh less than a bucket holds
	// (burstTime), and a second lab may follow 8 s later. The victim of a flood forged in its
	// name receives 4,096 bytes a second, and 32,768 more once.
	DefaultRate = 64
	// MaxRate, in requests a second, is as good as no limit: more than one socket can receive.
	MaxRate = 1_000_000
)

const (
	// requestBytes is what one request of Config.Rate weighs, with IP and UDP headers: an ERROR
	// weighs 44 to 75 bytes, an OACK about 60, the DATA that answers a request without options
	// 544 or 564, nearly nine requests.
	requestBytes = 64

	// burstTime, in nanoseconds, is how long an empty bucket takes to fill: 8 s, 512 requests at
	// DefaultRate. More would let a forged flood of 1,000 requests a second, at 38 bytes, draw
	// more than it sends in its first second; half would hardly do for the lab.
	burstTime = 8e9

	// minBurst, in bytes, is what a bucket holds at least, so that the lowest rate still serves a
	// client that sends no options: one block and its two repeats over IPv6.
	minBurst = 3 * (ipv6Headers + 4 + DefaultBlockSize)

	// minHeld and heldRate bound the unconfirmed transfers of one network: two for each request
	// of Config.Rate (128 by default; the lab holds 60 when each machine asks for two files at
	// once), and at least 8.
	minHeld  = 8
	heldRate = 2

	// confirmTime, in nanoseconds, is how long an unconfirmed transfer is safe from making way
	// for a new one: 0.2 s, the round trip to the other side of the world. It also bounds how
	// many files a forged flood opens: 5,000 a second by default, half of 2,000 transfers in 0.2
	// s.
	confirmTime = 200e6

	// busyTime, in nanoseconds, lies between two ERRORs "Server busy" to one network.
	busyTime = 1e9

	// sets and ways lay out the buckets: 4,096 sets of 8 take 544 KiB, of which only touched
	// pages are resident. A set refills 32 KiB a second by default; to keep all of them empty
	// takes 240,000 forged requests a second that draw DATA, or 2.7 million that draw an ERROR.
	sets = 4096
	ways = 8

	ipv4Headers = 20 + 8 // bytes, IPv4 and UDP
	ipv6Headers = 40 + 8 // bytes, IPv6 and UDP
)

// Lengths of the prefix that makes a network, bits: what one forger, one home or one lab is
// commonly given.
const (
	ipv4NetworkBits = 24
	ipv6NetworkBits = 56
)

// SourcePrefix returns the network of an address: what limits apply to, and what the log counts by.
func SourcePrefix(client netip.Addr) netip.Prefix {
	bits := ipv6NetworkBits
	if client.Is4() {
		bits = ipv4NetworkBits
	}
	prefix, _ := client.Prefix(bits)
	return prefix
}

// network is a SourcePrefix in a machine word. Its low byte is the size of the headers in front
// of a datagram to it.
type network uint64

// networkOf returns the network of an address; IPv4 is IPv6-mapped (RFC 4291 section 2.5.5.2).
func networkOf(ip [16]byte) network {
	high, low := binary.BigEndian.Uint64(ip[:8]), binary.BigEndian.Uint64(ip[8:])
	if high == 0 && low>>32 == 0xffff {
		return network(low>>(32-ipv4NetworkBits)<<(32-ipv4NetworkBits) | ipv4Headers)
	}
	return network(high>>(64-ipv6NetworkBits)<<(64-ipv6NetworkBits) | ipv6Headers)
}

// bucket holds what a network may draw. It is a token bucket in the form of one time (as in ITU-T
// I.371's GCRA): full is when, in monotonic nanoseconds, it will have refilled; to draw moves
// full into the future, at most by the time that a whole bucket takes.
type bucket struct {
	full int64
	tag  uint32 // which network of those that share the set
	held uint32 // unconfirmed transfers that were admitted from this bucket
}

// bucketSet is where the networks of one hash value live. A network that is not there takes over
// the fullest bucket as it is: what was drawn stays drawn. So however many networks a forger
// invents, none ever draws more than a bucket of its own would give, and a new network is refused
// only when all buckets of its set are empty.
type bucketSet struct {
	buckets [ways]bucket
	busy    int64 // when the set may be told "Server busy" again
}

// admission decides which requests are answered. Its memory is fixed, its methods take constant
// time and allocate nothing, and they may be called from several goroutines. Times are monotonic
// nanoseconds, not negative. Sizes are bytes of UDP payload.
type admission struct {
	seed                         maphash.Seed // keeps others from choosing who shares a set
	bytesPerSecond               int64        // refill of a bucket
	burst                        int64        // what a bucket holds, in nanoseconds of refill
	maxHeld                      uint32
	maxTransfers, maxUnconfirmed int

	mu                     sync.Mutex
	transfers, unconfirmed int // unconfirmed ones are transfers too
	table                  *[sets]bucketSet
}

// newAdmission returns an admission for rate requests a second from one network (1 to MaxRate,
// else the nearer bound) and maxTransfers transfers at a time, half of which may be unconfirmed.
func newAdmission(rate, maxTransfers int) *admission {
	rate = min(max(rate, 1), MaxRate)
	a := &admission{
		seed:           maphash.MakeSeed(),
		bytesPerSecond: int64(rate) * requestBytes,
		maxHeld:        uint32(max(heldRate*rate, minHeld)),
		maxTransfers:   maxTransfers,
		maxUnconfirmed: (maxTransfers + 1) / 2,
		table:          new([sets]bucketSet),
	}
	a.burst = max(burstTime, a.weight(minBurst))
	return a
}

// verdict is what becomes of an RRQ.
type verdict int

const (
	admitted verdict = iota // a transfer begins
	makeWay                 // end the oldest unconfirmed transfer silently, then ask again
	overRate                // silence: the network is over its rate or its unconfirmed transfers
	busy                    // answer ErrBusy; it is paid for
	crowded                 // silence: no room, and no ErrBusy either
)

// pass is the admission of one transfer. Its zero value is none. The fields belong to admission.
type pass struct {
	bucket  *bucket // while unconfirmed, else nil
	tag     uint32  // the bucket's when it was drawn from
	headers int     // bytes
	drawn   int64   // given back when the client confirms; nanoseconds of refill, like prepaid
	prepaid int64   // the part of drawn that no datagram was sent for yet
	counted bool    // among admission.transfers
}

// admit asks for a transfer for an RRQ from a network. answer is the largest first answer that the
// request can draw: 516 if an OACK cannot be foreseen, else the size of the OACK at its longest.
// oldest is when the oldest unconfirmed transfer that the caller can end was admitted, or now if
// there is none.
func (a *admission) admit(from network, now int64, answer int, oldest int64) (pass, verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set, b := a.find(from)
	headers := int(from & 0xff)
	cost := a.weight(headers + answer)
	switch {
	case b.held >= a.maxHeld || !a.fits(b, now, cost):
		return pass{}, overRate
	case a.transfers < a.maxTransfers && a.unconfirmed < a.maxUnconfirmed:
		b.draw(now, cost)
		b.held++
		a.transfers++
		a.unconfirmed++
		return pass{bucket: b, tag: b.tag, headers: headers, drawn: cost, prepaid: cost, counted: true}, admitted
	case now-oldest >= confirmTime:
		return pass{}, makeWay
	case a.transfers >= a.maxTransfers && now >= set.busy:
		set.busy = now + busyTime
		b.draw(now, a.weight(headers+5+len(ErrBusy.Message)))
		return pass{}, busy
	}
	return pass{}, crowded
}

// draw asks to send a network a datagram that no transfer stands behind: the ERROR of a WRQ
// or an unknown mode.
func (a *admission) draw(from network, now int64, size int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, b := a.find(from)
	cost := a.weight(int(from&0xff) + size)
	if !a.fits(b, now, cost) {
		return false
	}
	b.draw(now, cost)
	return true
}

// charge asks to send a datagram of an unconfirmed transfer: its first answer, which admit paid
// for and which is always granted, or a repeat. Refused, the datagram counts as lost. A confirmed
// transfer need not ask.
func (a *admission) charge(t *pass, now int64, size int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.bucket == nil {
		return true
	}
	cost := a.weight(t.headers + size)
	if t.prepaid > 0 {
		t.giveBack(t.prepaid - cost)
		t.prepaid = 0
		return true
	}
	if !a.fits(t.bucket, now, cost) {
		return false
	}
	t.bucket.draw(now, cost)
	t.drawn += cost
	return true
}

// confirm notes that the client acknowledged something: what it drew is given back, and the
// transfer leaves the unconfirmed share.
func (a *admission) confirm(t *pass) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.bucket != nil {
		t.giveBack(t.drawn)
		a.release(t)
	}
}

// end ends the transfer, confirmed or not; again, or on a zero pass, it does nothing. What an
// unconfirmed client drew stays drawn.
func (a *admission) end(t *pass) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !t.counted {
		return
	}
	if t.bucket != nil {
		t.giveBack(t.prepaid)
		a.release(t)
	}
	a.transfers--
	*t = pass{}
}

// release takes t out of the unconfirmed transfers.
func (a *admission) release(t *pass) {
	t.bucket.held--
	t.bucket = nil
	a.unconfirmed--
}

// find returns the bucket of from, which may have been another's until now, and its set.
func (a *admission) find(from network) (*bucketSet, *bucket) {
	hash := maphash.Comparable(a.seed, from)
	set, tag := &a.table[hash%sets], uint32(hash>>32)
	fullest := &set.buckets[0]
	for i := range set.buckets {
		b := &set.buckets[i]
		if b.tag == tag {
			return set, b
		}
		if b.full < fullest.full {
			fullest = b
		}
	}
	fullest.tag = tag
	return set, fullest
}

// weight returns how many nanoseconds of refill size bytes on the wire are, rounded up: the
// bounds are promises.
func (a *admission) weight(size int) int64 {
	return (int64(size)*1e9 + a.bytesPerSecond - 1) / a.bytesPerSecond
}

// fits reports whether cost can be drawn from b.
func (a *admission) fits(b *bucket, now, cost int64) bool {
	return max(b.full, now)+cost <= now+a.burst
}

func (b *bucket) draw(now, cost int64) {
	b.full = max(b.full, now) + cost
}

// giveBack returns cost to the bucket, unless another network took that over: it must not inherit
// more than was there.
func (t *pass) giveBack(cost int64) {
	t.drawn -= cost
	if t.bucket.tag == t.tag {
		t.bucket.full -= cost
	}
}
