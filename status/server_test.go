package status

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// started returns the address of a server with pages.
func started(t *testing.T, pages []Page) string {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	testkit.Must(t, err)
	ended := make(chan struct{})
	go func() {
		s.Serve(pages)
		close(ended)
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return s.Addr().String()
}

const healthRequest = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

// patience bounds what should take milliseconds, for a machine that is busy with other work.
const patience = 30 * time.Second

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// exchange sends a request and returns all that comes back.
func exchange(t *testing.T, addr, request string) string {
	t.Helper()
	conn := dial(t, addr)
	io.WriteString(conn, request)
	answer, err := io.ReadAll(conn)
	testkit.Must(t, err)
	return string(answer)
}

func TestServe(t *testing.T) {
	t.Parallel()
	addr := started(t, testPages)
	if answer := exchange(t, addr, healthRequest); !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(answer, "\r\n\r\nwell\n") {
		t.Errorf("%q", answer)
	}
	// In pieces.
	conn := dial(t, addr)
	for _, piece := range []string{"G", "ET /healthz HT", "TP/1.1\r", "\nHost: x\r\n", "\r", "\n"} {
		time.Sleep(time.Millisecond)
		io.WriteString(conn, piece)
	}
	if answer, err := io.ReadAll(conn); err != nil || !bytes.HasSuffix(answer, []byte("well\n")) {
		t.Errorf("%q, %v", answer, err)
	}
	// A header that is too large is refused, and its sender reads that before the connection ends.
	if answer := exchange(t, addr, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 431 ") {
		t.Errorf("%q", answer)
	}
	// A client that hangs up before the end harms nobody.
	for _, part := range []string{"", "GET", "GET /healthz HTTP/1.1\r\nHost: x\r\n"} {
		conn := dial(t, addr)
		io.WriteString(conn, part)
		conn.Close()
	}
	if answer := exchange(t, addr, healthRequest); !strings.HasSuffix(answer, "well\n") {
		t.Errorf("%q", answer)
	}
}

// However slow or silent they are, connections end within 5 s, without a word if they asked for
// nothing.
func TestConnectionsEnd(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	addr := started(t, testPages)
	began := time.Now()
	var ending sync.WaitGroup
	for _, slow := range []struct {
		first, each string
		answers     bool
	}{
		{"", "", false}, {"GET /healthz HTTP/1.1\r\n", "", false}, {"GET /healthz HTTP/1.1\r\n", "a: b\r\n", false},
		{"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "body", true},
	} {
		conn := dial(t, addr)
		ending.Go(func() {
			io.WriteString(conn, slow.first)
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-time.After(100 * time.Millisecond):
						io.WriteString(conn, slow.each)
					case <-stop:
						return
					}
				}
			}()
			answer, err := io.ReadAll(conn)
			close(stop)
			if errors.Is(err, os.ErrDeadlineExceeded) || (len(answer) > 0) != slow.answers {
				t.Errorf("%q: %q, %v", slow.first, answer, err)
			}
		})
	}
	ending.Wait()
	// connectionTime, with room for a busy machine.
	if took := time.Since(began); took > patience/2 {
		t.Errorf("they took %v", took)
	} else {
		t.Logf("they took %v", took)
	}
}

// When all places are taken by silent connections, the oldest makes way for one that asks.
func TestOldestMakesWay(t *testing.T) {
	t.Parallel()
	addr := started(t, testPages)
	var silent []net.Conn
	for range places {
		silent = append(silent, dial(t, addr))
	}
	for i := range 3 {
		if answer := exchange(t, addr, healthRequest); !strings.HasSuffix(answer, "well\n") {
			t.Fatalf("request %d: %q", i, answer)
		}
	}
	if _, err := silent[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest is still there: %v", err)
	}
	// One that is younger lives, until its time is over.
	io.WriteString(silent[places-1], healthRequest)
	if answer, err := io.ReadAll(silent[places-1]); err != nil || !bytes.HasSuffix(answer, []byte("well\n")) {
		t.Errorf("the youngest: %q, %v", answer, err)
	}
}

// A connection whose page is being made keeps its place, and when there are only such, new ones
// are closed.
func TestPagesThatTakeLong(t *testing.T) {
	t.Parallel()
	release, asked := make(chan struct{}), make(chan struct{}, 2*places)
	addr := started(t, []Page{{Path: "/healthz", Get: func(text []byte) ([]byte, bool) {
		asked <- struct{}{}
		<-release
		return append(text, "well\n"...), true
	}}})
	var conns []net.Conn
	for range places {
		conn := dial(t, addr)
		io.WriteString(conn, healthRequest)
		conns = append(conns, conn)
	}
	for range places {
		<-asked
	}
	before := runtime.NumGoroutine()
	for range 20 {
		if answer, _ := io.ReadAll(dial(t, addr)); len(answer) != 0 {
			t.Errorf("%q", answer)
		}
	}
	if after := runtime.NumGoroutine(); after > before+5 {
		t.Errorf("%d goroutines, then %d", before, after)
	}
	close(release)
	for i, conn := range conns {
		if answer, err := io.ReadAll(conn); err != nil || !bytes.HasSuffix(answer, []byte("well\n")) {
			t.Errorf("%d: %q, %v", i, answer, err)
		}
	}
}

func TestListen(t *testing.T) {
	for _, addr := range []string{":0", "127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		s, err := Listen(addr)
		if err != nil {
			if addr == "[::1]:0" {
				testkit.Skip(t, err.Error())
			}
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			s.Serve(testPages)
			close(ended)
		}()
		hosts := []string{s.Addr().Addr().String()}
		if s.Addr().Addr().IsUnspecified() {
			hosts = []string{"127.0.0.1"}
			if addr == ":0" && s.Addr().Addr().Is6() {
				hosts = append(hosts, "::1")
			}
		}
		for _, host := range hosts {
			at := net.JoinHostPort(host, fmt.Sprint(s.Addr().Port()))
			if answer := exchange(t, at, healthRequest); !strings.HasSuffix(answer, "well\n") {
				t.Errorf("%s: %q", at, answer)
			}
		}
		if _, err := Listen(s.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), "listen tcp ") {
			t.Errorf("%s, again: %v", addr, err)
		}
		s.Close()
		<-ended
		again, err := Listen(s.Addr().String()) // though connections are in TIME_WAIT
		testkit.Must(t, err)
		again.Close()
	}
	for addr, want := range map[string]error{"192.0.2.1:0": syscall.EADDRNOTAVAIL} {
		if _, err := Listen(addr); !errors.Is(err, want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "x", "localhost:1", "[fe80::1%lo]:0", ":65536"} {
		if s, err := Listen(addr); err == nil {
			s.Close()
			t.Errorf("%q is bound", addr)
		}
	}
}

// What the process tells of itself is what the kernel says.
func TestProcess(t *testing.T) {
	before := time.Now()
	p := OpenProcess()
	u := p.Usage()
	if start := time.UnixMilli(int64(u.StartTime * 1e3)); start.Before(before.Add(-time.Second)) || start.After(time.Now()) {
		t.Errorf("began at %v", start)
	}
	if u.CPU <= 0 || u.MaxFiles < 16 {
		t.Errorf("%+v", u)
	}
	if runtime.GOOS != "linux" {
		return
	}
	for range 100 {
		file, err := os.Open("/dev/null")
		testkit.Must(t, err)
		defer file.Close()
	}
	memory := make([]byte, 32<<20)
	for i := range memory {
		memory[i] = 1
	}
	p.usedAt = time.Now().Add(time.Hour)
	if again := p.Usage(); again != u {
		t.Errorf("%+v a moment later, %+v before", again, u)
	}
	p.usedAt = time.Time{}
	more := p.Usage()
	if opened := more.OpenFiles - u.OpenFiles; u.OpenFiles < 4 || opened < 90 || opened > 110 {
		t.Errorf("%v descriptors, then %v", u.OpenFiles, more.OpenFiles)
	}
	if grown := more.Resident - u.Resident; u.Resident < 1<<20 || grown < 20<<20 {
		t.Errorf("%v bytes resident, then %v", u.Resident, more.Resident)
	}
	if more.CPU <= u.CPU {
		t.Errorf("%v s of CPU, then %v", u.CPU, more.CPU)
	}
	runtime.KeepAlive(memory)
	for text, want := range map[string]int{"\nVmRSS:\t  12 kB\n": 12, "\nVmRSS:\n": 0, "\nVmRSS:7": 7, "VmRSS: 7": -1, "": -1} {
		if n := numberOf([]byte(text), "\nVmRSS:"); n != want {
			t.Errorf("%q: %d", text, n)
		}
	}
	if u := new(Process).Usage(); u.Resident >= 0 || u.OpenFiles >= 0 { // where there is no /proc
		t.Errorf("%+v", u)
	}
}
