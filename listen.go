package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"flytftp/singleport"
)

const (
	// resolveTime is how long a start waits for a host name: fly-global-services may appear after
	// the machine has started. resolvePace lies between two attempts.
	resolveTime = 5 * time.Second
	resolvePace = 200 * time.Millisecond
)

// bind resolves the addresses of -listen and binds them all.
func bind(addrs []string, limits singleport.Config) (*singleport.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	var resolved []string
	for _, addr := range addrs {
		host, port, err := resolve(ctx, addr)
		if err != nil {
			return nil, err
		}
		resolved = append(resolved, net.JoinHostPort(host, port))
	}
	server, err := singleport.Listen(resolved, limits)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w: stop what listens there or choose another -listen", err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%w: ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose another, such as -listen :6969", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%w: choose an address of this machine with -listen, or :PORT for all", err)
	}
	return server, err
}

// resolve splits HOST:PORT. A host that is a name is looked up until it has an address or ctx is
// done.
func resolve(ctx context.Context, addr string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(addr)
	if err != nil || host == "" {
		return host, port, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, port, nil
	}
	for {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err == nil {
			return preferIPv4(ips).String(), port, nil
		}
		select {
		case <-time.After(resolvePace):
		case <-ctx.Done():
			return "", "", fmt.Errorf("no address for the host name of %s: choose another -listen (%w)", addr, err)
		}
	}
}

// preferIPv4 chooses one address of a name, as package net does: the first of IPv4 if there is one.
func preferIPv4(ips []netip.Addr) netip.Addr {
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			return ip.Unmap()
		}
	}
	return ips[0]
}

// reportSendBuffer writes a line if the kernel gives a socket less room than it asked for. room, in
// bytes, is 0 where that is not known.
func reportSendBuffer(log *journal, room int) {
	if 0 < room && room < singleport.BufferSize {
		log.printf("send buffer size=%d wanted=%d why=%+q", room, singleport.BufferSize, "net.core.wmem_max is small")
	}
}

// takeProcessors returns the number of sockets for each address: one for each processor that the
// variable GOMAXPROCS asks for. Without it there is one of each, which costs the least CPU time for
// a byte.
func takeProcessors() int {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	return runtime.GOMAXPROCS(0)
}

// joinAddrs returns the addresses in the form that -listen takes.
func joinAddrs(addrs []net.Addr) string {
	var texts []string
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	return strings.Join(texts, ",")
}

// ownAddrs returns the addresses that are bound. A client that asks from one of them is on this
// machine.
func ownAddrs(addrs []net.Addr) []netip.Addr {
	var own []netip.Addr
	for _, addr := range addrs {
		own = append(own, addr.(*net.UDPAddr).AddrPort().Addr())
	}
	return own
}
