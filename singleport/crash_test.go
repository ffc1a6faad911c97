package singleport

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flytftp/internal/testkit"
)

// bombardment is what panics a server that is pin/tftp v3.2.0 on a bare UDP socket in single-port
// mode.
type bombardment struct {
	name string
	// where the library panics
	cause string
	racy  bool
	// once sends one round from a new port; the file small.txt exists.
	once func(conn net.Conn)
}

var bombardments = []bombardment{
	{"tsize of 600 digits", "packet.go packOACK", false, func(conn net.Conn) {
		conn.Write(requestOf("small.txt", "octet", "tsize", strings.Repeat("1", 600)))
	}},
	{"blksize of 600 digits", "packet.go packOACK", false, func(conn net.Conn) {
		conn.Write(requestOf("small.txt", "octet", "blksize", strings.Repeat("0", 597)+"512"))
	}},
	{"more than 516 bytes during a transfer", "sender.go sendDatagram", false, func(conn net.Conn) {
		conn.Write(requestOf("small.txt", "octet"))
		conn.Write(append(ackOf(7), make([]byte, 600)...))
	}},
	{"a long RRQ twice", "sender.go sendDatagram", false, func(conn net.Conn) {
		request := requestOf("small.txt", "octet", "x", strings.Repeat("y", 600))
		conn.Write(request)
		conn.Write(request)
	}},
	{"duplicate ACKs at the end of a transfer", "single_port.go send on closed channel", true, func(conn net.Conn) {
		request, last := requestOf("small.txt", "octet"), ackOf(1)
		conn.Write(request)
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		conn.Read(make([]byte, 600))
		for range 40 {
			conn.Write(last)
		}
	}},
}

// bombard runs rounds from four goroutines until stop says so, each round from a new port.
func bombard(t *testing.T, addr string, b bombardment, stop func(rounds int) bool) {
	t.Helper()
	var rounds atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for !stop(int(rounds.Add(1))) {
				conn, err := net.Dial("udp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				b.once(conn)
				conn.Close()
			}
		})
	}
	workers.Wait()
}

// What is known of the library is true: each of these ends the process of the bare one.
func TestBareLibraryPanics(t *testing.T) {
	testkit.SkipIfShort(t)
	folder := t.TempDir()
	program := filepath.Join(folder, "bare")
	if out, err := exec.Command("go", "build", "-o", program, "../bench/bare").CombinedOutput(); err != nil {
		t.Fatalf("%s%v", out, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "small.txt"), []byte("small"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, b := range bombardments {
		cmd := exec.Command(program, "127.0.0.1:0", folder, "1428")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stderr)
		lines.Scan()
		addr := strings.TrimPrefix(lines.Text(), "serving ")
		died := make(chan struct{})
		panicked := ""
		go func() {
			defer close(died)
			for lines.Scan() {
				if strings.HasPrefix(lines.Text(), "panic: ") {
					panicked = lines.Text()
				}
			}
		}()
		deadline := time.Now().Add(10 * time.Second)
		bombard(t, addr, b, func(int) bool {
			select {
			case <-died:
				return true
			default:
				return time.Now().After(deadline)
			}
		})
		cmd.Process.Kill()
		<-died
		cmd.Wait()
		switch {
		case panicked != "":
			t.Logf("%s: the bare library dies in %s: %s", b.name, b.cause, panicked)
		case b.racy:
			t.Logf("%s: no panic of the bare library in 10 s; it is a race", b.name)
		default:
			t.Errorf("%s: the bare library lived: is FACTS of %s still true?", b.name, b.cause)
		}
	}
}

// listening starts a server on a loopback socket.
func listening(t *testing.T, cfg Config, h Handler) (addr string, observer *testObserver) {
	t.Helper()
	observer = new(testObserver)
	cfg.Observer = observer
	server, err := Listen([]string{"127.0.0.1:0"}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(h) }()
	t.Cleanup(func() {
		server.Shutdown(t.Context()) // which is done: what runs is ended
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		checkNothingLeft(t, server)
	})
	return server.Addrs()[0].String(), observer
}

// small is a Handler that knows one file.
func small(t *Transfer) (File, error) {
	if t.Name() != "small.txt" {
		return nil, ErrNotFound
	}
	return fileOf([]byte("small"))
}

// fetchSmall fails the test unless the server serves a request.
func fetchSmall(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 600)
	for range 30 {
		conn.Write(requestOf("small.txt", "octet"))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, err := conn.Read(b)
		// Another answer may be one to the port's last owner.
		if err == nil && string(b[:n]) == "\x00\x03\x00\x01small" {
			conn.Write(ackOf(1))
			return
		}
	}
	t.Errorf("last answer %q", b)
}

// The same does nothing to this server.
func TestBombardmentsAreSurvived(t *testing.T) {
	for _, b := range bombardments {
		t.Run(b.name, func(t *testing.T) {
			addr, observer := listening(t, Config{Rate: MaxRate, MaxTransfers: 100_000}, small)
			rounds := 2000
			if b.racy {
				rounds = 4000
			}
			if testing.Short() {
				rounds /= 10
			}
			bombard(t, addr, b, func(n int) bool { return n > rounds })
			fetchSmall(t, addr)
			if panics := observer.panics(); len(panics) != 0 {
				t.Errorf("%d panics, the first: %s", len(panics), panics[0])
			}
		})
	}
}

// A panic of a handler ends its transfer alone.
func TestHandlerPanics(t *testing.T) {
	addr, observer := listening(t, Config{Rate: MaxRate}, func(t *Transfer) (File, error) {
		switch t.Name() {
		case "before":
			panic("before Send")
		case "during":
			return panicFile{}, nil
		}
		return small(t)
	})
	for range 20 {
		for _, name := range []string{"before", "during"} {
			conn, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(requestOf(name, "octet"))
			b := make([]byte, 600)
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := conn.Read(b)
			if err != nil || !bytes.Equal(b[:n], errorOf(ErrRead.Code, ErrRead.Message)) {
				t.Errorf("%s: %q %v", name, b[:n], err)
			}
			conn.Close()
		}
		fetchSmall(t, addr)
	}
	if panics := observer.panics(); len(panics) != 40 {
		t.Errorf("%d of 40 panics were reported", len(panics))
	}
}

// A panic of the engine costs the transfer that it was about. It is reported, and the server serves
// on, the transfers that ran as well as new ones.
func TestEnginePanics(t *testing.T) {
	files := map[string][]byte{"a": content(100_000)}
	inRig(t, files, generous, 21, func(t *testing.T, n *rig) {
		n.both(path{delay: time.Millisecond})
		m := model{name: "client", requests: seconds(1), quiet: seconds(1), deaf: true}
		running := m.open(n.link, 1, 2000)
		done := make(chan error, 1)
		go func() {
			got, err := m.fetch(running, "a")
			if err == nil && !bytes.Equal(got, files["a"]) {
				err = errors.New("wrong bytes")
			}
			done <- err
		}()
		time.Sleep(20 * time.Millisecond)
		for i := range 5 {
			shard := n.server.shards[0]
			shard.mu.Lock()
			shard.engine.strangeForTest = struct{ net.Addr }{}
			shard.mu.Unlock()
			// This request, or what the running transfer needs next, meets the poison.
			c := m.open(n.link, 2+i, 2000)
			if _, err := m.fetch(c, "a"); err != nil && !isClientError(err, ErrRead.Code, ErrRead.Message) {
				t.Error(err)
			}
			m.fetchAll(n, 2+i, "a", 1)
		}
		<-done // it may be the one that was hit
		if panics := n.observer.panics(); len(panics) != 5 {
			t.Errorf("%d of 5 panics were reported", len(panics))
		}
		time.Sleep(2 * progressTime)
		if active := n.server.Active(); active != 0 {
			t.Errorf("%d transfers are active", active)
		}
		n.observer.panicked = nil
	})
}

type panicFile struct{ testFile }

func (panicFile) Size() int64                       { return 1000 }
func (panicFile) ReadAt([]byte, int64) (int, error) { panic("in ReadAt") }

// goroutines returns the number of goroutines in bubbles, and what they are at.
func goroutines() (count int, stacks string) {
	b := make([]byte, 1<<20)
	stacks = string(b[:runtime.Stack(b, true)])
	return strings.Count(stacks, ", synctest bubble "), stacks
}

// After more than 10,000 transfers of all kinds nothing is left.
func TestNothingIsLeft(t *testing.T) {
	testkit.SkipIfShort(t)
	files := map[string][]byte{"a": content(100_000), "b": content(700), "c": nil}
	inRig(t, files, generous, 20, func(t *testing.T, n *rig) {
		n.both(path{delay: time.Millisecond, loss: 0.001})
		n.batch = 16
		synctest.Wait() // the server's goroutines have begun
		before, _ := goroutines()
		var clients sync.WaitGroup
		for client := range 100 {
			clients.Go(func() {
				m := models[client%len(models)]
				m.blockSize = max(m.blockSize, 1000)
				m.deaf = true
				c := m.open(n.link, client, 3000)
				for i := range 120 {
					switch (i + client) % 5 {
					case 0, 1:
						m.fetch(c, []string{"a", "b", "c", "absent"}[i%4])
					case 2: // aborted
						aborting := m
						aborting.aborts = true
						aborting.fetch(c, "a")
					case 3: // replaced by the next
						c.send(m.request("b"))
						c.expect(10 * time.Millisecond)
					case 4: // abandoned, confirmed
						c.send(m.request("a"))
						c.expect(10 * time.Millisecond)
						c.send(ackOf(0))
						c.send(ackOf(1))
						time.Sleep(time.Minute)
					}
				}
				c.close()
			})
		}
		clients.Wait()
		time.Sleep(2 * time.Minute)
		if active := n.server.Active(); active != 0 {
			t.Errorf("%d transfers are active", active)
		}
		synctest.Wait()
		if after, stacks := goroutines(); after > before {
			t.Errorf("%d goroutines before, %d after:\n%s", before, after, stacks)
		}
		kinds := map[string]int{}
		n.resultsMu.Lock()
		for _, r := range n.results {
			switch {
			case r.err == nil:
				kinds["finished"]++
			case errors.Is(r.err, ErrTimedOut):
				kinds["abandoned"]++
			case errors.Is(r.err, ErrReplaced):
				kinds["replaced"]++
			case isClientError(r.err, 8, "User aborted the transfer"):
				kinds["aborted"]++
			default:
				t.Errorf("%+v", r)
			}
		}
		total := len(n.results)
		n.resultsMu.Unlock()
		t.Logf("%d transfers: %v", total, kinds)
		for _, kind := range []string{"finished", "abandoned", "replaced", "aborted"} {
			if kinds[kind] < 500 {
				t.Errorf("only %d transfers were %s", kinds[kind], kind)
			}
		}
	})
}
