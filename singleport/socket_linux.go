package singleport

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel is spoken to without package net where it matters: many datagrams in a call, a
// window in one datagram that the kernel cuts (UDP_SEGMENT), no allocation. None of the calls
// waits, so Go's scheduler need not know of them; the waiting is left to package net's poller.

const (
	receiveSize = 1024 // bytes kept of a datagram: an RRQ has at most 512 (RFC 2347)
	sendBatch   = 32   // datagrams, or windows, of one sendmmsg
	sendBlocks  = 256  // blocks in them
	sendSize    = 600  // bytes of a datagram that is no DATA

	// segments and segmentBytes bound what UDP_SEGMENT takes: UDP_MAX_SEGMENTS of older kernels,
	// and an IPv4 datagram with some room.
	segments     = 64
	segmentBytes = 65000

	// cutTime is how long a device that cannot cut datagrams is spared them.
	cutTime = time.Minute

	// bufferTime is how long a full device is given to send something.
	bufferTime = 2 * time.Millisecond

	controlSize = 128 // bytes: an address and a segment size
)

// mmsghdr is recvmmsg(2)'s and sendmmsg(2)'s.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// kernelSocket is a bound UDP socket.
type kernelSocket struct {
	conn     *net.UDPConn
	raw      syscall.RawConn
	fd       int
	closed   atomic.Bool
	errored  atomic.Bool // errors of datagrams that were sent wait to be read
	drops    atomic.Int64
	wildcard bool // an answer must say where it leaves from
	v6       bool // of the address family: IPv4 clients are IPv6-mapped
	room     int  // bytes that wait to be sent, at most

	in struct {
		headers  [fullBatch]mmsghdr
		vectors  [fullBatch]unix.Iovec
		names    [fullBatch]unix.RawSockaddrInet6
		control  [fullBatch][controlSize]byte
		data     [fullBatch][receiveSize]byte
		received [fullBatch]received
	}

	cuts     bool         // the kernel knows UDP_SEGMENT
	cutAgain time.Time    // when the device may be asked again to cut
	fullOf   atomic.Int32 // the errno for which flush gave up
	out      struct {
		count   int // of headers
		blocks  int // of numbers
		used    int // of vectors
		headers [sendBatch]mmsghdr
		vectors [2 * sendBlocks]unix.Iovec
		names   [sendBatch]unix.RawSockaddrInet6
		control [sendBatch][controlSize]byte
		numbers [sendBlocks][4]byte // the headers of DATA packets
		data    [sendBatch][sendSize]byte
		owners  [sendBatch]owned
	}
}

// owned is what a message carries of a transfer: blocks, of which the last are fresh.
type owned struct {
	transfer      *Transfer
	blocks, fresh int
}

// openSockets binds count sockets to addr, which share its port.
func openSockets(addr *net.UDPAddr, count int) ([]socket, error) {
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	first, err := newKernelSocket(conn)
	if err != nil {
		return nil, err
	}
	if count == 1 {
		return []socket{first}, nil
	}
	// SO_REUSEPORT would let them join another server of the same user. The first socket shows
	// that there is none, and leaves.
	at, err := unix.Getsockname(first.fd)
	first.close()
	var sockets []socket
	for range count {
		if err != nil {
			break
		}
		var s *kernelSocket
		if conn, err = listenShared(at); err == nil {
			s, err = newKernelSocket(conn)
		}
		if err == nil {
			sockets = append(sockets, s)
		}
	}
	return sockets, err
}

// listenShared binds a socket to at that others may join. net.ListenConfig could do that, but
// brings along package net's resolver, which nothing here needs: 54 kB of the image.
func listenShared(at unix.Sockaddr) (*net.UDPConn, error) {
	family := unix.AF_INET
	v6, isV6 := at.(*unix.SockaddrInet6)
	if isV6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	if isV6 && v6.Addr == [16]byte{} {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, at); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func newKernelSocket(conn *net.UDPConn) (*kernelSocket, error) {
	s := &kernelSocket{conn: conn}
	var err error
	if s.raw, err = conn.SyscallConn(); err == nil {
		raw := s.raw
		raw.Control(func(fd uintptr) { s.fd, err = int(fd), s.prepare(int(fd)) })
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	s.link()
	return s, nil
}

// prepare sets the options of the socket.
func (s *kernelSocket) prepare(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	s.v6 = domain == unix.AF_INET6
	s.wildcard = s.addr().IP.IsUnspecified()
	if s.wildcard {
		// Both on an IPv6 socket: IPv4's says which of our addresses a broadcast came to.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil && !s.v6 {
			return err
		}
		if s.v6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
				return err
			}
		}
	}
	for _, option := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], BufferSize) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], BufferSize)
		}
	}
	if size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err == nil {
		s.room = size / 2 // socket(7): the kernel doubles it
	}
	// Some PXE ROMs discard datagrams that may not be cut, and behind tunnels without ICMP these
	// vanish.
	unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	if s.v6 {
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	_, err = unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	s.cuts = err == nil
	return nil
}

// link points the headers at their parts, once for all.
func (s *kernelSocket) link() {
	for i := range s.in.headers {
		h := &s.in.headers[i].header
		s.in.vectors[i].Base = &s.in.data[i][0]
		s.in.vectors[i].SetLen(receiveSize)
		h.Name = (*byte)(unsafe.Pointer(&s.in.names[i]))
		h.Iov = &s.in.vectors[i]
		h.SetIovlen(1)
		h.Control = &s.in.control[i][0]
	}
	for i := range s.out.headers {
		s.out.headers[i].header.Name = (*byte)(unsafe.Pointer(&s.out.names[i]))
	}
	for i := range s.out.numbers {
		s.out.numbers[i] = [4]byte{0, opDATA}
	}
}

func (s *kernelSocket) addr() *net.UDPAddr { return s.conn.LocalAddr().(*net.UDPAddr) }

// close waits until serve is about to return.
func (s *kernelSocket) close() error {
	s.closed.Store(true)
	return s.conn.Close()
}

func (s *kernelSocket) serve(l listener) error {
	for {
		err := s.read(l)
		switch {
		case s.closed.Load():
			return net.ErrClosed
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
		s.conn.SetReadDeadline(time.Time{})
		l.receive(nil)
	}
}

// read tells l what happens until the socket is woken or closed.
func (s *kernelSocket) read(l listener) error {
	return s.raw.Read(func(fd uintptr) bool {
		for {
			n, failed := s.receive(int(fd))
			if n > 0 {
				l.receive(s.in.received[:n])
			}
			if s.closed.Load() {
				return true
			}
			if failed || s.errored.Swap(false) {
				s.readErrors(l)
				continue
			}
			if n <= 1 {
				// A lone client answers later than now. The poller tells of every arrival, of one
				// since the call, too.
				return false
			}
			runtime.Gosched() // a flood must not keep transfers from their files
		}
	})
}

// wake ends the wait for datagrams by a deadline that is over.
func (s *kernelSocket) wake() { s.conn.SetReadDeadline(time.Unix(1, 0)) }

// receive reads a batch. It reports whether there is an error instead, of a datagram that was
// sent before.
func (s *kernelSocket) receive(fd int) (n int, failed bool) {
	for i := range s.in.headers {
		h := &s.in.headers[i].header
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(controlSize)
	}
	count, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.in.headers[0])), fullBatch,
		unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno != unix.EAGAIN && errno != unix.EINTR
	}
	for i := range int(count) {
		r := &s.in.received[i]
		r.data = s.in.data[i][:s.in.headers[i].length]
		if s.in.headers[i].header.Flags&unix.MSG_TRUNC != 0 && r.data[1] == opRRQ {
			r.data = r.data[:0] // no request that ends is so long
		}
		r.route = route{client: endpointOf(&s.in.names[i])}
		h := &s.in.headers[i].header
		if h.Controllen > 0 && !s.readControl(&r.route, s.in.control[i][:h.Controllen]) {
			r.data = r.data[:0] // RFC 1123 section 4.2.3.5: a broadcast is not answered
		}
	}
	return int(count), false
}

// readErrors tells l which ports are closed, as their hosts say.
func (s *kernelSocket) readErrors(l listener) {
	var name unix.RawSockaddrInet6
	var quoted [64]byte
	var control [controlSize]byte
	vector := unix.Iovec{Base: &quoted[0]}
	vector.SetLen(len(quoted))
	for range fullBatch { // the rest comes with the next error
		h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&name)), Namelen: unix.SizeofSockaddrInet6, Iov: &vector, Control: &control[0]}
		h.SetIovlen(1)
		h.SetControllen(len(control))
		n, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno != 0 {
			return
		}
		if saysUnreachable(control[:h.Controllen]) {
			l.unreachable(endpointOf(&name), quoted[:n])
		}
	}
	s.errored.Store(true)
}

// ICMP's words for a closed port, RFC 792 and RFC 4443 section 3.1.
const (
	icmpUnreachable, icmpPort     = 3, 3
	icmpv6Unreachable, icmpv6Port = 1, 4
)

// saysUnreachable reads struct sock_extended_err (ip(7)) of control messages.
func saysUnreachable(control []byte) bool {
	found := false
	eachControl(control, func(h *unix.Cmsghdr, data []byte) {
		const origin, kind, code = 4, 5, 6 // offsets
		if len(data) <= code || h.Type != unix.IP_RECVERR && h.Type != unix.IPV6_RECVERR {
			return
		}
		switch data[origin] {
		case unix.SO_EE_ORIGIN_ICMP:
			found = data[kind] == icmpUnreachable && data[code] == icmpPort
		case unix.SO_EE_ORIGIN_ICMP6:
			found = data[kind] == icmpv6Unreachable && data[code] == icmpv6Port
		}
	})
	return found
}

// endpointOf reads a socket address of either family.
func endpointOf(name *unix.RawSockaddrInet6) endpoint {
	var e endpoint
	e.port = binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	if name.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		e.ip = mapped(v4.Addr)
		return e
	}
	e.ip, e.zone = name.Addr, name.Scope_id
	return e
}

func isMapped(ip *[16]byte) bool {
	return [12]byte(ip[:12]) == [12]byte{10: 0xff, 11: 0xff}
}

// eachControl calls f with each control message.
func eachControl(control []byte, f func(h *unix.Cmsghdr, data []byte)) {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(control) {
			return
		}
		f(h, control[unix.CmsgLen(0):length])
		control = control[min(unix.CmsgSpace(length-unix.CmsgLen(0)), len(control)):]
	}
}

// readControl reads what the kernel says of a datagram: which address of this machine it was sent
// to, and how many were dropped before it. It reports whether it was sent to that address alone:
// struct in_pktinfo (ip(7)) tells a broadcast's address from that of the machine.
func (s *kernelSocket) readControl(r *route, control []byte) (one bool) {
	found4 := false
	one = true
	eachControl(control, func(h *unix.Cmsghdr, data []byte) {
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			r.local, found4, one = mapped(info.Spec_dst), true, info.Spec_dst == info.Addr
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo && !found4:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			r.local = info.Addr
			switch {
			case info.Addr[0] == 0xff: // multicast, RFC 4291 section 2.7
				one = false
			case info.Addr[0] == 0xfe && info.Addr[1]&0xc0 == 0x80: // link-local, section 2.5.6
				r.link = info.Ifindex
			}
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			// The kernel counts all of them, in 32 bits, and is silent about none.
			s.drops.Add(int64(binary.NativeEndian.Uint32(data) - uint32(s.drops.Load())))
		}
	})
	return one
}

// together returns how many blocks of t one message carries.
func (s *kernelSocket) together(t *Transfer) int {
	if !s.cuts || t.uncut || !s.cutAgain.IsZero() && time.Now().Before(s.cutAgain) {
		return 1
	}
	return max(min(segments, segmentBytes/(4+t.window.blockSize)), 1)
}

func (s *kernelSocket) space(t *Transfer) int {
	messages := sendBatch - s.out.count
	if t == nil {
		return min(messages, len(s.out.vectors)-s.out.used)
	}
	return min(messages*s.together(t), (len(s.out.vectors)-s.out.used)/2, sendBlocks-s.out.blocks)
}

// message begins a message of count datagrams of size bytes and vectors parts, and returns its
// index.
func (s *kernelSocket) message(to *route, count, size, vectors int, of owned) int {
	i := s.out.count
	s.out.count++
	h := &s.out.headers[i].header
	h.Namelen = s.setName(&s.out.names[i], &to.client)
	h.Iov = &s.out.vectors[s.out.used]
	h.SetIovlen(vectors)
	control := s.out.control[i][:0]
	if to.local != ([16]byte{}) {
		control = s.appendLocal(control, to)
	}
	s.out.owners[i] = of
	if count > 1 {
		var data []byte
		control, data = appendControl(control, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(data, uint16(size))
	}
	h.Control = nil
	if len(control) > 0 {
		h.Control = &control[0]
	}
	h.SetControllen(len(control))
	return i
}

// setName writes the address of a client for this socket's family, and returns its size.
func (s *kernelSocket) setName(name *unix.RawSockaddrInet6, client *endpoint) uint32 {
	port := (*[2]byte)(unsafe.Pointer(&name.Port))
	binary.BigEndian.PutUint16(port[:], client.port)
	if !s.v6 {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		v4.Family = unix.AF_INET
		v4.Addr = [4]byte(client.ip[12:])
		return unix.SizeofSockaddrInet4
	}
	name.Family, name.Addr, name.Scope_id = unix.AF_INET6, client.ip, client.zone
	return unix.SizeofSockaddrInet6
}

// appendLocal has the datagram leave from the address that was asked.
func (s *kernelSocket) appendLocal(control []byte, to *route) []byte {
	var data []byte
	if isMapped(&to.local) {
		control, data = appendControl(control, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		(*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Spec_dst = [4]byte(to.local[12:])
		return control
	}
	control, data = appendControl(control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
	info.Addr, info.Ifindex = to.local, max(to.link, to.client.zone)
	return control
}

// appendControl appends a control message with size bytes of data, zero.
func appendControl(control []byte, level, kind int32, size int) (all, data []byte) {
	at := len(control)
	all = control[:at+unix.CmsgSpace(size)]
	clear(all[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&all[at]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return all, all[at+unix.CmsgLen(0):]
}

func (s *kernelSocket) send(to *route, datagram []byte, owner *Transfer) {
	i := s.message(to, 1, len(datagram), 1, owned{transfer: owner})
	s.vector(&s.out.data[i][0], copy(s.out.data[i][:], datagram))
}

func (s *kernelSocket) sendBlocks(b blocks) {
	t := b.owner
	blockSize, together := t.window.blockSize, s.together(t)
	for old := b.count - b.fresh; b.count > 0; {
		n := min(b.count, together)
		parts := 2 * n
		if len(b.data) <= (n-1)*blockSize {
			parts-- // the last block is empty
		}
		s.message(&t.route, n, 4+blockSize, parts, owned{t, n, n - min(old, n)})
		old -= min(old, n)
		for range n {
			header := &s.out.numbers[s.out.blocks]
			s.out.blocks++
			binary.BigEndian.PutUint16(header[2:], b.number)
			b.number++
			s.vector(&header[0], 4)
			if block := b.data[:min(blockSize, len(b.data))]; len(block) > 0 {
				s.vector(&block[0], len(block))
				b.data = b.data[len(block):]
			}
		}
		b.count -= n
	}
}

func (s *kernelSocket) vector(base *byte, size int) {
	v := &s.out.vectors[s.out.used]
	s.out.used++
	v.Base = base
	v.SetLen(size)
}

func (s *kernelSocket) flush(unsent func(owner *Transfer, blocks, fresh int)) bool {
	count := s.out.count
	s.out.count, s.out.used, s.out.blocks = 0, 0, 0
	for sent := 0; sent < count; {
		n, errno := s.sendMessages(s.out.headers[sent:count])
		switch {
		case errno == 0:
			sent += n
		case isFull(errno):
			s.fullOf.Store(int32(errno))
			for _, o := range s.out.owners[sent:count] {
				if o.transfer != nil {
					unsent(o.transfer, o.blocks, o.fresh)
				}
			}
			return false
		default:
			s.mend(sent, errno)
			sent++
		}
	}
	return true
}

// isFull reports whether an errno says that the buffer of the socket, or of the device, is full.
func isFull(errno syscall.Errno) bool { return errno == unix.EAGAIN || errno == unix.ENOBUFS }

// mostErrors bounds the errors of other datagrams that keep one from being sent.
const mostErrors = 4

// sendMessages sends some of the messages, from the first on. An error may be that of a datagram
// which was sent before and refused by the host that it went to (ip(7), IP_RECVERR): it is noted,
// and gone.
func (s *kernelSocket) sendMessages(headers []mmsghdr) (int, syscall.Errno) {
	for range mostErrors {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)),
			unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
		case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EPROTO, unix.ENOPROTOOPT, unix.EACCES:
			s.errored.Store(true)
		default:
			return int(n), errno
		}
	}
	return 0, unix.ECONNREFUSED
}

// mend sends a message again that failed, as far as it can be sent: blocks one by one, where the
// way out does not take datagrams to cut (one larger than its MTU: EINVAL or EMSGSIZE; a device
// without checksums: EIO), and without the local address where that has gone.
func (s *kernelSocket) mend(i int, errno syscall.Errno) {
	h := &s.out.headers[i].header
	if o := s.out.owners[i]; o.blocks > 1 && (errno == unix.EINVAL || errno == unix.EMSGSIZE || errno == unix.EIO) {
		if errno == unix.EIO {
			s.cutAgain = time.Now().Add(cutTime)
		} else {
			o.transfer.uncut = true
		}
		h.SetControllen(int(h.Controllen) - unix.CmsgSpace(2)) // it is the last
		if h.Controllen == 0 {
			h.Control = nil
		}
		vectors := unsafe.Slice(h.Iov, h.Iovlen)
		for len(vectors) > 0 {
			parts := min(2, len(vectors))
			h.Iov = &vectors[0]
			h.SetIovlen(parts)
			vectors = vectors[parts:]
			s.sendMessages(s.out.headers[i : i+1])
		}
		return
	}
	if h.Control != nil && (errno == unix.EINVAL || errno == unix.EADDRNOTAVAIL) {
		h.Control = nil
		h.SetControllen(0)
		s.sendMessages(s.out.headers[i : i+1])
	}
}

func (s *kernelSocket) awaitWritable(resume func() bool) {
	go func() {
		for done := false; !done && !s.closed.Load(); {
			// A full device is not the socket's affair: the poller would not tell when it is free.
			if syscall.Errno(s.fullOf.Load()) == unix.ENOBUFS {
				time.Sleep(bufferTime)
				done = resume()
				continue
			}
			err := s.raw.Write(func(uintptr) bool {
				done = resume()
				return done || syscall.Errno(s.fullOf.Load()) == unix.ENOBUFS
			})
			if err != nil {
				return
			}
		}
	}()
}

// kernelAlarm is a timerfd, which is exact where Go's timers may come a millisecond late: in that
// time a client drains a dozen bursts.
type kernelAlarm struct {
	fd   int
	file *os.File
}

func (s *kernelSocket) alarm(f func()) alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return newPlainAlarm(f)
	}
	a := &kernelAlarm{fd, os.NewFile(uintptr(fd), "timerfd")}
	go func() {
		var expirations [8]byte
		for {
			if _, err := a.file.Read(expirations[:]); err != nil {
				return
			}
			f()
		}
	}()
	return a
}

func (a *kernelAlarm) set(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))}
	unix.TimerfdSettime(a.fd, 0, &spec, nil)
}

func (a *kernelAlarm) stop() { a.file.Close() }

func (s *kernelSocket) self() endpoint { return selfOf(s.addr().AddrPort()) }

func (s *kernelSocket) dropped() int64 { return s.drops.Load() }

func (s *kernelSocket) sendRoom() int { return s.room }

var _ socket = (*kernelSocket)(nil)
