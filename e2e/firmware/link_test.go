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
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// path is how datagrams of TFTP fare between the server and the machine; all other frames pass at
// once.
type path struct {
	delay time.Duration // one way
	loss  float64       // share of the datagrams that is lost, each way
}

// link is the cable between the server's tap and the machine's network card: it delays, loses and
// records.
type link struct {
	path
	tap   *os.File
	card  *net.UnixConn
	guest *net.UnixAddr // where QEMU receives

	mu        sync.Mutex
	recording *os.File
	traffic   *traffic
}

// queueLength bounds the frames under way in one direction.
const queueLength = 4096

// newLink joins the tap to the end of a QEMU network backend, whose arguments it returns. The
// recording is of the machine's side: what reached it and what it sent.
func newLink(t *testing.T, folder string, tap *os.File, p path) (*link, string) {
	t.Helper()
	host, guest := filepath.Join(folder, "host"), filepath.Join(folder, "guest")
	card, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	testkit.Must(t, err)
	recording, err := os.Create(filepath.Join(folder, "capture.pcap"))
	testkit.Must(t, err)
	l := &link{path: p, tap: tap, card: card, guest: &net.UnixAddr{Name: guest, Net: "unixgram"}, recording: recording, traffic: newTraffic()}
	// A pcap of version 2.4 with microseconds, in UTC, of whole frames of Ethernet.
	header := binary.NativeEndian.AppendUint32(nil, 0xa1b2c3d4)
	header = append(binary.NativeEndian.AppendUint16(header, 2), 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	header = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(header, 1<<16), 1)
	_, err = recording.Write(header)
	testkit.Must(t, err)

	var running sync.WaitGroup
	running.Go(func() { p.carry(1, tap.Read, l.toGuest) })
	running.Go(func() { p.carry(2, l.fromGuest, func(frame []byte) { tap.Write(frame) }) })
	t.Cleanup(func() {
		tap.Close()
		card.Close()
		running.Wait()
		recording.Close()
	})
	return l, "dgram,id=net0,local.type=unix,local.path=" + guest + ",remote.type=unix,remote.path=" + host
}

// toGuest says nothing of a frame that nobody receives, like a cable.
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

// carry moves frames in one direction until it can read no more. The same seed loses the same
// places of the sequence.
func (p path) carry(seed uint64, read func([]byte) (int, error), deliver func([]byte)) {
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
		if _, ok := parseDatagram(b[:n]); !ok || p == (path{}) {
			deliver(b[:n])
			continue
		}
		if chance.Float64() < p.loss {
			continue
		}
		select {
		case underWay <- late{bytes.Clone(b[:n]), time.Now().Add(p.delay)}:
		default: // the queue is full
		}
	}
}

// record writes a frame to the capture and counts it in.
func (l *link) record(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	header := binary.NativeEndian.AppendUint32(nil, uint32(now.Unix()))
	header = binary.NativeEndian.AppendUint32(header, uint32(now.Nanosecond()/1000))
	header = binary.NativeEndian.AppendUint32(header, uint32(len(frame)))
	header = binary.NativeEndian.AppendUint32(header, uint32(len(frame)))
	l.recording.Write(append(header, frame...))
	if d, ok := parseDatagram(frame); ok {
		l.traffic.add(now, d)
	}
}

// transfers returns what was transferred so far, in the order of the requests.
func (l *link) transfers() []*transfer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*transfer(nil), l.traffic.all...)
}
