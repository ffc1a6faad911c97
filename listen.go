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
	"flytftp/status"
)

const (
	// resolveTime is how long a start waits for a host name: fly-global-services may appear after
	// the machine has started. resolvePace lies between two attempts.
	resolveTime = 5 * time.Second
	resolvePace = 200 * time.Millisecond

	// optional is the first character of an address of -listen that may be absent. A start waits
	// optionalTime for it: it may be about to appear, and the server serves without.
	optional     = "?"
	optionalTime = time.Second
)

// bind resolves the addresses of -listen and binds all that are there.
func bind(log *journal, addrs []string, limits singleport.Config) (*singleport.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	places, skipped, err := resolveAll(ctx, addrs, optionalTime)
	if err != nil {
		return nil, err
	}
	var resolved []string
	for _, p := range places {
		resolved = append(resolved, net.JoinHostPort(p.host, p.port))
	}
	server, err := singleport.Listen(resolved, limits)
	if err != nil {
		return nil, advise(err, "-listen", "6969")
	}
	for _, s := range skipped {
		log.printf("skipped listen=%+q why=%+q", s.addr, s.why.Error())
	}
	return server, nil
}

// bindHTTP resolves the address of -http and binds it.
func bindHTTP(addr string) (*status.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), resolveTime)
	defer cancel()
	p, err := locate(ctx, addr, "-http")
	if err != nil {
		return nil, err
	}
	server, err := status.Listen(net.JoinHostPort(p.host, p.port))
	return server, advise(err, "-http", "9069")
}

// advise adds to an error of a bind what to do about it. option has the address, and port is one
// that needs no root.
func advise(err error, option, port string) error {
	advice := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = "stop what listens there or choose another " + option
	case errors.Is(err, syscall.EACCES):
		advice = "ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose another, such as " + option + " :" + port
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = "choose an address of this machine with " + option + ", or :PORT for all"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}

// place is a resolved address of -listen. host is an IP address, or empty for all of the machine.
type place struct{ host, port string }

// absent is an address of -listen that is not there, and may be absent.
type absent struct {
	addr string // without its mark
	why  error
}

// resolveAll resolves the addresses of -listen until ctx is done, and waits at most patience for
// those that may be absent. One at least must be there.
func resolveAll(ctx context.Context, addrs []string, patience time.Duration) (places []place, skipped []absent, err error) {
	brief, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, addr := range addrs {
		addr, mayBeAbsent := strings.CutPrefix(addr, optional)
		within := ctx
		if mayBeAbsent {
			within = brief
		}
		p, err := locate(within, addr, "-listen")
		switch {
		case err != nil && mayBeAbsent:
			skipped = append(skipped, absent{addr, errors.Unwrap(err)})
			continue
		case err != nil:
			return nil, nil, err
		case mayBeAbsent:
			if err := awaitAddress(brief, p.host); err != nil {
				skipped = append(skipped, absent{addr, err})
				continue
			}
		}
		places = append(places, p)
	}
	if len(places) == 0 {
		err = fmt.Errorf("no address of -listen is there, nor %s: choose another (%w)", skipped[0].addr, skipped[0].why)
	}
	return places, skipped, err
}

// locate resolves HOST:PORT, the value of an option.
func locate(ctx context.Context, addr, option string) (place, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return place{host, port}, err
	}
	if host, err = resolve(ctx, host); err != nil {
		return place{}, fmt.Errorf("no address for the host name of %s: choose another %s (%w)", addr, option, err)
	}
	return place{host, port}, nil
}

// resolve returns the address of a host. One that is a name is looked up until it has an address or
// ctx is done.
func resolve(ctx context.Context, host string) (string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	for {
		table, err := os.ReadFile(hostsFile)
		if ips := lookUp(host, string(table)); len(ips) > 0 {
			return preferIPv4(ips).String(), nil
		}
		if err == nil {
			err = errors.New("not in " + hostsFile)
		}
		select {
		case <-time.After(resolvePace):
		case <-ctx.Done():
			return "", err
		}
	}
}

// awaitAddress returns nil once the machine has the address, or an error when ctx is done.
func awaitAddress(ctx context.Context, host string) error {
	ip, _ := netip.ParseAddr(host) // resolve did
	for {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: ip.AsSlice(), Zone: ip.Zone()})
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(resolvePace):
		case <-ctx.Done():
			return err
		}
	}
}

// hostsFile has the names that a machine can be bound by: its own, localhost, and on Fly.io
// fly-global-services and fly-local-6pn. Package net would ask the DNS as well, and be 54 kB more
// of the image.
const hostsFile = "/etc/hosts"

// lookUp returns the addresses that a table in the form of hosts(5) has for name.
func lookUp(name, table string) []netip.Addr {
	var ips []netip.Addr
	for line := range strings.Lines(table) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		for i, field := range fields {
			if ip, err := netip.ParseAddr(fields[0]); i > 0 && strings.EqualFold(field, name) && err == nil {
				ips = append(ips, ip)
			}
		}
	}
	return ips
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
