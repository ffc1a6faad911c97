package singleport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves TFTP on its sockets.
type Server struct {
	config    Config
	admission *admission
	shards    []*shard
	epoch     time.Time    // monotonic times count from here
	slept     atomic.Int64 // nanoseconds in which the process did not run
	active    atomic.Int64 // transfers
	ahead     atomic.Int64 // bytes that flights may have beyond their windows
	handler   Handler
	disk      *disk
	watchdog  watchdog

	stopping atomic.Bool
	left     chan struct{} // has an element when a transfer ended while the server stops
	giveUp   chan struct{} // closed when Serve is to return whatever still runs
	stop     sync.Once
}

// stuckTime is how long a Shutdown waits for handlers that do not return though their transfers
// have ended: they read a file from a disk that does not answer.
const stuckTime = 2 * time.Second

// Listen binds every address, HOST:PORT in numbers (:PORT is IPv4 and IPv6, port 0 picks one).
func Listen(addrs []string, cfg Config) (*Server, error) {
	var sockets []socket
	for _, addr := range addrs {
		at, err := parseAddr(addr)
		var opened []socket
		if err == nil {
			opened, err = openSockets(at, max(cfg.Sockets, 1))
		}
		sockets = append(sockets, opened...)
		if err != nil {
			for _, s := range sockets {
				s.close()
			}
			return nil, err
		}
	}
	return newServer(sockets, cfg), nil
}

func parseAddr(addr string) (*net.UDPAddr, error) {
	port, wildcard := strings.CutPrefix(addr, ":")
	if wildcard {
		addr = "0.0.0.0:" + port
	}
	parsed, err := netip.ParseAddrPort(addr)
	at := net.UDPAddrFromAddrPort(parsed)
	if wildcard {
		at.IP = nil // IPv6 as well, where the kernel has it
	}
	return at, err
}

// newServer returns a server on sockets, which Listen opens, and tests make.
func newServer(sockets []socket, cfg Config) *Server {
	setDefault := func(value *int, initial int) {
		if *value == 0 {
			*value = initial
		}
	}
	setDefault(&cfg.MaxBlockSize, DefaultMaxBlockSize)
	setDefault(&cfg.MaxWindowSize, DefaultMaxWindowSize)
	setDefault(&cfg.MaxTransfers, DefaultMaxTransfers)
	setDefault(&cfg.Ahead, DefaultAhead)
	setDefault(&cfg.Rate, DefaultRate)
	setDefault(&cfg.Sockets, 1)
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	s := &Server{
		config:    cfg,
		admission: newAdmission(cfg.Rate, cfg.MaxTransfers),
		epoch:     time.Now(),
		left:      make(chan struct{}, 1),
		giveUp:    make(chan struct{}),
		watchdog:  watchdog{pace: watchPace, wedged: make(chan Wedge, 1)},
	}
	s.disk = newDisk(s.now)
	for i, socket := range sockets {
		shard := newShard(s, socket)
		if i%cfg.Sockets == 0 { // the first of its address
			shard.echo, shard.sendsEcho = new(echo), shard.self.port != 0
		} else {
			shard.echo = s.shards[i-1].echo
		}
		s.shards = append(s.shards, shard)
	}
	return s
}

type nobody struct{}

func (nobody) Refused(netip.AddrPort, string, Refusal) {}
func (nobody) Ended(error, int64)                      {}
func (nobody) Panicked(any, []byte)                    {}

// now returns the time, monotonic nanoseconds, without that in which the process did not run.
func (s *Server) now() int64 { return int64(time.Since(s.epoch)) - s.slept.Load() }

// sleep notes that the process did not run for so long.
func (s *Server) sleep(d time.Duration) { s.slept.Add(int64(d)) }

// Addrs returns the bound addresses, in the order of Listen.
func (s *Server) Addrs() []net.Addr {
	var addrs []net.Addr
	for i := 0; i < len(s.shards); i += s.config.Sockets {
		addrs = append(addrs, s.shards[i].socket.addr())
	}
	return addrs
}

// Stopping reports whether Shutdown was called.
func (s *Server) Stopping() bool { return s.stopping.Load() }

// Active returns the number of transfers that run.
func (s *Server) Active() int { return int(s.active.Load()) }

// Hanging returns how many handlers, reads and closings of files have not returned for 2 s.
func (s *Server) Hanging() int { return s.disk.hangingNow() }

// SendRoom returns how many bytes may wait at a socket to be sent, of BufferSize that was asked
// for; 0 if that is not known.
func (s *Server) SendRoom() int {
	least := s.shards[0].socket.sendRoom()
	for _, shard := range s.shards {
		least = min(least, shard.socket.sendRoom())
	}
	return least
}

// Serve answers requests with h until Shutdown. It returns nil after a Shutdown.
func (s *Server) Serve(h Handler) error {
	s.handler = h
	var running sync.WaitGroup
	failure := make(chan error, len(s.shards))
	for _, shard := range s.shards {
		running.Go(shard.engine.serve)
		running.Go(func() {
			err := shard.socket.serve(shard)
			if !errors.Is(err, net.ErrClosed) {
				failure <- err
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				s.Shutdown(ended)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	ended := make(chan struct{})
	defer close(ended)
	go s.watchLoops(ended)
	select {
	case <-done:
	case <-s.giveUp:
	}
	select {
	case err := <-failure:
		return err
	default:
		return nil
	}
}

// handle calls the Handler and contains its panic.
func (s *Server) handle(t *Transfer) (file File, err error) {
	if !s.disk.enter(&t.turn) {
		return nil, errEnded
	}
	defer s.disk.leave(&t.turn)
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
			file, err = nil, ErrRead
		}
	}()
	return s.handler(t)
}

// closeFile tells a file that its transfer is over, and contains its panic.
func (s *Server) closeFile(name string, file File, err error) {
	closing := turn{name: name}
	s.disk.enter(&closing)
	defer s.disk.leave(&closing)
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
		}
	}()
	file.Ended(err)
}

// panicked reports a panic that was contained.
func (s *Server) panicked(v any) { s.config.Observer.Panicked(v, debug.Stack()) }

// Shutdown refuses new requests (ERROR 0 "Server stopping"), waits until the running transfers
// ended or ctx is done, ends what is left with the same ERROR, and closes the sockets. Serve
// returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopping.Store(true)
	s.awaitTransfers(ctx)
	err := ctx.Err()
	if s.Active() == 0 {
		err = nil
	}
	s.stop.Do(func() {
		for _, shard := range s.shards {
			shard.endAll()
		}
		stuck, cancel := context.WithTimeout(context.Background(), stuckTime)
		defer cancel()
		s.awaitTransfers(stuck)
		for _, shard := range s.shards {
			shard.engine.close()
			shard.close()
		}
		if s.Active() > 0 {
			close(s.giveUp)
		}
	})
	return err
}

// awaitTransfers waits until no transfer runs or ctx is done.
func (s *Server) awaitTransfers(ctx context.Context) {
	for s.Active() > 0 {
		select {
		case <-s.left:
		case <-ctx.Done():
			return
		}
	}
	s.signalLeft() // to whoever else waits
}

// signalLeft wakes a Shutdown.
func (s *Server) signalLeft() {
	select {
	case s.left <- struct{}{}:
	default:
	}
}

// Memory for file contents: a transfer holds one segment. Segments become smaller as transfers
// become more.
const (
	// largestSegment and smallestSegment, in bytes, bound what pin/tftp reads at a time. Fewer,
	// larger ones take less CPU time. A block that is larger is a segment by itself.
	largestSegment  = 64<<10 - 72 // what its SetBlockSize takes
	smallestSegment = 4 << 10
	// segmentMemory, in bytes, is divided among the transfers.
	segmentMemory = 2 << 20
	// aheadMemory, in bytes, is what all flights together may have beyond the windows that were
	// agreed, so that many clients at once do not fill each other's way. A transfer may always
	// have its share.
	aheadMemory = 4 << 20
)

// segmentSize returns the size of the segments of a transfer, bytes: a multiple of the block
// size, and no less than pin/tftp takes. size is that of the file, negative if it is not known.
func (s *Server) segmentSize(blockSize int, size int64) int {
	limit := max(min(segmentMemory/max(s.Active(), 1), largestSegment), smallestSegment, blockSize)
	if 0 <= size && size < int64(limit) {
		limit = min(limit, int(size)+blockSize) // the whole file and its end
	}
	least := (DefaultBlockSize + blockSize - 1) / blockSize * blockSize
	return max(limit/blockSize*blockSize, least)
}

// mayGrow reports whether a transfer may have a flight of that many bytes beyond its window.
func (s *Server) mayGrow(bytes int) bool {
	return s.ahead.Load() < aheadMemory || int64(bytes) <= aheadMemory/max(s.active.Load(), 1)
}

// dropped returns how many datagrams the kernel dropped because the server did not read them in
// time, negative if that is not known.
func (s *Server) dropped() (sum int64) {
	for _, shard := range s.shards {
		sum += shard.socket.dropped()
	}
	return max(sum, -1)
}
