package singleport

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Nothing outside restarts a UDP server whose loops stand still: no connection breaks, and the
// process lives. So the server looks after them itself. A look asks each loop to show that it
// turns, which a busy one does in passing; one that waits is woken. What passes between two looks
// is told by their number and not by a clock: a process that was stopped, or had no processor, did
// not look either.

const (
	watchPace = time.Second // between two looks
	// sickLooks in vain make a server that says so of itself, wedgedLooks one that is lost.
	sickLooks   = 3
	wedgedLooks = 10
	// stackSize, in bytes, bounds the stacks of a Wedge. The loops are among the oldest goroutines
	// and come first.
	stackSize = 16 << 10
)

// Wedge is a loop that stands still.
type Wedge struct {
	Loop   string   // what it does
	Addr   net.Addr // of its socket
	Stacks []byte   // of goroutines, the first 16 KiB
}

// loop is one that must turn.
type loop struct {
	name  string
	asked atomic.Bool // to show that it turns
	looks int         // in vain, of the watchdog
}

// turns notes that the loop turns, and reports whether it was asked. Where it was not, that costs
// next to nothing.
func (l *loop) turns() bool {
	if !l.asked.Load() {
		return false
	}
	l.asked.Store(false)
	return true
}

// look counts the looks for which the loop owes an answer.
func (l *loop) look() int {
	if !l.asked.Load() {
		l.looks = 0
		return 0
	}
	l.looks++
	return l.looks
}

// watchdog is what looks after the loops of a server.
type watchdog struct {
	pace   time.Duration
	wedged chan Wedge

	mu   sync.Mutex
	sick error
}

// Wedged returns a channel that receives the first loop that stands still for ten seconds in which
// the process ran. It will not turn again, and what it holds is held for ever: the process must
// end.
func (s *Server) Wedged() <-chan Wedge { return s.watchdog.wedged }

// Health returns nil while every loop turns and every address receives what it sends to itself,
// else why not, in a line without anything from the network.
func (s *Server) Health() error {
	s.watchdog.mu.Lock()
	defer s.watchdog.mu.Unlock()
	return s.watchdog.sick
}

// watchLoops looks until ended is closed or a loop is wedged.
func (s *Server) watchLoops(ended <-chan struct{}) {
	for {
		wedged, sick := s.look()
		s.watchdog.mu.Lock()
		s.watchdog.sick = sick
		s.watchdog.mu.Unlock()
		if wedged != nil {
			stacks := make([]byte, stackSize)
			wedged.Stacks = stacks[:runtime.Stack(stacks, true)]
			s.watchdog.wedged <- *wedged
			return
		}
		select {
		case <-time.After(s.watchdog.pace):
		case <-ended:
			return
		}
	}
}

// look asks every loop, and takes the answers to the look before. It takes no lock of a loop.
func (s *Server) look() (wedged *Wedge, sick error) {
	dropped := s.dropped()
	for _, shard := range s.shards {
		at := shard.socket.addr()
		for _, l := range shard.loops() {
			looks := l.look()
			if looks >= sickLooks {
				sick = fmt.Errorf("the loop that %s at %v stands still", l.name, at)
			}
			if looks >= wedgedLooks {
				return &Wedge{Loop: l.name, Addr: at}, sick
			}
		}
		if shard.sendsEcho && shard.echo.look(dropped) >= sickLooks && sick == nil {
			sick = fmt.Errorf("the socket at %v does not answer itself", at)
		}
		shard.reader.asked.Store(true)
		shard.socket.wake()
	}
	return nil, sick
}

func (s *shard) loops() [3]*loop { return [...]*loop{&s.reader, &s.expirer, &s.engine.loop} }

// beat has the other loops of the shard show that they turn, and the socket that it carries: the
// one that reads it was asked, and does.
func (s *shard) beat(now int64) {
	// An alarm that is overdue is left alone: it shows whether the process did not run.
	if !s.expirer.asked.Swap(true) && (s.armed == 0 || s.armed > now) {
		s.armed = now
		s.timer.set(0)
	}
	s.engine.loop.asked.Store(true)
	s.engine.arrived.Broadcast()
	if s.sendsEcho && !s.awaiting { // else what it sends would find the socket full
		s.echo.asked.Store(true)
		s.send(&route{client: s.self}, echoRequest, nil)
	}
}

// takeOwn takes a datagram that the address sent to itself: the request is noted and answered,
// which costs no account anything, whoever forges it. The answer says no more: a full socket may
// lose it.
func (s *shard) takeOwn(r *received) {
	if bytes.Equal(r.data, echoRequest) && s.echo.turns() {
		s.scratch = appendError(s.scratch[:0], ErrNotFound)
		s.send(&r.route, s.scratch, nil)
	}
}

// echo is a request of an address to itself. Of several sockets that share an address, the kernel
// chooses one to receive it, which need not be the one that sent it.
type echo struct {
	loop
	dropped int64 // see look
}

// echoRequest is an RRQ of the empty name, as that of a client who only wants an answer.
var echoRequest = []byte("\x00\x01\x00octet\x00")

// look counts the looks for which there was no answer. A datagram that the kernel dropped since
// may have been it.
func (e *echo) look(dropped int64) int {
	if e.dropped != dropped {
		e.dropped = dropped
		e.looks = 0
		return 0
	}
	return e.loop.look()
}
