package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	manyRate   = 5000 // forged requests a second, each from a different source
	oneRate    = 3000 // forged requests a second in the name of one victim
	harassRate = 3000 // datagrams a second from hostile clients

	hostileClients = 64  // addresses, each in a network of its own
	halfOpen       = 500 // confirmed transfers that are then left alone

	hoarded      = 2500                              // transfers that one address begins
	ownFiles     = goodLockStep + goodWindowed + 100 // descriptors this process needs for the rest
	hoardAsked   = 100                               // its requests that may wait for an answer
	hoardTime    = 2 * time.Second                   // the least it takes to begin them all
	hoardTrickle = 700 * time.Millisecond            // between its ACKs
)

// Sources of the attacks. Loopback drops what is sent to those that are no address of this machine.
var (
	victimNetwork = [2]byte{198, 18} // the one victim, RFC 2544
	manyNetwork   = byte(10)         // thousands of sources, RFC 1918
	hostile       = [2]byte{127, 200}
	hoarder       = [4]byte{127, 201, 0, 1}
)

// forgery counts what was sent in the names of others and what they received.
type forgery struct {
	requests    atomic.Int64
	sent, drawn atomic.Int64 // bytes on the wire
	busy        atomic.Int64 // nanoseconds that the floods lasted
	floods      int64        // one after another
}

func (f *forgery) factor() float64 { return float64(f.drawn.Load()) / float64(f.sent.Load()) }

// Indices of soak.forged.
const (
	forgedMany = iota
	forgedOne
)

// The default limits of admission.go in package singleport.
const (
	victimRefill    = 4096            // bytes a second that one victim receives
	victimBurst     = 32768           // bytes that it receives at once
	unconfirmedTime = 7 * time.Second // from a request to the end of its transfer
)

// forgedRequests returns the requests of a forger: those of firmware, a plain one, which draws the
// most bytes, and some that are refused.
func forgedRequests() [][]byte {
	file := fileName(goodSize)
	request := func(text string) []byte { return append([]byte{0, opRRQ}, text...) }
	firmware := request(file + "\x00octet\x00blksize\x001432\x00tsize\x000\x00")
	plain := request(file + "\x00octet\x00")
	return [][]byte{
		firmware, firmware, firmware,
		request(file + "\x00octet\x00tsize\x000\x00blksize\x001468\x00windowsize\x004\x00"),
		plain, plain,
		request("absent.efi\x00octet\x00"), request(file + "\x00mail\x00"),
		request("../" + file + "\x00octet\x00"),
		append([]byte{0, 2}, file+"\x00octet\x00"...),
	}
}

// pace calls step perSecond times a second until ctx is done.
func pace(ctx context.Context, perSecond int, step func()) {
	began := time.Now()
	for done := 0; ctx.Err() == nil; {
		due := int(time.Since(began).Seconds() * float64(perSecond))
		for ; done < due; done++ {
			step()
		}
		time.Sleep(time.Millisecond)
	}
}

// forge sends requests in the names of the addresses that from returns.
func (s *soak) forge(ctx context.Context, r *result, f *forgery, perSecond int,
	from func(*rand.Rand) [4]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	defer unix.Close(fd)
	random := rand.New(rand.NewPCG(s.seed, uint64(perSecond)))
	requests := forgedRequests()
	server := rawAddr(s.server.addr)
	packet := make([]byte, 0, 1500)
	began := time.Now()
	var sent int64
	pace(ctx, perSecond, func() {
		request := requests[random.IntN(len(requests))]
		size := ipHeaders + len(request)
		// The kernel fills in length, id and checksum.
		packet = append(packet[:0], 0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
		source := from(random)
		packet = append(packet, source[:]...)
		packet = append(packet, server.Addr[:]...)
		packet = binary.BigEndian.AppendUint16(packet, uint16(1024+random.IntN(60000)))
		packet = binary.BigEndian.AppendUint16(packet, s.server.addr.Port())
		packet = binary.BigEndian.AppendUint16(packet, uint16(size-20))
		packet = append(packet, 0, 0)
		packet = append(packet, request...)
		sendTo(fd, packet, &server)
		f.requests.Add(1)
		f.sent.Add(int64(size))
		sent++
	})
	f.busy.Add(int64(time.Since(began)))
	f.floods++
	atomic.AddInt64(&r.sent, sent)
	return nil
}

const ipHeaders = 20 + 8 // bytes, IPv4 and UDP

func (s *soak) forgeMany(ctx context.Context, r *result) error {
	return s.forge(ctx, r, &s.forged[forgedMany], manyRate, func(random *rand.Rand) (source [4]byte) {
		binary.BigEndian.PutUint32(source[:], random.Uint32())
		source[0] = manyNetwork
		return source
	})
}

func (s *soak) forgeOne(ctx context.Context, r *result) error {
	return s.forge(ctx, r, &s.forged[forgedOne], oneRate, func(*rand.Rand) [4]byte {
		return [4]byte{victimNetwork[0], victimNetwork[1], 0, 7}
	})
}

// everything runs all attacks at the same time.
func (s *soak) everything(ctx context.Context, r *result) error {
	attacks := []func(context.Context, *result) error{s.forgeMany, s.forgeOne, s.harass}
	errs := make([]error, len(attacks))
	var running sync.WaitGroup
	for i, attack := range attacks {
		running.Go(func() { errs[i] = attack(ctx, r) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// tap counts what the victims of the forged requests receive.
type tap struct {
	stop  atomic.Bool
	ended chan struct{}
}

// listenVictims makes loopback the way to every address, so that the datagrams to the victims are
// sent and then dropped without an answer, as by a victim. They are counted in forged until close.
func listenVictims(forged *[2]forgery) (*tap, error) {
	if err := routeToLoopback(); err != nil {
		return nil, fmt.Errorf("default route of the new network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_IP)))
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	growBuffer(fd, 16<<20)
	// The first byte of the destination tells a victim; the good clients' datagrams cost nothing.
	accept := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(manyNetwork), Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(victimNetwork[0]), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 64},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(accept)), Filter: &accept[0]}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	t := &tap{ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		defer unix.Close(fd)
		header := make([]byte, 64)
		for !t.stop.Load() {
			if n, err := unix.Read(fd, header); err != nil || n < 20 {
				continue
			}
			victim := forgedMany
			if header[16] == victimNetwork[0] {
				victim = forgedOne
			}
			forged[victim].drawn.Add(int64(binary.BigEndian.Uint16(header[2:])))
		}
	}()
	return t, nil
}

func (t *tap) close() {
	t.stop.Store(true)
	<-t.ended
}

func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

// routeToLoopback adds a default route through loopback: rtnetlink(7), RTM_NEWROUTE.
func routeToLoopback() error {
	const loopback = 1 // index of the first interface of a network namespace
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	order := binary.NativeEndian
	m := order.AppendUint32(nil, size)
	m = order.AppendUint16(m, unix.RTM_NEWROUTE)
	m = order.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	m = order.AppendUint64(m, 0)         // number and sender
	m = append(m, unix.AF_INET, 0, 0, 0, // no prefix
		unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0)
	m = order.AppendUint16(m, unix.SizeofRtAttr+4)
	m = order.AppendUint16(m, unix.RTA_OIF)
	m = order.AppendUint32(m, loopback)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || order.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: an answer of unknown form")
	}
	if code := int32(order.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// amplification compares what one victim received with what was sent in its name.
func (s *soak) amplification() {
	one := &s.forged[forgedOne]
	s.promise(one.factor() <= 1, "bytes that one victim receives, to bytes forged", "≤ 1", "%.2f", one.factor())
	// Before each flood the bucket may be full again, and the server repeats its first datagrams
	// until it gives the transfers up.
	busy := time.Duration(one.busy.Load()) + time.Duration(one.floods)*unconfirmedTime
	most := one.floods*victimBurst + int64(busy.Seconds()*victimRefill)
	s.promise(one.drawn.Load() <= most, "bytes that one victim receives", fmt.Sprintf("≤ %d", most),
		"%d in %d floods of %.1f s in all", one.drawn.Load(), one.floods,
		time.Duration(one.busy.Load()).Seconds())
}

// stranger is a hostile client with a port of its own.
type stranger struct {
	fd   int
	last uint16 // block that it received most recently
}

func openStranger(source [4]byte) (*stranger, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: source}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &stranger{fd: fd}, nil
}

// drain reads the datagrams that have arrived. It returns the opcode of the last one, 0 if there
// was none, and the code of an ERROR.
func (h *stranger) drain(buffer []byte) (op, code uint16) {
	var from unix.RawSockaddrInet4
	for {
		n, ok := recvFrom(h.fd, buffer, &from)
		if !ok {
			return op, code
		}
		if n < 4 {
			continue
		}
		op, code = binary.BigEndian.Uint16(buffer), binary.BigEndian.Uint16(buffer[2:])
		switch op {
		case opData:
			h.last = code
		case opOACK:
			h.last = 0
		}
	}
}

func ackOf(block uint16) []byte { return []byte{0, opAck, byte(block >> 8), byte(block)} }

// giveUp ends the transfer with an ERROR.
func (h *stranger) giveUp(server *unix.RawSockaddrInet4) {
	sendTo(h.fd, []byte{0, opError, 0, 0, 0}, server)
}

// closeAll ends the transfers of the strangers and closes their sockets.
func closeAll(strangers []*stranger, server *unix.RawSockaddrInet4) {
	for _, h := range strangers {
		h.giveUp(server)
		unix.Close(h.fd)
	}
}

// harassment is the state of harass.
type harassment struct {
	server  unix.RawSockaddrInet4
	random  *rand.Rand
	clients []*stranger
	waiting []*stranger // each with a transfer that it confirmed and left alone
	plain   []byte      // a request without options
	odd     [][]byte    // requests and other datagrams that a parser may trip over
	noise   []byte
	buffer  []byte
	sent    int64
}

// harass sends what no client should: noise, replays, requests that a parser trips over, transfers
// begun and left alone, all from ports that the server already knows.
func (s *soak) harass(ctx context.Context, r *result) error {
	a := &harassment{
		server: rawAddr(s.server.addr),
		random: rand.New(rand.NewPCG(s.seed, 2)),
		plain:  append([]byte{0, opRRQ}, fileName(goodSize)+"\x00octet\x00"...),
		odd:    oddDatagrams(),
		noise:  make([]byte, 65000),
		buffer: make([]byte, 2048),
	}
	// The phases that follow need the transfers that these clients hold.
	defer func() {
		closeAll(a.clients, &a.server)
		closeAll(a.waiting, &a.server)
		atomic.AddInt64(&r.sent, a.sent)
	}()
	for i := range hostileClients {
		h, err := openStranger([4]byte{hostile[0], hostile[1], byte(i), 1})
		if err != nil {
			return err
		}
		a.clients = append(a.clients, h)
	}
	var trouble error
	pace(ctx, harassRate, func() {
		if err := a.step(); err != nil {
			trouble = err
		}
	})
	return trouble
}

// oddDatagrams returns requests with odd options, names and modes, and datagrams of no known form.
func oddDatagrams() [][]byte {
	file := fileName(goodSize)
	digits := strings.Repeat("9", 600)
	request := func(text string) []byte { return append([]byte{0, opRRQ}, text...) }
	return [][]byte{
		request(file + "\x00octet\x00tsize\x00" + digits + "\x00"),
		request(file + "\x00octet\x00blksize\x00" + digits + "\x00"),
		request(file + "\x00OCTET\x00blksize\x00512\x00BLKSIZE\x001024\x00windowsize\x00"),
		request(file + "\x00octet"),
		request(strings.Repeat("A", 4000) + "\x00octet\x00"),
		request(strings.Repeat("a/", 200) + "\x00octet\x00"),
		request(file + "\x00mail\x00"),
		append([]byte{0, 2}, "written.efi\x00octet\x00"...),
		{0, opRRQ}, {0, opRRQ, 0}, {}, {0}, {0, opOACK}, {0, 99, 1, 2}, {0, opError},
	}
}

// send sends the datagrams from h.
func (a *harassment) send(h *stranger, datagrams ...[]byte) {
	for _, d := range datagrams {
		sendTo(h.fd, d, &a.server)
		a.sent++
	}
}

// step lets one client, chosen at random, misbehave once.
func (a *harassment) step() error {
	h := a.clients[a.random.IntN(len(a.clients))]
	h.drain(a.buffer)
	switch a.random.IntN(10) {
	case 0:
		a.send(h, a.garbage())
	case 1: // the next request of this port, whatever became of its last one
		a.send(h, rrq(fileName(goodSize), 512+a.random.IntN(957), 1+a.random.IntN(8)))
	case 2: // one request three times
		a.send(h, a.plain, a.plain, a.plain)
	case 3, 4: // a good ACK, so that transfers go on
		a.send(h, ackOf(h.last))
	case 5: // replays, also at the end of transfers
		again := ackOf(h.last)
		a.send(h, again, again, ackOf(h.last-1), ackOf(uint16(a.random.Uint32())), ackOf(46), ackOf(46))
	case 6:
		a.send(h, []byte{0, opError, 0, 0, 'x', 0}, []byte{0, opError, 0, 0, 0}, ackOf(h.last))
	case 7:
		a.send(h, a.odd[a.random.IntN(len(a.odd))])
	case 8: // over 516 bytes, in the middle of a transfer
		a.send(h, append(ackOf(h.last), a.noise[:600]...), append([]byte{0, opData, 0, 1}, a.noise[:512]...))
	case 9:
		return a.leaveAlone()
	}
	return nil
}

// garbage returns a datagram of noise, now and then one as long as a datagram can be.
func (a *harassment) garbage() []byte {
	size := a.random.IntN(1500)
	if a.random.IntN(100) == 0 {
		size = len(a.noise)
	}
	for i := range min(size, 64) {
		a.noise[i] = byte(a.random.Uint32())
	}
	a.noise[0] = 0 // no opcode begins with another byte: this one passes the first check
	return a.noise[:size]
}

// leaveAlone begins and confirms a transfer from a new port, which is silent from then on.
func (a *harassment) leaveAlone() error {
	n := len(a.waiting)
	if n == halfOpen {
		return nil
	}
	h, err := openStranger([4]byte{hostile[0], hostile[1], byte(n % hostileClients), byte(2 + n/hostileClients)})
	if err != nil {
		return err
	}
	a.waiting = append(a.waiting, h)
	a.send(h, rrq(fileName(goodSize), 1024, 4), ackOf(0))
	return nil
}

// hoard is the state of the address that holds all transfers.
type hoard struct {
	server  unix.RawSockaddrInet4
	request []byte
	all     []*stranger
	held    []bool // by index of all
	count   int    // of those held
	ports   int    // that it may open
	buffer  []byte
	sent    int64
}

// hoard lets one address begin more transfers than the server has and keep them with rare ACKs.
func (s *soak) hoard(ctx context.Context, r *result) error {
	h := &hoard{
		server:  rawAddr(s.server.addr),
		request: rrq(fileName(goodSize), 512, 1),
		ports:   hoarded,
		buffer:  make([]byte, 2048),
	}
	defer func() {
		for _, port := range h.all { // twice, in case one ERROR is lost
			port.giveUp(&h.server)
		}
		closeAll(h.all, &h.server)
		r.sent += h.sent
	}()
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur < hoarded+ownFiles {
		h.ports = int(limit.Cur) - ownFiles
		s.leaveOut("The limit of open files (%d) lets one address begin %d transfers only.", limit.Cur, h.ports)
	}
	most := 0
	for trickled := time.Now(); ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		if err := h.ask(); err != nil {
			return err
		}
		trickle := time.Since(trickled) > hoardTrickle
		if trickle {
			trickled = time.Now()
		}
		h.hold(trickle)
		most = max(most, h.count)
	}
	s.notes = append(s.notes, fmt.Sprintf("One address held about %d transfers at a time.", most))
	return nil
}

// ask begins transfers from new ports. Few may wait for an answer at a time: the address would
// exceed its rate or its number of unconfirmed transfers.
func (h *hoard) ask() error {
	for len(h.all) < min(h.count+hoardAsked, h.ports) {
		port, err := openStranger(hoarder)
		if err != nil {
			return err
		}
		h.all, h.held = append(h.all, port), append(h.held, false)
		h.send(port, h.request)
	}
	return nil
}

// hold confirms the transfers that have begun and counts those held. If trickle is set it also
// keeps the others alive and asks again for those that are lost.
func (h *hoard) hold(trickle bool) {
	h.count = 0
	for i, port := range h.all {
		if !h.held[i] || trickle {
			switch op, _ := port.drain(h.buffer); {
			case op == opOACK, op == opData:
				h.held[i] = true
				h.send(port, ackOf(port.last))
			case trickle: // every ACK is answered at once, so this one was refused or given up
				h.held[i] = false
				h.send(port, h.request)
			}
		}
		if h.held[i] {
			h.count++
		}
	}
}

func (h *hoard) send(port *stranger, datagram []byte) {
	sendTo(port.fd, datagram, &h.server)
	h.sent++
}
