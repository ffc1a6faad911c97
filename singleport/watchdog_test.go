package singleport

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stuckObserver keeps whoever tells it of a panic.
type stuckObserver struct {
	testObserver
	stuck chan struct{}
}

func (o *stuckObserver) Panicked(any, []byte) { <-o.stuck }

// stuckLink keeps whoever reads an ACK from it. It does so before the shard is locked: in a bubble,
// time stands still while a goroutine waits for a lock.
type stuckLink struct {
	*link
	stuck chan struct{}
}

func (l stuckLink) serve(to listener) error { return l.link.serve(stuckListener{to, l.stuck}) }

type stuckListener struct {
	listener
	stuck chan struct{}
}

func (l stuckListener) receive(batch []received) {
	for _, r := range batch {
		if len(r.data) > 1 && r.data[1] == wireACK {
			<-l.stuck
		}
	}
	l.listener.receive(batch)
}

// deafAlarm is the alarm of a link whose timer never fires.
type deafAlarm struct{ *link }

func (deafAlarm) alarm(func()) alarm { return newPlainAlarm(func() {}) }

// deafSocket sends to itself, and nothing of it arrives.
type deafSocket struct {
	*sink
	sent atomic.Int64
}

func (*deafSocket) self() endpoint { return endpoint{port: 69} }

func (s *deafSocket) send(to *route, datagram []byte, _ *Transfer) {
	if to.client == s.self() && string(datagram) == string(echoRequest) {
		s.sent.Add(1)
	}
}

// A loop that stands still for ten looks is reported once, with its name and its stack, and before
// that the server says that it is not well. Until then, and if nothing stands still, nothing is
// said.
func TestLoopThatStandsStillIsReported(t *testing.T) {
	for _, c := range []struct {
		loop, function string
		socket         func(*link, chan struct{}) socket
		stick          func(n *rig)
	}{
		{"reads the socket", "stuckListener.receive", func(l *link, stuck chan struct{}) socket { return stuckLink{l, stuck} }, func(n *rig) {
			n.client(1, 7, 8).send(ackOf(1))
		}},
		{"runs the transfers", "(*stuckObserver).Panicked", nil, func(n *rig) {
			s := n.server.shards[0]
			s.mu.Lock()
			s.engine.strangeForTest = struct{ net.Addr }{} // pin/tftp panics at it
			s.mu.Unlock()
			n.client(1, 7, 8).send(requestOf("a", "octet"))
		}},
		{"keeps the time", "", func(l *link, _ chan struct{}) socket { return deafAlarm{l} }, func(*rig) {}},
	} {
		t.Run(c.loop, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				observer := &stuckObserver{stuck: make(chan struct{})}
				n := newRig(t, map[string][]byte{"a": content(2000)}, 1)
				n.observer = &observer.testObserver
				var s socket = n.link
				if c.socket != nil {
					s = c.socket(n.link, observer.stuck)
				}
				n.serve(Config{Observer: observer}, n.handle, s)
				defer n.stop(10 * time.Minute)
				defer close(observer.stuck)

				if c.function != "" {
					time.Sleep(time.Minute)
					if err := n.server.Health(); err != nil || len(n.server.Wedged()) != 0 {
						t.Fatalf("an idle server: %v", err)
					}
				}
				began := time.Now()
				c.stick(n)
				time.Sleep((sickLooks - 1) * watchPace)
				if err := n.server.Health(); err != nil {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				time.Sleep(3 * watchPace)
				if err := n.server.Health(); err == nil || !strings.Contains(err.Error(), c.loop+" at 192.0.2.1:69 stands still") {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				wedge := <-n.server.Wedged()
				if after := time.Since(began); after < (wedgedLooks-1)*watchPace || after > (wedgedLooks+2)*watchPace {
					t.Errorf("reported after %v", after)
				}
				if wedge.Loop != c.loop || wedge.Addr.String() != "192.0.2.1:69" || !strings.Contains(string(wedge.Stacks), c.function) ||
					len(wedge.Stacks) < 500 || len(wedge.Stacks) > stackSize {
					t.Errorf("%s at %v, %d bytes of stacks:\n%s", wedge.Loop, wedge.Addr, len(wedge.Stacks), wedge.Stacks)
				}
			})
		})
	}
}

// A server that is kept busy without a pause is not wedged.
func TestBusyLoopTurns(t *testing.T) {
	inRig(t, map[string][]byte{"a": content(1 << 20)}, generous, 1, func(t *testing.T, n *rig) {
		n.both(path{delay: time.Millisecond})
		c := n.client(1, 7, 8)
		for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
			c.send(ackOf(1))
		}
		if err := n.server.Health(); err != nil || len(n.server.Wedged()) != 0 {
			t.Error(err)
		}
	})
}

// A socket that receives nothing of what it sends to itself makes the server sick, but not wedged,
// unless the kernel drops datagrams.
func TestSocketThatDoesNotAnswerItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &deafSocket{sink: &sink{done: make(chan struct{}), wakes: make(chan struct{}, 1)}}
		server := newServer([]socket{out}, Config{})
		served := make(chan error, 1)
		go func() { served <- server.Serve(small) }()
		time.Sleep(2*watchPace + watchPace/2)
		if err := server.Health(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if err := server.Health(); err == nil || !strings.Contains(err.Error(), "does not answer itself") {
			t.Error(err)
		}
		if sent := out.sent.Load(); sent < 50 || sent > 70 {
			t.Errorf("%d datagrams to itself in a minute", sent)
		}
		if len(server.Wedged()) != 0 {
			t.Error("it is wedged")
		}
		server.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestEchoForgivesDrops(t *testing.T) {
	var e echo
	e.asked.Store(true)
	for i, c := range []struct {
		dropped int64
		looks   int
	}{{0, 1}, {0, 2}, {5, 0}, {5, 1}, {6, 0}, {6, 1}, {6, 2}, {6, 3}} {
		if looks := e.look(c.dropped); looks != c.looks {
			t.Errorf("look %d: %d, want %d", i, looks, c.looks)
		}
	}
	e.turns()
	if looks := e.look(6); looks != 0 {
		t.Error(looks)
	}
}

// Sockets of the kernel answer themselves, also where several share an address, or where only
// others are heard; clients notice nothing, and no request is counted.
func TestSocketsAnswerThemselves(t *testing.T) {
	for _, c := range []struct {
		addr    string
		clients string
		sockets int
	}{
		{"127.0.0.1:0", "0.0.0.0/0", 1}, {":0", "192.0.2.0/24", 1}, {"[::1]:0", "192.0.2.0/24", 1},
		{"127.0.0.1:0", "0.0.0.0/0", sharedSockets}, {":0", "0.0.0.0/0", sharedSockets},
	} {
		observer := new(testObserver)
		server, err := Listen([]string{c.addr}, Config{Sockets: c.sockets, Observer: observer, Clients: []netip.Prefix{netip.MustParsePrefix(c.clients)}})
		if err != nil {
			t.Logf("%s: %v", c.addr, err)
			continue
		}
		server.watchdog.pace = 5 * time.Millisecond
		served := make(chan error, 1)
		go func() { served <- server.Serve(small) }()
		answered := 0
		echo := server.shards[0].echo
		for deadline := time.Now().Add(30 * time.Second); answered < 20 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if !echo.asked.Load() {
				answered++
				echo.asked.Store(true)
			}
		}
		if answered < 20 {
			t.Errorf("%s, %d sockets: %d answers: %v", c.addr, c.sockets, answered, server.Health())
		}
		if counts := server.Counts(); counts.Running != 0 || observer.refusals(RefusedStray)+observer.refusals(RefusedClient) != 0 {
			t.Errorf("%s: %+v, %v", c.addr, counts, observer.refused)
		}
		server.Shutdown(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// An alarm that is overdue shows that the process did not run. The watchdog, which may wake first,
// leaves it as it is.
func TestWatchdogLeavesAnOverdueAlarm(t *testing.T) {
	out := &deafSocket{sink: &sink{done: make(chan struct{}), wakes: make(chan struct{}, 1)}}
	server := newServer([]socket{out}, Config{})
	server.epoch = time.Now().Add(-time.Minute)
	s := server.shards[0]
	now := server.now()
	overdue := now - int64(40*time.Second)
	s.armed = overdue
	s.beat(now)
	if s.armed != overdue {
		t.Errorf("armed for %v, it was overdue since %v", time.Duration(s.armed), time.Duration(overdue))
	}
	s.expire()
	if slept := time.Duration(server.slept.Load()); slept < 39*time.Second {
		t.Errorf("the process slept for %v", slept)
	}
}

// A forger who speaks in the name of the server itself draws nothing unless the server asks
// itself, and then a datagram to the server for each of his.
func TestForgedEcho(t *testing.T) {
	out := &deafSocket{sink: &sink{done: make(chan struct{}), wakes: make(chan struct{}, 1)}}
	server := newServer([]socket{out}, Config{})
	s := server.shards[0]
	for _, data := range []string{string(echoRequest), "\x00\x05\x00\x00x\x00", "\x00\x04\x00\x01", "\x00\x05", "", "\x00"} {
		s.receive([]received{{route: route{client: s.self}, data: []byte(data)}})
	}
	if len(s.clients) != 0 || server.Active() != 0 {
		t.Error("a transfer began")
	}
	s.echo.asked.Store(true)
	for _, data := range []string{"\x00\x04\x00\x01", "\x00\x05\x00\x01File not found\x00"} {
		s.receive([]received{{route: route{client: s.self}, data: []byte(data)}})
		if !s.echo.asked.Load() {
			t.Errorf("%q passes for the request", data)
		}
	}
	s.receive([]received{{route: route{client: s.self}, data: echoRequest}})
	if s.echo.asked.Load() {
		t.Error("the request was not taken")
	}
}
