package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// proc returns the first number after name in a file of the daemon's /proc folder.
func (d *daemon) proc(file, name string) int {
	d.t.Helper()
	if runtime.GOOS != "linux" {
		d.t.Skip("only Linux tells what a process uses")
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.cmd.Process.Pid, file))
	testkit.Must(d.t, err)
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.Atoi(strings.Fields(strings.TrimPrefix(rest, ":"))[0])
			testkit.Must(d.t, err)
			return n
		}
	}
	d.t.Fatalf("no %s in\n%s", name, content)
	return 0
}

// residentKiB returns a figure of the daemon's memory: VmRSS, or VmHWM for the most that it was.
func (d *daemon) residentKiB(figure string) int { return d.proc("status", figure) }

// descriptors returns how many files the daemon has open.
func (d *daemon) descriptors() int {
	d.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
	testkit.Must(d.t, err)
	return len(entries)
}

// hold begins a transfer from a port of its own, acknowledges the first window, and goes away: the server keeps the transfer, with
// what it read ahead, as long as that of any client that falls silent.
func hold(server *net.UDPAddr, client int, request string) error {
	local := &net.UDPAddr{IP: net.IPv4(127, 1, byte(client>>8), byte(client)), Port: 20_000 + client}
	conn, err := net.DialUDP("udp4", local, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	b := make([]byte, 2048)
	// exchange sends until an answer begins as one of those that are wanted.
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
		return err
	}
	window := 1
	if options, ok := strings.CutPrefix(answer, "\x00\x06"); ok {
		_, after, _ := strings.Cut(options, "windowsize\x00")
		value, _, _ := strings.Cut(after, "\x00")
		if window, err = strconv.Atoi(value); err != nil {
			return fmt.Errorf("client %d: OACK %q", client, answer)
		}
		if _, err := exchange(ack(0), "\x00\x03\x00\x01"); err != nil {
			return err
		}
		for block := 2; block <= window; block++ {
			if _, err := exchange("", "\x00\x03"+ack(uint16(block))[2:]); err != nil {
				return err
			}
		}
	}
	_, err = conn.Write([]byte(ack(uint16(window))))
	return err
}

// What many transfers at a time need. The daemon's own share, before any, is in it.
func TestMemoryOfManyTransfers(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(4<<20))
	lockStep, windows := rrq("a.img", "octet"), rrq("a.img", "octet", "blksize", "1428", "windowsize", "16")
	for _, c := range []struct {
		name      string
		transfers int
		mostMiB   int
		request   string
	}{
		{"1,000 in lock-step", 1000, 32, lockStep},
		{"1,000 with windows of 16", 1000, 32, windows},
		{"10,000 in lock-step", 10_000, 200, lockStep},
		{"10,000 with windows of 16", 10_000, 200, windows},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.transfers > 1000 && testing.Short() {
				t.Skip("takes a while")
			}
			// Each transfer holds its file open.
			shell := exec.CommandContext(context.Background(), "sh", "-c", `ulimit -n `+strconv.Itoa(c.transfers+100)+
				`; exec "$0" -listen 127.0.0.1:0 -rate 1000000 -max-transfers 20000 -grace 0s -root "$1"`, program, folder)
			shell.Env = []string{"PATH=" + os.Getenv("PATH")}
			d := startCommand(t, shell)
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
						if err := hold(server, client, c.request); err != nil {
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
			t.Logf("%s transfers within %v: %d KiB resident, %d at most, %d before", running, time.Since(began).Round(time.Millisecond), after, most, before)
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
