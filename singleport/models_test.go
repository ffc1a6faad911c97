package singleport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// model is a client that behaves as real ones were seen to.
type model struct {
	name                  string
	blockSize, windowSize int // what it asks for; 0 leaves the option out
	tsize                 bool
	timeout               int  // the option, in seconds
	timeoutFirst          bool // before the other options, as U-Boot writes it
	netascii              bool

	requests  []time.Duration // between its RRQs, the last again and again
	quiet     []time.Duration // without progress until it acknowledges again, likewise
	strange   habit
	eachBlock bool // acknowledges every block of a window
	deaf      bool // ends with its last ACK, against RFC 1350 section 6, like a program that exits
	aborts    bool // answers the OACK with ERROR 8
	zeroACK   bool // acknowledges the only block of an empty file as 0
	hangs     bool // hangs when a block comes again
	restarts  bool // waits anew for each datagram, whether it is of use or not

	card card
}

// habit is what a client does about a block that is not the next.
type habit int

const (
	silent    habit = iota // nothing, but acknowledges the last one again when that comes again
	mute                   // nothing at all
	ownNumber              // nothing, but acknowledges an earlier one by its own number
	once                   // acknowledges the last in order, once until that changes
	each                   // acknowledges the last in order, each time
	keeps                  // keeps it, and acknowledges the last in order, each time
	trusts                 // takes it for the next: what is acknowledged last is all that it knows
)

// tries is how often a client repeats itself in vain before it gives up.
const tries = 10

// models are the clients of the field. Their timers are no round numbers, so that none goes off in
// the very moment of one of the server's.
var models = []model{
	{name: "tftp-hpa", requests: seconds(5.0007), quiet: seconds(5.0007), deaf: true},
	{name: "RFC 1350", requests: seconds(1.0003), quiet: seconds(1.0003)},
	{name: "netascii", netascii: true, requests: seconds(1.0003), quiet: seconds(1.0003)},
	// iPXE's timer is four round trips, at least 0.25 s, and doubles.
	{name: "iPXE", blockSize: 1432, tsize: true, requests: seconds(0.2401, 0.5603, 1.0007, 2.1009, 4.0013), quiet: seconds(0.2503, 0.5007, 1.0009, 2.0013),
		strange: keeps, deaf: true, zeroACK: true},
	{name: "GRUB", blockSize: 1024, tsize: true, requests: seconds(0.4003, 0.8007, 1.6009), quiet: seconds(1.6009), strange: ownNumber},
	{name: "PXELINUX", blockSize: 1408, tsize: true, requests: seconds(0.0703, 0.1407, 0.2809, 0.5611), quiet: seconds(0.0703, 0.1407, 0.2809, 0.5611),
		strange: each, deaf: true},
	{name: "curl", blockSize: 512, tsize: true, timeout: 6, requests: seconds(6.0007), quiet: seconds(6.0007), deaf: true},
	{name: "busybox", blockSize: 1428, requests: seconds(0.1003, 0.1507, 0.2209, 0.3311), quiet: seconds(0.1003, 0.1507, 0.2209, 0.3311, 0.5007, 0.7503,
		1.1007, 1.7003, 2.0009), strange: mute, deaf: true},
	{name: "U-Boot", blockSize: 1468, tsize: true, timeout: 5, timeoutFirst: true, requests: seconds(5.0007), quiet: seconds(5.0007), strange: once, deaf: true},
	{name: "small blocks", blockSize: 8, requests: seconds(1.0003), quiet: seconds(1.0003)},
	{name: "odd blocks", blockSize: 1001, timeout: 2, requests: seconds(1.0003), quiet: seconds(1.0003), deaf: true},
	{name: "large blocks", blockSize: 65464, windowSize: 3, requests: seconds(1.0003), quiet: seconds(1.0003), strange: once},
	{name: "window 2", blockSize: 512, windowSize: 2, requests: seconds(1.0003), quiet: seconds(1.0003), strange: once},
	{name: "EDK2", blockSize: 1468, windowSize: 4, requests: seconds(4.0007), quiet: seconds(4.0007), strange: each, deaf: true},
	{name: "atftp", blockSize: 1428, windowSize: 8, tsize: true, requests: seconds(5.0007), quiet: seconds(5.0007), strange: each, deaf: true},
	{name: "U-Boot 16", blockSize: 1468, windowSize: 16, tsize: true, timeout: 5, timeoutFirst: true, requests: seconds(5.0007), quiet: seconds(5.0007),
		strange: once, deaf: true},
	{name: "window 16", blockSize: 1428, windowSize: 16, tsize: true, timeout: 3, requests: seconds(1.0003), quiet: seconds(1.0003), strange: each},
	{name: "window 8, an ACK for each block", blockSize: 1428, windowSize: 8, requests: seconds(1.0003), quiet: seconds(1.0003), strange: each, eachBlock: true},
	{name: "window 32", blockSize: 512, windowSize: 32, requests: seconds(1.0003), quiet: seconds(1.0003), strange: once},
	{name: "window 64", blockSize: 1468, windowSize: 64, requests: seconds(1.0003), quiet: seconds(1.0003), strange: each},
	{name: "window without blksize", windowSize: 7, requests: seconds(1.0003), quiet: seconds(1.0003), strange: once},
}

// oldUBoot, before 2020.10, takes each block that is not the last one again for the next, and
// acknowledges it by its number: it never tells of a gap.
var oldUBoot = model{name: "U-Boot before 2020.10", blockSize: 1468, tsize: true, timeout: 5, timeoutFirst: true, requests: seconds(5.0007),
	quiet: seconds(5.0007), strange: trusts, deaf: true}

// modelNamed returns a copy of one of the models.
func modelNamed(name string) model {
	for _, m := range models {
		if m.name == name {
			return m
		}
	}
	panic("no model is called " + name)
}

// with returns the model with another network card.
func (m model) with(name string, c card) model {
	m.name, m.card = m.name+", "+name, c
	return m
}

// withWindow returns the model asking for another window; 1 is none.
func (m model) withWindow(n int) model {
	m.name, m.windowSize = fmt.Sprintf("%s, window %d", m.name, n), n
	if n == 1 {
		m.windowSize = 0
	}
	return m
}

func seconds(values ...float64) (durations []time.Duration) {
	for _, v := range values {
		durations = append(durations, time.Duration(v*float64(time.Second)))
	}
	return durations
}

// size returns the block size that the model's transfers have, as long as the server grants what is
// asked.
func (m *model) size() int {
	if m.blockSize == 0 {
		return DefaultBlockSize
	}
	return m.blockSize
}

func (m *model) window() int { return max(m.windowSize, 1) }

func (m *model) request(name string) []byte {
	var options []string
	add := func(name string, value int) {
		if value != 0 {
			options = append(options, name, strconv.Itoa(value))
		}
	}
	if m.timeoutFirst {
		add("timeout", m.timeout)
	}
	if m.tsize {
		options = append(options, "tsize", "0")
	}
	add("blksize", m.blockSize)
	if !m.timeoutFirst {
		add("timeout", m.timeout)
	}
	add("windowsize", m.windowSize)
	mode := "octet"
	if m.netascii {
		mode = "netascii"
	}
	return requestOf(name, mode, options...)
}

// Ends of a fetch, beside an ERROR.
var (
	errGaveUp  = errors.New("the client gave up")
	errAborted = errors.New("aborted")
	errHung    = errors.New("a block came again, and the client hung")
)

// open opens a port of client n with the model's network card.
func (m *model) open(l *link, n int, p uint16) *port {
	c := l.client(n, p, 4*max(m.window(), DefaultAhead)+64)
	c.card = m.card
	return c
}

// fetching is a model at work.
type fetching struct {
	*model
	port      *port
	blockSize int
	window    int
	file      []byte
	last      int          // the last block in order
	end       int          // the block that ends the file, 0 until it came
	kept      map[int]bool // blocks beyond last
	unacked   int          // blocks in order since the last ACK
	nacked    int          // last when it acknowledged a strange block; U-Boot begins with 0, too
}

// fetch reads a file through c as the model does.
func (m *model) fetch(c *port, name string) ([]byte, error) {
	f := &fetching{model: m, port: c, blockSize: DefaultBlockSize, window: 1, kept: map[int]bool{}}
	f.file = make([]byte, 0, len(c.link.files[name]))
	request, vain := m.request(name), 0
	c.begun, c.done = time.Time{}, time.Time{}
	begins := func() (first bool) {
		if first = c.begun.IsZero(); first {
			c.begun = time.Now()
		}
		return first
	}
	c.send(request)
	timer := time.NewTimer(m.requests[0])
	defer timer.Stop()
	for {
		var data []byte
		select {
		case data = <-c.arrived:
		case <-timer.C:
			vain++
			if vain == tries {
				return nil, errGaveUp
			}
			if c.begun.IsZero() {
				c.send(request)
				timer.Reset(m.requests[min(vain, len(m.requests)-1)])
				continue
			}
			f.acknowledge()
			timer.Reset(m.quiet[min(vain, len(m.quiet)-1)])
			continue
		}
		if len(data) < 4 {
			return nil, fmt.Errorf("received %q", data)
		}
		progress := false
		switch binary.BigEndian.Uint16(data) {
		case wireERROR:
			message, _, _ := bytes.Cut(data[4:], []byte{0})
			return nil, &ClientError{Code: binary.BigEndian.Uint16(data[2:]), Message: string(message)}
		case wireOACK:
			if f.last > 0 {
				break
			}
			if m.aborts {
				c.send(errorOf(8, "User aborted the transfer"))
				return nil, errAborted
			}
			if err := f.accept(parseOACK(data), len(c.link.files[name])); err != nil {
				return nil, err
			}
			progress = begins()
			f.acknowledge()
		case wireDATA:
			number := binary.BigEndian.Uint16(data[2:])
			if c.begun.IsZero() && number != 1 {
				break // of a transfer before
			}
			begins()
			var err error
			if progress, err = f.take(number, data[4:]); err != nil {
				return nil, err
			}
			if f.end > 0 && f.last == f.end {
				c.done = time.Now()
				m.linger(c, f.last)
				return f.file, nil
			}
		}
		if progress {
			vain = 0
		}
		if progress || m.restarts {
			timer.Reset(m.quiet[0])
		}
	}
}

// acknowledge acknowledges the last block in order.
func (f *fetching) acknowledge() {
	number := f.last
	if f.zeroACK && f.end == 1 && len(f.file) == 0 {
		number = 0
	}
	f.port.send(ackOf(number))
	f.unacked = 0
}

// take takes a block, and reports whether it was a new one.
func (f *fetching) take(number uint16, data []byte) (progress bool, err error) {
	block := f.last + int(int16(number-uint16(f.last)))
	known := block <= f.last || f.kept[block]
	if f.hangs && known {
		f.port.send(ackOf(f.last + 1))
		return false, errHung
	}
	next := block == f.last+1 || f.strange == keeps && !known || f.strange == trusts && block != f.last
	if !next {
		f.refuse(block)
		return false, nil
	}
	at := (block - 1) * f.blockSize
	if missing := at + len(data) - len(f.file); missing > 0 {
		f.file = append(f.file, make([]byte, missing)...)
	}
	copy(f.file[at:], data)
	if len(data) < f.blockSize {
		f.end = block
	}
	if f.strange == trusts {
		f.last = block
	} else {
		f.kept[block] = true
		for f.kept[f.last+1] {
			f.last++
			delete(f.kept, f.last)
		}
	}
	if f.unacked++; f.unacked >= f.window || f.eachBlock || f.strange == keeps || f.last == f.end {
		f.acknowledge()
	}
	return true, nil
}

// refuse does what the model does about a block that it has no use for.
func (f *fetching) refuse(block int) {
	switch f.strange {
	case silent:
		if block == f.last {
			f.acknowledge()
		}
	case ownNumber:
		if block < f.last+1 {
			f.port.send(ackOf(block))
		}
	case once:
		if f.nacked != f.last {
			f.acknowledge()
			f.nacked = f.last
		}
	case each, keeps:
		f.acknowledge()
	}
}

// accept takes the options that the server granted.
func (f *fetching) accept(options map[string]string, size int) error {
	f.blockSize, f.window = DefaultBlockSize, 1
	for name, value := range options {
		n, err := strconv.Atoi(value)
		switch {
		case name == "blksize" && n >= MinBlockSize && n <= f.model.blockSize:
			f.blockSize = n
		case name == "windowsize" && n >= 1 && n <= f.windowSize:
			f.window = n
		case name == "timeout" && n == f.timeout:
		case name == "tsize" && f.tsize && n == size && size > 0:
		default:
			err = fmt.Errorf("option %s=%s in the OACK", name, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lingerTime is how long a client that lingers waits for a repeat of the last block.
const lingerTime = 10 * time.Second

// linger acknowledges the last block again for a while, in case that the ACK was lost.
func (m *model) linger(c *port, last int) {
	for !m.deaf {
		data := c.expect(lingerTime)
		if data == nil {
			return
		}
		if data[1] == wireDATA {
			c.send(ackOf(last))
		}
	}
}

// carried returns a file as the model receives it.
func (m *model) carried(file []byte) []byte {
	if m.netascii {
		return toNetASCII(file)
	}
	return file
}

// fetchAll fetches a file, each time from a new port, until one try has it whole, as firmware does.
// It returns the number of tries.
func (m *model) fetchAll(n *rig, client int, name string, most int) int {
	n.t.Helper()
	for try := 1; ; try++ {
		c := m.open(n.link, client, uint16(1024+try))
		got, err := m.fetch(c, name)
		c.close()
		switch {
		case err == nil && bytes.Equal(got, m.carried(n.files[name])):
			return try
		case err == nil:
			n.t.Errorf("%s: %s: %d wrong bytes", m.name, name, len(got))
			return try
		case try == most || err != errGaveUp:
			n.t.Errorf("%s: %s: %v in try %d", m.name, name, err, try)
			return try
		}
	}
}
