package main

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// answerUDP answers every datagram on a loopback port with what reply returns, nothing where it is empty.
func answerUDP(t *testing.T, reply func(count int) string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 1024)
		for count := 1; ; count++ {
			n, client, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if string(b[:n]) != string(checkRequest) {
				t.Errorf("asked %q", b[:n])
			}
			if r := reply(count); r != "" {
				conn.WriteTo([]byte(r), client)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestHealthcheck(t *testing.T) {
	const refusal = "\x00\x05\x00\x02Access violation\x00"
	for _, c := range []struct {
		what  string
		reply func(count int) string
		alive bool
	}{
		{"ERROR", func(int) string { return refusal }, true},
		{"DATA", func(int) string { return "\x00\x03\x00\x01" }, true},
		{"ERROR to the second request", func(count int) string { return refusal[:min(count-1, 1)*len(refusal)] }, true},
		{"ERROR after nonsense", func(count int) string { return []string{"\x00", "", refusal}[min(count, 3)-1] }, true},
		{"nonsense", func(int) string { return "HTTP/1.1 200 OK" }, false},
		{"a short ERROR", func(int) string { return "\x00\x05" }, false},
		{"silence", func(int) string { return "" }, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			addr := answerUDP(t, c.reply)
			if err := healthcheck([]string{addr}); (err == nil) != c.alive {
				t.Error(err)
			}
		})
	}
	alive := answerUDP(t, func(int) string { return refusal })
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	closed.Close()
	for _, addrs := range [][]string{{closed.LocalAddr().String()}, {alive, closed.LocalAddr().String()}, {"127.0.0.1:0"}} {
		t.Run("nobody at "+addrs[len(addrs)-1], func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			if err := healthcheck(addrs); err == nil || strings.Contains(err.Error(), "\n") {
				t.Error(err)
			}
			if waited := time.Since(began); waited > 10*time.Second { // 3 s with room for a busy machine
				t.Errorf("took %v", waited)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	for _, c := range [][2]string{
		{"", "127.0.0.1"}, {"0.0.0.0", "127.0.0.1"}, {"::", "::1"}, {"192.0.2.1", "192.0.2.1"}, {"2001:db8::1", "2001:db8::1"},
	} {
		if got := reachable(c[0]); got != c[1] {
			t.Errorf("%q is asked at %q, want %q", c[0], got, c[1])
		}
	}
}

func TestResolve(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, c := range [][3]string{
		{":69", "", "69"}, {"127.0.0.1:69", "127.0.0.1", "69"}, {"[::1]:7", "::1", "7"}, {"[fe80::1%lo]:7", "fe80::1%lo", "7"}, {"localhost:0", "127.0.0.1", "0"},
	} {
		host, port, err := resolve(ctx, c[0])
		if host != c[1] || port != c[2] || err != nil {
			t.Errorf("%s: %s %s %v", c[0], host, port, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 3*resolvePace/2)
	defer cancel()
	// No name of the DNS, so nobody is asked.
	if _, _, err := resolve(short, "no..name:69"); err == nil || !strings.Contains(err.Error(), "no..name:69") {
		t.Error(err)
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if got := preferIPv4([]netip.Addr{v6, netip.AddrFrom16(v4.As16())}); got != v4 {
		t.Error(got)
	}
	if got := preferIPv4([]netip.Addr{v6}); got != v6 {
		t.Error(got)
	}
}
