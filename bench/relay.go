package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// relay is a link in user space between clients and one server: every datagram arrives half a round
// trip later or not at all. It has a single port for the clients and a socket per client for the
// server, so that servers that answer from another port work as well.
type relay struct {
	server unix.RawSockaddrInet4
	oneWay time.Duration
	loss   float64 // of the datagrams in each direction
	seed   uint64

	listen   int
	addr     netip.AddrPort
	epoll    int
	timer    int
	stop     int
	ended    chan struct{}
	flows    []*flow
	byClient map[netip.AddrPort]*flow
	queue    []delayed // first in, first out: all have the same delay
	free     [][]byte
}

// flow is one client's way through the relay.
type flow struct {
	fd       int
	client   unix.RawSockaddrInet4
	transfer unix.RawSockaddrInet4 // the server's end; port 0 until it has answered
	answered bool                  // the client acknowledged: its next RRQ begins another flow
	// up and down decide which datagrams are lost. They depend on the seed and the flow alone.
	up, down *rand.Rand
}

type delayed struct {
	due      int64 // ns, wall clock
	flow     *flow
	toServer bool
	data     []byte
}

// Tags of the relay's own descriptors in epoll; the tag of a flow is its index.
const (
	onListen = -1
	onTimer  = -2
	onStop   = -3
)

// newRelay starts a relay to server.
func newRelay(server netip.AddrPort, roundTrip time.Duration, loss float64, seed uint64) (*relay, error) {
	r := &relay{
		server: rawAddr(server), oneWay: roundTrip / 2, loss: loss, seed: seed,
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
	defer close(r.ended)
	events := make([]unix.EpollEvent, 256)
	buffer := make([]byte, 1<<16)
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
				unix.Read(r.timer, buffer[:8])
			case onListen:
				r.fromClients(buffer)
			default:
				r.fromServer(r.flows[event.Fd], buffer)
			}
		}
		if err := r.forward(); err != nil {
			return
		}
	}
}

// fromClients queues what clients sent.
func (r *relay) fromClients(buffer []byte) {
	var client unix.RawSockaddrInet4
	for {
		n, arrived, ok := recvStamped(r.listen, buffer, &client)
		if !ok {
			return
		}
		request := n >= 2 && binary.BigEndian.Uint16(buffer) == opRRQ
		f := r.byClient[addrPort(&client)]
		if f == nil || request && f.answered {
			if f = r.newFlow(client); f == nil {
				continue
			}
		}
		f.answered = f.answered || !request
		if f.up.Float64() >= r.loss {
			r.enqueue(f, true, buffer[:n], arrived)
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
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
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
func (r *relay) fromServer(f *flow, buffer []byte) {
	var from unix.RawSockaddrInet4
	for {
		n, arrived, ok := recvStamped(f.fd, buffer, &from)
		if !ok {
			return
		}
		if f.transfer.Port != 0 && f.transfer.Port != from.Port || f.down.Float64() < r.loss {
			continue
		}
		f.transfer = from
		r.enqueue(f, false, buffer[:n], arrived)
	}
}

func (r *relay) enqueue(f *flow, toServer bool, datagram []byte, arrived int64) {
	var data []byte
	if last := len(r.free) - 1; last >= 0 {
		data, r.free = r.free[last], r.free[:last]
	}
	r.queue = append(r.queue, delayed{arrived + int64(r.oneWay), f, toServer, append(data[:0], datagram...)})
}

// forward sends what is due and sets the timer for the next.
func (r *relay) forward() error {
	sent := 0
	for _, d := range r.queue {
		if d.due > time.Now().UnixNano() {
			break
		}
		switch {
		case !d.toServer:
			sendTo(r.listen, d.data, &d.flow.client)
		case len(d.data) >= 2 && binary.BigEndian.Uint16(d.data) == opRRQ || d.flow.transfer.Port == 0:
			sendTo(d.flow.fd, d.data, &r.server)
		default:
			sendTo(d.flow.fd, d.data, &d.flow.transfer)
		}
		r.free = append(r.free, d.data)
		sent++
	}
	if r.queue = r.queue[sent:]; len(r.queue) == 0 {
		return nil
	}
	next := unix.ItimerSpec{Value: unix.NsecToTimespec(r.queue[0].due)}
	return unix.TimerfdSettime(r.timer, unix.TFD_TIMER_ABSTIME, &next, nil)
}
