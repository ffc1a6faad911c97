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
	manyRate   = 5000 // forged requests a second, each from a source of its own
	oneRate    = 3000 // forged requests a second in the name of one victim
	harassRate = 3000 // datagrams a second of hostile peers

	hostilePeers = 64                                // addresses, each in a /24 of its own
	halfOpen     = 500                               // transfers that were begun and left alone
	hoarded      = 2500                              // transfers that one address begins: more than the server has
	ownFiles     = goodLockStep + goodWindowed + 100 // files that this process needs beside
	hoardAsked   = 100                               // requests of it without an answer
	hoardTime    = 2 * time.Second                   // at least, to begin them
	hoardTrickle = 700 * time.Millisecond
)

// Where the datagrams of attacks come from, on a loopback interface that keeps to itself what has no address here.
var (
	victimNetwork = [2]byte{198, 18} // the one victim, RFC 2544
	manyNetwork   = byte(10)         // thousands of sources, RFC 1918
	hostile       = [2]byte{127, 200}
	hoarder       = [4]byte{127, 201, 0, 1}
)

// forgery is what was sent in the names of others, and what they received.
type forgery struct {
	requests, sent, drawn atomic.Int64 // bytes are those on the wire
	busy                  atomic.Int64 // nanoseconds that the floods lasted
	floods                int64        // one after another
}

func (f *forgery) factor() float64 { return float64(f.drawn.Load()) / float64(f.sent.Load()) }

// Indices of soak.forged.
const (
	forgedMany = iota
	forgedOne
)

// Bytes a second and once that one victim receives at the default rate: admission.go of package singleport.
const (
	victimRefill = 4096
	victimBurst  = 32768
	unprovenTime = 7 * time.Second // from a request to the end of its transfer
)

// requests that a forger sends: firmware's, a plain one's, which draws the most, and those that are refused.
func forgedRequests() [][]byte {
	file := fileName(goodSize)
	request := func(text string) []byte { return append([]byte{0, opRRQ}, text...) }
	firmware := request(file + "\x00octet\x00blksize\x001432\x00tsize\x000\x00")
	plain := request(file + "\x00octet\x00")
	return [][]byte{
		firmware, firmware, firmware, request(file + "\x00octet\x00tsize\x000\x00blksize\x001468\x00windowsize\x004\x00"),
		plain, plain, request("absent.efi\x00octet\x00"), request(file + "\x00mail\x00"), request("../" + file + "\x00octet\x00"),
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

// forge sends requests in the names that from returns.
func (s *soak) forge(ctx context.Context, r *result, f *forgery, perSecond int, from func(*rand.Rand) [4]byte) error {
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
		packet = append(packet[:0], 0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0) // the kernel fills in length, id and checksum
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

// everything lets all attackers loose.
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

// tap counts what the victims of forgeries receive.
type tap struct {
	stop  atomic.Bool
	ended chan struct{}
}

// listenVictims makes the loopback interface the way to everywhere: what has no address here is sent, and then dropped without
// an answer, as a victim does. It counts into forged until close.
func listenVictims(forged *[2]forgery) (*tap, error) {
	if err := routeToLoopback(); err != nil {
		return nil, fmt.Errorf("default route of the new network namespace: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_IP)))
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	growBuffer(fd, 16<<20)
	// Only the victims' datagrams, so that those of the good clients cost nothing: by the first byte of the destination.
	accept := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(manyNetwork), Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(victimNetwork[0]), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 64},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(accept)), Filter: &accept[0]}),
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

// routeToLoopback adds a default route: rtnetlink(7), RTM_NEWROUTE.
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
	m = order.AppendUint64(m, 0) // number and sender
	m = append(m, unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0)
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
		return errors.New("netlink mumbles")
	}
	if code := int32(order.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// amplification holds what the victims received against what was sent in their names.
func (s *soak) amplification() {
	one := &s.forged[forgedOne]
	s.promise(one.factor() <= 1, "bytes that one victim receives, to bytes forged", "≤ 1", "%.2f", one.factor())
	// Before each flood the bucket may be full again, and what a flood began is repeated until it is given up.
	busy := time.Duration(one.busy.Load()) + time.Duration(one.floods)*unprovenTime
	most := one.floods*victimBurst + int64(busy.Seconds()*victimRefill)
	s.promise(one.drawn.Load() <= most, "bytes that one victim receives", fmt.Sprintf("≤ %d", most), "%d in %d floods of %.1f s in all", one.drawn.Load(),
		one.floods, time.Duration(one.busy.Load()).Seconds())
}

// stranger is a hostile peer with a port of its own.
type stranger struct {
	fd   int
	last uint16 // block that it received last
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

// drain reads what has arrived, and returns the opcode of the last datagram and an ERROR's code; 0 of none.
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

// giveUp sends what ends a transfer.
func (h *stranger) giveUp(server *unix.RawSockaddrInet4) {
	sendTo(h.fd, []byte{0, opError, 0, 0, 0}, server)
}

// harass sends what no client should: noise, replays, requests that a parser trips over, transfers begun and left alone, all from ports
// that the server knows already.
func (s *soak) harass(ctx context.Context, r *result) (err error) {
	random := rand.New(rand.NewPCG(s.seed, 2))
	server := rawAddr(s.server.addr)
	var peers, waiting []*stranger
	// What they began they end, for the sake of the phases that follow.
	defer func() {
		for _, h := range append(peers, waiting...) {
			h.giveUp(&server)
			unix.Close(h.fd)
		}
	}()
	for i := range hostilePeers {
		h, err := openStranger([4]byte{hostile[0], hostile[1], byte(i), 1})
		if err != nil {
			return err
		}
		peers = append(peers, h)
	}
	var sent int64
	defer func() { atomic.AddInt64(&r.sent, sent) }()
	send := func(h *stranger, datagrams ...[]byte) {
		for _, d := range datagrams {
			sendTo(h.fd, d, &server)
			sent++
		}
	}
	file := fileName(goodSize)
	plain := append([]byte{0, opRRQ}, file+"\x00octet\x00"...)
	digits := strings.Repeat("9", 600)
	odd := [][]byte{
		append([]byte{0, opRRQ}, file+"\x00octet\x00tsize\x00"+digits+"\x00"...),
		append([]byte{0, opRRQ}, file+"\x00octet\x00blksize\x00"+digits+"\x00"...),
		append([]byte{0, opRRQ}, file+"\x00OCTET\x00blksize\x00512\x00BLKSIZE\x001024\x00windowsize\x00"...),
		append([]byte{0, opRRQ}, file+"\x00octet"...),
		append([]byte{0, opRRQ}, strings.Repeat("A", 4000)+"\x00octet\x00"...),
		append([]byte{0, opRRQ}, strings.Repeat("a/", 200)+"\x00octet\x00"...),
		append([]byte{0, opRRQ}, file+"\x00mail\x00"...),
		append([]byte{0, 2}, "written.efi\x00octet\x00"...),
		{0, opRRQ}, {0, opRRQ, 0}, {}, {0}, {0, opOACK}, {0, 99, 1, 2}, {0, opError},
	}
	noise := make([]byte, 65000)
	buffer := make([]byte, 2048)
	pace(ctx, harassRate, func() {
		h := peers[random.IntN(len(peers))]
		h.drain(buffer)
		switch random.IntN(10) {
		case 0: // noise, now and then as much as one datagram holds
			size := random.IntN(1500)
			if random.IntN(100) == 0 {
				size = len(noise)
			}
			for i := range min(size, 64) {
				noise[i] = byte(random.Uint32())
			}
			noise[0] = 0 // past the first look
			send(h, noise[:size])
		case 1: // the port's next request, whatever became of the last
			send(h, rrq(file, 512+random.IntN(957), 1+random.IntN(8)))
		case 2: // repeats of one request
			send(h, plain, plain, plain)
		case 3, 4: // on with it
			send(h, ackOf(h.last))
		case 5: // replays, at the end of transfers as well
			a := ackOf(h.last)
			send(h, a, a, ackOf(h.last-1), ackOf(uint16(random.Uint32())), ackOf(46), ackOf(46))
		case 6:
			send(h, []byte{0, opError, 0, 0, 'x', 0}, []byte{0, opError, 0, 0, 0}, ackOf(h.last))
		case 7:
			send(h, odd[random.IntN(len(odd))])
		case 8: // over 516 bytes, in the middle of a transfer
			send(h, append(ackOf(h.last), noise[:600]...), append([]byte{0, opData, 0, 1}, noise[:512]...))
		case 9: // proven, and silent from then on
			if len(waiting) == halfOpen {
				return
			}
			n := len(waiting)
			w, failed := openStranger([4]byte{hostile[0], hostile[1], byte(n % hostilePeers), byte(2 + n/hostilePeers)})
			if failed != nil {
				err = failed
				return
			}
			waiting = append(waiting, w)
			send(w, rrq(file, 1024, 4), ackOf(0))
		}
	})
	return err
}

// hoard lets one address begin more transfers than the server has, and keep them with an ACK now and then.
func (s *soak) hoard(ctx context.Context, r *result) error {
	server := rawAddr(s.server.addr)
	var all []*stranger
	defer func() {
		for range 2 { // lest one was lost
			for _, h := range all {
				h.giveUp(&server)
			}
		}
		for _, h := range all {
			unix.Close(h.fd)
		}
	}()
	buffer := make([]byte, 2048)
	request := rrq(fileName(goodSize), 512, 1)
	var held []bool
	most, ports := 0, hoarded
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur < hoarded+ownFiles {
		ports = int(limit.Cur) - ownFiles
		s.leaveOut("The limit of open files (%d) lets one address begin %d transfers only.", limit.Cur, ports)
	}
	send := func(h *stranger, datagram []byte) {
		sendTo(h.fd, datagram, &server)
		r.sent++
	}
	count := 0 // of those held
	for trickled := time.Now(); ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		// Not all at once, lest the address is over its rate or its unproven transfers.
		for len(all) < min(count+hoardAsked, ports) {
			h, err := openStranger(hoarder)
			if err != nil {
				return err
			}
			all, held = append(all, h), append(held, false)
			send(h, request)
		}
		trickle := time.Since(trickled) > hoardTrickle
		if trickle {
			trickled = time.Now()
		}
		count = 0
		for i, h := range all {
			if !held[i] || trickle {
				switch op, _ := h.drain(buffer); {
				case op == opOACK, op == opData:
					held[i] = true
					send(h, ackOf(h.last))
				case trickle: // refused, or the server has given it up: every ACK is answered at once
					held[i] = false
					send(h, request)
				}
			}
			if held[i] {
				count++
			}
		}
		most = max(most, count)
	}
	s.notes = append(s.notes, fmt.Sprintf("One address held about %d transfers at a time.", most))
	return nil
}
