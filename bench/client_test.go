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

// Most boot programs are silent about blocks out of order: GRUB, PXELINUX, atftp, busybox, curl.
func TestLockStepClientDropsBlocksOutOfOrder(t *testing.T) {
	file := contents(5_500)
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	// The server's blocks after each ACK: some before their turn, some again, several in a row.
	script := map[byte][]byte{0: {1}, 1: {3, 4, 2}, 2: {3, 1, 4, 5, 6}}
	var acks []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1024)
		for {
			n, client, err := server.ReadFromUDPAddrPort(buffer)
			switch {
			case err != nil:
				return
			case buffer[1] == opRRQ:
				server.WriteToUDPAddrPort([]byte("\x00\x06blksize\x001000\x00"), client)
			case buffer[1] == opAck && n == 4:
				acks = append(acks, buffer[3])
				for _, block := range script[buffer[3]] {
					data := file[(int(block)-1)*1000 : min(int(block)*1000, len(file))]
					server.WriteToUDPAddrPort(append([]byte{0, opData, 0, block}, data...), client)
				}
				delete(script, buffer[3])
				if buffer[3] == 6 {
					return
				}
			}
		}
	}()
	l := load{server: server.LocalAddr().(*net.UDPAddr).AddrPort(), name: "file", content: file, blockSize: 1000,
		windowSize: 1, clients: 1, each: 1, limit: 30 * time.Second}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(o.latencies) != 1 {
		t.Fatalf("failures %v, %d cut", o.failures, o.cut)
	}
	<-done
	if want := []byte{0, 1, 2, 3, 4, 5, 6}; !bytes.Equal(acks, want) {
		t.Errorf("ACKs %v, want %v", acks, want)
	}
}

// The kernel may give a client the port of an earlier one, to which the server still sends.
func TestClientIgnoresBlocksOfAnEarlierTransfer(t *testing.T) {
	for _, test := range []struct {
		name    string
		first   []byte
		failure string
	}{
		{"block 7 before the OACK", []byte("\x00\x03\x00\x07stale"), ""},
		{"block 1 instead of an OACK", []byte("\x00\x03\x00\x01content"), "options not negotiated"},
	} {
		server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			buffer := make([]byte, 1024)
			for {
				_, client, err := server.ReadFromUDPAddrPort(buffer)
				switch {
				case err != nil:
					return
				case buffer[1] == opRRQ:
					server.WriteToUDPAddrPort(test.first, client)
					server.WriteToUDPAddrPort([]byte("\x00\x06blksize\x00512\x00"), client)
				case buffer[1] == opAck && buffer[3] == 0:
					server.WriteToUDPAddrPort([]byte("\x00\x03\x00\x01content"), client)
				}
			}
		}()
		l := load{server: server.LocalAddr().(*net.UDPAddr).AddrPort(), name: "file", content: []byte("content"),
			blockSize: 512, windowSize: 1, clients: 1, each: 1, limit: 30 * time.Second}
		o, err := l.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if test.failure == "" && len(o.latencies) != 1 || test.failure != "" && o.failures[test.failure] != 1 {
			t.Errorf("%s: %d transfers, failures %v", test.name, len(o.latencies), o.failures)
		}
	}
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
