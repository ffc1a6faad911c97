package e2e

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// boots fetches a file in lock-step from an address, and returns how many requests that took: one
// for each second without an answer.
func boots(from, addr, request string) (requests int, err error) {
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("udp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	last, next := request, uint16(1)
	b := make([]byte, 2000)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if last == request {
			requests++
		}
		conn.Write([]byte(last))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(b)
		switch {
		case err != nil:
		case b[1] == 6 && next == 1:
			last = ack(0)
		case b[1] == 3 && string(b[:4]) == data(next, nil):
			last = ack(next)
			if next++; n < 4+defaultBlockSize {
				conn.Write([]byte(last))
				return requests, nil
			}
		case b[1] == 5:
			return requests, fmt.Errorf("ERROR %q", b[:n])
		}
	}
	return requests, fmt.Errorf("gave up after %d requests", requests)
}

// room has so many clients of a /24 boot at once, and returns how many needed how many requests.
func room(t *testing.T, network string, clients int, addr, request string) (needed map[int]int) {
	t.Helper()
	needed = map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range clients {
		all.Go(func() {
			<-begin
			requests, err := boots(fmt.Sprintf("%s%d", network, i+1), addr, request)
			mu.Lock()
			defer mu.Unlock()
			needed[requests]++
			if err != nil {
				t.Errorf("client %d: %v", i+1, err)
			}
		})
	}
	close(begin)
	all.Wait()
	return needed
}

// needLoopback skips a test where loopback has one address only.
func needLoopback(t *testing.T, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	conn.Close()
}

// 250 machines of one /24 that boot at the same moment are all answered, whether there is one
// socket or several, between which the kernel divides them.
func TestRoomAtSeveralSockets(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	needLoopback(t, "127.7.7.1")
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(20_000))
	for _, processors := range []string{"1", "4"} {
		for name, request := range map[string]string{
			"with options":    rrq("a.img", "octet", "tsize", "0", "blksize", "512"),
			"without options": rrq("a.img", "octet"),
		} {
			env := []string{"GOMAXPROCS=" + processors}
			d := startCommand(t, command(context.Background(), env, "-listen", "127.0.0.1:0", "-root", folder))
			began := time.Now()
			needed := room(t, "127.7.7.", 250, d.addr, request)
			t.Logf("%s sockets, %s: after %v all had the file; clients by number of requests: %v", processors, name, time.Since(began).Round(time.Millisecond), needed)
			if needed[1] < 200 || needed[1]+needed[2] < 250 { // a busy machine costs some a second
				t.Errorf("%s sockets, %s: clients by number of requests: %v", processors, name, needed)
			}
		}
	}
}

// A forger asks in the name of a network, from the same ports again and again, as clients do that
// got no answer. Once each of its requests got three datagrams in vain, the machines of that
// network are served when they repeat themselves.
func TestForgerThatRepeats(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	needLoopback(t, "127.8.8.1")
	const (
		forgedPorts  = 200 // more than a network may have unconfirmed transfers
		forgedPace   = time.Second / 400
		forgedBefore = 6400 // requests: by then all of them were made in vain
	)
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(20_000))
	var all sync.WaitGroup
	always := func(request string) func(int) string { return func(int) string { return request } }
	// Each port asks twice for each pair.
	for name, forged := range map[string]func(pair int) string{
		"without options": always(rrq("a.img", "octet")),
		"with options":    always(rrq("a.img", "octet", "tsize", "0", "blksize", "1432")),
		"absent files":    always(rrq("absent.img", "octet")),
		"writing":         always("\x00\x02a.img\x00octet\x00"),
		"other names":     func(pair int) string { return rrq(fmt.Sprintf("absent%d.img", pair), "octet") },
		"other options":   func(pair int) string { return rrq("a.img", "octet", "blksize", strconv.Itoa(600+pair)) },
	} {
		d := start(t, folder)
		var forgers []*silentClient
		for i := range forgedPorts {
			f := family{network: "udp4", victim: fmt.Sprintf("127.8.8.%d", 100+i%100), headers: 28}
			forgers = append(forgers, newSilentClient(t, f, d.addr))
		}
		flooded, stop := make(chan struct{}), make(chan struct{})
		all.Go(func() {
			ticker := time.NewTicker(forgedPace)
			defer ticker.Stop()
			for sent := 0; ; sent++ {
				if sent == forgedBefore {
					close(flooded)
				}
				select {
				case <-ticker.C:
					forgers[sent%len(forgers)].conn.Write([]byte(forged(sent / (2 * forgedPorts))))
				case <-stop:
					return
				}
			}
		})
		all.Go(func() {
			defer close(stop)
			<-flooded
			needed := room(t, "127.8.8.", 30, d.addr, rrq("a.img", "octet", "tsize", "0", "blksize", "512"))
			t.Logf("forged requests %s: machines by number of requests: %v", name, needed)
			// A busy machine may cost some of them one more.
			if needed[1]+needed[2] < 25 || needed[1]+needed[2]+needed[3] < 30 {
				t.Errorf("forged requests %s: machines by number of requests: %v", name, needed)
			}
		})
	}
	all.Wait()
}
