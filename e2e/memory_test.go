package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// hold begins a transfer from a port of its own, acknowledges the first window and falls silent.
// The port stays open: else the client's host would tell the server that it is gone.
func hold(server *net.UDPAddr, client int, request string) (*net.UDPConn, error) {
	local := &net.UDPAddr{IP: net.IPv4(127, 1, byte(client>>8), byte(client)), Port: 20_000 + client}
	conn, err := net.DialUDP("udp4", local, server)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 2048)
	// exchange sends until an answer begins as one of those wanted.
	exchange := func(send string, wanted ...string) (string, error) {
		for range 10 {
			if send != "" {
				conn.Write([]byte(send))
			}
			conn.SetReadDeadline(time.Now().Add(time.Second))
			for {
				n, err := conn.Read(b)
				if err != nil {
					break
				}
				for _, head := range wanted {
					if strings.HasPrefix(string(b[:n]), head) {
						return string(b[:n]), nil
					}
				}
				if strings.HasPrefix(string(b[:n]), "\x00\x05") {
					return "", fmt.Errorf("client %d: %q", client, b[:n])
				}
			}
		}
		return "", fmt.Errorf("client %d: no %q", client, wanted)
	}
	answer, err := exchange(request, "\x00\x06", "\x00\x03\x00\x01")
	if err != nil {
		return conn, err
	}
	window := 1
	if options, ok := strings.CutPrefix(answer, "\x00\x06"); ok {
		_, after, _ := strings.Cut(options, "windowsize\x00")
		value, _, _ := strings.Cut(after, "\x00")
		if window, err = strconv.Atoi(value); err != nil {
			return conn, fmt.Errorf("client %d: OACK %q", client, answer)
		}
		if _, err := exchange(ack(0), "\x00\x03\x00\x01"); err != nil {
			return conn, err
		}
		for block := 2; block <= window; block++ {
			if _, err := exchange("", "\x00\x03"+ack(uint16(block))[2:]); err != nil {
				return conn, err
			}
		}
	}
	_, err = conn.Write([]byte(ack(uint16(window))))
	return conn, err
}

// Many transfers at a time stay within the memory that docs/security.md promises. The daemon's own
// share, before any transfer, counts.
func TestMemoryOfManyTransfers(t *testing.T) {
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(4<<20))
	lockStep := rrq("a.img", "octet")
	// A busy machine may take longer to begin them all than the 30 s that a silent client has
	// without the timeout option.
	windows := func(n string) string {
		return rrq("a.img", "octet", "blksize", "1428", "timeout", "100", "windowsize", n)
	}
	for _, c := range []struct {
		name      string
		transfers int
		mostMiB   int
		request   string
	}{
		{"1,000 in lock-step", 1000, 32, lockStep},
		{"1,000 with windows of 16", 1000, 48, windows("16")},
		{"1,000 with windows of 64", 1000, 48, windows("64")},
		{"10,000 in lock-step", 10_000, 200, lockStep},
		{"10,000 with windows of 16", 10_000, 200, windows("16")},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Each transfer holds its file open.
			d := startLimited(t, c.transfers+100, folder,
				"-rate", "1000000", "-max-transfers", "20000", "-grace", "0s")
			if limit := d.proc("limits", "Max open files"); limit < c.transfers+50 {
				testkit.Skip(t, fmt.Sprintf("no more than %d descriptors for a process", limit))
			}
			before := d.residentKiB("VmRSS")
			server, err := net.ResolveUDPAddr("udp4", d.addr)
			testkit.Must(t, err)

			began := time.Now()
			var next atomic.Int64
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for {
						client := int(next.Add(1))
						if client > c.transfers {
							return
						}
						conn, err := hold(server, client, c.request)
						if conn != nil {
							t.Cleanup(func() { conn.Close() })
						}
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			clients.Wait()
			after, most := d.residentKiB("VmRSS"), d.residentKiB("VmHWM")
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
			running := field(d.waitFor("stopping "), "transfers")
			t.Logf("%s transfers within %v: %d KiB resident, %d at most, %d before",
				running, time.Since(began).Round(time.Millisecond), after, most, before)
			if n, _ := strconv.Atoi(running); n != c.transfers {
				t.Errorf("%s transfers were running, want %d", running, c.transfers)
			}
			if most > c.mostMiB<<10 {
				t.Errorf("%d KiB were resident, want at most %d MiB", most, c.mostMiB)
			}
			if status := d.waitEnd(); status != 0 {
				t.Errorf("status %d", status)
			}
		})
	}
}
