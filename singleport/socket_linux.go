package singleport

import (
	"context"
	"encoding/binary"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel is spoken to without package net where it matters: many datagrams in a call, a window in one datagram that the kernel
// cuts (UDP_SEGMENT), no allocation. None of the calls waits, so Go's scheduler need not know of them; the waiting is left to package
// net's poller.

const (
	receiveSize = 1024 // bytes kept of a datagram: an RRQ has at most 512 (RFC 2347)
	sendBatch   = 32   // datagrams, or windows, of one sendmmsg
	sendBlocks  = 256  // blocks in them
	sendSize    = 600  // bytes of a datagram that is no DATA

	// segments and segmentBytes bound what UDP_SEGMENT takes: UDP_MAX_SEGMENTS of older kernels, and an IPv4 datagram with some room.
	segments     = 64
	segmentBytes = 65000

	// bufferSize, in bytes, is asked of the kernel for each direction: room for the requests of a thousand clients at once, and for
	// their windows.
	bufferSize = 4 << 20

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
	wildcard bool // an answer must say where it leaves from
	v6       bool // of the address family: IPv4 clients are IPv6-mapped

	in struct {
		headers  [fullBatch]mmsghdr
		vectors  [fullBatch]unix.Iovec
		names    [fullBatch]unix.RawSockaddrInet6
		control  [fullBatch][controlSize]byte
		data     [fullBatch][receiveSize]byte
		received [fullBatch]received
	}

	// segmentLimit is the largest datagram that is known to be cut by the kernel, bytes; 0 where it cuts none.
	segmentLimit int
	out          struct {
		count    int // of headers
		blocks   int // of numbers
		used     int // of vectors
		headers  [sendBatch]mmsghdr
		vectors  [2 * sendBlocks]unix.Iovec
		names    [sendBatch]unix.RawSockaddrInet6
		control  [sendBatch][controlSize]byte
		numbers  [sendBlocks][4]byte // the headers of DATA packets
		data     [sendBatch][sendSize]byte
		segments [sendBatch]int // in each message, bytes; 0 where it is one datagram
	}
}

// openSockets binds count sockets to addr, which share its port.
func openSockets(addr string, count int) ([]socket, error) {
	if count > 1 {
		// SO_REUSEPORT would let them join another server of the same user: find that out first.
		probe, err := listen(addr, false)
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		addr = net.JoinHostPort(host, strconv.Itoa(probe.addr().Port))
		probe.close()
	}
	var sockets []socket
	for range count {
		s, err := listen(addr, count > 1)
		if err != nil {
			return sockets, err
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

func listen(addr string, shared bool) (*kernelSocket, error) {
	s := &kernelSocket{}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		raw.Control(func(fd uintptr) {
			if shared {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		})
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return nil, err
	}
	s.conn = conn.(*net.UDPConn)
	if s.raw, err = s.conn.SyscallConn(); err == nil {
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
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], bufferSize) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], bufferSize) // as far as the machine allows
		}
	}
	if _, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT); err == nil {
		s.segmentLimit = segmentBytes
	}
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
		if s.wildcard {
			h.Control = &s.in.control[i][0]
		}
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

func (s *kernelSocket) serve(handle func([]received)) error {
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n := s.receive(int(fd))
			if n > 0 {
				handle(s.in.received[:n])
			}
			if s.closed.Load() {
				return true
			}
			if n <= 1 {
				// A lone client answers later than now. The poller tells of every arrival, of one since the call, too.
				return false
			}
			runtime.Gosched() // a flood must not keep transfers from their files
		}
	})
	if s.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// receive reads a batch. An error is as good as nothing: it is about a datagram that was sent before.
func (s *kernelSocket) receive(fd int) int {
	for i := range s.in.headers {
		h := &s.in.headers[i].header
		h.Namelen = unix.SizeofSockaddrInet6
		if s.wildcard {
			h.SetControllen(controlSize)
		}
	}
	var n uintptr
	for {
		var errno syscall.Errno
		n, _, errno = syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.in.headers[0])), fullBatch,
			unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return 0
		}
	}
	for i := range int(n) {
		r := &s.in.received[i]
		r.data = s.in.data[i][:s.in.headers[i].length]
		if s.in.headers[i].header.Flags&unix.MSG_TRUNC != 0 && r.data[1] == opRRQ {
			r.data = r.data[:0] // no request that ends is so long
		}
		r.route.client = endpointOf(&s.in.names[i])
		if s.wildcard {
			h := &s.in.headers[i].header
			var one bool
			if r.route.local, one = localOf(s.in.control[i][:h.Controllen]); !one {
				r.data = r.data[:0] // RFC 1123 section 4.2.3.5: a broadcast is not answered
			}
		}
	}
	return int(n)
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

// mapped returns the IPv6-mapped form of an IPv4 address.
func mapped(ip [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: ip[0], 13: ip[1], 14: ip[2], 15: ip[3]}
}

func isMapped(ip *[16]byte) bool {
	return [12]byte(ip[:12]) == [12]byte{10: 0xff, 11: 0xff}
}

// localOf returns the address of this machine that control messages name, and whether the datagram was sent to it alone: struct
// in_pktinfo (ip(7)) tells a broadcast's address from that of the machine.
func localOf(control []byte) (local [16]byte, one bool) {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(control) {
			break
		}
		data := control[unix.CmsgLen(0):]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && length >= unix.CmsgLen(unix.SizeofInet4Pktinfo):
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			return mapped(info.Spec_dst), info.Spec_dst == info.Addr
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && length >= unix.CmsgLen(unix.SizeofInet6Pktinfo):
			local = (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0])).Addr
		}
		next := unix.CmsgSpace(length - unix.CmsgLen(0))
		if next > len(control) {
			break
		}
		control = control[next:]
	}
	return local, true
}

// message begins a message of count datagrams of size bytes and vectors parts, and returns its index.
func (s *kernelSocket) message(to *route, count, size, vectors int) int {
	if s.out.count == sendBatch || s.out.used+vectors > len(s.out.vectors) || s.out.blocks+count > sendBlocks {
		s.flush()
	}
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
	s.out.segments[i] = 0
	if count > 1 {
		s.out.segments[i] = size
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
	info.Addr, info.Ifindex = to.local, to.client.zone
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

func (s *kernelSocket) send(to *route, datagram []byte) {
	i := s.message(to, 1, len(datagram), 1)
	n := copy(s.out.data[i][:], datagram)
	s.out.vectors[s.out.used].Base = &s.out.data[i][0]
	s.out.vectors[s.out.used].SetLen(n)
	s.out.used++
}

func (s *kernelSocket) sendBlocks(to *route, number uint16, count, blockSize int, data []byte) {
	size := 4 + blockSize
	together := 1
	if size <= s.segmentLimit {
		together = max(min(segments, segmentBytes/size), 1)
	}
	for count > 0 {
		n := min(count, together)
		parts := 2 * n
		if len(data) <= (n-1)*blockSize {
			parts-- // the last block is empty
		}
		s.message(to, n, size, parts)
		for range n {
			header := &s.out.numbers[s.out.blocks]
			s.out.blocks++
			binary.BigEndian.PutUint16(header[2:], number)
			number++
			s.vector(&header[0], 4)
			if block := data[:min(blockSize, len(data))]; len(block) > 0 {
				s.vector(&block[0], len(block))
				data = data[len(block):]
			}
		}
		count -= n
	}
}

func (s *kernelSocket) vector(base *byte, size int) {
	v := &s.out.vectors[s.out.used]
	s.out.used++
	v.Base = base
	v.SetLen(size)
}

func (s *kernelSocket) flush() {
	count := s.out.count
	s.out.count, s.out.used, s.out.blocks = 0, 0, 0
	for sent := 0; sent < count; {
		n, errno := s.sendMessages(s.out.headers[sent:count])
		if errno == 0 {
			sent += n
			continue
		}
		if errno == unix.EAGAIN || errno == unix.ENOBUFS {
			return // the way out is full: lost, like on any link that is
		}
		s.mend(sent, errno)
		sent++
	}
}

func (s *kernelSocket) sendMessages(headers []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&headers[0])), uintptr(len(headers)),
			unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// mend sends a message again that failed, as far as it can be sent: a window block by block, where the way out does not take
// datagrams to cut (one larger than its MTU: EINVAL; no checksums by the card: EIO), and without the local address where that has gone.
func (s *kernelSocket) mend(i int, errno syscall.Errno) {
	h := &s.out.headers[i].header
	if size := s.out.segments[i]; size > 0 {
		s.segmentLimit = min(s.segmentLimit, size-1)
		if errno == unix.EIO {
			s.segmentLimit = 0
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

var _ socket = (*kernelSocket)(nil)
