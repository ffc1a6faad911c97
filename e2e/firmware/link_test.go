//go:build linux

package firmware

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// path is how datagrams of TFTP fare between server and machine. All other frames pass at once.
type path struct {
	delay time.Duration // one way
	loss  float64       // share of the datagrams, each way
}

// link is the cable between the server's tap and the network card of a machine. It delays, loses
// and records.
type link struct {
	path  path
	tap   *os.File
	card  *net.UnixConn
	guest *net.UnixAddr // where QEMU receives
	lost  atomic.Int64  // datagrams

	mu      sync.Mutex // guards what follows
	capture *os.File
	traffic traffic
}

// queueLength bounds the frames under way in one direction.
const queueLength = 4096

// newLink joins the tap to QEMU, and returns how QEMU is told so. It records the side of the
// machine: what reached it and what it sent.
func newLink(t *testing.T, folder string, tap *os.File, p path) (l *link, backend string) {
	t.Helper()
	host, guest := filepath.Join(folder, "host"), filepath.Join(folder, "guest")
	card, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	testkit.Must(t, err)
	capture, err := os.Create(filepath.Join(folder, "capture.pcap"))
	testkit.Must(t, err)
	_, err = capture.Write(pcapHeader())
	testkit.Must(t, err)
	l = &link{path: p, tap: tap, card: card, guest: &net.UnixAddr{Name: guest, Net: "unixgram"}, capture: capture}

	var running sync.WaitGroup
	running.Go(func() { l.carry(1, tap.Read, l.toGuest) })
	running.Go(func() { l.carry(2, l.fromGuest, func(frame []byte) { tap.Write(frame) }) })
	t.Cleanup(func() {
		tap.Close()
		card.Close()
		running.Wait()
		capture.Close()
	})
	return l, "dgram,id=net0,local.type=unix,local.path=" + guest + ",remote.type=unix,remote.path=" + host
}

// toGuest is silent about a frame that nobody receives, as a cable is.
func (l *link) toGuest(frame []byte) {
	if _, err := l.card.WriteToUnix(frame, l.guest); err == nil {
		l.record(frame)
	}
}

func (l *link) fromGuest(b []byte) (int, error) {
	n, err := l.card.Read(b)
	if err == nil {
		l.record(b[:n])
	}
	return n, err
}

// carry moves frames in one direction until it can read no more. The seed decides which datagrams
// of the sequence are lost.
func (l *link) carry(seed uint64, read func([]byte) (int, error), deliver func([]byte)) {
	type late struct {
		frame []byte
		due   time.Time
	}
	chance := rand.New(rand.NewPCG(seed, seed))
	underWay := make(chan late, queueLength)
	var running sync.WaitGroup
	running.Go(func() {
		for f := range underWay {
			time.Sleep(time.Until(f.due))
			deliver(f.frame)
		}
	})
	defer running.Wait()
	defer close(underWay)
	b := make([]byte, 1<<16)
	for {
		n, err := read(b)
		if err != nil {
			return
		}
		if _, ok := parseDatagram(b[:n]); !ok || l.path == (path{}) {
			deliver(b[:n])
			continue
		}
		if chance.Float64() < l.path.loss {
			l.lost.Add(1)
			continue
		}
		select {
		case underWay <- late{bytes.Clone(b[:n]), time.Now().Add(l.path.delay)}:
		default: // the queue is full
			l.lost.Add(1)
		}
	}
}

// record writes a frame to the capture and counts it in.
func (l *link) record(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.capture.Write(append(pcapWords(int(now.Unix()), now.Nanosecond()/1000, len(frame), len(frame)), frame...))
	if d, ok := parseDatagram(frame); ok {
		l.traffic.add(now, d)
	}
}

// pcapHeader begins a capture: magic number, version 2.4, UTC, the longest frame, Ethernet.
func pcapHeader() []byte { return pcapWords(0xa1b2c3d4, 4<<16|2, 0, 0, 1<<16, 1) }

func pcapWords(words ...int) (b []byte) {

	for _, word := range words {
		b = binary.LittleEndian.AppendUint32(b, uint32(word))
	}
	return b
}

// transfers returns what was transferred so far, in the order of the requests.
func (l *link) transfers() []*transfer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*transfer(nil), l.traffic.all...)
}
