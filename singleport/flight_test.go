package singleport

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flytftp/internal/testkit"
)

const usec, msec = time.Microsecond, time.Millisecond

// away returns a path whose round trips take rtt and which is a wire of rate bit/s, both ways.
func away(rtt time.Duration, rate int64) path { return path{delay: rtt / 2, rate: rate} }

// The link that the others rely on: a wire takes its time, its queue and a network card hold what
// they hold.
func TestPathsAndCards(t *testing.T) {
	for _, c := range []struct {
		what string
		path path
		card card
		want []time.Duration // when of ten datagrams those arrive that do
	}{
		{"plain", path{delay: 5 * msec}, card{}, durations(5, 5, 5, 5, 5, 5, 5, 5, 5, 5)},
		{"a wire", path{delay: 5 * msec, rate: mbit}, card{}, durations(13, 21, 29, 37, 45, 53, 61, 69, 77, 85)},
		{"a queue", path{rate: mbit, queue: 20 * msec}, card{}, durations(8, 16, 24)},
		{"a program", path{}, card{pace: 3 * msec}, durations(3, 6, 9, 12, 15, 18, 21, 24, 27, 30)},
		{"a ring", path{}, card{ring: 4, pace: 3 * msec}, durations(3, 6, 9, 12)},
		{"a ring on a wire", path{rate: mbit}, card{ring: 2, pace: 10 * msec}, durations(18, 28, 38, 48, 58, 68, 78, 88, 98)},
		{"pauses", path{}, card{pace: msec, pauseEvery: 4, pauses: 1, pause: 100 * msec}, durations(1, 2, 3, 4, 105, 106, 107, 108, 109, 110)},
		{"a ring that dies", path{rate: mbit}, card{ring: 2, pace: 10 * msec, mortal: true}, durations(18, 28)},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t, nil, 1)
			l.toClients = c.path
			p := l.client(1, 2000, 16)
			p.card = c.card
			began := time.Now()
			for range 10 {
				l.mu.Lock()
				l.put(false, route{client: p.endpoint}, make([]byte, 1000-ipv4Headers))
				l.mu.Unlock()
			}
			var got []time.Duration
			for p.expect(time.Second) != nil {
				got = append(got, time.Since(began))
			}
			l.close()
			l.carrying.Wait()
			if !slices.Equal(got, c.want) || l.counts[1].lost != 10-len(c.want) {
				t.Errorf("%s: arrivals at %v, want %v; %d lost", c.what, got, c.want, l.counts[1].lost)
			}
		})
	}
}

func durations(millis ...int) (d []time.Duration) {
	for _, m := range millis {
		d = append(d, time.Duration(m)*msec)
	}
	return d
}

// course is how one fetch went.
type course struct {
	took   time.Duration // from the RRQ to the last block
	own    time.Duration // what it takes at least
	blocks int           // of the file
	again  int           // DATA beyond those
	lost   int           // datagrams, on the way and in network cards
}

func (c course) times() float64 { return c.took.Seconds() / c.own.Seconds() }
func (c course) share() float64 { return float64(c.again) / float64(c.blocks) }

func (c course) String() string {
	return fmt.Sprintf("%v, %.2f times the link's own; %d of %d blocks again (%.1f %%)", c.took.Round(100*usec), c.times(), c.again, c.blocks, 100*c.share())
}

// run has one client fetch the file a; it fails the test unless the contents are right.
func (m *model) run(t *testing.T, file []byte, cfg Config, p path, seed uint64, prepare ...func(*rig)) course {
	t.Helper()
	c, err := m.try(t, file, cfg, p, seed, prepare...)
	if err != nil {
		t.Errorf("%s over %v: %v", m.name, p, err)
	}
	return c
}

// try is run for those to whom an error is no surprise.
func (m *model) try(t *testing.T, file []byte, cfg Config, p path, seed uint64, prepare ...func(*rig)) (c course, failure error) {
	t.Helper()
	inRig(t, map[string][]byte{"a": file}, cfg, seed, func(t *testing.T, n *rig) {
		n.both(p)
		for _, f := range prepare {
			f(n)
		}
		port := m.open(n.link, 1, 2000)
		began := time.Now()
		got, err := m.fetch(port, "a")
		if want := m.carried(file); err != nil {
			failure = fmt.Errorf("after %v: %w", time.Since(began), err)
		} else if !bytes.Equal(got, want) {
			failure = fmt.Errorf("%d bytes for %d, wrong from block %d on", len(got), len(want), 1+common(got, want)/m.size())
		}
		c.took = time.Since(began)
		if err == nil {
			c.took = port.done.Sub(began)
		}
		port.close()
		n.stop(time.Hour)
		c.lost = n.counts[0].lost + n.counts[1].lost
		c.blocks = len(m.carried(file))/m.size() + 1
		for _, r := range n.results {
			c.again += r.watch.blocks
		}
		c.again = max(c.again-c.blocks, 0)
	})
	c.own = m.own(c.blocks, p)
	return c, failure
}

// common returns how many bytes at their beginning a and b have in common.
func common(a, b []byte) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// own returns how long the link and the network card take for blocks that come once, without a
// pause between them.
func (m *model) own(blocks int, p path) time.Duration {
	trips := 1
	if m.options() {
		trips = 2
	}
	return time.Duration(trips)*2*p.delay + time.Duration(blocks)*max(p.wireTime(4+m.size()), m.card.pace)
}

// options reports whether the model's request has any.
func (m *model) options() bool { return m.blockSize+m.windowSize+m.timeout > 0 || m.tsize }

// Clients at blksize 1428, as the bench has them, by what they do about a strange block and by
// window.
func clientOf(strange habit, window int) model {
	names := [...]string{"silent", "mute", "own number", "once", "each", "keeps", "trusts"}
	m := model{name: names[strange], blockSize: 1428, tsize: true, requests: seconds(0.2401, 0.5603, 1.0007), quiet: seconds(5.0007), strange: strange,
		deaf: true}
	return m.withWindow(window)
}

// percentiles returns the median and the 99th percentile (nearest rank). It sorts d.
func percentiles(d []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(d)
	return d[(len(d)-1)/2], d[(len(d)*99+99)/100-1]
}

// fewer returns n, or far less with -short.
func fewer(n int) int {
	if testing.Short() {
		return max(n/10, 2)
	}
	return n
}

// receivers are the models on the network cards that real ones have.
func receivers() []model {
	all := slices.Clone(models)
	for _, ring := range []int{4, 8, 16, 32} {
		for _, name := range []string{"GRUB", "U-Boot", "iPXE", "U-Boot 16"} {
			all = append(all, modelNamed(name).with(fmt.Sprint("ring ", ring), card{ring: ring, pace: 20 * usec}))
		}
	}
	flash := card{pace: 20 * usec, pauseEvery: 64, pause: 300 * msec}
	return append(all,
		modelNamed("U-Boot").with("flash", flash),
		modelNamed("U-Boot 16").with("flash", flash),
		modelNamed("tftp-hpa").with("flash", flash),
		modelNamed("U-Boot").with("ring 32 that dies", card{ring: 32, pace: 50 * usec, mortal: true}),
		model{name: "Raspberry Pi 4", blockSize: 1024, tsize: true, requests: seconds(1.0003), quiet: seconds(1000), hangs: true, deaf: true},
		oldUBoot,
	)
}

// Over every kind of path every receiver has its file whole, within a time that follows from the
// path: its own, the round trips, and a timer for each loss. The Raspberry Pi alone is spared what
// would hang it: a path that loses, doubles or disorders has copies.
func TestEveryReceiverOverEveryPath(t *testing.T) {
	losses := []float64{0, 0.01, 0.05, 0.1}
	rtts := []time.Duration{100 * usec, 2 * msec, 20 * msec, 100 * msec, 300 * msec}
	queues := []time.Duration{10 * msec, 100 * msec, 500 * msec}
	rates := []int64{128 * kbit, 2 * mbit, 100 * mbit, gbit}
	type figures struct {
		mu            sync.Mutex
		blocks, again [4]int // by loss
		times         [4][]float64
	}
	all := receivers()
	table := make([]figures, len(all))
	files := make([][]byte, len(all))
	for k, m := range all {
		files[k] = content(100*m.size() + m.size()/2)
	}
	step := 1
	if testing.Short() {
		step = 13
	}
	// Ten tries can be in vain where a tenth is lost each way.
	const heavyLoss = 0.1
	var gaveUp atomic.Int64
	t.Run("paths", func(t *testing.T) {
		// Every loss with every round trip and every queue; the rest changes from path to path.
		for i := 0; i < len(losses)*len(rtts)*len(queues); i += step {
			loss := i % len(losses)
			p := path{loss: losses[loss], delay: rtts[i%len(rtts)] / 2, rate: rates[i/len(losses)%len(rates)], queue: queues[i%len(queues)]}
			if i%7 == 1 {
				p.duplicate = 0.05
			}
			if i%7 == 3 {
				p.reorder = 0.05
			}
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				for k := range all {
					m := &all[k]
					if m.hangs && (p.loss+p.duplicate+p.reorder > 0 || p.wireTime(m.size()) > p.queue) || p.wireTime(m.size()) > time.Second ||
						m.window() > 1 && time.Duration(m.window())*p.wireTime(m.size()) > time.Second {
						continue // no path for it, or no block size or window for the path
					}
					c, err := m.try(t, files[k], generous, p, uint64(i))
					switch {
					case p.loss == heavyLoss && errors.Is(err, errGaveUp):
						t.Logf("%s over %v: %v", m.name, p, err)
						gaveUp.Add(1)
						continue
					case err != nil:
						t.Errorf("%s over %v: %v", m.name, p, err)
					}
					if limit := m.timeLimit(c, p); c.took > limit {
						t.Errorf("%s: %v; %d datagrams lost, at most %v", m.name, c, c.lost, limit)
					}
					if limit := m.copyLimit(c, p); c.again > limit {
						t.Errorf("%s: %v; %d datagrams lost, at most %d blocks again", m.name, c, c.lost, limit)
					}
					f := &table[k]
					f.mu.Lock()
					f.blocks[loss] += c.blocks
					f.again[loss] += c.again
					f.times[loss] = append(f.times[loss], c.times())
					f.mu.Unlock()
				}
			})
		}
	})
	if gaveUp.Load() > 1 {
		t.Errorf("%d clients gave up where %.0f %% were lost", gaveUp.Load(), 100*heavyLoss)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-40s", "sent again; time to the link's own, p50")
	for _, loss := range losses {
		fmt.Fprintf(&out, "%17.0f %% lost", 100*loss)
	}
	for k := range all {
		fmt.Fprintf(&out, "\n%-40s", all[k].name)
		f := &table[k]
		for loss, times := range f.times {
			if len(times) > 0 {
				slices.Sort(times)
				fmt.Fprintf(&out, "%13.1f %% %7.2f", 100*float64(f.again[loss])/float64(f.blocks[loss]), times[len(times)/2])
			}
		}
	}
	t.Log(out.String())
}

// timeLimit returns how long a fetch may take: lock-step over a path that loses or disorders, for
// so it may be treated, and eight blocks a round trip over any other, where the round trip is what
// matters. A client that does not answer each copy may have to find by its own timer that an ACK
// got lost.
func (m *model) timeLimit(c course, p path) time.Duration {
	rtt := 2*p.delay + p.wireTime(4+m.size()) + p.wireTime(4)
	// The 10 ms are for learning the pace of a client that is next door.
	limit := c.own + time.Duration(c.again)*m.card.pace + 10*msec
	if c.lost == 0 && p.reorder+p.duplicate == 0 {
		limit += time.Duration(10+c.blocks/max(m.window(), 8)) * rtt
	} else {
		repair := time.Second + 2*rtt
		if m.strange == mute || m.strange == once || m.strange == trusts {
			repair += m.quiet[0]
		}
		limit += time.Duration(10+c.blocks)*rtt + 10*time.Second + time.Duration(c.lost)*repair
	}
	if m.card.pauseEvery > 0 {
		limit += time.Duration((c.blocks+c.again)/m.card.pauseEvery+1) * m.card.pause
	}
	return limit
}

// copyLimit returns how many blocks may be sent again: a flight for each loss, for each datagram
// that the path doubled or disordered, and for a timer that did not know the path yet.
func (m *model) copyLimit(c course, p path) int {
	disordered := float64(2*c.blocks) * (p.duplicate + p.reorder)
	return max(m.window(), DefaultAhead) * (3 + c.lost + int(disordered))
}

// On a LAN nobody is slower for blocks ahead of their ACK, whatever the network card.
func TestAheadIsNoSlowerOnALAN(t *testing.T) {
	lockStep := generous
	lockStep.Ahead = 1
	for _, p := range []path{away(100*usec, 10*gbit), away(100*usec, gbit), away(time.Millisecond, 100*mbit), away(1900*usec, gbit)} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			for _, m := range receivers() {
				file := content(min(256<<10, 300*m.size()))
				ahead, without := m.run(t, file, generous, p, 1), m.run(t, file, lockStep, p, 1)
				if testing.Verbose() {
					t.Logf("%s: %v; lock-step %v", m.name, ahead, without)
				}
				if ahead.took > without.took+without.took/10 {
					t.Errorf("%s: %v ahead, %v in lock-step", m.name, ahead, without)
				}
			}
		})
	}
}

// Over 20 ms, 1 MiB takes no more than what 24 blocks a round trip and a slow start take, whatever
// the client does about strange blocks.
func TestTwentyMillisecondsAway(t *testing.T) {
	file := content(1 << 20)
	for _, c := range []struct {
		window int
		most   time.Duration
	}{{1, 800 * msec}, {4, 750 * msec}, {16, 750 * msec}, {64, 400 * msec}} {
		for _, strange := range []habit{silent, mute, ownNumber, once, each, keeps} {
			if c.window > 1 && (strange == keeps || strange == ownNumber) {
				continue // ask for no windows
			}
			m := clientOf(strange, c.window)
			got := m.run(t, file, generous, away(20*msec, 0), 1)
			t.Logf("%s: %v", m.name, got)
			if got.took > c.most || got.again > 0 {
				t.Errorf("%s: %v; at most %v", m.name, got, c.most)
			}
		}
	}
}

// Over 20 ms and with 1 % lost each way, a boot goes on at a good part of that, also at its worst.
func TestTwentyMillisecondsAwayWithLoss(t *testing.T) {
	// A client that is silent about a gap lets it be known by a timer alone.
	for _, c := range []struct {
		strange  habit
		size     int
		window   int
		p50, p99 time.Duration
	}{
		{once, 256 << 10, 1, 600 * msec, 1800 * msec},
		{each, 256 << 10, 1, 600 * msec, 1800 * msec},
		{keeps, 256 << 10, 1, 600 * msec, 1800 * msec},
		{silent, 256 << 10, 1, 800 * msec, 2400 * msec},
		{ownNumber, 256 << 10, 1, 800 * msec, 2400 * msec},
		{once, 1 << 20, 4, 1000 * msec, 3 * time.Second},
		{each, 1 << 20, 4, 1000 * msec, 3 * time.Second},
		{once, 1 << 20, 16, 750 * msec, 3 * time.Second},
		{each, 1 << 20, 16, 750 * msec, 3 * time.Second},
		{once, 1 << 20, 64, 1200 * msec, 3 * time.Second},
	} {
		m := clientOf(c.strange, c.window)
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			file := content(c.size)
			var took []time.Duration
			blocks, again := 0, 0
			seeds := fewer(100)
			if c.size > 256<<10 {
				seeds /= 2
			}
			for seed := range seeds {
				p := away(20*msec, gbit)
				p.loss = 0.01
				got := m.run(t, file, generous, p, uint64(seed))
				took = append(took, got.took)
				blocks, again = blocks+got.blocks, again+got.again
			}
			p50, p99 := percentiles(took)
			t.Logf("%d KiB: p50 %v, p99 %v; %.1f %% again", c.size>>10, p50.Round(msec), p99.Round(msec), 100*float64(again)/float64(blocks))
			if testing.Short() {
				c.p50, c.p99 = 2*c.p50, 4*c.p99 // of few seeds
			}
			if p50 > c.p50 || p99 > c.p99 {
				t.Errorf("%d KiB: p50 %v, p99 %v; at most %v, %v", c.size>>10, p50.Round(msec), p99.Round(msec), c.p50, c.p99)
			}
		})
	}
}

// A link that loses nothing by itself carries nothing twice: what is in flight fits its queue, and
// its delay goes into the timer. What does not fit is sent twice in part, and takes little longer.
func TestNothingTwiceOverSlowLinks(t *testing.T) {
	const least = 32_000 // bytes of a queue in which a flight and its growth fit
	for _, rate := range []int64{512 * kbit, 2 * mbit, 20 * mbit} {
		for _, queue := range []time.Duration{50 * msec, 100 * msec, 200 * msec, 500 * msec} {
			t.Run(fmt.Sprintf("%d kbit/s, queue %v", rate/kbit, queue), func(t *testing.T) {
				t.Parallel()
				file := content(1 << 20)
				for _, window := range []int{1, 2, 4, 8, 16, 32, 64} {
					for _, strange := range []habit{silent, once, each, keeps} {
						if window > 1 && (strange == silent || strange == keeps) || window == 1 && strange == once {
							continue
						}
						m := clientOf(strange, window)
						p := away(20*msec, rate)
						p.queue = queue
						got := m.run(t, file, generous, p, 1)
						t.Logf("%s: %v", m.name, got)
						share, times := 0.02, 1.25
						if room := int64(rate) / 8 * queue.Milliseconds() / 1000; room < max(least, int64(window*(m.size()+32))) {
							share, times = 0.5, 1.6
						}
						if got.share() > share {
							t.Errorf("%s: %v", m.name, got)
						}
						if got.times() > times && rate < 20*mbit {
							t.Errorf("%s: %v", m.name, got)
						}
					}
				}
			})
		}
	}
}

// Clients that share a slow link use it for what they need.
func TestManyShareASlowLink(t *testing.T) {
	for _, c := range []struct {
		clients, rate int
		most          float64
	}{{12, 20 * mbit, 1.5}, {48, 100 * mbit, 1.8}} {
		for _, window := range []int{1, 64} {
			m := clientOf(once, window)
			t.Run(fmt.Sprintf("%d on %d Mbit/s, %s", c.clients, c.rate/mbit, m.name), func(t *testing.T) {
				t.Parallel()
				file := content(1 << 20)
				inRig(t, map[string][]byte{"a": file}, generous, 1, func(t *testing.T, n *rig) {
					p := away(20*msec, int64(c.rate))
					p.queue = 100 * msec
					n.both(p)
					began := time.Now()
					var fetching sync.WaitGroup
					for i := range c.clients {
						fetching.Go(func() { m.fetchAll(n, i, "a", 1) })
					}
					fetching.Wait()
					took := time.Since(began)
					blocks := c.clients * (len(file)/m.size() + 1)
					got := course{took: took, own: m.own(blocks, p), blocks: blocks, again: n.counts[1].datagrams - c.clients - blocks}
					t.Log(got)
					if got.times() > c.most {
						t.Errorf("%v; at most %.2f times", got, c.most)
					}
				})
			})
		}
	}
}

// A window that is larger than the ring of the client's network card takes hardly longer than one
// that fits, and is hardly sent twice.
func TestWindowsLargerThanTheRing(t *testing.T) {
	file := content(4_000_000)
	for _, ring := range []int{4, 8, 16} {
		for _, pace := range []time.Duration{30 * usec, 50 * usec, 100 * usec} {
			t.Run(fmt.Sprintf("ring %d, %v a frame", ring, pace), func(t *testing.T) {
				t.Parallel()
				for _, strange := range []habit{once, each} {
					run := func(window int) (*model, course) {
						m := clientOf(strange, window)
						m.blockSize = 1468
						m.card = card{ring: ring, pace: pace}
						return &m, m.run(t, file, generous, away(100*usec, 10*gbit), 1)
					}
					m, fits := run(ring)
					t.Logf("%s, which fits: %v", m.name, fits)
					for _, window := range []int{8, 16, 64} {
						m, got := run(window)
						t.Logf("%s: %v", m.name, got)
						if got.took > fits.took*3/2 || got.share() > 0.1 {
							t.Errorf("%s: %v; the window that fits: %v", m.name, got, fits)
						}
					}
				}
			})
		}
	}
}

// A network card that is lost for good once its ring of 32 was full survives a client that asks for
// more, and so does one that asks for no windows, from the LAN and from afar.
func TestRingThatNeverRecovers(t *testing.T) {
	file := content(1 << 20)
	for _, pace := range []time.Duration{5 * usec, 50 * usec, 200 * usec} {
		for _, p := range []path{away(0, 0), away(100*usec, gbit), away(20*msec, gbit), away(100*msec, 100*mbit)} {
			for _, window := range []int{1, 16, 32, 64} {
				m := clientOf(once, window).with(fmt.Sprintf("%v a frame", pace), card{ring: 32, pace: pace, mortal: true})
				m.run(t, file, generous, p, 1)
			}
		}
	}
}

// A client that has shown what it takes is not overrun again at the beginning of each of its next
// files.
func TestNextFilesOfAClientBeginAsTheLastOneWent(t *testing.T) {
	files := map[string][]byte{"a": content(256 << 10)}
	for _, ring := range []int{4, 8, 16} {
		t.Run(fmt.Sprint("ring ", ring), func(t *testing.T) {
			inRig(t, files, generous, 1, func(t *testing.T, n *rig) {
				n.both(away(100*usec, 10*gbit))
				m := clientOf(once, 64).with("", card{ring: ring, pace: 30 * usec})
				for i := range 10 {
					c := m.open(n.link, 1, uint16(2000+i))
					if got, err := m.fetch(c, "a"); err != nil || !bytes.Equal(got, files["a"]) {
						t.Fatalf("file %d: %d bytes, %v", i, len(got), err)
					}
					c.close()
				}
				n.stop(time.Minute)
				again := 0
				for _, r := range n.results[1:] {
					again += r.watch.repeats
				}
				blocks := 9 * n.results[0].watch.last()
				t.Logf("%d blocks of the first file again, %d of %d of the next nine", n.results[0].watch.repeats, again, blocks)
				if again > blocks/50 {
					t.Errorf("%d of %d blocks of the next files were sent again", again, blocks)
				}
			})
		})
	}
}

// However often the network brings an ACK, it draws no DATA (the Sorcerer's Apprentice): a path
// that loses nothing carries each block once. The copies arrive at once, or when later blocks are
// already in flight.
func TestDoubledACKsDrawNothing(t *testing.T) {
	file := content(400_000)
	for _, copies := range []int{2, 3} {
		for _, echo := range []time.Duration{0, 3 * msec, 15 * msec} {
			for _, rtt := range []time.Duration{100 * usec, 20 * msec} {
				for _, m := range []model{clientOf(silent, 1), clientOf(once, 1), clientOf(each, 1), clientOf(keeps, 1), clientOf(trusts, 1), clientOf(each, 4),
					clientOf(once, 16), clientOf(each, 64)} {
					got := m.run(t, file, generous, away(rtt, gbit), 1, func(n *rig) { n.toServer.acks, n.toServer.echo = copies, echo })
					if got.again != 0 {
						t.Errorf("each ACK %d times, %v apart, %v away: %s: %v", copies, echo, rtt, m.name, got)
					}
				}
			}
		}
	}
}

// A device on a LAN that erases flash for 300 ms now and then gets no copy of anything; some hang
// at one.
func TestPausesOnALANDrawNoCopy(t *testing.T) {
	file := content(700_000)
	for _, rtt := range []time.Duration{100 * usec, time.Millisecond, 4900 * usec} {
		for _, every := range []int{1, 2, 3, 10, 64} {
			for _, window := range []int{1, 4, 16} {
				if window > 1 && every < 64 {
					continue // it would be silent for longer
				}
				m := clientOf(silent, window).with("flash", card{pace: 20 * usec, pauseEvery: every, pauses: 20, pause: 300 * msec})
				m.hangs = true
				if got := m.run(t, file, generous, away(rtt, gbit), 1); got.again != 0 {
					t.Errorf("%v away, a pause every %d frames: %s: %v", rtt, every, m.name, got)
				}
			}
		}
	}
}

// A client that goes silent in the middle draws two bursts of eight blocks within 3 s at most, and
// never more than one at once.
func TestSilenceDrawsBursts(t *testing.T) {
	const burst, apart = 8, 20 * msec
	for _, rtt := range []time.Duration{msec, 20 * msec, 100 * msec} {
		for _, window := range []int{1, 4, 16, 64} {
			t.Run(fmt.Sprintf("%v away, window %d", rtt, window), func(t *testing.T) {
				inRig(t, map[string][]byte{"a": content(1 << 20)}, generous, 1, func(t *testing.T, n *rig) {
					n.both(away(rtt, gbit))
					m := clientOf(once, window).with("gone", card{pace: usec, pauseEvery: 300, pauses: 1, pause: time.Hour})
					m.quiet = seconds(60)
					var sent []time.Time
					var heard time.Time // of the client, last
					n.link.mu.Lock()
					n.see = func(toServer bool, data []byte) {
						if toServer {
							heard = time.Now()
						} else if data[1] == wireDATA {
							sent = append(sent, time.Now())
						}
					}
					n.link.mu.Unlock()
					stop := n.abandoned(&m, m.open(n.link, 1, 2000), "a")
					defer stop()
					time.Sleep(50 * time.Second)
					n.link.mu.Lock()
					n.see = nil
					n.link.mu.Unlock()
					// Then the blocks in flight have arrived, and the answers to their
					// ACKs have left.
					quiet := heard.Add(2*rtt + apart)
					within, largest, now := 0, 0, 0
					for i, at := range sent {
						if at.Before(quiet) {
							continue
						}
						if at.Before(heard.Add(3 * time.Second)) {
							within++
						}
						if now++; at.Sub(sent[i-1]) > apart {
							now = 1
						}
						largest = max(largest, now)
					}
					if within == 0 || within > 6*window+2*burst || largest > max(burst, window/2) {
						t.Errorf("%d blocks in 3 s of silence, up to %d at once", within, largest)
					}
				})
			})
		}
	}
}

// abandoned has a client begin to fetch a file; the function that it returns waits until the client
// has given up, as it must before the bubble ends.
func (n *rig) abandoned(m *model, c *port, name string) (wait func()) {
	var gone sync.WaitGroup
	gone.Go(func() { m.fetch(c, name) })
	return gone.Wait
}

// The first block of a window, when lost, is repaired within two round trips, though one duplicate
// ACK is all that tells of it.
func TestLostFirstBlockOfAWindow(t *testing.T) {
	for _, rtt := range []time.Duration{20 * msec, 100 * msec} {
		for _, window := range []int{4, 8, 16} {
			for _, strange := range []habit{once, each} {
				m := clientOf(strange, window)
				file := content(40*window*m.size() + 100)
				base := m.run(t, file, generous, away(rtt, gbit), 1)
				for _, lost := range []int{10*window + 1, 11*window + 1, 25*window + 1} {
					dropped := false
					got := m.run(t, file, generous, away(rtt, gbit), 1, func(n *rig) {
						n.lose = func(toServer bool, _ int, data []byte) bool {
							drop := !toServer && !dropped && data[1] == wireDATA && int(data[2])<<8+int(data[3]) == lost
							dropped = dropped || drop
							return drop
						}
					})
					// A window that goes out again takes a slow start, too.
					if late := got.took - base.took; late > 4*rtt {
						t.Errorf("%v away: %s: block %d lost: %v later", rtt, m.name, lost, late)
					}
				}
			}
		}
	}
}

// The agreed timeout of T s keeps a client that is silent after its first ACKs for 3 T.
func TestAgreedTimeoutKeepsASilentClient(t *testing.T) {
	file := content(30_000)
	for _, T := range []int{1, 2, 5, 10} {
		for _, window := range []int{1, 4} {
			for _, rtt := range []time.Duration{time.Millisecond, 100 * msec} {
				silence := time.Duration(T) * time.Second * 295 / 100
				m := clientOf(once, window).with(fmt.Sprint("timeout ", T), card{pace: usec, pauseEvery: 3, pauses: 1, pause: silence})
				m.timeout, m.quiet = T, seconds(100)
				if got := m.run(t, file, generous, away(rtt, gbit), 1); got.took < silence {
					t.Errorf("%s: no pause: %v", m.name, got)
				}
			}
		}
	}
}

// A copy of an RRQ that arrives late ends nothing: neither a copy of that of the running transfer,
// nor of the one before it from the same port, as lpxelinux and tftp-hpa use.
func TestLateCopyOfARequestEndsNothing(t *testing.T) {
	files := map[string][]byte{"a": content(5000), "b": content(1 << 20)}
	for _, copied := range []string{"a", "b"} {
		for _, after := range []time.Duration{3 * msec, 21 * msec, 45 * msec, 100 * msec, 300 * msec, time.Second, 3 * time.Second} {
			for _, name := range []string{"tftp-hpa", "PXELINUX", "U-Boot", "iPXE", "U-Boot 16"} {
				t.Run(fmt.Sprintf("%s, %s after %v", name, copied, after), func(t *testing.T) {
					m := modelNamed(name)
					inRig(t, files, generous, 1, func(t *testing.T, n *rig) {
						p := away(20*msec, 2*mbit)
						p.queue = 500 * msec
						n.both(p)
						c := m.open(n.link, 1, 49153)
						if got, err := m.fetch(c, "a"); err != nil || !bytes.Equal(got, files["a"]) {
							t.Fatalf("%d bytes, %v", len(got), err)
						}
						go func() {
							time.Sleep(after)
							c.send(m.request(copied))
						}()
						if got, err := m.fetch(c, "b"); err != nil || !bytes.Equal(got, files["b"]) {
							t.Errorf("%d bytes, %v", len(got), err)
						}
						n.stop(time.Minute)
						if len(n.results) != 2 || n.results[0].err != nil || n.results[1].err != nil {
							t.Errorf("%+v", n.results)
						}
					})
				})
			}
		}
	}
}

// A client that began again with the same RRQ from the same port, be it for the file that it was at
// or for the one before, knows nothing of what is in flight. It is served within 2 s of its retry.
func TestClientThatBeganAgainIsServed(t *testing.T) {
	testkit.SkipIfShort(t)
	const patience = 2 * time.Second
	files := map[string][]byte{"a": content(60_000), "b": content(1 << 20)}
	for _, again := range []string{"a", "b"} {
		for _, after := range []time.Duration{50 * msec, 200 * msec, time.Second} {
			for _, name := range []string{"tftp-hpa", "PXELINUX", "U-Boot", "iPXE", "GRUB"} {
				t.Run(fmt.Sprintf("%s, %s after %v", name, again, after), func(t *testing.T) {
					m := modelNamed(name)
					old := m
					old.quiet = seconds(3600)
					p := away(20*msec, 2*mbit)
					inRig(t, files, generous, 1, func(t *testing.T, n *rig) {
						n.both(p)
						c := m.open(n.link, 1, 49153)
						if _, err := m.fetch(c, "a"); err != nil {
							t.Fatal(err)
						}
						wait := n.abandoned(&old, c, "b")
						defer wait()
						time.Sleep(after)
						c.close()
						c = m.open(n.link, 1, 49153)
						began := time.Now()
						got, err := m.fetch(c, again)
						if waited := c.begun.Sub(began); err != nil || !bytes.Equal(got, files[again]) || waited > m.requests[0]+patience {
							t.Errorf("%d bytes, %v, answered after %v", len(got), err, waited)
						}
					})
				})
			}
		}
	}
}

// Another request from the port of a transfer with blocks in flight gets its own file, and nothing
// of the other. (A DATA 1 of the other that is still in flight is nobody's fault: it looks like the
// answer.)
func TestRequestWhileBlocksAreInFlight(t *testing.T) {
	files := map[string][]byte{"a": content(1 << 20), "b": content(300_000)}
	for _, window := range []int{1, 4, 64} {
		for _, after := range []time.Duration{45 * msec, 90 * msec, 200 * msec} {
			t.Run(fmt.Sprintf("window %d, after %v", window, after), func(t *testing.T) {
				m := clientOf(silent, window)
				old := m
				old.quiet = seconds(3600)
				inRig(t, files, generous, 1, func(t *testing.T, n *rig) {
					n.both(away(20*msec, 100*mbit))
					c := m.open(n.link, 1, 2000)
					wait := n.abandoned(&old, c, "a")
					defer wait()
					time.Sleep(after)
					c.close()
					c = m.open(n.link, 1, 2000)
					if got, err := m.fetch(c, "b"); err != nil || !bytes.Equal(got, files["b"]) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
					n.stop(time.Minute)
					if len(n.results) != 2 || !errors.Is(n.results[0].err, ErrReplaced) || n.results[1].err != nil {
						t.Errorf("%+v", n.results)
					}
				})
			})
		}
	}
}

// A client that trusts the order of what arrives has its file whole all the same, though it never
// tells of a gap and ends with the last block. By its request it looks like U-Boot of today.
func TestClientThatTrustsTheOrderHasItsFileWhole(t *testing.T) {
	file := content(400_000)
	for _, p := range []path{{loss: 0.01}, {loss: 0.05}, {reorder: 0.05}, {duplicate: 0.1}, {loss: 0.01, reorder: 0.01, duplicate: 0.01}} {
		p.rate = 100 * mbit
		for _, rtt := range []time.Duration{200 * usec, 20 * msec} {
			p.delay = rtt / 2
			for seed := range fewer(20) {
				oldUBoot.run(t, file, generous, p, uint64(seed))
			}
		}
	}
}

// A thousand clients at once are granted the windows that they ask for.
func TestThousandWindowsAreGranted(t *testing.T) {
	inRig(t, map[string][]byte{"a": content(200_000)}, generous, 1, func(t *testing.T, n *rig) {
		n.both(away(time.Millisecond, 0))
		m := clientOf(once, 64)
		ports := make([]*port, 1000)
		for i := range ports {
			ports[i] = n.client(i, 2000, 200)
			ports[i].send(m.request("a"))
		}
		less := 0
		for _, c := range ports {
			if granted := parseOACK(c.expect(time.Second))["windowsize"]; granted != "64" {
				less++
			}
			c.send(ackOf(0)) // it holds what it was granted
		}
		if less > 0 {
			t.Errorf("%d of %d clients are granted less than they asked for", less, len(ports))
		}
		for _, c := range ports {
			c.send(errorOf(0, "enough"))
		}
	})
}
