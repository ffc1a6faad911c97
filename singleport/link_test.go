package singleport

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Opcodes, RFC 1350 section 5 and RFC 2347. The tests have their own, so that a wrong one in the
// server shows.
const (
	wireRRQ = iota + 1
	wireWRQ
	wireDATA
	wireACK
	wireERROR
	wireOACK
)

// path is one direction of a link, which all clients share. The chances are of one datagram, 0 to
// 1.
type path struct {
	loss, duplicate, reorder float64
	delay                    time.Duration
	rate                     int64         // bit/s of the wire; 0 is without end
	queue                    time.Duration // longer waits lose a datagram; 0 is no limit
	acks                     int           // copies of each ACK arrive; 0 is 1
	echo                     time.Duration // how much later than the one before each copy arrives
}

func (p path) String() string {
	return fmt.Sprintf("%v there and back, %.3g Mbit/s, queue %v, %.0f %% lost, %.0f %% doubled, %.0f %% late", 2*p.delay, float64(p.rate)/mbit, p.queue,
		100*p.loss, 100*p.duplicate, 100*p.reorder)
}

// lateness is how much longer than others a reordered datagram takes at most.
const lateness = 20 * time.Millisecond

// Rates of links, bit/s.
const (
	kbit = 1000
	mbit = 1000 * kbit
	gbit = 1000 * mbit
)

// wireTime returns how long the wire is busy with a datagram of size bytes.
func (p *path) wireTime(size int) time.Duration {
	if p.rate == 0 {
		return 0
	}
	return time.Duration(int64(ipv4Headers+size) * 8e9 / int64(p.rate))
}

// datagram is one under way.
type datagram struct {
	at       time.Time
	order    int // of those that arrive at the same time
	toServer bool
	route    route
	data     []byte
	taker    *port // whose network card has it already
}

// flight holds the datagrams under way, the next to arrive first.
type flight []datagram

func (f flight) Len() int { return len(f) }
func (f flight) Less(i, j int) bool {
	if !f[i].at.Equal(f[j].at) {
		return f[i].at.Before(f[j].at)
	}
	return f[i].order < f[j].order
}
func (f flight) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flight) Push(d any)   { *f = append(*f, d.(datagram)) }
func (f *flight) Pop() any {
	last := len(*f) - 1
	d := (*f)[last]
	*f = (*f)[:last]
	return d
}

// link is a network in memory, for use inside a synctest bubble: the socket of one server, and
// ports of clients. It judges all that the server sends by what was delivered to it before.
type link struct {
	t         testing.TB
	files     map[string][]byte
	toServer  path
	toClients path
	batch     int // datagrams that the server is given at once, at most
	// lose, if set, decides in place of the chance. n counts the datagrams of that direction from
	// 0.
	lose func(toServer bool, n int, data []byte) bool
	// see, if set, is shown each datagram that is sent.
	see func(toServer bool, data []byte)
	// sent, if set, is shown each datagram of the server, and to whom it goes.
	sent func(to endpoint, data []byte)

	ahead int // Config.Ahead of the server

	room      int           // datagrams that the server's socket takes at a time; 0 is all
	drain     time.Duration // how long it is full then
	level     int           // datagrams that it took since
	swallows  bool          // datagrams that the kernel cut vanish
	swallowed bool          // the one that leaves now

	using sync.Mutex // shows calls that overlap

	data, dataBytes uint64 // DATA that left, and what was in it

	mu       sync.Mutex
	arrived  *sync.Cond
	random   [3]*rand.Rand // for datagrams to the server, to clients, and for the server's batches
	ports    map[endpoint]*port
	watches  map[endpoint]*watch
	flight   flight
	order    int
	counts   [2]traffic   // to the server, to clients
	free     [2]time.Time // when the wire is free again
	inbox    []datagram   // at the server
	queued   []queuedSend
	wakes    chan struct{}
	closed   bool
	woken    bool
	carrying sync.WaitGroup
}

// traffic counts what was sent in one direction: all of it, and what was lost on the way or in a
// network card.
type traffic struct{ datagrams, bytes, lost int }

// queuedSend is what the server queued and did not flush yet.
type queuedSend struct {
	to        route
	datagram  []byte // a single one, else nil
	number    uint16
	count     int
	blockSize int
	data      []byte
	owner     *Transfer
	fresh     int
}

// serverIP is the address that clients ask; answers must leave from it.
var serverIP = netip.MustParseAddr("192.0.2.1").As16()

func newLink(t testing.TB, files map[string][]byte, seed uint64) *link {
	l := &link{t: t, files: files, batch: 1, ahead: DefaultAhead, ports: map[endpoint]*port{}, watches: map[endpoint]*watch{},
		wakes: make(chan struct{}, 1)}
	for i := range l.random {
		l.random[i] = rand.New(rand.NewPCG(seed, 7440+uint64(i)))
	}
	l.arrived = sync.NewCond(&l.mu)
	l.carrying.Go(l.carry)
	return l
}

// both gives the two directions the same character.
func (l *link) both(p path) { l.toServer, l.toClients = p, p }

// roundTrip returns the least that a datagram and its answer take.
func (l *link) roundTrip() time.Duration { return l.toServer.delay + l.toClients.delay }

// card is what receives for a client: its network card and the program that empties it.
type card struct {
	ring   int           // frames that it holds, beyond which they are lost; 0 is as many as arrive
	pace   time.Duration // how long the program is busy with a frame
	mortal bool          // once the ring was full, nothing is received any more

	pauseEvery int           // frames after which the program does something else
	pauses     int           // how often it does; 0 is again and again
	pause      time.Duration // how long that takes
}

// port is where one client receives.
type port struct {
	link     *link
	endpoint endpoint
	arrived  chan []byte

	// Of a fetch.
	begun, done time.Time // its first answer, and its last block

	// Of the link's mutex.
	card    card
	waiting int       // frames in the ring
	taken   int       // frames that the program was given
	free    time.Time // when the program has done what it was given
	dead    bool
}

// client opens a port: number n of port p. ring is how many datagrams it holds that nobody read
// yet.
func (l *link) client(n int, p uint16, ring int) *port {
	e := endpoint{ip: netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}).As16(), port: p}
	return l.open(e, ring)
}

func (l *link) open(e endpoint, ring int) *port {
	c := &port{link: l, endpoint: e, arrived: make(chan []byte, ring)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports[e] = c
	return c
}

// reach gives what has arrived to the network card; the link's mu is held.
func (c *port) reach(d datagram, now time.Time) {
	k := &c.card
	if k.pace == 0 && k.pause == 0 {
		c.hand(d.data)
		return
	}
	if c.dead || k.ring > 0 && c.waiting == k.ring {
		c.link.counts[1].lost++
		return
	}
	c.waiting++
	c.dead = k.mortal && c.waiting == k.ring
	if c.free.Before(now) {
		c.free = now
	}
	c.free = c.free.Add(k.pace)
	d.at, d.taker = c.free, c
	heap.Push(&c.link.flight, d)
	c.taken++
	if k.pauseEvery > 0 && c.taken%k.pauseEvery == 0 && (k.pauses == 0 || c.taken <= k.pauses*k.pauseEvery) {
		c.free = c.free.Add(k.pause)
	}
}

// hand gives a datagram to the program.
func (c *port) hand(data []byte) {
	select {
	case c.arrived <- data:
	default:
		c.link.counts[1].lost++
	}
}

// close leaves what still arrives to nobody.
func (c *port) close() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	delete(c.link.ports, c.endpoint)
}

func (c *port) send(data []byte) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.link.put(true, route{client: c.endpoint, local: serverIP}, data)
}

// put sends a datagram on its way; mu is held.
func (l *link) put(toServer bool, r route, data []byte) {
	direction, p := 1, l.toClients
	if toServer {
		direction, p = 0, l.toServer
	}
	count, random := &l.counts[direction], l.random[direction]
	n := count.datagrams
	count.datagrams++
	count.bytes += len(data)
	if l.see != nil {
		l.see(toServer, data)
	}
	leaves := time.Now()
	if waits := l.free[direction].Sub(leaves); waits > 0 {
		if p.queue > 0 && waits > p.queue {
			count.lost++
			return
		}
		leaves = l.free[direction]
	}
	leaves = leaves.Add(p.wireTime(len(data)))
	l.free[direction] = leaves
	copies := 1
	if len(data) > 1 && data[1] == wireACK {
		copies = max(p.acks, 1)
	}
	lost := random.Float64() < p.loss
	if l.lose != nil {
		lost = l.lose(toServer, n, data)
	}
	if random.Float64() < p.duplicate {
		copies *= 2
	}
	if lost {
		count.lost++
		return
	}
	for i := range copies {
		at := leaves.Add(p.delay + time.Duration(i)*p.echo)
		if random.Float64() < p.reorder {
			at = at.Add(time.Duration(random.Int64N(int64(lateness))))
		}
		l.order++
		heap.Push(&l.flight, datagram{at: at, order: l.order, toServer: toServer, route: r, data: bytes.Clone(data)})
	}
	l.hurry()
}

// hurry makes carry look again.
func (l *link) hurry() {
	select {
	case l.wakes <- struct{}{}:
	default:
	}
}

// carry delivers until the link is closed and nothing is under way.
func (l *link) carry() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now := time.Now()
		for len(l.flight) > 0 && !l.flight[0].at.After(now) {
			d := heap.Pop(&l.flight).(datagram)
			if d.toServer {
				l.inbox = append(l.inbox, d)
				l.arrived.Signal()
			} else if d.taker != nil {
				d.taker.waiting--
				d.taker.hand(d.data)
			} else if c := l.ports[d.route.client]; c != nil {
				c.reach(d, now)
			}
		}
		if len(l.flight) > 0 {
			timer.Reset(l.flight[0].at.Sub(now))
		}
		landed := l.closed && len(l.flight) == 0
		l.mu.Unlock()
		if landed {
			return
		}
		select {
		case <-l.wakes:
		case <-timer.C:
		}
	}
}

// What follows is the server's side.

func (l *link) addr() *net.UDPAddr {
	return &net.UDPAddr{IP: serverIP[:], Port: 69}
}

func (l *link) serve(to listener) error {
	for {
		l.mu.Lock()
		for len(l.inbox) == 0 && !l.closed && !l.woken {
			l.arrived.Wait()
		}
		if l.closed {
			l.mu.Unlock()
			return net.ErrClosed
		}
		if l.woken = false; len(l.inbox) == 0 {
			l.mu.Unlock()
			to.receive(nil)
			continue
		}
		n := min(len(l.inbox), 1+l.random[2].IntN(l.batch))
		batch := make([]received, n)
		for i, d := range l.inbox[:n] {
			batch[i] = received{d.route, d.data}
			l.noteArrival(d.route.client, d.data)
		}
		l.inbox = l.inbox[n:]
		l.mu.Unlock()

		to.receive(batch)

		l.mu.Lock()
		for _, r := range batch {
			l.noteHandled(r.route.client)
		}
		l.mu.Unlock()
		for _, r := range batch { // nobody may look at them any more
			for i := range r.data {
				r.data[i] = 0xdb
			}
		}
	}
}

// alone fails the test if another goroutine uses the socket.
func (l *link) alone() func() {
	if !l.using.TryLock() {
		l.t.Error("two goroutines use the socket at once")
		return func() {}
	}
	return l.using.Unlock
}

func (l *link) send(to *route, data []byte, owner *Transfer) {
	defer l.alone()()
	l.queued = append(l.queued, queuedSend{to: *to, datagram: bytes.Clone(data), owner: owner})
}

func (l *link) sendBlocks(b blocks) {
	defer l.alone()()
	size := b.owner.window.blockSize
	if b.count < 1 || len(b.data) > b.count*size || len(b.data) < (b.count-1)*size {
		l.t.Errorf("sendBlocks: %d blocks of %d bytes in %d bytes", b.count, size, len(b.data))
		return
	}
	l.queued = append(l.queued, queuedSend{to: b.owner.route, number: b.number, count: b.count, blockSize: size, data: b.data,
		owner: b.owner, fresh: b.fresh})
}

func (l *link) space(*Transfer) int { return 1000 }

// awaitWritable empties a full socket after a while, again and again.
func (l *link) awaitWritable(resume func() bool) {
	l.carrying.Go(func() {
		for done := false; !done; done = resume() {
			time.Sleep(l.drain)
			l.mu.Lock()
			l.level = 0
			l.mu.Unlock()
		}
	})
}

func (l *link) alarm(expire func()) alarm { return newPlainAlarm(expire) }
func (l *link) sendRoom() int             { return 0 }
func (l *link) self() endpoint            { return endpoint{} }
func (l *link) dropped() int64            { return -1 }

func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.woken = true
	l.arrived.Broadcast()
}

func (l *link) flush(unsent func(*Transfer, int, int)) bool {
	defer l.alone()()
	l.mu.Lock()
	defer l.mu.Unlock()
	queued := l.queued
	l.queued = l.queued[:0]
	for i, q := range queued {
		if l.level += max(q.count, 1); l.room > 0 && l.level > l.room {
			for _, q := range queued[i:] {
				if q.owner != nil {
					unsent(q.owner, q.count, q.fresh)
				}
			}
			return false
		}
		if q.datagram != nil {
			l.leave(q.to, q.datagram)
			continue
		}
		for i := range q.count {
			block := q.data[i*q.blockSize : min((i+1)*q.blockSize, len(q.data))]
			header := binary.BigEndian.AppendUint16([]byte{0, wireDATA}, q.number+uint16(i))
			l.swallowed = l.swallows && q.count > 1 && !q.owner.uncut
			l.leave(q.to, append(header, block...))
			l.swallowed = false
		}
	}
	return true
}

// leave judges one datagram of the server and sends it; mu is held.
func (l *link) leave(to route, data []byte) {
	if !l.closed {
		if to.local != serverIP {
			l.t.Errorf("an answer to %v leaves from %v", to.client.addrPort(), netip.AddrFrom16(to.local))
		}
		l.judge(to.client, data)
		if data[1] == wireDATA {
			l.data++
			l.dataBytes += uint64(len(data) - 4)
		}
		if l.sent != nil {
			l.sent(to.client, data)
		}
		if !l.swallowed {
			l.put(false, to, data)
		}
	}
}

func (l *link) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	l.arrived.Broadcast()
	l.hurry()
	return nil
}

// watch is what the link knows of one client. A transfer begins when its handler is called, which
// is before its first datagram.
type watch struct {
	errorsDue int // requests that no ERROR answered yet
	refusals  int // of them, those that came while a transfer ran: silence may answer them

	running               bool
	ending                bool // what ends it was delivered, perhaps not yet seen
	content               []byte
	answered, oack        bool
	confirmed             bool
	unconfirmed           int // datagrams sent before the client was confirmed
	blockSize, windowSize int
	acked, ackedBefore    int          // blocks; before what the server is looking at now
	sent                  int          // blocks
	repeats               int          // datagrams that were sent before
	blocks                int          // DATA datagrams
	singly                map[int]bool // blocks that were acknowledged by their own number
	handling              bool
	early                 []uint16  // ACKs looked at now, of blocks not sent when they arrived
	doubt                 bool      // one of those may precede its block: acked may be ackedBefore
	duplicateAcks         bool      // the server looks at those alone
	duplicates            int       // ACKs of acked since it is that
	repaired              time.Time // when they last drew a repeat
}

// last returns the number of the last block; there is always one that is not full.
func (w *watch) last() int { return len(w.content)/w.blockSize + 1 }

func (l *link) watch(e endpoint) *watch {
	w := l.watches[e]
	if w == nil {
		w = new(watch)
		l.watches[e] = w
	}
	return w
}

// noteBegin notes that the handler was called for t. The handler of a request that was replaced
// may be called later than that of the one after it.
func (l *link) noteBegin(t *Transfer, content []byte) *watch {
	t.shard.mu.Lock() // so that none replaces t meanwhile
	defer t.shard.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := endpointAt(t.Client())
	w := &watch{errorsDue: l.watch(e).errorsDue, running: true, content: content, blockSize: DefaultBlockSize, windowSize: 1}
	if !t.over {
		l.watches[e] = w
	}
	return w
}

// noteEnd notes that Send returned: what follows can be an ERROR alone.
func (l *link) noteEnd(w *watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.running = false
}

// noteArrival notes what the server is about to be given.
func (l *link) noteArrival(e endpoint, data []byte) {
	w := l.watch(e)
	if !w.handling {
		w.handling, w.duplicateAcks = true, true
		if !w.doubt {
			w.ackedBefore = w.acked
		}
	}
	if len(data) < 2 {
		return
	}
	switch binary.BigEndian.Uint16(data) {
	case wireRRQ, wireWRQ:
		w.errorsDue++
		if w.running {
			w.refusals++
		}
	case wireERROR:
		w.ending = w.ending || len(data) >= 4
	case wireACK:
		if len(data) >= 4 && w.running {
			number := binary.BigEndian.Uint16(data[2:])
			if w.confirmed && number == uint16(w.acked) {
				w.duplicates++
			}
			switch {
			case w.acknowledge(number):
				w.doubt = false
				w.ending = w.ending || w.acked == w.last()
			case w.doubt:
				w.doubt = w.acked&0xffff != int(number)
				w.ending = w.ending || !w.doubt && w.acked == w.last()
			default:
				w.early = append(w.early, number)
				return
			}
		}
	}
	w.duplicateAcks = false
}

// acknowledge takes an ACK, and reports whether it says anything new.
func (w *watch) acknowledge(number uint16) bool {
	ahead := int(number - uint16(w.acked))
	if !w.answered || ahead > w.sent-w.acked || ahead == 0 && (w.confirmed || !w.oack) {
		return false
	}
	if ahead > 0 {
		w.duplicates, w.repaired = 0, time.Time{}
	}
	w.acked += ahead
	if w.singly == nil {
		w.singly = map[int]bool{}
	}
	w.singly[w.acked] = true
	w.confirmed = true
	return true
}

// skipped reports whether a block of a transfer in lock-step, or one before it, was not
// acknowledged by its own number, though one behind it was: it may be asked for again, for the
// client may lack it.
func (w *watch) skipped(number uint16) bool {
	behind := int(uint16(w.acked) - number)
	if w.windowSize > 1 || behind >= maxBeyond {
		return false
	}
	for block := w.acked - behind; block > 0 && block > w.acked-maxBeyond; block-- {
		if !w.singly[block] {
			return true
		}
	}
	return false
}

// lookAgain takes the ACKs that came early, but not too early if the server has not come to them
// yet: its other goroutines send, too.
func (w *watch) lookAgain() {
	for _, number := range w.early {
		if w.acknowledge(number) {
			w.doubt, w.duplicateAcks = true, false
		}
	}
}

// noteHandled notes that the server has seen all that noteArrival was told.
func (l *link) noteHandled(e endpoint) {
	w := l.watch(e)
	w.lookAgain()
	w.handling, w.early = false, nil
	if !w.doubt {
		w.ackedBefore = w.acked
	}
	if w.ending {
		w.running, w.ending = false, false
	}
}

// judge fails the test if the server may not send data to e now.
func (l *link) judge(e endpoint, data []byte) {
	w := l.watch(e)
	w.lookAgain()
	wrong := func(format string, args ...any) {
		shown := data[:min(len(data), 40)]
		l.t.Errorf("%v was sent %q (%d bytes): %s; %d blocks acknowledged, %d sent, blksize %d, windowsize %d", e.addrPort(), shown, len(data),
			fmt.Sprintf(format, args...), w.acked, w.sent, w.blockSize, w.windowSize)
	}
	if len(data) < 4 {
		wrong("too short")
		return
	}
	opcode := binary.BigEndian.Uint16(data)
	if opcode == wireERROR && w.refusals > 0 {
		w.refusals--
	} else if w.running && !w.confirmed {
		w.unconfirmed++
		if w.unconfirmed > 3 {
			wrong("datagram %d to a client that acknowledged nothing", w.unconfirmed)
		}
	}
	if opcode == wireERROR {
		if w.errorsDue--; w.errorsDue < 0 {
			wrong("nothing asked for it")
		}
		return
	}
	if !w.running {
		wrong("no transfer runs")
		return
	}
	switch opcode {
	case wireOACK:
		if w.sent > 0 || w.confirmed && !w.handling {
			wrong("DATA is under way")
		}
		if w.oack {
			w.repeats++
		}
		w.oack = true
		for name, value := range parseOACK(data) {
			switch name {
			case "blksize":
				w.blockSize, _ = strconv.Atoi(value)
			case "windowsize":
				w.windowSize, _ = strconv.Atoi(value)
			}
		}
	case wireDATA:
		block := w.ackedBefore + int(binary.BigEndian.Uint16(data[2:])-uint16(w.ackedBefore))
		switch {
		case w.skipped(binary.BigEndian.Uint16(data[2:])):
			w.repeats, w.blocks = w.repeats+1, w.blocks+1
			return
		case block == w.ackedBefore || block > w.acked+newFlight(w.windowSize, l.ahead).ceiling:
			wrong("further ahead than may be")
			return
		case w.oack && !w.confirmed:
			wrong("the OACK was not acknowledged")
		case block > w.last():
			wrong("beyond the end")
			return
		case block > w.sent+1:
			wrong("block %d was left out", w.sent+1)
		}
		want := w.content[(block-1)*w.blockSize : min(block*w.blockSize, len(w.content))]
		if !bytes.Equal(data[4:], want) {
			wrong("not block %d, which has %d bytes", block, len(want))
		}
		w.blocks++
		if block <= w.sent {
			w.repeats++
			if w.handling && w.duplicateAcks && !w.skipped(uint16(w.acked)) && block == w.acked+1 {
				if !w.showsLoss() {
					wrong("repeated for a duplicate ACK")
				} else if now := time.Now(); now.Sub(w.repaired) < l.roundTrip() {
					wrong("repeated for duplicate ACKs twice in a round trip")
				} else {
					w.repaired = now
				}
			}
		}
		w.sent = max(w.sent, block)
	default:
		wrong("no opcode of a server")
	}
	w.answered = true
}

// showsLoss reports whether duplicate ACKs may draw a repeat: there are two, and later blocks that
// caused them. One alone, or those of a network that doubles them while nothing else is under way,
// would have each repeat make another ACK, and that another repeat (the Sorcerer's Apprentice).
func (w *watch) showsLoss() bool { return w.duplicates >= 2 && w.sent > w.acked+1 }

// parseOACK returns the options of an OACK.
func parseOACK(data []byte) map[string]string {
	options := map[string]string{}
	fields := bytes.Split(data[2:], []byte{0})
	for i := 0; i+1 < len(fields); i += 2 {
		options[string(fields[i])] = string(fields[i+1])
	}
	return options
}

// rig is a server that serves the link's files, and what became of its transfers.
type rig struct {
	*link
	server   *Server
	observer *testObserver
	served   chan error
	stopped  bool

	resultsMu sync.Mutex
	results   []result
}

// result is what the server says of one transfer.
type result struct {
	client endpoint
	name   string
	err    error
	stats  Stats
	watch  *watch
}

// testObserver counts what it is told.
type testObserver struct {
	mu       sync.Mutex
	refused  map[Refusal]int
	whole    uint64 // transfers
	panicked []string
}

func (o *testObserver) Refused(client netip.AddrPort, name string, why Refusal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused == nil {
		o.refused = map[Refusal]int{}
	}
	o.refused[why]++
}

func (o *testObserver) Ended(err error, _ int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.whole++
	}
}

func (o *testObserver) Panicked(value any, stack []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.panicked = append(o.panicked, fmt.Sprintf("%v\n%s", value, stack))
}

func (o *testObserver) refusals(why Refusal) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refused[why]
}

func (o *testObserver) panics() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.panicked
}

// generous are limits that no test of transfers meets.
var generous = Config{MaxBlockSize: MaxBlockSize, MaxWindowSize: MaxWindowSize, MaxTransfers: 100_000, Rate: MaxRate}

// newRig returns a rig without its server, for use inside a bubble.
func newRig(t *testing.T, files map[string][]byte, seed uint64) *rig {
	return &rig{link: newLink(t, files, seed), observer: new(testObserver), served: make(chan error, 1)}
}

// serve starts the server; without another Observer it has the rig's.
func (n *rig) serve(cfg Config, h Handler, sockets ...socket) {
	if cfg.Observer == nil {
		cfg.Observer = n.observer
	}
	n.server = newServer(sockets, cfg)
	go func() { n.served <- n.server.Serve(h) }()
}

// inRig runs test in a bubble with a server on a perfect link. Afterwards nothing of the server may
// be left, and no panic of its engine may have been contained.
func inRig(t *testing.T, files map[string][]byte, cfg Config, seed uint64, test func(t *testing.T, n *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newRig(t, files, seed)
		if cfg.Ahead > 0 {
			n.ahead = cfg.Ahead
		}
		n.serve(cfg, n.handle, n.link)
		defer n.stop(10 * time.Minute) // after a Fatal too, or else the bubble never ends
		test(t, n)
		n.stop(10 * time.Minute)
		if panics := n.observer.panics(); len(panics) != 0 {
			t.Errorf("%d panics of the engine, the first: %s", len(panics), panics[0])
		}
	})
}

// stop shuts the server down, which may take as long as running transfers are given.
func (n *rig) stop(grace time.Duration) {
	n.t.Helper()
	if n.stopped {
		return
	}
	n.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	n.server.Shutdown(ctx)
	if err := <-n.served; err != nil {
		n.t.Errorf("Serve: %v", err)
	}
	n.link.close()
	n.carrying.Wait()
	synctest.Wait() // handlers return
	checkNothingLeft(n.t, n.server)
	n.checkCounts()
	if len(n.queued) != 0 {
		n.t.Errorf("%d datagrams were never flushed", len(n.queued))
	}
}

// checkCounts compares what a stopped server counted with what was seen on the link.
func (n *rig) checkCounts() {
	n.t.Helper()
	c := n.server.Counts()
	if c.Data != n.data || c.DataBytes != n.dataBytes {
		n.t.Errorf("%d DATA with %d bytes left, %d with %d are counted", n.data, n.dataBytes, c.Data, c.DataBytes)
	}
	n.observer.mu.Lock()
	defer n.observer.mu.Unlock()
	if whole := sum(&c.Duration); whole != n.observer.whole {
		n.t.Errorf("%d files are whole, %d are counted", n.observer.whole, whole)
	}
	if flights, trips := sum(&c.Flight), sum(&c.RoundTrip); flights < trips {
		n.t.Errorf("%d flights and %d round trips are counted", flights, trips)
	}
	n.resultsMu.Lock()
	defer n.resultsMu.Unlock()
	whole, retransmits := uint64(0), 0
	for _, r := range n.results {
		retransmits += r.stats.Retransmits
		if r.err == nil {
			whole++
		}
	}
	// Retransmits are of OACKs, too.
	if len(n.results) > 0 && (whole != n.observer.whole || c.Retransmitted > uint64(retransmits)) {
		n.t.Errorf("%d files are whole, with %d retransmits; %d with %d are counted", whole, retransmits, n.observer.whole, c.Retransmitted)
	}
}

// sum returns how many values a histogram has.
func sum(h *Histogram) (n uint64) {
	for _, count := range h.Counts {
		n += count
	}
	return n
}

// checkNothingLeft fails the test if a stopped server still knows of a transfer.
func checkNothingLeft(t testing.TB, server *Server) {
	t.Helper()
	if active, ahead := server.Active(), server.ahead.Load(); active != 0 || ahead != 0 {
		t.Errorf("%d transfers and %d bytes of flights are left", active, ahead)
	}
	for _, s := range server.shards {
		s.mu.Lock()
		if s.confirmed != 0 || s.segmentBytes != 0 {
			t.Errorf("%d confirmed transfers and %d bytes of segments are left", s.confirmed, s.segmentBytes)
		}
		if len(s.clients) != 0 || len(s.timers) != 0 || s.unconfirmed.first != nil || len(s.engine.byID) != 0 || s.engine.queue != nil {
			t.Errorf("%d clients, %d timers, %d transfers of the engine are left", len(s.clients), len(s.timers), len(s.engine.byID))
		}
		s.mu.Unlock()
	}
	checkIdle(t, server.admission)
}

// testFile is a file in memory.
type testFile struct {
	*bytes.Reader
	ended func(error) // may be nil
}

func (f testFile) Ended(err error) {
	if f.ended != nil {
		f.ended(err)
	}
}

func fileOf(content []byte) (File, error) { return testFile{Reader: bytes.NewReader(content)}, nil }

// handle is the Handler of the tests.
func (n *rig) handle(t *Transfer) (File, error) {
	content, ok := n.files[t.Name()]
	if !ok {
		n.noteBegin(t, nil)
		return nil, ErrNotFound
	}
	carried := content
	if t.Mode() == NetASCII {
		carried = toNetASCII(content)
	}
	e := endpointAt(t.Client())
	w := n.noteBegin(t, carried)
	return testFile{bytes.NewReader(content), func(err error) {
		n.noteEnd(w)
		stats := t.Stats()
		n.resultsMu.Lock()
		defer n.resultsMu.Unlock()
		n.results = append(n.results, result{e, t.Name(), err, stats, w})
	}}, nil
}

// ended returns what became of the transfers of e so far.
func (n *rig) ended(e endpoint) []result {
	n.resultsMu.Lock()
	defer n.resultsMu.Unlock()
	var of []result
	for _, r := range n.results {
		if r.client == e {
			of = append(of, r)
		}
	}
	return of
}

func endpointAt(a netip.AddrPort) endpoint {
	return endpoint{ip: a.Addr().As16(), port: a.Port()}
}

func toNetASCII(content []byte) []byte {
	content = bytes.ReplaceAll(content, []byte("\r"), []byte("\r\x00"))
	return bytes.ReplaceAll(content, []byte("\n"), []byte("\r\n"))
}

// content returns n bytes that are the same in every run and in no two blocks.
func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{68, byte(n), byte(n >> 8)}).Read(b)
	return b
}

// requestOf returns an RRQ.
func requestOf(name, mode string, options ...string) []byte {
	request := []byte("\x00\x01" + name + "\x00" + mode + "\x00")
	for _, option := range options {
		request = append(append(request, option...), 0)
	}
	return request
}

func ackOf(block int) []byte {
	return binary.BigEndian.AppendUint16([]byte{0, wireACK}, uint16(block))
}

func errorOf(code uint16, message string) []byte {
	return append(append(binary.BigEndian.AppendUint16([]byte{0, wireERROR}, code), message...), 0)
}

// expect returns the next datagram that arrives within limit, or nil.
func (c *port) expect(limit time.Duration) []byte {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case data := <-c.arrived:
		return data
	case <-timer.C:
		return nil
	}
}
