// Package singleport carries TFTP transfers over one UDP port.
//
// It owns the socket and everything that is timing, windows and admission, and lets
// github.com/pin/tftp/v3 be what it is good at: the engine that runs a transfer and reads the
// file. The two meet in a net.PacketConn (engine) on which pin/tftp serves. pin/tftp sees a clean
// request and then sends the file in segments of many blocks; this package cuts a segment into
// the blocks and windows that the client negotiated, retransmits them, and answers pin/tftp when
// it needs the next segment.
//
// It knows nothing of files, names or logs: a Handler decides what a request gets, an Observer is
// told what never reached a Handler.
package singleport

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Bounds of the options that a request may carry.
const (
	MinBlockSize     = 8     // bytes, RFC 2348
	MaxBlockSize     = 65464 // bytes, RFC 2348
	DefaultBlockSize = 512   // bytes, RFC 1350: a transfer without the blksize option
	MaxWindowSize    = 32767 // blocks; RFC 7440 has 65535, but old ACKs would pass for new
	MaxTimeout       = 255   // seconds, RFC 2349
)

// Defaults of a Config.
const (
	// DefaultMaxBlockSize, in bytes, fills an Ethernet frame: 1500 less 20 of IPv4, 8 of UDP and
	// 4 of TFTP. A larger block is sent in IP fragments, which many boot ROMs cannot put
	// together.
	DefaultMaxBlockSize  = 1468
	DefaultMaxWindowSize = 64 // blocks
	DefaultMaxTransfers  = 2000
	// DefaultAhead, in blocks: the ring of 32 of U-Boot's virtio driver never recovers once it
	// was full.
	DefaultAhead = 24
	// BufferSize, in bytes, is what a socket asks of the kernel for each direction: room for the
	// requests of a thousand clients at once, and for their blocks.
	BufferSize = 4 << 20
	// MaxAhead, in blocks, is more than any client is known to hold.
	MaxAhead = 1024
)

// Error is an ERROR packet: what the client is told, and all that it is told.
type Error struct {
	Code    uint16 // RFC 1350 appendix, RFC 2347 for code 8
	Message string // fixed ASCII text without a NUL
}

func (e *Error) Error() string { return e.Message }

// The ERROR packets that a server sends.
var (
	ErrNotFound = &Error{1, "File not found"}
	ErrAccess   = &Error{2, "Access violation"}
	ErrIllegal  = &Error{4, "Illegal TFTP operation"}
	ErrBusy     = &Error{0, "Server busy"}
	ErrRead     = &Error{0, "Read failed"}
	ErrStopping = &Error{0, "Server stopping"}
)

// How a transfer that began can end other than whole: File.Ended gets one of these, a
// *ClientError, or the error of a read.
var (
	ErrTimedOut = errors.New("no answer from the client")
	ErrReplaced = errors.New("the client began another request")
	ErrMadeWay  = errors.New("others waited and the client made no use of it, or held most of what there is")
	ErrStopped  = errors.New("the server stopped")
	ErrGone     = errors.New("the client's host says that the port is closed")
	ErrHung     = fmt.Errorf("the disk did not answer in time: %w", ErrBusy)
)

// ClientError is an ERROR that the client sent; it ends the transfer and is never answered (RFC
// 1350 section 7).
type ClientError struct {
	Code    uint16
	Message string // bytes from the network: escape before printing; at most 128 bytes
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("the client sent ERROR %d %q", e.Code, e.Message)
}

// Mode is how a file is carried (RFC 1350 section 1).
type Mode string

// The modes that are served. "mail" is not.
const (
	Octet    Mode = "octet"
	NetASCII Mode = "netascii"
)

// Config sets the limits of a Server. Zero values take the defaults that each field names.
type Config struct {
	MaxBlockSize  int // largest blksize granted, bytes, 512 to 65464; 0 is DefaultMaxBlockSize
	MaxWindowSize int // largest windowsize granted, blocks, 1 to 32767; 0 is DefaultMaxWindowSize
	// Ahead is how many blocks may be in flight where no larger window was agreed; 0 is
	// DefaultAhead, 1 is RFC 1350 and RFC 7440 to the letter.
	Ahead        int
	MaxTransfers int // transfers at a time; 0 is DefaultMaxTransfers
	Rate         int // requests a second that one network may make; 0 is DefaultRate
	// Clients are the networks that are heard; nil is all. Datagrams of others draw nothing,
	// except that the machine itself may ask for the empty name, to learn whether its server lives.
	Clients  []netip.Prefix
	Sockets  int      // sockets for each address, on SO_REUSEPORT where more than one; 0 is 1
	Observer Observer // told of what never reaches a Handler; nil is nobody
}

// Handler answers one RRQ with a file, or with an error: an *Error (wrapped or not) says what the
// client is told, any other error becomes ErrRead on the wire. It runs in a goroutine of its own;
// a panic in it, or in the file's methods, ends that transfer alone.
type Handler func(t *Transfer) (File, error)

// Refusal is why a datagram got no transfer.
type Refusal int

const (
	RefusedWrite     Refusal = iota // WRQ: ERROR 2
	RefusedMode                     // a mode other than octet and netascii: ERROR 4
	RefusedBusy                     // MaxTransfers reached: ERROR 0, or silence
	RefusedRate                     // the network is over its rate or its share: silence
	RefusedMalformed                // not a TFTP datagram, or an RRQ that cannot be parsed: silence
	RefusedStopping                 // the server stops: ERROR 0
	RefusedStray                    // ACK, DATA, ERROR or OACK without a transfer: silence
	RefusedClient                   // not among Clients: silence
	RefusedHanging                  // the file, or too many others, do not answer: ERROR 0
)

func (r Refusal) String() string {
	return [...]string{"write", "mode", "busy", "rate", "malformed", "stopping", "stray", "unlisted", "hanging"}[r]
}

// Observer is told of what never reaches a Handler, and of how transfers end. Its methods are
// called from the goroutine that reads the socket: they must be quick and must not call back.
type Observer interface {
	// Refused reports a datagram that got no transfer, or whose transfer ended because a file
	// hangs. name is the file name of an RRQ or a WRQ as the client sent it, else "".
	Refused(client netip.AddrPort, name string, why Refusal)
	// Ended reports that a transfer ended, once for each that began, with what its File is told, or
	// with what its Handler returned in place of one. acknowledged is how many bytes the client
	// has.
	Ended(err error, acknowledged int64)
	// Panicked reports a panic, of the engine or a Handler, that was contained.
	Panicked(value any, stack []byte)
}

// Stats is what is known of a transfer, complete when File.Ended is called.
type Stats struct {
	Bytes       int64 // bytes that the client acknowledged, as they are on the wire
	BlockSize   int
	WindowSize  int
	Retransmits int // DATA and OACK datagrams sent again
	Duration    time.Duration
}
