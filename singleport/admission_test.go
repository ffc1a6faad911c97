package singleport

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"unsafe"

	"flytftp/internal/testkit"
)

const (
	ms     = int64(1e6)
	second = int64(1e9)
)

// Datagrams, in bytes of UDP payload.
const (
	dataSize     = 4 + DefaultBlockSize // the answer to an RRQ without options
	oackSize     = len("\x00\x06blksize\x001432\x00tsize\x0070274\x00")
	notFoundSize = len("\x00\x05\x00\x01File not found\x00")
	shortestRRQ  = len("\x00\x01x\x00octet\x00")
)

func networkAt(t testing.TB, ip string) network {
	t.Helper()
	return networkOf(netip.MustParseAddr(ip).As16())
}

// forged returns a random network, IPv4 or IPv6.
func forged(random *rand.Rand) network {
	if random.IntN(2) == 0 {
		return network(random.Uint64N(1<<24))<<8 | 0xffff<<32 | ipv4Headers
	}
	return network(random.Uint64()&^0xff | ipv6Headers)
}

func TestNetworkOf(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.254", true},
		{"192.0.2.1", "::ffff:192.0.2.9", true},
		{"192.0.2.1", "192.0.3.1", false},
		{"192.0.2.1", "193.0.2.1", false},
		{"0.0.0.1", "::1", false},
		{"2001:db8:0:12ff::1", "2001:db8:0:1200:ffff:ffff:ffff:ffff", true},
		{"2001:db8:0:1200::1", "2001:db8:0:1300::1", false},
		{"2001:db8::1", "2001:db9::1", false},
		{"::1", "::fffe:192.0.2.1", true}, // not mapped: IPv6 like any other
		{"::1", "::ffff:0.0.0.1", false},
	} {
		if got := networkAt(t, test.a) == networkAt(t, test.b); got != test.same {
			t.Errorf("%s and %s share a network: %v, want %v", test.a, test.b, got, test.same)
		}
	}
	if got := networkAt(t, "192.0.2.1") & 0xff; got != 28 {
		t.Errorf("IPv4 headers: %d bytes, want 28", got)
	}
	if got := networkAt(t, "2001:db8::1") & 0xff; got != 48 {
		t.Errorf("IPv6 headers: %d bytes, want 48", got)
	}
}

// core stands in for the owner of the transfers: it makes way, repeats and ends as the real one
// does.
type core struct {
	*admission
	unconfirmed []*unconfirmedTransfer // oldest first; one that is over leaves at the front
	evicted     int
}

type unconfirmedTransfer struct {
	pass
	begun   int64
	evicted bool
}

func (c *core) oldest(now int64) int64 {
	for len(c.unconfirmed) > 0 && c.unconfirmed[0].bucket == nil {
		c.unconfirmed = c.unconfirmed[1:]
	}
	if len(c.unconfirmed) == 0 {
		return now
	}
	return c.unconfirmed[0].begun
}

func (c *core) request(p network, now int64, answer int) (*unconfirmedTransfer, verdict) {
	for {
		pass, v := c.admit(p, now, answer, c.oldest(now))
		switch v {
		case admitted:
			t := &unconfirmedTransfer{pass: pass, begun: now}
			c.unconfirmed = append(c.unconfirmed, t)
			return t, v
		case makeWay:
			c.unconfirmed[0].evicted = true
			c.end(&c.unconfirmed[0].pass)
			c.evicted++
		default:
			return nil, v
		}
	}
}

// checkIdle fails the test if a transfer or a hold is left.
func checkIdle(t testing.TB, a *admission) {
	t.Helper()
	if a.transfers != 0 || a.unconfirmed != 0 {
		t.Errorf("%d transfers are left, %d of them unconfirmed", a.transfers, a.unconfirmed)
	}
	for i := range a.table {
		for _, b := range a.table[i].buckets {
			if b.held != 0 {
				t.Fatalf("a bucket of set %d still holds %d", i, b.held)
			}
		}
	}
}

// A lab boots: 30 machines behind one network, each with 8 transfers and 12 names that do not exist
// within 2 s. Each answer is acknowledged 50 ms later, but for one transfer in eight, which the
// firmware ends with an ERROR when it has seen the size.
func TestLabIsNotSlowed(t *testing.T) {
	const machines, transfers, absent, rtt = 30, 8, 12, 50 * ms
	for _, test := range []struct {
		name, ip              string
		answer, absent, count int // count: how many labs boot, 8 s apart
	}{
		{"IPv4", "192.0.2.1", oackSize, absent, 3},
		{"IPv6", "2001:db8::1", oackSize, absent, 3},
		{"IPv4 without options", "192.0.2.1", dataSize, 0, 3},
		{"IPv6 without options", "2001:db8::1", dataSize, 0, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := core{admission: newAdmission(DefaultRate, 2000)}
			p := networkAt(t, test.ip)
			for lab := range test.count {
				start := 5*second + int64(lab)*8*second
				var waiting []*unconfirmedTransfer
				proveUntil := func(now int64) {
					for len(waiting) > 0 && waiting[0].begun+rtt <= now {
						c.confirm(&waiting[0].pass)
						c.end(&waiting[0].pass)
						waiting = waiting[1:]
					}
				}
				rounds := transfers + test.absent
				for round := range rounds {
					for machine := range machines {
						now := start + int64(round)*2*second/int64(rounds) + int64(machine)*10_000
						proveUntil(now)
						tr, v := c.request(p, now, test.answer)
						if v != admitted {
							t.Fatalf("lab %d, machine %d, request %d: verdict %d", lab, machine, round, v)
						}
						switch size := test.answer; {
						case round >= transfers:
							c.charge(&tr.pass, now, notFoundSize)
							c.end(&tr.pass)
						case round == 0 && size == oackSize:
							c.charge(&tr.pass, now, size)
							c.end(&tr.pass)
						default:
							c.charge(&tr.pass, now, size)
							waiting = append(waiting, tr)
						}
					}
				}
				proveUntil(start + 8*second)
			}
			checkIdle(t, c.admission)
		})
	}
}

// A flood is forged in one victim's name, with a new source port for each request, for 30 s. All
// that reaches the victim is counted as it is on the wire, and compared with what the attacker
// sends.
func TestVictimReceivesLessThanTheAttackerSends(t *testing.T) {
	const burst, rate = DefaultRate * requestBytes * 8, DefaultRate * requestBytes
	if burst != 32768 || rate != 4096 {
		t.Fatalf("documented: 32,768 bytes once and 4,096 a second; the constants say %d and %d", burst, rate)
	}
	options := len("\x00\x01x\x00octet\x00tsize\x000\x00")
	for _, test := range []struct {
		name            string
		request, answer int
		repeated        bool
	}{
		{"without options", shortestRRQ, dataSize, true},
		{"with options", options, len("\x00\x06tsize\x0070274\x00"), true},
		{"absent", shortestRRQ, notFoundSize, false},
		{"absent with options", options, notFoundSize, false},
		{"write", shortestRRQ, len("\x00\x05\x00\x02Access violation\x00"), false},
	} {
		for _, ip := range []string{"192.0.2.1", "2001:db8::1"} {
			for _, perSecond := range []int64{1000, 10000} {
				t.Run(fmt.Sprintf("%s/%s/%d", test.name, ip, perSecond), func(t *testing.T) {
					const seconds = 30
					c := core{admission: newAdmission(DefaultRate, 2000)}
					p := networkAt(t, ip)
					headers := int(p & 0xff)
					received := make([]int, seconds) // of the victim, each second
					receive := func(now int64, size int) { received[now/second] += headers + size }
					type repeat struct {
						*unconfirmedTransfer
						at int64
					}
					// The first answer is repeated after 1 s and after 3 s, and given up after 7 s.
					delays := [...]int64{second, 3 * second, 7 * second}
					var repeats [len(delays)][]repeat
					for now := int64(0); now < seconds*second; now += second / perSecond {
						for i := range repeats {
							for len(repeats[i]) > 0 && repeats[i][0].at <= now {
								r := repeats[i][0]
								repeats[i] = repeats[i][1:]
								switch {
								case r.bucket == nil:
								case i == len(repeats)-1:
									c.end(&r.pass)
								case c.charge(&r.pass, now, test.answer):
									receive(now, test.answer)
								}
							}
						}
						if !test.repeated && test.answer != notFoundSize {
							if c.draw(p, now, test.answer) {
								receive(now, test.answer)
							}
							continue
						}
						tr, v := c.request(p, now, dataSize)
						if v != admitted {
							continue
						}
						c.charge(&tr.pass, now, test.answer)
						receive(now, test.answer)
						if !test.repeated {
							c.end(&tr.pass)
							continue
						}
						for i, delay := range delays {
							repeats[i] = append(repeats[i], repeat{tr, now + delay})
						}
					}
					sent, total := 0, 0
					for s, n := range received {
						sent += (headers + test.request) * int(perSecond)
						total += n
						if total > sent {
							t.Errorf("after %d s the victim has received %d bytes, the attacker sent %d", s+1, total, sent)
						}
						for from, window := s, 0; from >= 0; from-- {
							window += received[from]
							if bound := burst + rate*(s-from+1); window > bound {
								t.Fatalf("seconds %d to %d: the victim received %d bytes, documented are %d", from+1, s+1, window, bound)
							}
						}
					}
					// A flood that draws nothing would pass all the above.
					if total < burst {
						t.Errorf("the victim received %d bytes in all: the flood did not even empty the bucket", total)
					}
				})
			}
		}
	}
}

// A million and a half forged requests from as many networks, then honest networks that never asked
// before: the forger does not hold the buckets.
func TestForgedNetworksDoNotLockOut(t *testing.T) {
	testkit.SkipIfShort(t)
	random := rand.New(rand.NewPCG(4, 1))
	for _, test := range []struct {
		perSecond     int64
		forged, probe int     // size of the answer that is asked for
		want          float64 // part of the honest requests that are admitted
	}{
		// A set is asked 12 or 24 times a second for DATA and can answer 60, or 122 times for an
		// ERROR and can answer 560: that all eight of its buckets stay empty is more than ten
		// standard deviations away. One in a thousand is left for chance.
		{50_000, dataSize, dataSize, 0.999},
		{100_000, dataSize, dataSize, 0.999},
		{500_000, notFoundSize, dataSize, 0.999},
		// A third more than all sets refill (240,000). A network that asks like the
		// forger gets its part, three in four; an OACK fits into the remainders that are too small
		// for DATA.
		{320_000, dataSize, dataSize, 0.6},
		{320_000, dataSize, oackSize, 0.99},
	} {
		t.Run(fmt.Sprintf("%d of %d bytes, honest %d", test.perSecond, test.forged, test.probe), func(t *testing.T) {
			const floods, probes = 1_500_000, 5000
			a := newAdmission(DefaultRate, 2000)
			// Start with empty buckets, which a forger would first need minutes to reach.
			for i := range a.table {
				for j := range a.table[i].buckets {
					a.table[i].buckets[j].full = second + a.burst
				}
			}
			now, served := second, 0
			for i := range floods {
				now += second / test.perSecond
				a.draw(forged(random), now, test.forged)
				if i >= floods/2 && i%(floods/2/probes) == 0 && a.draw(forged(random), now, test.probe) {
					served++
				}
			}
			got := float64(served) / probes
			t.Logf("%.4f of the fresh networks are served", got)
			if got < test.want {
				t.Errorf("%.4f of the fresh networks are served, want %.3f", got, test.want)
			}
		})
	}
}

// A forger keeps whole buckets empty instead, with a few thousand networks of which each asks as
// fast as its bucket refills: 7.5 forged requests a second for each empty bucket.
func TestEmptyBucketsDoNotLockOut(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 7))
	for _, test := range []struct {
		empty int     // of 32,768 buckets
		want  float64 // part of the fresh networks that are served, at least
	}{
		// A set is empty if eight or more of the networks fell into it: Poisson with mean 2, 1 in
		// 900; with mean 4, 1 in 20.
		{sets * ways / 4, 0.995},
		{sets * ways / 2, 0.92},
	} {
		a := newAdmission(DefaultRate, 2000)
		for range test.empty {
			for p := forged(random); a.draw(p, second, dataSize); {
			}
		}
		const probes = 10_000
		served := 0
		for range probes {
			if a.draw(forged(random), second, dataSize) {
				served++
			}
		}
		got := float64(served) / probes
		t.Logf("%d buckets empty: %.4f of the fresh networks are served", test.empty, got)
		if got < test.want {
			t.Errorf("%d buckets empty: %.4f of the fresh networks are served, want %.3f", test.empty, got, test.want)
		}
	}
}

// However others come and go in its set, a network draws no more than a bucket of its own would
// give.
func TestTakeoverGivesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	a := newAdmission(DefaultRate, 2000)
	victim := networkAt(t, "192.0.2.1")
	home, b := a.find(victim)
	tag := b.tag
	var neighbours []network
	for len(neighbours) < 3*ways {
		p := forged(random)
		if set, _ := a.find(p); set == home {
			neighbours = append(neighbours, p)
		}
	}
	drawn, taken := int64(0), 0
	const start = second
	now := start
	for range 200_000 {
		now += random.Int64N(2 * ms)
		if random.IntN(4) > 0 {
			p := neighbours[random.IntN(len(neighbours))]
			a.draw(p, now, random.IntN(dataSize))
			continue
		}
		present := false
		for _, b := range home.buckets {
			present = present || b.tag == tag
		}
		if !present {
			taken++
		}
		if size := random.IntN(dataSize); a.draw(victim, now, size) {
			drawn += int64(ipv4Headers + size)
		}
		if bound := 32768 + (now-start)*4096/second + 1000; drawn > bound {
			t.Fatalf("%d bytes drawn after %d ms, a bucket gives %d", drawn, (now-start)/ms, bound)
		}
	}
	if taken < 100 {
		t.Errorf("the victim lost its bucket %d times: too few to show anything", taken)
	}
}

// Forged requests without options fill the unconfirmed share; honest clients, 150 ms away, ask
// among them. Up to 4,000 a second all get in; beyond 5,000 each try has its part of the 5,000. A
// client that got in stays for its round trip.
func TestUnconfirmedShareMakesWay(t *testing.T) {
	const rtt = 150 * ms
	for _, test := range []struct {
		perSecond int64
		low, high float64 // part of the honest requests that are admitted
	}{
		{1000, 1, 1},
		{4000, 1, 1}, // Erlang's loss formula, 1,000 places and a load of 820: 1 in 10¹⁰
		// 5,000 of 20,000, and of 50,000: 2,000 tries deviate by 0.01 and 0.007 (one sigma).
		{20_000, 0.20, 0.30},
		{50_000, 0.06, 0.14},
	} {
		t.Run(fmt.Sprint(test.perSecond), func(t *testing.T) {
			random := rand.New(rand.NewPCG(4, 3))
			c := core{admission: newAdmission(DefaultRate, 2000)}
			var honest []*unconfirmedTransfer
			tries, served, lost := 0, 0, 0
			settle := func(now int64) {
				for len(honest) > 0 && honest[0].begun+rtt <= now {
					if honest[0].evicted {
						lost++
					}
					c.confirm(&honest[0].pass)
					c.end(&honest[0].pass)
					honest = honest[1:]
				}
			}
			now := second
			for now < 21*second {
				now += int64(random.ExpFloat64() * float64(second) / float64(test.perSecond+100))
				settle(now)
				if random.Int64N(test.perSecond+100) >= 100 {
					c.request(forged(random), now, dataSize)
				} else if tr, v := c.request(forged(random), now, oackSize); v == busy {
					t.Fatal("busy at half of the transfers")
				} else if now > 2*second {
					tries++
					if v == admitted {
						served++
						honest = append(honest, tr)
					}
				}
				if c.admission.unconfirmed > 1000 || c.transfers > 2000 {
					t.Fatalf("%d transfers, %d unconfirmed", c.transfers, c.admission.unconfirmed)
				}
			}
			settle(now + second)
			got := float64(served) / float64(tries)
			t.Logf("%d tries: %.3f admitted; %d forged made way", tries, got, c.evicted)
			if got < test.low || got > test.high {
				t.Errorf("%.3f of %d honest requests admitted, want %.2f to %.2f", got, tries, test.low, test.high)
			}
			if lost > 0 {
				t.Errorf("%d honest transfers made way before their round trip was over", lost)
			}
			for _, tr := range c.unconfirmed {
				c.end(&tr.pass)
			}
			checkIdle(t, c.admission)
		})
	}
}

func TestBusy(t *testing.T) {
	const transfers = 6
	random := rand.New(rand.NewPCG(4, 4))
	c := core{admission: newAdmission(DefaultRate, transfers)}
	now := second
	var passes []*unconfirmedTransfer
	for range transfers {
		tr, v := c.request(forged(random), now, oackSize)
		if v != admitted {
			t.Fatalf("transfer %d of %d: verdict %d", len(passes)+1, transfers, v)
		}
		c.confirm(&tr.pass)
		passes = append(passes, tr)
	}
	p, other := networkAt(t, "192.0.2.1"), networkAt(t, "198.51.100.1")
	for set, _ := c.find(p); ; other += 256 {
		if another, _ := c.find(other); another != set {
			break
		}
	}
	for _, test := range []struct {
		p     network
		after int64
		want  verdict
	}{
		{p, 0, busy}, {p, 1, crowded}, {other, 1, busy}, {p, second - 1, crowded}, {p, second, busy}, {p, second + 1, crowded},
	} {
		if _, v := c.request(test.p, now+test.after, oackSize); v != test.want {
			t.Errorf("after %d ns: verdict %d, want %d", test.after, v, test.want)
		}
	}
	// The ERROR is paid for: in the end silence, if there were ever so many seconds in one.
	set, b := c.find(p)
	for range 8 * DefaultRate * requestBytes / (ipv4Headers + 16) {
		set.busy = 0
		c.request(p, now+second+2, oackSize)
	}
	set.busy = 0
	if _, v := c.request(p, now+second+2, oackSize); v != overRate {
		t.Errorf("an empty bucket (full in %d ms): verdict %d, want silence", (b.full-now)/ms, v)
	}

	c.end(&passes[0].pass)
	if tr, v := c.request(other, now+2*second, oackSize); v != admitted {
		t.Errorf("a place is free: verdict %d", v)
	} else if _, v := c.request(p, now+9*second, oackSize); v != admitted || !tr.evicted {
		t.Errorf("all others are confirmed: verdict %d, the unconfirmed made way: %v", v, tr.evicted)
	}
	for _, tr := range append(passes, c.unconfirmed...) {
		c.end(&tr.pass)
	}
	checkIdle(t, c.admission)
}

// One transfer at a time is still one.
func TestOneTransfer(t *testing.T) {
	c := core{admission: newAdmission(DefaultRate, 1)}
	p := networkAt(t, "192.0.2.1")
	tr, v := c.request(p, second, dataSize)
	if v != admitted {
		t.Fatalf("verdict %d", v)
	}
	if _, v := c.request(p, second+confirmTime-1, dataSize); v != busy {
		t.Errorf("before %v ns: verdict %d, want busy", int64(confirmTime), v)
	}
	if _, v := c.request(p, second+confirmTime, dataSize); v != admitted || !tr.evicted {
		t.Errorf("after %v ns: verdict %d, want admitted", int64(confirmTime), v)
	}
}

func TestHeldBound(t *testing.T) {
	for _, test := range []struct{ rate, want int }{{1, 8}, {4, 8}, {DefaultRate, 128}, {MaxRate, 1000}} {
		a := newAdmission(test.rate, 2000)
		p := networkAt(t, "2001:db8::1")
		var passes []pass
		for now := second; ; now += 20 * second { // a full bucket each time
			pass, v := a.admit(p, now, oackSize, now)
			if v != admitted {
				break
			}
			passes = append(passes, pass)
		}
		if len(passes) != test.want {
			t.Errorf("rate %d: a network holds %d unconfirmed transfers, want %d", test.rate, len(passes), test.want)
		}
		for i := range passes {
			if i%2 == 0 {
				a.confirm(&passes[i])
				a.confirm(&passes[i])
			}
			a.end(&passes[i])
			a.end(&passes[i])
		}
		checkIdle(t, a)
	}
}

// What a request took is given back in part when the answer is lighter, whole when it is
// acknowledged or never sent, and not at all else.
func TestGiveBack(t *testing.T) {
	const now = second
	p := networkAt(t, "192.0.2.1")
	for _, test := range []struct {
		name string
		do   func(a *admission, t *pass)
		want int // bytes on the wire that stay drawn
	}{
		{"admitted", func(a *admission, t *pass) {}, 28 + dataSize},
		{"light answer", func(a *admission, t *pass) { a.charge(t, now, notFoundSize); a.end(t) }, 28 + notFoundSize},
		{"never answered", func(a *admission, t *pass) { a.end(t) }, 0},
		{"given up", func(a *admission, t *pass) {
			for range 3 {
				a.charge(t, now, oackSize)
			}
			a.end(t)
		}, 3 * (28 + oackSize)},
		{"confirmed after a repeat", func(a *admission, t *pass) {
			a.charge(t, now, oackSize)
			a.charge(t, now, oackSize)
			a.confirm(t)
			for range 1000 {
				if !a.charge(t, now, oackSize) {
					panic("a confirmed transfer was slowed")
				}
			}
			a.end(t)
		}, 0},
		{"the bucket taken over", func(a *admission, t *pass) { t.bucket.tag++; a.confirm(t); a.end(t) }, 28 + dataSize},
	} {
		a := newAdmission(DefaultRate, 2000)
		pass, v := a.admit(p, now, dataSize, now)
		if v != admitted {
			t.Fatalf("verdict %d", v)
		}
		b := pass.bucket
		test.do(a, &pass)
		if got, want := b.full-now, a.weight(test.want); got < want-4 || got > want+4 {
			t.Errorf("%s: %d ns of refill stay drawn, want %d", test.name, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	p := networkAt(t, "2001:db8::1")
	for _, test := range []struct{ rate, bytesPerSecond, burst int }{
		{-1, 64, 1692}, {0, 64, 1692}, {1, 64, 1692}, {3, 192, 1692}, {4, 256, 2048},
		{DefaultRate, 4096, 32768}, {MaxRate, 64e6, 512e6}, {1 << 30, 64e6, 512e6},
	} {
		a := newAdmission(test.rate, 2000)
		size := 52
		if test.rate > DefaultRate {
			size = MaxBlockSize
		}
		count := func(now int64) (n int) {
			for n < 1e6 && a.draw(p, now, size) {
				n++
			}
			return n * (ipv6Headers + size)
		}
		// What is left over may be just too little for one more.
		one := ipv6Headers + size
		if got := count(0); got > test.burst || got <= test.burst-2*one {
			t.Errorf("rate %d: a full bucket gives %d bytes, want %d", test.rate, got, test.burst)
		}
		if got := count(2 * second); got > 2*test.bytesPerSecond+one || got <= 2*test.bytesPerSecond-2*one {
			t.Errorf("rate %d: 2 s refill %d bytes, want %d", test.rate, got, 2*test.bytesPerSecond)
		}
		if got := count(1e6 * second); got > test.burst || got <= test.burst-2*one {
			t.Errorf("rate %d: a bucket refilled for days gives %d bytes, want %d", test.rate, got, test.burst)
		}
	}
	if got := newAdmission(MaxRate, 2000).weight(100); got != 1563 {
		t.Errorf("100 bytes weigh %d ns, want 1,562.5 rounded up", got)
	}
	if newAdmission(1, 2000).draw(p, 100*second, minBurst) {
		t.Error("rate 1: more than a full bucket was drawn at once")
	}
	// The lowest rate answers a client without options, and repeats twice.
	a := newAdmission(1, 2000)
	pass, v := a.admit(p, 0, dataSize, 0)
	if v != admitted {
		t.Fatalf("rate 1: verdict %d", v)
	}
	for i := range 4 {
		if got, want := a.charge(&pass, 0, dataSize), i < 3; got != want {
			t.Errorf("rate 1: datagram %d is sent: %v", i+1, got)
		}
	}
}

// Two goroutines may read the clock and take the lock in different orders.
func TestClockStepsBack(t *testing.T) {
	a := newAdmission(DefaultRate, 2000)
	p := networkAt(t, "192.0.2.1")
	drawn := 0
	for i := range 100_000 {
		if now := second + int64(i)*10_000; a.draw(p, now-int64(i%2)*ms, notFoundSize) {
			drawn += ipv4Headers + notFoundSize
		}
	}
	if drawn > 36864 || drawn < 36864-200 {
		t.Errorf("%d bytes drawn in 1 s, want 36,864", drawn)
	}
}

func TestConcurrent(t *testing.T) {
	a := newAdmission(MaxRate, 64)
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(4, uint64(worker)))
			var mine []pass
			for i := range 20_000 {
				now, p := int64(i)*ms, networkAt(t, fmt.Sprintf("192.0.%d.1", random.IntN(4)))
				if pass, v := a.admit(p, now, oackSize, now); v == admitted {
					mine = append(mine, pass)
				}
				a.draw(p, now, notFoundSize)
				if len(mine) == 0 {
					continue
				}
				switch one := &mine[random.IntN(len(mine))]; random.IntN(4) {
				case 0:
					a.charge(one, now, oackSize)
				case 1:
					a.confirm(one)
				default:
					a.end(&mine[len(mine)-1])
					mine = mine[:len(mine)-1]
				}
			}
			for i := range mine {
				a.end(&mine[i])
			}
		})
	}
	wait.Wait()
	checkIdle(t, a)
}

func TestMemory(t *testing.T) {
	if size := unsafe.Sizeof([sets]bucketSet{}); size > 1<<20 {
		t.Errorf("the buckets take %d bytes, want at most 1 MiB", size)
	}
	a := newAdmission(DefaultRate, 2000)
	random := rand.New(rand.NewPCG(4, 5))
	now := second
	if n := testing.AllocsPerRun(1000, func() { now += ms; cycle(a, forged(random), now) }); n != 0 {
		t.Errorf("%v allocations for each transfer, want none", n)
	}
}

// cycle is the life of one good transfer and of one refusal.
func cycle(a *admission, from network, now int64) {
	pass, _ := a.admit(from, now, dataSize, now)
	a.charge(&pass, now, oackSize)
	a.confirm(&pass)
	a.end(&pass)
	a.draw(from, now, notFoundSize)
}

func BenchmarkAdmission(b *testing.B) {
	random := rand.New(rand.NewPCG(4, 6))
	networks := make([]network, 1<<16)
	for i := range networks {
		networks[i] = forged(random)
	}
	a := newAdmission(DefaultRate, 2000)
	now := second
	b.Run("transfer", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			now += 10_000
			cycle(a, networks[i&0xffff], now)
		}
	})
	b.Run("flood", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			now += 1000
			a.draw(networks[i&0xffff], now, notFoundSize)
		}
	})
}
