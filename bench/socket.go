package main

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Clients and the relay make these system calls for every datagram. None of them waits, so they
// need neither the allocations of package net nor Go's scheduler.

// rawAddr returns the IPv4 address as the kernel takes it.
func rawAddr(addr netip.AddrPort) unix.RawSockaddrInet4 {
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:], addr.Port())
	return raw
}

// addrPort is the inverse of rawAddr.
func addrPort(raw *unix.RawSockaddrInet4) netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:])
	return netip.AddrPortFrom(netip.AddrFrom4(raw.Addr), port)
}

// sendTo sends to the address, or to the connected one if it is nil.
func sendTo(fd int, datagram []byte, to *unix.RawSockaddrInet4) {
	size := uintptr(unix.SizeofSockaddrInet4)
	if to == nil {
		size = 0
	}
	syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(datagram))), uintptr(len(datagram)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(to)), size)
}

// recvFrom reports false if there is nothing to read.
func recvFrom(fd int, buffer []byte, from *unix.RawSockaddrInet4) (int, bool) {
	size := uint32(unix.SizeofSockaddrInet4)
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(buffer))), uintptr(len(buffer)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)))
	return int(n), errno == 0
}

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// inbox receives several datagrams with one call.
type inbox struct {
	packets  [][]byte
	from     []unix.RawSockaddrInet4
	controls []control
	vectors  []unix.Iovec
	headers  []mmsghdr
}

// control is room for the control messages of one datagram: SO_TIMESTAMPNS and UDP_GRO, or
// UDP_SEGMENT.
type control [64]byte

// newInbox has room for so many datagrams of at most size bytes.
func newInbox(datagrams, size int) *inbox {
	b := &inbox{
		packets: make([][]byte, datagrams), from: make([]unix.RawSockaddrInet4, datagrams),
		controls: make([]control, datagrams), vectors: make([]unix.Iovec, datagrams),
		headers: make([]mmsghdr, datagrams),
	}
	for i := range b.packets {
		b.packets[i] = make([]byte, size)
		b.vectors[i] = unix.Iovec{Base: &b.packets[i][0], Len: uint64(size)}
		b.headers[i].header = unix.Msghdr{
			Name: (*byte)(unsafe.Pointer(&b.from[i])), Namelen: unix.SizeofSockaddrInet4,
			Iov: &b.vectors[i], Iovlen: 1, Control: &b.controls[i][0], Controllen: uint64(len(control{})),
		}
	}
	return b
}

// receive returns the number of datagrams that it read from fd without waiting.
func (b *inbox) receive(fd int) int {
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[0])),
		uintptr(len(b.headers)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0 // nothing there, or the ICMP echo of a closed port
	}
	return int(n)
}

// packet returns the i-th datagram.
func (b *inbox) packet(i int) []byte { return b.packets[i][:b.headers[i].length] }

// stamp returns the time at which the i-th datagram arrived, in ns of the wall clock, and the size
// of the datagrams that the kernel has joined to it, 0 if it is one. It must be called once.
func (b *inbox) stamp(i int) (arrived int64, segment int) {
	c := b.controls[i][:b.headers[i].header.Controllen]
	for len(c) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		value := unsafe.Pointer(&c[unix.CmsgLen(0)])
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_TIMESTAMPNS:
			arrived = (*unix.Timespec)(value).Nano()
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO:
			segment = int(*(*int32)(value))
		}
		c = c[min(unix.CmsgSpace(int(h.Len)-unix.CmsgLen(0)), len(c)):]
	}
	b.headers[i].header.Controllen = uint64(len(control{}))
	return arrived, segment
}

// outbox sends several datagrams with one call.
type outbox struct {
	controls []control
	vectors  []unix.Iovec
	headers  []mmsghdr
}

const (
	segmentsMost     = 64     // UDP_SEGMENT, udp(7)
	segmentBytesMost = 65_000 // a little less than an IPv4 datagram holds
)

func newOutbox(datagrams int) *outbox {
	return &outbox{
		controls: make([]control, datagrams), vectors: make([]unix.Iovec, datagrams),
		headers: make([]mmsghdr, datagrams),
	}
}

// send sends the datagrams from fd. Those in a row to one client leave as one that the kernel
// divides.
func (b *outbox) send(fd int, all []delayed) {
	for len(all) > 0 {
		messages, taken := 0, 0
		for taken < min(len(all), len(b.vectors)) {
			run := sameSize(all[taken:min(len(all), len(b.vectors))])
			for i, d := range all[taken : taken+run] {
				b.vectors[taken+i] = unix.Iovec{Base: unsafe.SliceData(d.data), Len: uint64(len(d.data))}
			}
			first := all[taken]
			h := &b.headers[messages].header
			*h = unix.Msghdr{
				Name: (*byte)(unsafe.Pointer(&first.flow.client)), Namelen: unix.SizeofSockaddrInet4,
				Iov: &b.vectors[taken], Iovlen: uint64(run),
			}
			if run > 1 {
				c := &b.controls[messages]
				*(*unix.Cmsghdr)(unsafe.Pointer(c)) = unix.Cmsghdr{
					Len: uint64(unix.CmsgLen(2)), Level: unix.IPPROTO_UDP, Type: unix.UDP_SEGMENT,
				}
				binary.NativeEndian.PutUint16(c[unix.CmsgLen(0):], uint16(len(first.data)))
				h.Control, h.Controllen = &c[0], uint64(unix.CmsgSpace(2))
			}
			messages, taken = messages+1, taken+run
		}
		for sent := 0; sent < messages; {
			n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd),
				uintptr(unsafe.Pointer(&b.headers[sent])), uintptr(messages-sent), unix.MSG_DONTWAIT, 0, 0)
			if errno != 0 {
				n = 1 // this one is lost
			}
			sent += int(n)
		}
		all = all[taken:]
	}
}

// sameSize returns how many of the datagrams at the beginning UDP_SEGMENT can send as one: they go
// to the same client and have the same size, but the last may be smaller.
func sameSize(all []delayed) int {
	first := all[0]
	bytes := 0
	for i, d := range all {
		bytes += len(d.data)
		if d.flow != first.flow || len(d.data) > len(first.data) || bytes > segmentBytesMost || i == segmentsMost {
			return i
		}
		if len(d.data) < len(first.data) {
			return i + 1
		}
	}
	return len(all)
}

func connect(fd int, to *unix.RawSockaddrInet4) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}
