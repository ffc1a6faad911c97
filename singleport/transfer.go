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
	again   bool   // the RRQ repeats one that got no answer
	former  uint64 // digest of the RRQ before it from the same port, 0 for none
	began   int64  // monotonic nanoseconds, like every time here
	route   route
	file    File // nil until the Handler returned it
	turn    turn // of its file operations

	// What pin/tftp knows it by, and what passes between the two. See engine.
	stage       stage
	id          uint64
	ip          [4]byte
	address     net.UDPAddr
	engineBlock uint16 // number of the segment that pin/tftp sent last
	segmentSize int    // bytes, a multiple of the block size
	segmentFrom int64  // where the next segment begins in the file, bytes
	segmentHeld int    // bytes that pin/tftp holds for segments
	waiting     bool   // pin/tftp waits for the answer to what it sent
	delivery    delivery
	following   *Transfer // in the engine's queue
	readFailure error     // of the file; of pin/tftp's goroutine

	over      bool  // nothing is sent any more
	end       error // why, if not because the client has the whole file
	ended     int64
	window    window
	flight    flightLimit
	pace      pace
	estimator estimator

	pass          pass
	before, after *Transfer // among the shard's unconfirmed transfers that were answered
	listed        bool
	confirmed     bool
	offeredAt     int64  // when the first answer was sent
	oack          []byte // until the client acknowledged it, else nil
	datagrams     int    // first answers that were sent to an unconfirmed client
	simple        bool   // see isSimple
	declined      bool   // the client acknowledges no empty block
	unreachable   bool   // its host said since the last new ACK that the port is closed
	uncut         bool   // datagrams that the kernel cuts do not arrive

	progress    int64 // when something new was acknowledged last
	tries       int   // repeats since then
	suspectAt   int64 // when a sign of a loss becomes one; 0 for none
	doubted     bool  // a faint sign of a loss: it is one if the next ACK is overdue
	resumeAt    int64 // when more may be sent after a timeout; 0 is now
	blind       bool  // its flight was sent again without a word from the client
	mute        int   // how often all of them were in vain
	probed      bool  // the last of them went alone
	probes      int   // copies of a block whose ACK alone is missing
	alarmed     bool  // its flight was sent again for the sign of a loss, and no ACK came since
	alarms      int   // how often that was for nothing
	timedOutAt  int64 // when the block was sent whose ACK the timer missed; 0 if that is settled
	copiedAt    int64 // when blocks were sent again last, but for a probe
	repairedAt  int64 // when its flight was sent again last
	retransmits int

	largestFlight int // blocks

	known   bool      // it counts among those of its address, see memory
	blocked bool      // it waits in shard.blocked until the socket is writable
	copy    *lateCopy // of its RRQ or of the one before it, which may be a new one

	due, look int64 // see timers
	slot      int
}

// stage is where a transfer is between its RRQ and the end of its last goroutine.
type stage int

const (
	opening  stage = iota // the Handler is at it
	offered               // no goroutine is at it: the OACK is under way
	engaged               // it is pin/tftp's
	disposed              // File.Ended is being called, or was
)

// File is what a Handler returns for a transfer. Its methods are called by one goroutine at a time.
type File interface {
	// ReadAt reads for octet: any part, and again if blocks are lost.
	io.ReaderAt
	// Read reads for netascii: once, from the beginning.
	io.Reader
	// Size returns the size, bytes; it answers the tsize option (octet only).
	Size() int64
	// Ended is called once, when nothing is read any more. err is nil if the client has the whole
	// file, else one of the errors of this package or that of a read. Transfer.Stats is complete
	// then.
	Ended(err error)
}

// Name returns the file name as the client sent it: up to 480 bytes of anything but NUL.
func (t *Transfer) Name() string { return t.name }

// Client returns the address that asked; an IPv4 address is never IPv6-mapped.
func (t *Transfer) Client() netip.AddrPort { return t.route.client.addrPort() }

// Mode returns how the file is to be carried. The engine converts to netascii.
func (t *Transfer) Mode() Mode { return t.mode }

// Stats returns the figures of the transfer.
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

// segmentReader reads a file for the engine, which wants to be given all that it asks for: a
// segment shorter than that would be its last. Only a netascii file ends in one.
type segmentReader struct{ t *Transfer }

func (r segmentReader) Read(p []byte) (n int, err error) {
	t := r.t
	server := t.shard.server
	if !server.disk.enter(&t.turn) {
		return 0, errEnded
	}
	defer server.disk.leave(&t.turn)
	defer func() {
		if v := recover(); v != nil {
			server.panicked(v)
			n, err = 0, ErrRead
		}
		if err != nil && err != io.EOF {
			t.readFailure = err
		}
	}()
	if t.mode != Octet {
		return t.file.Read(p)
	}
	left := t.file.Size() - t.segmentFrom
	if left <= 0 {
		return len(p), nil // the empty block of a file that ends with a whole one
	}
	part := p[:min(int64(len(p)), left)]
	if n, err := t.file.ReadAt(part, t.segmentFrom); n < len(part) {
		if err == nil || err == io.EOF {
			err = errShort
		}
		return 0, err
	}
	return len(p), nil
}

var errShort = errors.New("the file is shorter than its size")
