package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"flytftp/internal/testkit"
)

// relay passes datagrams between clients and a server, and loses, repeats and holds back some of
// both directions. The fate of a client's datagrams depends on seed and their order alone.
func relay(t *testing.T, server string, seed uint64) (addr string) {
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	var running sync.WaitGroup
	flows := map[string]net.Conn{}
	t.Cleanup(func() {
		front.Close()
		running.Wait()
	})
	running.Go(func() {
		defer func() {
			for _, flow := range flows {
				flow.Close()
			}
		}()
		up := &link{dice: rand.New(rand.NewPCG(seed, 0))}
		b := make([]byte, 65536)
		for {
			n, client, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			flow := flows[client.String()]
			if flow == nil {
				if flow, err = net.Dial("udp", server); err != nil {
					t.Error(err)
					return
				}
				flows[client.String()] = flow
				running.Go(func() {
					down := &link{dice: rand.New(rand.NewPCG(seed, 1))}
					b := make([]byte, 65536)
					for {
						n, err := flow.Read(b)
						if errors.Is(err, net.ErrClosed) {
							return
						}
						if err == nil {
							down.pass(b[:n], func(datagram []byte) { front.WriteTo(datagram, client) })
						}
					}
				})
			}
			up.pass(b[:n], func(datagram []byte) { flow.Write(datagram) })
		}
	})
	return front.LocalAddr().String()
}

// link is one direction of a relay. It never fails twice in a row: an unconfirmed client is sent
// three first answers, and if all were lost the transfer would rightly end.
type link struct {
	dice   *rand.Rand
	failed bool
	held   []byte // overtaken by the next
}

func (l *link) pass(datagram []byte, send func([]byte)) {
	n, held := l.dice.IntN(100), l.held
	if l.failed {
		n += 20
	}
	l.failed, l.held = n < 15, nil
	switch {
	case n < 10: // lost
	case n < 15:
		l.held = bytes.Clone(datagram)
	case n < 20:
		send(datagram)
		send(datagram)
	default:
		send(datagram)
	}
	if held != nil {
		send(held)
	}
}

// Every client fetches a file over a network that loses, repeats and reorders datagrams. All run at
// once, because they mostly wait: for their own timers (a lost request costs 5 s) and the server's.
func TestClientsLossy(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(20_000)
	testkit.WriteFile(t, folder+"/a.img", content)
	local := t.TempDir()
	d := start(t, folder)
	const runs = 4
	results := make([]chan error, len(ways))
	for i, w := range ways {
		results[i] = make(chan error, runs)
		if _, err := exec.LookPath(w.args[0]); err != nil {
			continue
		}
		for run := range runs {
			var addrs []string
			for try := range 5 {
				addrs = append(addrs, relay(t, d.addr, uint64((i*runs+run)*5+try)))
			}
			go func() {
				var err error
				for try, addr := range addrs {
					file := fmt.Sprintf("%s/%d-%d-%d", local, i, run, try)
					err = w.fetch(t.Context(), addr, "a.img", file, content)
					if err == nil || w.flaw == "" || !strings.Contains(err.Error(), w.flaw) {
						break
					}
				}
				results[i] <- err
			}()
		}
	}
	for i, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			needClient(t, w.args)
			for range runs {
				if err := <-results[i]; err != nil {
					t.Error(err)
				}
			}
		})
	}
}
