//go:build !linux

package singleport

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// plainSocket is a UDP socket as package net has it: a datagram at a time, answered from the
// address that the kernel chooses.
type plainSocket struct {
	conn   *net.UDPConn
	queued []queued
}

// plainQueue bounds the datagrams that wait for flush.
const plainQueue = 256

type queued struct {
	to       netip.AddrPort
	datagram []byte
}

// openSockets binds a socket to addr. Where several share a port is Linux's way alone.
func openSockets(addr *net.UDPAddr, count int) ([]socket, error) {
	if count > 1 {
		return nil, errors.New("several sockets on one port need Linux: leave GOMAXPROCS unset")
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	return []socket{&plainSocket{conn: conn}}, nil
}

func (s *plainSocket) addr() *net.UDPAddr { return s.conn.LocalAddr().(*net.UDPAddr) }

func (s *plainSocket) close() error { return s.conn.Close() }

func (s *plainSocket) serve(l listener) error {
	b := make([]byte, 1024)
	var batch [1]received
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.conn.SetReadDeadline(time.Time{})
			l.receive(nil)
			continue
		}
		if err != nil {
			continue // about a datagram that was sent before
		}
		client := endpoint{ip: from.Addr().As16(), port: from.Port()}
		if zone := from.Addr().Zone(); zone != "" {
			if link, err := net.InterfaceByName(zone); err == nil {
				client.zone = uint32(link.Index)
			}
		}
		batch[0] = received{route{client: client}, b[:n]}
		l.receive(batch[:])
	}
}

func (s *plainSocket) space(*Transfer) int { return plainQueue - len(s.queued) }

func (s *plainSocket) send(to *route, datagram []byte, _ *Transfer) {
	addr := to.client.addrPort()
	if to.client.zone != 0 {
		addr = netip.AddrPortFrom(addr.Addr().WithZone(strconv.Itoa(int(to.client.zone))), addr.Port())
	}
	s.queued = append(s.queued, queued{addr, append([]byte(nil), datagram...)})
}

func (s *plainSocket) sendBlocks(b blocks) {
	size := b.owner.window.blockSize
	datagram := make([]byte, 4+size)
	for range b.count {
		binary.BigEndian.PutUint16(datagram, opDATA)
		binary.BigEndian.PutUint16(datagram[2:], b.number)
		n := copy(datagram[4:], b.data[:min(size, len(b.data))])
		s.send(&b.owner.route, datagram[:4+n], nil)
		b.number++
		b.data = b.data[n:]
	}
}

// flush waits where the way out is full, as package net does.
func (s *plainSocket) flush(func(*Transfer, int, int)) bool {
	for _, q := range s.queued {
		s.conn.WriteToUDPAddrPort(q.datagram, q.to)
	}
	s.queued = s.queued[:0]
	return true
}

func (s *plainSocket) awaitWritable(func() bool) {}

func (s *plainSocket) alarm(f func()) alarm { return newPlainAlarm(f) }

func (s *plainSocket) wake() { s.conn.SetReadDeadline(time.Unix(1, 0)) }

func (s *plainSocket) self() endpoint { return selfOf(s.addr().AddrPort()) }

func (s *plainSocket) dropped() int64 { return -1 }

func (s *plainSocket) sendRoom() int { return 0 }

var _ socket = (*plainSocket)(nil)
