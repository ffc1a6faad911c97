package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// answerUDP answers every datagram on a loopback port with the datagram that reply returns, unless
// that is empty.
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
	const (
		long  = 30 * time.Second // for a machine that is busy with other work
		short = 300 * time.Millisecond
		pace  = 30 * time.Millisecond
	)
	const refusal = "\x00\x05\x00\x01File not found\x00"
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
			limit := short
			if c.alive {
				limit = long
			}
			addr := answerUDP(t, c.reply)
			if err := healthcheck([]string{addr}, limit, pace); (err == nil) != c.alive {
				t.Error(err)
			}
		})
	}
	alive := answerUDP(t, func(int) string { return refusal })
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	closed.Close()
	nobody := closed.LocalAddr().String()
	for _, addrs := range [][]string{{nobody}, {alive, nobody}, {"127.0.0.1:0"}} {
		t.Run("nobody at "+addrs[len(addrs)-1], func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			err := healthcheck(addrs, short, pace)
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Error(err)
			}
			if waited := time.Since(began); waited > long {
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
