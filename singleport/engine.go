package singleport

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
)

// engine lets a pin/tftp server run the transfers of a shard. It is the net.PacketConn that
// pin/tftp reads and writes.
//
// To pin/tftp every transfer is a client of its own with an address that is never used again, so
// that the end of one never meets the beginning of another. It is given a request, then exactly
// one answer to each datagram that it sent, and nothing else; that keeps its known faults out of
// reach (a closed channel is sent to in singlePortProcessRequests, single_port.go; buffers of 516
// bytes overflow in readFrom, connection.go, and packOACK, packet.go; a stray datagram restarts
// its timer in sendDatagram, sender.go).
type engine struct {
	shard  *shard
	server *tftp.Server
	loop   loop

	// Of the shard's mutex.
	arrived  *sync.Cond // there is something in the queue, or closing changed
	queue    *Transfer  // with something to deliver, linked by following
	queueEnd *Transfer
	byID     map[uint64]*Transfer
	lastID   uint64
	closing  bool // once no transfer is left, the engine's Serve returns

	// strangeForTest is what ReadFrom returns next in place of a client's address: pin/tftp
	// panics at it.
	strangeForTest net.Addr

	// Of the goroutine that serves.
	blockSize int       // what SetBlockSize was called with last
	given     *Transfer // whose delivery pin/tftp is at
	givenWhat delivery
}

// delivery is what pin/tftp is to be given next.
type delivery int

const (
	deliverNothing delivery = iota
	deliverRequest
	deliverACK // the ACK of what pin/tftp sent last, for which it sends the next segment
	deliverEnd // an ERROR, which ends the transfer, however it went
)

const (
	// engineTimeout is never reached: this package ends transfers long before.
	engineTimeout = 24 * time.Hour
	// smallBlockSize, in bytes, is the size of the buffers that pin/tftp makes for what it is
	// given: the smallest that SetBlockSize takes.
	smallBlockSize = DefaultBlockSize + 1
)

var errEnded = errors.New("the transfer has ended")

func newEngine(s *shard) *engine {
	e := &engine{shard: s, byID: map[uint64]*Transfer{}, arrived: sync.NewCond(&s.mu), blockSize: smallBlockSize}
	e.loop.name = "runs the transfers"
	e.server = tftp.NewServer(e.read, nil)
	e.server.EnableSinglePort()
	e.server.SetTimeout(engineTimeout)
	e.server.SetBlockSizeNegotiation(false)
	e.server.SetBlockSize(smallBlockSize)
	return e
}

// serve runs pin/tftp until close, again and again should it panic.
func (e *engine) serve() {
	for !e.serveOnce() {
	}
}

func (e *engine) serveOnce() (done bool) {
	defer func() {
		if v := recover(); v != nil {
			e.shard.server.panicked(v)
			e.abandon()
		}
	}()
	e.server.Serve(e)
	return true
}

// abandon ends the transfer at whose delivery pin/tftp panicked: it will not be given again.
func (e *engine) abandon() {
	t, what := e.given, e.givenWhat
	if t == nil {
		return
	}
	e.given = nil
	s := e.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(t, ErrRead)
	s.flush()
	switch what {
	case deliverRequest:
		s.dispose(t)
	default:
		e.enqueue(t, deliverEnd)
	}
}

// enqueue has pin/tftp given what t.delivery says.
func (e *engine) enqueue(t *Transfer, d delivery) {
	if t.delivery != deliverNothing {
		t.delivery = d // it is in the queue
		return
	}
	t.delivery = d
	if e.queue == nil {
		e.queue = t
	} else {
		e.queueEnd.following = t
	}
	e.queueEnd = t
	e.arrived.Signal()
}

// dequeue waits for the next transfer in the queue. It returns nil when the engine closes and no
// transfer is left.
func (e *engine) dequeue() *Transfer {
	for e.queue == nil {
		if e.closing && len(e.byID) == 0 {
			return nil
		}
		e.arrived.Wait()
		e.loop.turns()
	}
	t := e.queue
	e.queue, t.following = t.following, nil
	return t
}

// ReadFrom implements net.PacketConn.
func (e *engine) ReadFrom(b []byte) (int, net.Addr, error) {
	// pin/tftp makes a buffer of this size for whatever it is given next, but limits segments by
	// what is set when a request comes (single_port.go, singlePortProcessRequests; server.go,
	// handlePacket).
	e.setBlockSize(smallBlockSize)
	e.given = nil
	e.shard.mu.Lock()
	e.loop.turns()
	for {
		t := e.dequeue()
		if t == nil {
			e.shard.mu.Unlock()
			runtime.Gosched() // pin/tftp asks again until the last of its goroutines has ended
			return 0, nil, os.ErrDeadlineExceeded
		}
		d := t.delivery
		t.delivery, t.waiting = deliverNothing, false
		if d == deliverRequest && t.over {
			e.shard.dispose(t)
			continue
		}
		n := len(t.appendDelivery(b[:0], d))
		size, strange := t.segmentSize, e.strangeForTest
		e.strangeForTest = nil
		e.shard.mu.Unlock()
		e.given, e.givenWhat = t, d
		if strange != nil {
			return n, strange, nil
		}
		if d == deliverRequest {
			e.setBlockSize(size)
		}
		return n, &t.address, nil
	}
}

func (e *engine) setBlockSize(n int) {
	if e.blockSize != n {
		e.blockSize = n
		e.server.SetBlockSize(n)
	}
}

// appendDelivery appends the datagram of a delivery.
func (t *Transfer) appendDelivery(b []byte, d delivery) []byte {
	switch d {
	case deliverRequest:
		b = append(b, 0, opRRQ)
		b = append(b, t.name...)
		b = append(b, 0)
		b = append(b, t.mode...)
		b = append(b, "\x00blksize\x00"...)
		b = strconv.AppendInt(b, int64(t.segmentSize), 10)
		return append(b, 0)
	case deliverACK:
		return append(b, 0, opACK, byte(t.engineBlock>>8), byte(t.engineBlock))
	}
	return append(b, 0, opERROR, 0, 0, 0)
}

// WriteTo implements net.PacketConn: pin/tftp answers the request, or what it was given last.
func (e *engine) WriteTo(b []byte, addr net.Addr) (int, error) {
	s := e.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	t := e.byID[idOf(addr.(*net.UDPAddr))]
	if t == nil {
		return len(b), nil // the ERROR of a transfer that ended
	}
	opcode := binary.BigEndian.Uint16(b)
	if opcode == opERROR {
		s.fail(t, t.readFailure)
		s.flush()
		return len(b), nil
	}
	if t.over {
		return 0, errEnded
	}
	if t.waiting {
		return len(b), nil // its timer
	}
	t.waiting = true
	switch opcode {
	case opOACK:
		e.enqueue(t, deliverACK) // of block 0
	case opDATA:
		t.engineBlock = binary.BigEndian.Uint16(b[2:])
		s.load(t, b[4:])
	}
	s.flush()
	return len(b), nil
}

// read is pin/tftp's read handler.
func (e *engine) read(_ string, rf io.ReaderFrom) error {
	s := e.shard
	client := rf.(tftp.OutgoingTransfer).RemoteAddr()
	s.mu.Lock()
	t := e.byID[idOf(&client)]
	s.mu.Unlock()
	if t == nil {
		return errEnded // pin/tftp panicked after it began
	}
	rf.ReadFrom(segmentReader{t})
	s.mu.Lock()
	s.fail(t, t.readFailure) // if nothing else ended it
	s.flush()
	s.mu.Unlock()
	s.finish(t)
	return nil
}

// add has pin/tftp begin t, under an address of its own.
func (e *engine) add(t *Transfer) {
	t.stage = engaged
	t.segmentHeld = t.segmentSize
	e.shard.segmentBytes += int64(t.segmentHeld)
	e.lastID++
	t.id = e.lastID
	binary.BigEndian.PutUint32(t.ip[:], uint32(t.id>>16))
	t.address = net.UDPAddr{IP: t.ip[:], Port: int(uint16(t.id))}
	e.byID[t.id] = t
	e.enqueue(t, deliverRequest)
}

func idOf(addr *net.UDPAddr) uint64 {
	return uint64(binary.BigEndian.Uint32(addr.IP))<<16 | uint64(addr.Port)
}

// close makes serve return once no transfer is left.
func (e *engine) close() {
	e.shard.mu.Lock()
	e.closing = true
	e.arrived.Broadcast()
	e.shard.mu.Unlock()
	e.server.Shutdown()
}

// LocalAddr implements net.PacketConn. pin/tftp only wants to parse it (server.go, Serve), which
// fails for an address with a zone.
func (e *engine) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4zero} }

// Close, and deadlines, are the shard's affair.
func (e *engine) Close() error                     { return nil }
func (e *engine) SetDeadline(time.Time) error      { return nil }
func (e *engine) SetReadDeadline(time.Time) error  { return nil }
func (e *engine) SetWriteDeadline(time.Time) error { return nil }

var _ net.PacketConn = (*engine)(nil)
