package singleport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
)

// Transfer is one RRQ and its answer, as a Handler sees it.
type Transfer struct{}

// Name returns the file name as the peer sent it: up to 480 bytes of anything but NUL.
func (t *Transfer) Name() string { return "" }

// Peer returns the address that asked; an IPv4 address is never IPv6-mapped.
func (t *Transfer) Peer() netip.AddrPort { return netip.AddrPort{} }

// Mode returns how the file is to be carried. The engine converts to netascii.
func (t *Transfer) Mode() Mode { return Octet }

// Send carries what r returns until io.EOF. size, in bytes, answers the tsize option (octet only); a negative size leaves it out.
// It blocks until the transfer ended, once per transfer.
func (t *Transfer) Send(r io.Reader, size int64) error { return errors.New("not built") }

// Stats returns the figures of the transfer; complete after Send.
func (t *Transfer) Stats() Stats { return Stats{} }

// Server serves TFTP on its sockets.
type Server struct{}

// Listen binds every address, HOST:PORT in net.Listen's form for "udp" (:PORT is IPv4 and IPv6, port 0 picks one).
func Listen(addrs []string, cfg Config) (*Server, error) { return nil, errors.New("not built") }

// Addrs returns the bound addresses, in the order of Listen.
func (s *Server) Addrs() []net.Addr { return nil }

// Serve answers requests with h until Shutdown. It returns nil after a Shutdown.
func (s *Server) Serve(h Handler) error { return errors.New("not built") }

// Shutdown refuses new requests (ERROR 0 "Server stopping"), waits until the running transfers ended or ctx is
// done, ends what is left with the same ERROR, and closes the sockets. Serve returns.
func (s *Server) Shutdown(ctx context.Context) error { return errors.New("not built") }

// Active returns the number of transfers that run.
func (s *Server) Active() int { return 0 }
