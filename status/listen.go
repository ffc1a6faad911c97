package status

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
)

// Listen binds addr, HOST:PORT in numbers (:PORT is IPv4 and IPv6, port 0 picks one). It does not
// use package net's listener, which is 3 kB more of a packed program.
func Listen(addr string) (*Server, error) {
	if port, wildcard := strings.CutPrefix(addr, ":"); wildcard {
		s, err := listen("[::]:" + port)
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			s, err = listen("0.0.0.0:" + port)
		}
		return s, err
	}
	return listen(addr)
}

func listen(addr string) (*Server, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	fd, err := bind(at)
	if err != nil {
		return nil, fmt.Errorf("listen tcp %v: %w", at, err)
	}
	s := &Server{listener: os.NewFile(uintptr(fd), "")}
	bound, err := syscall.Getsockname(fd)
	if err == nil {
		s.raw, err = s.listener.SyscallConn()
	}
	if err != nil {
		s.listener.Close()
		return nil, err
	}
	port := at.Port()
	switch bound := bound.(type) {
	case *syscall.SockaddrInet4:
		port = uint16(bound.Port)
	case *syscall.SockaddrInet6:
		port = uint16(bound.Port)
	}
	s.addr = netip.AddrPortFrom(at.Addr(), port)
	return s, nil
}

// bind returns a socket that listens.
func bind(at netip.AddrPort) (fd int, err error) {
	family, sockaddr, err := sockaddrOf(at)
	if err != nil {
		return 0, err
	}
	if fd, err = syscall.Socket(family, syscall.SOCK_STREAM, 0); err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	syscall.CloseOnExec(fd)
	// A start may follow a stop at once, while connections of before are still in TIME_WAIT.
	syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if family == syscall.AF_INET6 {
		syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0)
	}
	if err = os.NewSyscallError("bind", syscall.Bind(fd, sockaddr)); err == nil {
		err = os.NewSyscallError("listen", syscall.Listen(fd, backlog))
	}
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		syscall.Close(fd)
	}
	return fd, err
}

// sockaddrOf returns the address as the kernel has it.
func sockaddrOf(at netip.AddrPort) (family int, sockaddr syscall.Sockaddr, err error) {
	if at.Addr().Unmap().Is4() {
		return syscall.AF_INET, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}, nil
	}
	if at.Addr().Zone() != "" {
		return 0, nil, errors.New("a link-local address is not supported")
	}
	return syscall.AF_INET6, &syscall.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}, nil
}
