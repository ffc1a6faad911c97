package main

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

func TestFaultPromises(t *testing.T) {
	old, changed := []byte("old content"), []byte("new content")
	answer := &tftpError{0, "Read failed"}
	for _, c := range []struct {
		name    string
		right   ending
		content []byte
		err     error
		kept    bool
	}{
		{"whole and old", whole, old, nil, true},
		{"whole and new", whole, changed, nil, true},
		{"whole as a prefix", whole, old[:4], nil, false},
		{"a mixture", whole, []byte("old new con"), nil, false},
		{"an ERROR for nothing", whole, old[:4], answer, false},
		{"an end that never comes", whole, old[:4], errNoEnd, false},
		{"rewritten, old", either, old, nil, true},
		{"rewritten, ERROR", either, old[:4], answer, true},
		{"rewritten, a mixture", either, []byte("old new con"), nil, false},
		{"truncated, ERROR", refused, old[:4], answer, true},
		{"truncated, short", refused, old[:4], nil, false},
		{"truncated, whole: it cannot be", refused, old, nil, false},
		{"truncated, no end", refused, old[:4], errNoEnd, false},
	} {
		f := fault{right: c.right}
		if f.promise().kept {
			t.Errorf("%s: kept without a transfer", c.name)
		}
		if err := f.count(c.content, c.err, old, changed); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if p := f.promise(); p.kept != c.kept || f.all() != 1 {
			t.Errorf("%s: %d transfers, %+v", c.name, f.all(), p)
		}
	}
	if err := new(fault).count(nil, errors.New("no socket"), old, changed); err == nil {
		t.Error("an error of this machine counts as an end of a transfer")
	}
}

// A client that loses patience asks again from another port, and the time it has waited counts.
func TestPatience(t *testing.T) {
	testkit.SkipIfShort(t)
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	source := netip.MustParseAddr("127.1.2.3")
	requests := map[netip.AddrPort]int{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1024)
		for {
			_, from, err := server.ReadFromUDPAddrPort(buffer)
			switch {
			case err != nil:
				return
			case buffer[1] == opRRQ:
				if requests[from]++; len(requests) > 1 {
					server.WriteToUDPAddrPort([]byte("\x00\x06blksize\x00512\x00"), from)
				}
			case buffer[1] == opAck && buffer[3] == 0:
				server.WriteToUDPAddrPort([]byte("\x00\x03\x00\x01content"), from)
			}
		}
	}()
	l := load{
		server: server.LocalAddr().(*net.UDPAddr).AddrPort(), name: "file", content: []byte("content"),
		blockSize: 512, windowSize: 1, clients: 1, each: 1, limit: 30 * time.Second,
		sources: []netip.Addr{source}, patience: 1,
	}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	<-done
	if len(o.latencies) != 1 || o.failed() != 0 || o.again != 1 || len(requests) != 2 {
		t.Errorf("%d transfers, failures %v, asked again %d times, requests %v",
			len(o.latencies), o.failures, o.again, requests)
	}
	if len(o.latencies) == 1 && o.latencies[0] < 2*clientTimer {
		t.Errorf("the transfer took %v: its first port waited longer", o.latencies[0])
	}
	for from := range requests {
		if from.Addr() != source {
			t.Errorf("a request from %v", from)
		}
	}
}
