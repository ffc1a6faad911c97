package singleport

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// Transfer is one RRQ and its answer, as a Handler sees it.
type Transfer struct {
	shard   *shard
	name    string
	mode    Mode
	options []wish
	digest  uint64 // of the RRQ, to know it again
	began   int64  // monotonic nanoseconds, like every time here
	route   route

	// What pin/tftp knows it by, and what passes between the two. See engine.
	id           uint64
	ip           [4]byte
	address      net.UDPAddr
	engine       io.ReaderFrom
	engineBlock  uint16 // number of the segment that pin/tftp sent last
	segmentLimit int    // bytes
	segmentSize  int    // bytes, a multiple of the block size
	waiting      bool   // pin/tftp waits for the answer to what it sent
	delivery     delivery
	following    *Transfer // in the engine's queue
	readFailure  error     // of the file, or why the Handler refused; of pin/tftp's goroutine

	sent      bool  // Send was called
	returned  bool  // the Handler has
	size      int64 // of the file, bytes, as Send was told
	over      bool  // nothing is sent any more
	end       error // why, if not because all has arrived
	ended     int64
	released  bool
	reserved  int64 // bytes of Server.reserved
	window    window
	estimator estimator

	pass          pass
	before, after *Transfer // among the shard's unconfirmed transfers that were answered
	listed        bool
	confirmed     bool
	confirmedAt   int64
	offeredAt     int64  // when the first answer was sent
	oack          []byte // until the client acknowledged it, else nil
	datagrams     int    // first answers that were sent to an unconfirmed client
	declined      bool   // the client acknowledges no empty block

	progress    int64  // when something new was acknowledged last
	tries       int    // repeats since then
	sampled     uint64 // block whose round trip is measured, 0 for none
	sampledAt   int64
	retransmits int
	pace        pace

	due, look int64 // see timers
	slot      int
}

// Name returns the file name as the client sent it: up to 480 bytes of anything but NUL.
func (t *Transfer) Name() string { return t.name }

// Client returns the address that asked; an IPv4 address is never IPv6-mapped.
func (t *Transfer) Client() netip.AddrPort { return t.route.client.addrPort() }

// Mode returns how the file is to be carried. The engine converts to netascii.
func (t *Transfer) Mode() Mode { return t.mode }

var errSentTwice = errors.New("Send was called before")

// Send carries what r returns until io.EOF. size, in bytes, answers the tsize option (octet only); a negative size leaves it out.
// It blocks until the transfer ended, once per transfer.
func (t *Transfer) Send(r io.Reader, size int64) error {
	s := t.shard
	s.mu.Lock()
	if t.sent {
		s.mu.Unlock()
		return errSentTwice
	}
	t.sent, t.size = true, size
	if t.mode != Octet {
		t.size = -1
	}
	s.mu.Unlock()
	err := t.run(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.over {
		return t.end
	}
	return err
}

// run has the engine carry what r returns. Only while r is read may a file keep this goroutine waiting.
func (t *Transfer) run(r io.Reader) error {
	disk := t.shard.server.disk
	<-disk
	defer func() { disk <- struct{}{} }()
	_, err := t.engine.ReadFrom(&watchedReader{r, t})
	return err
}

// watchedReader keeps the error of a reader, of which pin/tftp passes on the text alone.
type watchedReader struct {
	io.Reader
	t *Transfer
}

func (r *watchedReader) Read(p []byte) (int, error) {
	disk := r.t.shard.server.disk
	disk <- struct{}{}
	defer func() { <-disk }()
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.t.readFailure = err
	}
	return n, err
}

// Stats returns the figures of the transfer; complete after Send.
func (t *Transfer) Stats() Stats {
	s := t.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		BlockSize: DefaultBlockSize, WindowSize: 1,
		Retransmits: t.retransmits,
		Duration:    time.Duration(s.server.now() - t.began),
	}
	if t.over {
		stats.Duration = time.Duration(t.ended - t.began)
	}
	if t.window.blockSize > 0 {
		stats.Bytes, stats.BlockSize, stats.WindowSize = t.window.bytesAcked(), t.window.blockSize, t.window.windowSize
	}
	return stats
}

// pace spreads the windows of a receiver that cannot take them at once, as its network card has room for a few frames only.
type pace struct {
	level int // index of paces; 0 sends a window at once
	lossy int // windows in a row that lost blocks
	clean int // windows in a row that lost none
}

// paces are the bursts of each level, slower and slower.
var paces = [...]struct {
	blocks int
	gap    time.Duration
}{{MaxWindowSize, 0}, {8, time.Millisecond}, {4, time.Millisecond}, {2, time.Millisecond}, {1, time.Millisecond}, {1, 2 * time.Millisecond}, {1, 4 * time.Millisecond}}

const (
	// lossyWindows in a row are no accident of the network: the next level.
	lossyWindows = 3
	// cleanWindows in a row show that a level may be more than is needed.
	cleanWindows = 32
)

func (p *pace) lost() {
	p.clean = 0
	if p.lossy++; p.lossy == lossyWindows {
		p.lossy, p.level = 0, min(p.level+1, len(paces)-1)
	}
}

func (p *pace) arrived() {
	p.lossy = 0
	if p.clean++; p.clean == cleanWindows {
		p.clean, p.level = 0, max(p.level-1, 0)
	}
}
