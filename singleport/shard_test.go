package singleport

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// sink is a socket on which nothing arrives and that only counts what is sent.
type sink struct {
	done   chan struct{}
	wakes  chan struct{}
	blocks atomic.Int64
}

// addr has a zone, which pin/tftp would not understand.
func (s *sink) addr() *net.UDPAddr {
	return &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 69, Zone: "eth0"}
}

func (s *sink) serve(to listener) error {
	for {
		select {
		case <-s.wakes:
			to.receive(nil)
		case <-s.done:
			return net.ErrClosed
		}
	}
}

func (s *sink) wake() {
	select {
	case s.wakes <- struct{}{}:
	default:
	}
}

func (s *sink) space(*Transfer) int                  { return 1000 }
func (s *sink) send(*route, []byte, *Transfer)       {}
func (s *sink) sendBlocks(b blocks)                  { s.blocks.Add(int64(b.count)) }
func (s *sink) flush(func(*Transfer, int, int)) bool { return true }
func (s *sink) awaitWritable(func() bool)            {}
func (s *sink) alarm(expire func()) alarm            { return newPlainAlarm(expire) }
func (s *sink) sendRoom() int                        { return 0 }
func (s *sink) self() endpoint                       { return endpoint{} }
func (s *sink) dropped() int64                       { return -1 }
func (s *sink) close() error                         { close(s.done); return nil }

// inSegment brings a transfer to where a segment is at hand. step acknowledges a block, which the
// next one of the segment answers; it may be called so many times.
func inSegment(tb testing.TB) (step func(), times int, out *sink) {
	tb.Helper()
	out = &sink{done: make(chan struct{}), wakes: make(chan struct{}, 1)}
	server := newServer([]socket{out}, Config{})
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(func(*Transfer) (File, error) { return fileOf(make([]byte, 1<<20)) })
	}()
	tb.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		server.Shutdown(ended)
		<-served
	})
	s := server.shards[0]
	out.wake()
	for len(out.wakes) > 0 { // it serves, and has its handler, once it takes that
		time.Sleep(time.Millisecond)
	}
	batch := []received{{route: route{client: endpoint{port: 7}}, data: requestOf("a", "octet")}}
	s.receive(batch)
	for deadline := time.Now().Add(30 * time.Second); times == 0; {
		s.mu.Lock()
		if t := s.clients[batch[0].route.client]; t != nil && t.window.high == 1 {
			times = int(t.window.available()) - 1
		}
		s.mu.Unlock()
		if time.Now().After(deadline) {
			tb.Fatal("no segment came")
		}
		time.Sleep(time.Millisecond)
	}
	batch[0].data = ackOf(0)
	number := uint16(0)
	return func() {
		number++
		batch[0].data[2], batch[0].data[3] = byte(number>>8), byte(number)
		s.receive(batch)
	}, times, out
}

// An ACK that the segment at hand answers costs no allocation and wakes nobody.
func TestAcknowledgeAllocatesNothing(t *testing.T) {
	step, times, out := inSegment(t)
	if times < 100 {
		t.Fatalf("a segment of %d blocks", times)
	}
	if allocations := testing.AllocsPerRun(times-2, step); allocations != 0 {
		t.Errorf("%v allocations for an ACK", allocations)
	}
	if sent := out.blocks.Load(); sent < int64(times) {
		t.Errorf("%d blocks were sent for %d ACKs", sent, times)
	}
}

func BenchmarkAcknowledge(b *testing.B) {
	b.ReportAllocs()
	left := 0
	var step func()
	for range b.N {
		if left == 0 {
			b.StopTimer()
			step, left, _ = inSegment(b)
			b.StartTimer()
		}
		step()
		left--
	}
}
