package e2e

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// delays passes datagrams between clients and a server, each of them delay later in order.
func delays(t *testing.T, server string, delay time.Duration) (addr string) {
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	var running sync.WaitGroup
	t.Cleanup(func() {
		front.Close()
		running.Wait()
	})
	// carry reads datagrams until its socket is closed, and hands each on when it is due.
	carry := func(from net.PacketConn, to func(client net.Addr) func(datagram []byte)) {
		type datagram struct {
			due  time.Time
			data []byte
			send func([]byte)
		}
		way := make(chan datagram, 10_000)
		running.Go(func() {
			for d := range way {
				time.Sleep(time.Until(d.due))
				d.send(d.data)
			}
		})
		b := make([]byte, 65536)
		for {
			n, client, err := from.ReadFrom(b)
			if err != nil {
				close(way)
				return
			}
			way <- datagram{time.Now().Add(delay), bytes.Clone(b[:n]), to(client)}
		}
	}
	home, err := net.ResolveUDPAddr("udp", server)
	testkit.Must(t, err)
	flows := map[string]net.PacketConn{}
	running.Go(func() {
		defer func() {
			for _, flow := range flows {
				flow.Close()
			}
		}()
		carry(front, func(client net.Addr) func([]byte) {
			flow := flows[client.String()]
			if flow == nil {
				if flow, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
					t.Error(err)
					return func([]byte) {}
				}
				flows[client.String()] = flow
				back := func(data []byte) { front.WriteTo(data, client) }
				running.Go(func() {
					carry(flow, func(net.Addr) func([]byte) { return back })
				})
			}
			return func(data []byte) { flow.WriteTo(data, home) }
		})
	})
	return front.LocalAddr().String()
}

// Every client fetches a file from a server that is a round trip of 20 ms away, by default and in
// lock-step. By default no client is slower than that.
func TestClientsFromAfar(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	const (
		roundTrip = 20 * time.Millisecond
		slack     = 1.5 // times lock-step, for a machine that is busy with other work
	)
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(128 << 10)
	testkit.WriteFile(t, folder+"/a.img", content)
	byDefault := delays(t, start(t, folder).addr, roundTrip/2)
	lockStep := delays(t, start(t, folder, "-ahead", "1").addr, roundTrip/2)
	local := t.TempDir()
	table := "| Client | `-ahead 1` | by default |\n|---|--:|--:|\n"
	for i, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			needClient(t, w.args)
			var took [2]time.Duration
			for j, addr := range []string{lockStep, byDefault} {
				file := fmt.Sprintf("%s/%d-%d", local, i, j)
				began := time.Now()
				if err := w.fetch(t.Context(), addr, "a.img", file, content); err != nil {
					t.Fatal(err)
				}
				took[j] = time.Since(began)
			}
			table += fmt.Sprintf("| %s | %.2f s | %.2f s |\n", w.name, took[0].Seconds(), took[1].Seconds())
			if float64(took[1]) > slack*float64(took[0]) {
				t.Errorf("%v by default, %v at -ahead 1", took[1], took[0])
			}
		})
	}
	t.Logf("128 KiB over a round trip of %v:\n\n%s", roundTrip, table)
}
