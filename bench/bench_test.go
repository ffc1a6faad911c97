package main

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// contents returns n bytes that are the same in every run.
func contents(n int) []byte {
	source := rand.NewChaCha8([32]byte{7})
	b := make([]byte, n)
	source.Read(b)
	return b
}

// startBare builds and runs the minimal server over a folder with the given files.
func startBare(t *testing.T, files map[string][]byte) *process {
	t.Helper()
	folder := t.TempDir()
	files[readyFile] = []byte("ready\n")
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(t.TempDir(), "bare")
	if out, err := exec.Command("go", "build", "-o", binary, "./bare").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	server, err := startProcess([]string{binary, "127.0.0.1:0", folder, "1428"}, netip.AddrPort{}, false, -1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.kill)
	return server
}

func TestClientsFetchWholeFiles(t *testing.T) {
	file := contents(100_000)
	server := startBare(t, map[string][]byte{"file": file, "exact": file[:14280], "empty": {}})
	for _, test := range []struct {
		name    string
		content []byte
	}{{"file", file}, {"exact", file[:14280]}, {"empty", nil}} {
		l := load{server: server.addr, name: test.name, content: test.content, blockSize: 1428, windowSize: 1,
			clients: 4, each: 3, limit: 20 * time.Second, threads: 2}
		o, err := l.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(12 * len(test.content)); o.bytes != want || len(o.latencies) != 12 || o.failed() != 0 || o.cut != 0 {
			t.Errorf("%s: %d bytes (want %d), %d transfers, failures %v, %d cut",
				test.name, o.bytes, want, len(o.latencies), o.failures, o.cut)
		}
	}
	if spent, err := server.cpu(); err != nil || spent <= 0 {
		t.Errorf("cpu() = %v, %v", spent, err)
	}
	if server.memory() < 1<<20 {
		t.Errorf("memory() = %d", server.memory())
	}
}

func TestClientNoticesWhatIsWrong(t *testing.T) {
	file := contents(50_000)
	other := bytes.Clone(file)
	other[40_000] ^= 1
	server := startBare(t, map[string][]byte{"file": file})
	for want, l := range map[string]load{
		"wrong contents":            {name: "file", content: other, blockSize: 1428, windowSize: 1},
		"windowsize 16 not granted": {name: "file", content: file, blockSize: 1428, windowSize: 16},
		"ERROR 1":                   {name: "absent", blockSize: 1428, windowSize: 1},
	} {
		l.server, l.clients, l.each, l.limit = server.addr, 1, 1, 5*time.Second
		o, err := l.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		reason := ""
		for reason = range o.failures {
		}
		if o.failed() != 1 || !strings.HasPrefix(reason, want) {
			t.Errorf("failures %v, want %q", o.failures, want)
		}
	}
}

// multiPort starts a simple server of windows that answers from a second port, RFC 1350 section 4.
// It has no timer and does not send a block if lose returns true.
func multiPort(t *testing.T, file []byte, blockSize, windowSize int, lose func(block int) bool) netip.AddrPort {
	t.Helper()
	listen, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transfer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listen.Close(); transfer.Close() })
	go func() {
		buffer := make([]byte, 1024)
		for {
			n, client, err := listen.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, options, _ := bytes.Cut(buffer[2:n], []byte("octet\x00"))
			transfer.WriteTo(append([]byte{0, opOACK}, options...), client)
		}
	}()
	go func() {
		buffer := make([]byte, 1024)
		last := len(file)/blockSize + 1
		for {
			n, client, err := transfer.ReadFrom(buffer)
			if err != nil {
				return
			}
			if n < 4 || buffer[1] != opAck {
				continue
			}
			acked := int(buffer[2])<<8 | int(buffer[3])
			for block := acked + 1; block <= min(acked+windowSize, last); block++ {
				if lose(block) {
					continue
				}
				contents := file[(block-1)*blockSize : min(block*blockSize, len(file))]
				transfer.WriteTo(append([]byte{0, opData, byte(block >> 8), byte(block)}, contents...), client)
			}
		}
	}()
	return listen.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestClientReportsGapsAtOnce(t *testing.T) {
	file := contents(100_000)
	lost := map[int]bool{}
	server := multiPort(t, file, 1000, 8, func(block int) bool {
		again := lost[block]
		lost[block] = true
		return block%5 == 3 && !again
	})
	l := load{server: server, name: "file", content: file, blockSize: 1000, windowSize: 8, clients: 1, each: 1,
		limit: 30 * time.Second}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(o.latencies) != 1 || o.failed() != 0 {
		t.Fatalf("%d transfers, failures %v", len(o.latencies), o.failures)
	}
	// 20 lost blocks of which only those at the end of a window may wait for the client's timer.
	if o.latencies[0] > 8*time.Second {
		t.Errorf("took %v: gaps wait for the timer", o.latencies[0])
	}
}

func TestRelayDelaysAndFollowsThePort(t *testing.T) {
	file := contents(10_000)
	const roundTrip = 30 * time.Millisecond
	server := multiPort(t, file, 1000, 1, func(int) bool { return false })
	link, err := newRelay(server, roundTrip, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer link.close()
	l := load{server: link.addr, name: "file", content: file, blockSize: 1000, windowSize: 1, clients: 1, each: 1,
		limit: 20 * time.Second}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// RRQ and OACK, then eleven blocks, the last of them empty.
	if least := 12 * roundTrip; len(o.latencies) != 1 || o.latencies[0] < least {
		t.Errorf("transfers %v, failures %v; the link allows no less than %v", o.latencies, o.failures, least)
	}
}

func TestTransfersSurviveALossyRelay(t *testing.T) {
	file := contents(20_000)
	server := multiPort(t, file, 1000, 2, func(int) bool { return false })
	link, err := newRelay(server, 2*time.Millisecond, 0.04, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer link.close()
	l := load{server: link.addr, name: "file", content: file, blockSize: 1000, windowSize: 2, clients: 8, each: 1,
		limit: time.Minute}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.failed() != 0 || len(o.latencies) != 8 {
		t.Errorf("%d whole, failures %v, %d cut", len(o.latencies), o.failures, o.cut)
	}
	if percentile(o.latencies, 100) < clientTimer {
		t.Error("no transfer waited for a timer: the relay loses nothing")
	}
}

func TestChildrenCount(t *testing.T) {
	p, err := startChildren()
	if err != nil {
		t.Fatal(err)
	}
	counter := openTaskClock(p.Process.Pid)
	if counter < 0 {
		skip(t, "no perf counters for this user")
	}
	s := &process{cmd: p, forks: true, perf: counter}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if spent, err := s.cpu(); err != nil || spent < 10*time.Millisecond {
		t.Errorf("cpu() = %v, %v", spent, err)
	}
}

// startChildren runs a shell whose child does the work.
func startChildren() (*exec.Cmd, error) {
	cmd := exec.Command("sh", "-c", "sleep 0.2; (i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done); exit 0")
	return cmd, cmd.Start()
}

// skip skips the test visibly. It fails the test where every tool must be installed.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("FLYTFTP_NO_SKIP") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func TestPercentile(t *testing.T) {
	d := []time.Duration{5, 1, 4, 2, 3}
	for p, want := range map[int]time.Duration{1: 1, 50: 3, 60: 3, 61: 4, 99: 5, 100: 5} {
		if got := percentile(d, p); got != want {
			t.Errorf("percentile(%d) = %d, want %d", p, got, want)
		}
	}
	if percentile(nil, 50) != 0 {
		t.Error("percentile of none")
	}
}
