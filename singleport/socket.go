package singleport

import (
	"net"
	"net/netip"
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

// route is the way of a datagram: who sent it and which of this machine's addresses it was sent to. An answer takes it back.
type route struct {
	client endpoint
	local  [16]byte // IPv4 is IPv6-mapped; zero leaves the choice to the kernel
}

// received is a datagram that arrived. The bytes are valid until the function that it was given to returns.
type received struct {
	route route
	data  []byte
}

const fullBatch = 32

// socket carries the datagrams of one shard. send, sendBlocks and flush are called by one goroutine at a time, and not after close.
type socket interface {
	addr() *net.UDPAddr

	// serve calls handle with what has arrived, again and again, until the socket is closed; then it returns net.ErrClosed. Fewer
	// datagrams than fullBatch mean that no more had arrived.
	serve(handle func([]received)) error

	// send queues one datagram, which is copied.
	send(to *route, datagram []byte)

	// sendBlocks queues count DATA packets, the first with the number given. Each carries blockSize bytes of data, the last what
	// is left, which may be nothing. data must not change before flush.
	sendBlocks(to *route, number uint16, count, blockSize int, data []byte)

	// flush sends what is queued. What cannot be sent is lost, as it may be on any link.
	flush()

	close() error
}
