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

// recvStamped is recvFrom on a socket with SO_TIMESTAMPNS. It also returns the time at which the
// datagram arrived, in ns of the wall clock.
func recvStamped(fd int, buffer []byte, from *unix.RawSockaddrInet4) (n int, arrived int64, ok bool) {
	var control struct {
		header unix.Cmsghdr
		stamp  unix.Timespec
	}
	vector := unix.Iovec{Base: unsafe.SliceData(buffer), Len: uint64(len(buffer))}
	message := unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(from)), Namelen: unix.SizeofSockaddrInet4, Iov: &vector, Iovlen: 1,
		Control: (*byte)(unsafe.Pointer(&control)), Controllen: uint64(unsafe.Sizeof(control)),
	}
	size, _, errno := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&message)),
		unix.MSG_DONTWAIT)
	return int(size), control.stamp.Nano(), errno == 0
}

func connect(fd int, to *unix.RawSockaddrInet4) error {
	_, _, errno := syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}
