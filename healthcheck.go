package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	checkTime = 2800 * time.Millisecond // container engines wait at least 3 s
	checkPace = 700 * time.Millisecond  // until an unanswered RRQ is sent again
)

// checkRequest is an RRQ for the empty name. The server refuses that before it touches the disk, so
// the check opens no file, and an empty folder is healthy too.
var checkRequest = []byte("\x00\x01\x00octet\x00")

// healthcheck returns nil if a TFTP server answers at every address of -listen before limit is
// over; one that may be absent, and is, is not asked. An unanswered RRQ is sent again after pace.
func healthcheck(addrs []string, limit, pace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	places, _, err := resolveAll(ctx, addrs, 0)
	if err != nil {
		return err
	}
	for _, p := range places {
		if p.port == "0" {
			return fmt.Errorf("cannot ask at %s:0: -healthcheck needs the port that the server was given", p.host)
		}
		if err := ask(ctx, net.JoinHostPort(reachable(p.host), p.port), pace); err != nil {
			return err
		}
	}
	return nil
}

// reachable returns the host to ask for a server that is bound to host: loopback for a wildcard.
func reachable(host string) string {
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip == netip.IPv4Unspecified():
		return "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		return "::1"
	}
	return host
}

// ask sends RRQs, one each pace, until a DATA or an ERROR comes back or ctx is done.
func ask(ctx context.Context, addr string, pace time.Duration) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer := make([]byte, 1024)
	for {
		next := time.Now().Add(pace)
		conn.Write(checkRequest)
		conn.SetReadDeadline(next)
		n, err := conn.Read(answer)
		if err == nil && isAnswer(answer[:n]) {
			return nil
		}
		// A closed port fails at once, and the server may be about to start.
		select {
		case <-time.After(time.Until(next)):
		case <-ctx.Done():
			return fmt.Errorf("no TFTP server answers at %s", addr)
		}
	}
}

// isAnswer reports whether b is a DATA or an ERROR (RFC 1350 section 5). An ERROR of any code will
// do: a busy server is alive.
func isAnswer(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	opcode := binary.BigEndian.Uint16(b)
	return opcode == 3 || opcode == 5
}
