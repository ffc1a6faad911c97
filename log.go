package main

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"flytftp/singleport"
)

// Bounds of the log, so that neither a flood of requests nor a reader that stopped reading can hurt the server.
const (
	maxPending      = 64 << 10         // bytes that wait for a slow reader; more are counted and lost
	sumInterval     = 10 * time.Second // after which what was not written is summed up
	linesPerNetwork = 20               // lines of one event and source prefix in an interval
	linesOfAll      = 200              // lines of refusals and failures in an interval
	maxSums         = 128              // pairs of event and source prefix that are counted apart, 30 KiB at most
	fewStrays       = 16               // that are not worth a line: clients acknowledge ERRORs, and twice what came twice
	panicStacks     = 10               // stacks that are written in the life of the process
)

// journal writes the log: one line an event, words, then key=value. Whatever comes from the network or the disk is
// written with %+q, which leaves printable ASCII only.
type journal struct {
	w    io.Writer
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	mu      sync.Mutex // never held while w is written to: the goroutine that reads the socket takes it
	pending []byte
	lost    int // lines
	sums    map[counted]*sum
	since   time.Time   // when the first of sums was counted
	timer   *time.Timer // runs while there are sums
	lines   int         // of refusals since then
	panics  int
}

// counted is what refusals are counted by. The zero network is everybody who found no room in the map.
type counted struct {
	event   string
	network netip.Prefix
}

type sum struct{ lines, suppressed int }

// newJournal starts a goroutine that writes to w until close.
func newJournal(w io.Writer) *journal {
	j := &journal{
		w:    w,
		wake: make(chan struct{}, 1),
		quit: make(chan struct{}),
		done: make(chan struct{}),
		sums: map[counted]*sum{},
	}
	go j.write()
	return j
}

// close writes what is left, unless the reader does not take it within a second.
func (j *journal) close() {
	j.sumUp()
	close(j.quit)
	select {
	case <-j.done:
	case <-time.After(time.Second):
	}
}

func (j *journal) write() {
	defer close(j.done)
	var lines []byte
	for last := false; !last; {
		select {
		case <-j.wake:
		case <-j.quit:
			last = true
		}
		j.mu.Lock()
		lines, j.pending = j.pending, lines[:0]
		lost := j.lost
		j.lost = 0
		j.mu.Unlock()
		if lost > 0 {
			lines = fmt.Appendf(lines, "log lost lines=%d\n", lost)
		}
		j.w.Write(lines)
	}
}

// printf writes one line.
func (j *journal) printf(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.append("", format, args)
}

func (j *journal) append(words, format string, args []any) {
	if len(j.pending) >= maxPending {
		j.lost++
		return
	}
	j.pending = append(j.pending, words...)
	j.pending = fmt.Appendf(j.pending, format, args...)
	j.pending = append(j.pending, '\n')
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// ended reports a transfer whose file was opened.
func (j *journal) ended(path string, t transfer, err error) {
	s := t.Stats()
	const format = "file=%+q client=%v bytes=%d blksize=%d windowsize=%d retransmits=%d duration=%.1fms" // a Duration's text is not always ASCII
	args := []any{path, t.Client(), s.Bytes, s.BlockSize, s.WindowSize, s.Retransmits, s.Duration.Seconds() * 1e3}
	if err == nil {
		j.printf("sent "+format, args...)
		return
	}
	j.refused(outcome(err), t.Client(), format+" why=%+q", append(args, err.Error())...)
}

// refused reports what ended without a whole file: a line while the event is rare, a count of it when it is not or when format
// is empty.
func (j *journal) refused(event string, client netip.AddrPort, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.timer == nil {
		j.since = time.Now()
		j.timer = time.AfterFunc(sumInterval, j.sumUp)
	}
	key := counted{event, singleport.SourcePrefix(client.Addr())}
	if j.sums[key] == nil && len(j.sums) >= maxSums {
		key.network = netip.Prefix{}
	}
	s := j.sums[key]
	if s == nil {
		s = new(sum)
		j.sums[key] = s
	}
	if format == "" || s.lines == linesPerNetwork || j.lines == linesOfAll {
		s.suppressed++
		return
	}
	s.lines++
	j.lines++
	j.append(event+" ", format, args)
}

// sumUp writes and forgets what was counted.
func (j *journal) sumUp() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, s := range j.sums {
		if s.suppressed == 0 || key.event == strayEvent && s.suppressed < fewStrays {
			continue
		}
		network := "others"
		if key.network.IsValid() {
			network = key.network.String()
		}
		j.append(key.event, " network=%s suppressed=%d in=%v", []any{network, s.suppressed, time.Since(j.since).Round(time.Second)})
	}
	clear(j.sums)
	j.lines = 0
	if j.timer != nil {
		j.timer.Stop()
		j.timer = nil
	}
}

var strayEvent = singleport.RefusedStray.String()

// Refused implements singleport.Observer. What a client can send without end and nobody needs to see singly is counted alone.
func (j *journal) Refused(client netip.AddrPort, name string, why singleport.Refusal) {
	switch why {
	case singleport.RefusedWrite:
		j.refused("denied", client, "file=%+q client=%v why=\"write request\"", name, client)
	case singleport.RefusedMode:
		j.refused("denied", client, "file=%+q client=%v why=\"neither octet nor netascii\"", name, client)
	case singleport.RefusedBusy:
		j.refused("busy", client, "file=%+q client=%v why=\"-max-transfers are running\"", name, client)
	case singleport.RefusedStopping:
		j.refused("busy", client, "file=%+q client=%v why=\"the server is stopping\"", name, client)
	case singleport.RefusedRate:
		j.refused("over rate", client, "")
	default:
		j.refused(why.String(), client, "")
	}
}

// Panicked implements singleport.Observer.
func (j *journal) Panicked(value any, stack []byte) {
	j.mu.Lock()
	j.panics++
	withStack := j.panics <= panicStacks
	j.mu.Unlock()
	if withStack {
		j.printf("panicked value=%+q stack=%+q", fmt.Sprint(value), stack)
		return
	}
	j.refused("panicked", netip.AddrPort{}, "value=%+q", fmt.Sprint(value))
}
