package singleport

import (
	"net"
	"net/netip"
	"time"
)

// endpoint is a client: what a transfer is found by.
type endpoint struct {
	ip   [16]byte // IPv4 is IPv6-mapped (RFC 4291 section 2.5.5.2)
	zone uint32   // interface index of an IPv6 link-local address, else 0
	port uint16
}

// addrPort returns the endpoint for people; an IPv4 address is never IPv6-mapped.
func (e endpoint) addrPort() netip.AddrPort {
	ip := netip.AddrFrom16(e.ip).Unmap()
	return netip.AddrPortFrom(ip, e.port)
}

// selfOf returns where a socket that is bound to at reaches itself: loopback for a wildcard. It is
// zero for an address of a link, which a datagram to itself would need the number of.
func selfOf(at netip.AddrPort) endpoint {
	e := endpoint{ip: at.Addr().As16(), port: at.Port()}
	switch {
	case at.Addr().Zone() != "":
		return endpoint{}
	case at.Addr().IsUnspecified():
		e.ip = mapped([4]byte{127, 0, 0, 1}) // of IPv6, too: it takes both
	}
	return e
}

// mapped returns the IPv6-mapped form of an IPv4 address.
func mapped(ip [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: ip[0], 13: ip[1], 14: ip[2], 15: ip[3]}
}

// route is the way of a datagram: who sent it, which of this machine's addresses it was sent to,
// and where it arrived. An answer takes it back.
type route struct {
	client endpoint
	local  [16]byte // IPv4 is IPv6-mapped; zero leaves the choice to the kernel
	link   uint32   // interface index of arrival, where local means nothing without it, else 0
}

// received is a datagram that arrived. The bytes are valid until the function that it was given
// to returns.
type received struct {
	route route
	data  []byte
}

const fullBatch = 32

// blocks are DATA packets of one transfer. Each carries a block of data, the last what is left,
// which may be nothing.
type blocks struct {
	owner  *Transfer
	number uint16 // of the first
	count  int
	fresh  int    // of the last of them, that were never sent before
	data   []byte // must not change before flush
}

// listener is told of what happens at a socket, by the goroutine that serves it.
type listener interface {
	// receive takes what has arrived. Fewer datagrams than fullBatch mean that no more had arrived.
	receive([]received)
	// unreachable takes the word of a host that a port of it is closed. quoted is the beginning
	// of the datagram that it refused.
	unreachable(client endpoint, quoted []byte)
}

// socket carries the datagrams of one shard. send, sendBlocks and flush are called by one
// goroutine at a time, and not after close.
type socket interface {
	addr() *net.UDPAddr

	// serve tells l what happens until the socket is closed; then it returns net.ErrClosed.
	serve(l listener) error

	// space returns how many blocks of t can be queued before a flush, or, without one, how many
	// datagrams.
	space(t *Transfer) int

	// send queues one datagram, which is copied. owner is the transfer that sends it again, or nil.
	send(to *route, datagram []byte, owner *Transfer)

	// sendBlocks queues DATA packets.
	sendBlocks(b blocks)

	// flush sends what is queued. It returns false if the way out is full, having told unsent
	// what it did not take of each owner; a datagram without an owner is lost, as it may be on
	// any link.
	flush(unsent func(owner *Transfer, blocks, fresh int)) bool

	// awaitWritable calls resume once the way out is free, and again until it returns true.
	awaitWritable(resume func() bool)

	// alarm returns a timer that calls f, in a goroutine of its own.
	alarm(f func()) alarm

	// wake has serve call receive soon, with nothing if nothing arrives. Any goroutine may call it.
	wake()

	// self returns where the socket receives what it sends to itself; zero if it cannot.
	self() endpoint

	// dropped returns how many datagrams the kernel dropped because nobody read them in time,
	// negative if that is not known. Any goroutine may call it.
	dropped() int64

	// sendRoom returns how many bytes may wait to be sent; 0 if that is not known.
	sendRoom() int

	close() error
}

// alarm is a timer. set replaces the time that was set before.
type alarm interface {
	set(time.Duration)
	stop()
}

// plainAlarm is Go's timer, which may come a millisecond late.
type plainAlarm struct{ *time.Timer }

func newPlainAlarm(f func()) plainAlarm {
	timer := time.AfterFunc(time.Hour, f)
	timer.Stop()
	return plainAlarm{timer}
}

func (a plainAlarm) set(d time.Duration) { a.Reset(d) }
func (a plainAlarm) stop()               { a.Stop() }
