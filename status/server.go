// Package status answers health checks and scrapes over HTTP/1.1 (RFC 9112). It is small, because
// net/http is larger than the program that it would serve, and it harms nobody, whoever connects:
// a connection has one request, 4 KiB and 4 s, and when all places are taken, the one that has kept
// its place the longest makes way. It knows nothing of TFTP.
package status

import (
	"io"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// headerSize, in bytes, is the most that a request may have. Prometheus sends about 400.
	headerSize = 4 << 10
	// places is how many connections may be open.
	places = 64
	// connectionTime bounds the life of a connection.
	connectionTime = 4 * time.Second
	// lingerTime bounds how long a client that was refused may go on sending. If the connection
	// were closed before it stops, it might lose the answer (RFC 9112 section 9.6).
	lingerTime = time.Second
	// A burst of connections is followed by a pause: nobody needs more than 640 in a second, and
	// each takes time from the other work of the process. Meanwhile the kernel keeps as many
	// waiting as backlog says: a client that it refuses comes again after a second at the earliest.
	burst     = places
	burstTime = 100 * time.Millisecond
	backlog   = 1024
	// failureTime is waited for after a connection could not be accepted, for want of descriptors.
	failureTime = 50 * time.Millisecond
)

// Server is a bound socket.
type Server struct {
	listener *os.File
	raw      syscall.RawConn
	addr     netip.AddrPort

	mu   sync.Mutex
	open []*connection // the oldest first
}

// connection is one that was accepted.
type connection struct {
	file *os.File
	busy bool // a page is being made for it
}

// Addr returns the bound address.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close ends Serve, and lets connections finish.
func (s *Server) Close() error { return s.listener.Close() }

// Serve answers requests with pages until Close.
func (s *Server) Serve(pages []Page) {
	began, accepted := time.Now(), 0
	for {
		file, err := s.accept()
		switch {
		case err == nil:
			s.admit(file, pages)
		case s.raw.Control(func(uintptr) {}) != nil: // it is closed
			return
		default:
			time.Sleep(failureTime)
		}
		if accepted++; accepted%burst == 0 {
			time.Sleep(burstTime - time.Since(began))
			began = time.Now()
		}
	}
}

// accept waits for a connection.
func (s *Server) accept() (file *os.File, err error) {
	waited := s.raw.Read(func(fd uintptr) bool {
		var accepted int
		accepted, err = accept(int(fd))
		if err == nil {
			file = os.NewFile(uintptr(accepted), "")
		}
		return err != syscall.EAGAIN
	})
	if waited != nil {
		err = waited
	}
	return file, err
}

// admit gives a connection a place, and serves it in a goroutine of its own.
func (s *Server) admit(file *os.File, pages []Page) {
	if file.SetDeadline(time.Now().Add(connectionTime)) != nil { // it would never end
		file.Close()
		return
	}
	c := &connection{file: file}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) == places && !s.makeWay() {
		file.Close()
		return
	}
	s.open = append(s.open, c)
	go func() {
		s.serve(c, pages)
		s.remove(c)
		file.Close()
	}()
}

// makeWay closes the oldest connection for which no page is being made.
func (s *Server) makeWay() bool {
	for i, c := range s.open {
		if !c.busy {
			c.file.Close()
			s.open = append(s.open[:i], s.open[i+1:]...)
			return true
		}
	}
	return false
}

func (s *Server) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.open {
		if s.open[i] == c {
			s.open = append(s.open[:i], s.open[i+1:]...)
			return
		}
	}
}

// serve answers one request.
func (s *Server) serve(c *connection, pages []Page) {
	var buffer [headerSize]byte
	request, whole := readHeader(c.file, buffer[:])
	if !whole && len(request) < headerSize {
		return
	}
	s.setBusy(c, true)
	answer, isPage := respond(request, pages)
	s.setBusy(c, false)
	if _, err := c.file.Write(answer); err != nil || isPage {
		return
	}
	c.file.SetReadDeadline(time.Now().Add(lingerTime))
	for err := error(nil); err == nil; {
		_, err = c.file.Read(buffer[:])
	}
}

func (s *Server) setBusy(c *connection, busy bool) {
	s.mu.Lock()
	c.busy = busy
	s.mu.Unlock()
}

// readHeader reads up to the empty line that ends a header. It reports whether there is one.
func readHeader(from io.Reader, buffer []byte) (read []byte, whole bool) {
	for n := 0; n < len(buffer); {
		more, err := from.Read(buffer[n:])
		searched := n
		n += more
		if end := headerEnd(buffer[:n], searched); end > 0 {
			return buffer[:end], true
		}
		if err != nil {
			return nil, false
		}
	}
	return buffer, false
}
