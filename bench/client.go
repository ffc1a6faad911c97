package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Opcodes, RFC 1350 section 5 and RFC 2347.
const (
	opRRQ   = 1
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

const (
	clientTimer = time.Second           // after which a client sends its last datagram again
	clientTries = 20                    // sends without progress after which a client gives up
	timerScan   = 10 * time.Millisecond // how late a client's timer may be
	readBatch   = 64                    // datagrams that one recvmmsg takes
	// The receive buffer of a client must hold all that a server may have in flight: the tables
	// compare servers, not buffers.
	clientBuffer = 4 << 20 // bytes
)

// load is what clients fetch from one server.
type load struct {
	server     netip.AddrPort
	name       string
	content    []byte // of the file; every block is compared with it
	blockSize  int
	windowSize int
	clients    int
	each       int           // files that a client fetches in a row; 0 is all it begins within span
	span       time.Duration // see each
	limit      time.Duration // transfers that still run are cut off
	threads    int           // that share the clients
	sources    []netip.Addr  // of the clients, in turns; none leaves it to the kernel
	// patience is the number of sends without progress after which a client asks again from another
	// port, as a machine does that reboots. With 0 its transfer fails after clientTries.
	patience int
	yielding bool // accepts a smaller windowsize than it asked for, RFC 7440 section 3
}

// reasonWrong is the failure of a transfer that delivers other bytes than those of the file.
const reasonWrong = "wrong contents"

// outcome is the result of a load.
type outcome struct {
	bytes     int64 // of file contents that arrived and were compared
	elapsed   time.Duration
	latencies []time.Duration // of whole transfers, from the first RRQ to the last DATA
	failures  map[string]int  // reasons
	cut       int             // transfers that ran when the limit came
	again     int             // requests of clients that lost patience
}

func (o *outcome) failed() int {
	n := 0
	for _, count := range o.failures {
		n += count
	}
	return n
}

// add joins the outcome of another thread in the same time.
func (o *outcome) add(other outcome) {
	o.bytes += other.bytes
	o.elapsed = max(o.elapsed, other.elapsed)
	o.latencies = append(o.latencies, other.latencies...)
	o.cut += other.cut
	o.again += other.again
	for reason, count := range other.failures {
		o.failures[reason] += count
	}
}

// run fetches l and returns when every client is done or cut off, by the limit or the end of ctx.
func (l *load) run(ctx context.Context) (outcome, error) {
	threads := min(max(l.threads, 1), l.clients)
	workers := make([]*worker, threads)
	for i := range workers {
		first := l.clients * i / threads
		w, err := newWorker(l, first, l.clients*(i+1)/threads-first)
		if err != nil {
			return outcome{}, err
		}
		defer unix.Close(w.epoll)
		workers[i] = w
	}
	type done struct {
		outcome
		error
	}
	results := make(chan done)
	start := time.Now()
	for _, w := range workers {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			w.ctx, w.start = ctx, start
			err := w.run()
			results <- done{w.out, err}
		}()
	}
	total := outcome{failures: map[string]int{}}
	var failure error
	for range workers {
		d := <-results
		total.add(d.outcome)
		if d.error != nil {
			failure = d.error
		}
	}
	return total, failure
}

// worker is a thread that drives some of the clients. It allocates nothing per block.
type worker struct {
	ctx     context.Context
	load    *load
	out     outcome
	start   time.Time
	now     time.Duration // since start, read once a batch of events
	epoll   int
	first   int // number of the first client among those of all threads
	clients []client
	running int
	request []byte
	server  unix.RawSockaddrInet4
	in      *inbox
}

// client is one receiver: RFC 1350 in lock-step, RFC 7440 in windows.
type client struct {
	fd       int // -1: idle
	begun    time.Duration
	deadline time.Duration
	tries    int
	left     int    // files still to begin
	port     uint16 // of the transfer at the server, network byte order; 0 until the first answer
	last     uint16 // last block in order
	acked    uint16 // last block acknowledged
	window   int    // blocks, as granted
	inWindow int    // blocks since the last ACK
	gap      bool   // the missing block after last was reported
	offset   int    // bytes received
}

func newWorker(l *load, first, clients int) (*worker, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	w := &worker{
		load:    l,
		out:     outcome{failures: map[string]int{}, latencies: make([]time.Duration, 0, 1<<14)},
		epoll:   epoll,
		first:   first,
		clients: make([]client, clients),
		request: rrq(l.name, l.blockSize, l.windowSize),
		server:  rawAddr(l.server),
	}
	for i := range w.clients {
		w.clients[i] = client{fd: -1, left: l.each}
	}
	// One byte more than the largest DATA or ERROR, so that a longer one is noticed.
	w.in = newInbox(min(l.windowSize, readBatch), max(l.blockSize, 512)+5)
	return w, nil
}

// rrq returns the request of a client that negotiates, RFC 2347.
func rrq(name string, blockSize, windowSize int) []byte {
	text := []string{name, "octet", "blksize", strconv.Itoa(blockSize)}
	if windowSize > 1 {
		text = append(text, "windowsize", strconv.Itoa(windowSize))
	}
	return append([]byte{0, opRRQ}, strings.Join(text, "\x00")+"\x00"...)
}

func (w *worker) run() error {
	for i := range w.clients {
		if err := w.begin(&w.clients[i]); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, 256)
	var scanned time.Duration
	for w.running > 0 {
		n, err := unix.EpollWait(w.epoll, events, int(timerScan/time.Millisecond))
		if err != nil && err != unix.EINTR {
			return err
		}
		w.now = time.Since(w.start)
		for _, event := range events[:max(n, 0)] {
			if err := w.read(&w.clients[event.Fd]); err != nil {
				return err
			}
		}
		if w.now-scanned < timerScan {
			continue
		}
		scanned = w.now
		if err := w.scan(); err != nil {
			return err
		}
	}
	w.out.elapsed = w.now
	return nil
}

// scan looks after the timers and the limit.
func (w *worker) scan() error {
	for i := range w.clients {
		c := &w.clients[i]
		switch {
		case c.fd < 0:
		case w.over():
			w.send(c, []byte{0, opError, 0, 0, 0})
			w.out.cut++
			w.close(c)
		case w.now > c.deadline && w.load.patience > 0 && c.tries >= w.load.patience:
			w.close(c)
			w.out.again++
			if err := w.open(c, client{begun: c.begun, left: c.left}); err != nil {
				return err
			}
		case w.now > c.deadline && c.tries >= clientTries:
			if err := w.fail(c, "no answer"); err != nil {
				return err
			}
		case w.now > c.deadline:
			c.tries++
			c.gap = false
			if c.port == 0 {
				w.send(c, w.request)
			} else {
				w.ack(c)
			}
		}
	}
	return nil
}

func (w *worker) over() bool { return w.now > w.load.limit || w.ctx.Err() != nil }

// begin starts the client's next transfer, from a port of its own, if one is due.
func (w *worker) begin(c *client) error {
	if w.load.each > 0 && c.left == 0 || w.load.each == 0 && w.now > w.load.span || w.over() {
		return nil
	}
	return w.open(c, client{begun: time.Since(w.start), left: c.left - 1})
}

// open sends c's request from a new socket; state is what c knows before.
func (w *worker) open(c *client, state client) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("client socket: %w", err)
	}
	growBuffer(fd, clientBuffer)
	passBy(fd)
	index := int((uintptr(unsafe.Pointer(c)) - uintptr(unsafe.Pointer(&w.clients[0]))) / unsafe.Sizeof(*c))
	if len(w.load.sources) > 0 {
		source := w.load.sources[(w.first+index)%len(w.load.sources)]
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()})
	}
	if err == nil {
		err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(index)})
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("client socket: %w", err)
	}
	w.running++
	*c = state
	c.fd = fd
	w.now = time.Since(w.start)
	w.send(c, w.request)
	return nil
}

// growBuffer asks for a receive buffer of size bytes, as far as this process may.
func growBuffer(fd, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
}

func (w *worker) close(c *client) {
	unix.Close(c.fd)
	c.fd = -1
	w.running--
}

func (w *worker) fail(c *client, reason string) error {
	w.out.failures[reason]++
	w.close(c)
	return w.begin(c)
}

// send ignores errors: a datagram that was not sent is one that was lost, and the timer sees to it.
func (w *worker) send(c *client, datagram []byte) {
	c.deadline = w.now + clientTimer
	if c.port == 0 {
		sendTo(c.fd, datagram, &w.server)
	} else {
		sendTo(c.fd, datagram, nil)
	}
}

func (w *worker) ack(c *client) {
	datagram := [4]byte{0, opAck, byte(c.last >> 8), byte(c.last)}
	c.acked, c.inWindow = c.last, 0
	w.send(c, datagram[:])
}

// read takes what has arrived for c, at most a window.
func (w *worker) read(c *client) error {
	if c.fd < 0 {
		return nil
	}
	if w.load.windowSize == 1 {
		n, ok := recvFrom(c.fd, w.in.packets[0], &w.in.from[0])
		if !ok || c.port != 0 && w.in.from[0].Port != c.port {
			return nil
		}
		return w.take(c, w.in.packets[0][:n], &w.in.from[0])
	}
	begun := c.begun
	for i := range w.in.receive(c.fd) {
		if c.fd < 0 || c.begun != begun {
			break // the transfer ended, the rest was its own
		}
		if c.port != 0 && w.in.from[i].Port != c.port {
			continue
		}
		if err := w.take(c, w.in.packet(i), &w.in.from[i]); err != nil {
			return err
		}
	}
	return nil
}

// take acts on a datagram of the server.
func (w *worker) take(c *client, datagram []byte, from *unix.RawSockaddrInet4) error {
	if len(datagram) < 4 {
		return nil
	}
	switch binary.BigEndian.Uint16(datagram) {
	case opError:
		return w.fail(c, fmt.Sprintf("ERROR %d %q", datagram[3], bytes.TrimRight(datagram[4:], "\x00")))
	case opOACK:
		if c.port != 0 {
			if c.last == 0 && c.offset == 0 {
				w.ack(c)
			}
			return nil
		}
		if reason := w.refused(c, datagram[2:]); reason != "" {
			w.send(c, []byte{0, opError, 0, 8, 0})
			return w.fail(c, reason)
		}
		c.port = from.Port
		if err := connect(c.fd, from); err != nil {
			return err
		}
		c.tries = 0
		w.ack(c)
	case opData:
		block := binary.BigEndian.Uint16(datagram[2:])
		switch {
		case c.port != 0:
			return w.data(c, block, datagram[4:])
		case block == 1:
			return w.fail(c, "options not negotiated")
		}
		// Another block belongs to an earlier transfer of this port, whose last ACK was lost.
	}
	return nil
}

// refused returns why the OACK is not acceptable, "" if it is. c takes the window that it grants.
func (w *worker) refused(c *client, options []byte) string {
	granted := map[string]string{}
	words := strings.Split(string(options), "\x00")
	for i := 0; i+1 < len(words); i += 2 {
		granted[strings.ToLower(words[i])] = words[i+1]
	}
	if got := granted["blksize"]; got != strconv.Itoa(w.load.blockSize) {
		return fmt.Sprintf("blksize %d not granted (%q)", w.load.blockSize, got)
	}
	c.window = 1
	if w.load.windowSize > 1 {
		got := granted["windowsize"]
		c.window, _ = strconv.Atoi(got)
		if c.window != w.load.windowSize && !(w.load.yielding && 0 < c.window && c.window < w.load.windowSize) {
			return fmt.Sprintf("windowsize %d not granted (%q)", w.load.windowSize, got)
		}
	}
	return ""
}

// data takes a block and acknowledges it at the end of a window, or if it comes again because its
// ACK was lost. On a gap in a window it acknowledges the last block in order, once (RFC 7440
// section 4). In lock-step it drops blocks out of order in silence, as boot programs do.
func (w *worker) data(c *client, block uint16, contents []byte) error {
	switch ahead := int16(block - c.last - 1); {
	case ahead > 0:
		if c.window > 1 && !c.gap {
			c.gap = true
			w.ack(c)
		}
	case ahead < 0:
		if ahead == -1 && c.acked == c.last {
			w.ack(c)
		}
	default:
		end := c.offset + len(contents)
		last := len(contents) < w.load.blockSize
		if len(contents) > w.load.blockSize || end > len(w.load.content) || last && end < len(w.load.content) ||
			!bytes.Equal(contents, w.load.content[c.offset:end]) {
			return w.fail(c, reasonWrong)
		}
		w.out.bytes += int64(len(contents))
		c.offset, c.last, c.gap, c.tries = end, block, false, 0
		c.inWindow++
		c.deadline = w.now + clientTimer
		if last || c.inWindow == c.window {
			w.ack(c)
		}
		if last {
			w.now = time.Since(w.start)
			w.out.latencies = append(w.out.latencies, w.now-c.begun)
			w.close(c)
			return w.begin(c)
		}
	}
	return nil
}

// percentile returns the p-th percentile (nearest rank), 0 of none. It sorts d.
func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[max((len(d)*p+99)/100, 1)-1]
}
