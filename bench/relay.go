package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// link is the path that a relay imitates. It is the same in both directions.
type link struct {
	roundTrip time.Duration
	loss      float64       // part of the datagrams that is lost
	rate      int           // bits a second, IP and UDP headers included; 0 is no limit
	queue     time.Duration // wait at which a datagram is dropped; 0 is no limit
}

// relay is a link in user space between clients and one server. It has a single port for the
// clients and a socket per client for the server, so that servers that answer from another port
// work as well.
type relay struct {
	link
	server unix.RawSockaddrInet4
	seed   uint64

	in       *inbox
	out      *outbox
	listen   int
	addr     netip.AddrPort
	epoll    int
	timer    int
	next     int64 // when the timer expires, ns of the wall clock; 0 is never
	stop     int
	ended    chan struct{}
	flows    []*flow
	byClient map[netip.AddrPort]*flow
	up, down direction // to the server and to the clients
	free     [][]byte
	traffic  traffic
}

// traffic is what passed a relay. It may be read after close.
type traffic struct {
	data    int           // DATA datagrams that the server sent
	again   int           // those of a block that it had already sent in the same transfer
	dropped int           // datagrams that found a queue full
	cpu     time.Duration // of the relay's thread
	sent    int           // datagrams
	late    time.Duration // the sum of their delays beyond those of the link
}

// flow is one client's way through the relay.
type flow struct {
	fd       int
	client   unix.RawSockaddrInet4
	transfer unix.RawSockaddrInet4 // the server's end; port 0 until it has answered
	answered bool                  // the client acknowledged: its next RRQ begins another flow
	newest   uint16                // block of the newest DATA
	// up and down decide which datagrams are lost. They depend on the seed and the flow alone.
	up, down *rand.Rand
}

// direction is one way through a link.
type direction struct {
	idle   int64 // when the link has sent all that is queued, ns of the wall clock
	queued []delayed
}

// delayed is a datagram under way.
type delayed struct {
	due  int64 // ns of the wall clock
	flow *flow
	data []byte
}

// pass returns when a datagram of size bytes that enters l at arrived leaves it, both in ns of the
// wall clock. It returns false if the queue is full.
func (d *direction) pass(l *link, arrived int64, size int) (int64, bool) {
	if l.rate == 0 {
		return arrived + int64(l.roundTrip/2), true
	}
	begin := max(arrived, d.idle)
	if l.queue > 0 && begin-arrived > int64(l.queue) {
		return 0, false
	}
	d.idle = begin + int64(l.transmission(size+ipHeaders))
	return d.idle + int64(l.roundTrip/2), true
}

// transmission returns how long l, which has a rate, takes to send so many bytes.
func (l *link) transmission(bytes int) time.Duration {
	return time.Duration(float64(bytes) * 8 / float64(l.rate) * float64(time.Second))
}

const relayBatch = 32 // datagrams that one call receives

// relayNice is the nice value of the relay's thread, if this process may set it: a link that waits
// for a CPU would be slower than its rate.
const relayNice = -10

// Tags of the relay's own descriptors in epoll; the tag of a flow is its index.
const (
	onListen = -1
	onTimer  = -2
	onStop   = -3
)

// newRelay starts a relay to server.
func newRelay(server netip.AddrPort, l link, seed uint64) (*relay, error) {
	r := &relay{
		link: l, server: rawAddr(server), seed: seed,
		in: newInbox(relayBatch, 1<<16), out: newOutbox(relayBatch * segmentsMost),
		ended: make(chan struct{}), byClient: map[netip.AddrPort]*flow{},
	}
	var err error
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if r.timer, err = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, err
	}
	if r.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	if r.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, err
	}
	growBuffer(r.listen, clientBuffer)
	passBy(r.listen)
	unix.SetsockoptInt(r.listen, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	if err := unix.Bind(r.listen, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	name, err := unix.Getsockname(r.listen)
	if err != nil {
		return nil, err
	}
	bound := name.(*unix.SockaddrInet4)
	r.addr = netip.AddrPortFrom(netip.AddrFrom4(bound.Addr), uint16(bound.Port))
	for fd, tag := range map[int]int32{r.listen: onListen, r.timer: onTimer, r.stop: onStop} {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: tag}
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return nil, err
		}
	}
	go r.run()
	return r, nil
}

// close ends the relay; datagrams under way in it are lost.
func (r *relay) close() {
	unix.Write(r.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-r.ended
	for _, f := range r.flows {
		unix.Close(f.fd)
	}
	for _, fd := range []int{r.listen, r.timer, r.stop, r.epoll} {
		unix.Close(fd)
	}
}

func (r *relay) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if was, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid()); err == nil {
		unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), relayNice)
		defer unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 20-was) // getpriority(2)
	}
	defer close(r.ended)
	began := threadCPU()
	defer func() { r.traffic.cpu = threadCPU() - began }()
	events := make([]unix.EpollEvent, relayBatch)
	expired := make([]byte, 8)
	for {
		n, err := unix.EpollWait(r.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for _, event := range events[:max(n, 0)] {
			switch event.Fd {
			case onStop:
				return
			case onTimer:
				unix.Read(r.timer, expired)
				r.next = 0
			case onListen:
				r.fromClients()
			default:
				r.fromServer(r.flows[event.Fd])
			}
		}
		if err := r.forward(); err != nil {
			return
		}
	}
}

// fromClients queues what clients sent.
func (r *relay) fromClients() {
	for n := relayBatch; n == relayBatch; {
		n = r.in.receive(r.listen)
		for i := range n {
			datagram, client := r.in.packet(i), r.in.from[i]
			arrived, _ := r.in.stamp(i)
			request := len(datagram) >= 2 && binary.BigEndian.Uint16(datagram) == opRRQ
			f := r.byClient[addrPort(&client)]
			if f == nil || request && f.answered {
				if f = r.newFlow(client); f == nil {
					continue
				}
			}
			f.answered = f.answered || !request
			if f.up.Float64() >= r.loss {
				r.enqueue(&r.up, f, datagram, arrived)
			}
		}
	}
}

// newFlow returns nil if there is no socket for it; the datagram is then lost.
func (r *relay) newFlow(client unix.RawSockaddrInet4) *flow {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	growBuffer(fd, clientBuffer)
	passBy(fd)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // segments arrive joined, for speed
	index := len(r.flows)
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(index)}
	if unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &event) != nil {
		unix.Close(fd)
		return nil
	}
	f := &flow{
		fd: fd, client: client,
		up:   rand.New(rand.NewPCG(r.seed, uint64(2*index))),
		down: rand.New(rand.NewPCG(r.seed, uint64(2*index+1))),
	}
	r.flows = append(r.flows, f)
	r.byClient[addrPort(&client)] = f
	return f
}

// fromServer queues what the server sent to one client. It drops datagrams from any port but the
// one that answered first, as a client does (RFC 1350 section 4).
func (r *relay) fromServer(f *flow) {
	for n := relayBatch; n == relayBatch; {
		n = r.in.receive(f.fd)
		for i := range n {
			arrived, segment := r.in.stamp(i)
			if f.transfer.Port != 0 && f.transfer.Port != r.in.from[i].Port {
				continue
			}
			joined := r.in.packet(i)
			size := max(len(joined), 1)
			if segment > 0 {
				size = segment
			}
			for datagram := range slices.Chunk(joined, size) {
				r.count(f, datagram)
				if f.down.Float64() >= r.loss && r.enqueue(&r.down, f, datagram, arrived) {
					f.transfer = r.in.from[i]
				}
			}
		}
	}
}

// count tells the blocks that the server sends for the first time from the others.
func (r *relay) count(f *flow, datagram []byte) {
	if len(datagram) < 4 || binary.BigEndian.Uint16(datagram) != opData {
		return
	}
	r.traffic.data++
	block := binary.BigEndian.Uint16(datagram[2:])
	if int16(block-f.newest) <= 0 {
		r.traffic.again++
		return
	}
	f.newest = block
}

// enqueue sends the datagram on its way. It returns false if it drops it because the queue is full.
func (r *relay) enqueue(d *direction, f *flow, datagram []byte, arrived int64) bool {
	due, ok := d.pass(&r.link, arrived, len(datagram))
	if !ok {
		r.traffic.dropped++
		return false
	}
	var data []byte
	if last := len(r.free) - 1; last >= 0 {
		data, r.free = r.free[last], r.free[:last]
	}
	d.queued = append(d.queued, delayed{due, f, append(data[:0], datagram...)})
	return true
}

// forward sends what is due and sets the timer for the next datagram.
func (r *relay) forward() error {
	now := time.Now().UnixNano()
	up, down := r.take(&r.up, now), r.take(&r.down, now)
	for _, d := range up {
		if len(d.data) >= 2 && binary.BigEndian.Uint16(d.data) == opRRQ || d.flow.transfer.Port == 0 {
			sendTo(d.flow.fd, d.data, &r.server)
		} else {
			sendTo(d.flow.fd, d.data, &d.flow.transfer)
		}
		r.free = append(r.free, d.data)
	}
	r.out.send(r.listen, down)
	for _, d := range down {
		r.free = append(r.free, d.data)
	}
	var next int64
	for _, d := range []*direction{&r.up, &r.down} {
		if len(d.queued) > 0 && (next == 0 || d.queued[0].due < next) {
			next = d.queued[0].due
		}
	}
	if next == r.next {
		return nil
	}
	r.next = next
	timer := unix.ItimerSpec{Value: unix.NsecToTimespec(next)}
	return unix.TimerfdSettime(r.timer, unix.TFD_TIMER_ABSTIME, &timer, nil)
}

// take removes the datagrams that are due from d.
func (r *relay) take(d *direction, now int64) []delayed {
	n := 0
	for n < len(d.queued) && d.queued[n].due <= now {
		r.traffic.late += time.Duration(now - d.queued[n].due)
		n++
	}
	r.traffic.sent += n
	due := d.queued[:n]
	d.queued = d.queued[n:]
	return due
}
