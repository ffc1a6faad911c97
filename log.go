package main

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"flytftp/singleport"
)

// Bounds of the log: neither a flood of requests nor a reader that has stopped reading may hurt the
// server.
const (
	// maxPending, in bytes, may wait for a slow reader. Further lines are lost, and counted.
	maxPending = 64 << 10

	// sumInterval lies between two sums of what was suppressed.
	sumInterval = 10 * time.Second

	// linesPerNetwork is how many lines one event may have for one network in an interval,
	// linesOfAll how many all refusals and failures may have together.
	linesPerNetwork = 20
	linesOfAll      = 200

	// maxSums pairs of event and network are counted apart, in 30 KiB at most.
	maxSums = 128

	// fewStrays is how many stray datagrams of one network are worth a line. Fewer are no news:
	// clients acknowledge ERRORs, and acknowledge twice what came twice.
	fewStrays = 16

	// panicStacks is how many stacks are written in the life of the process.
	panicStacks = 10
)

// journal writes the log: one line for each event, words first, then key=value. Everything from the
// network or the disk is written with %+q, which leaves only printable ASCII. docs/log.md names
// every word and key.
type journal struct {
	w    io.Writer
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	// mu is never held while w is written to: the goroutines that read the sockets take it.
	mu      sync.Mutex
	pending []byte
	lost    int // lines
	sums    map[counted]*sum
	since   time.Time   // when the first of sums was counted
	timer   *time.Timer // runs while there are sums
	lines   int         // of refusals and failures since then
	panics  int
}

// counted is what refusals are counted by. The zero network stands for all that found no room in
// the map.
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

// close writes what is left. It gives up after a second if the reader does not take it.
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
	// The text of a time.Duration is not always ASCII.
	const format = "file=%+q client=%v bytes=%d blksize=%d windowsize=%d retransmits=%d duration=%.1fms"
	args := []any{path, t.Client(), s.Bytes, s.BlockSize, s.WindowSize, s.Retransmits, s.Duration.Seconds() * 1e3}
	if err == nil {
		j.printf("sent "+format, args...)
		return
	}
	j.refused(outcome(err), t.Client(), format+" why=%+q", append(args, err.Error())...)
}

// refused reports what ended without a whole file: with a line while the event is rare, else with a
// count. An empty format only counts.
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

// sumUp writes what was counted, and begins to count anew.
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

// Refused implements singleport.Observer. Datagrams that anyone can send without end, and that
// nobody needs to see one by one, are only counted.
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

// Panicked implements singleport.Observer. Only the first panics are written with their stack.
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
