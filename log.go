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
	// linesOfAll how many all refusals and failures may have together. Whole transfers have bounds
	// of their own, because a room full of machines is no flood.
	linesPerNetwork = 20
	linesOfAll      = 200
	sentPerNetwork  = 100
	sentOfAll       = 300

	// maxSums pairs of event and network are counted apart, in 30 KiB at most.
	maxSums = 128

	// searchPause without another name of its kind ends a search, and so do searchPauses. Up to
	// maxSearches are summed up at a time, in 80 KiB at most.
	searchPause  = time.Second
	searchPauses = 10
	maxSearches  = 64

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
	sent    int         // lines of whole transfers since then
	panics  int

	counts counters // whether lines are written or not

	searches []*search // the first to begin first
	closed   bool
}

// counted is what refusals are counted by. The zero network stands for all that found no room in
// the map.
type counted struct {
	event   string
	network netip.Prefix
}

type sum struct{ lines, suppressed int }

// search is what becomes one line: names that a client asks for in vain, for one reason. Boot
// programs do: PXELINUX and GRUB look for their configuration under a dozen names.
type search struct {
	event, why  string
	client      netip.AddrPort // that asked first
	first, last string         // names
	names       int
	pauses      int  // times that it was looked at
	goesOn      bool // there was a name since then
}

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
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.endSearches()
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
			j.counts.linesSuppressed.Add(uint64(lost))
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
	if err == singleport.ErrHung {
		return // Refused had a line, when the client was told
	}
	s := t.Stats()
	// The text of a time.Duration is not always ASCII.
	format := "file=%+q client=%v bytes=%d blksize=%d windowsize=%d retransmits=%d duration=%.1fms"
	args := []any{path, t.Client(), s.Bytes, s.BlockSize, s.WindowSize, s.Retransmits, s.Duration.Seconds() * 1e3}
	if err != nil {
		format += " why=%+q"
		args = append(args, err.Error())
	}
	j.count(outcome(err, s.Bytes), t.Client(), format, args...)
}

// refused reports a request that got no file. Those that a client makes one after another, for the
// same reason, are one line.
func (j *journal) refused(event string, client netip.AddrPort, name, why string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.searches {
		if s.client.Addr() == client.Addr() && s.event == event && s.why == why {
			s.names++
			s.last, s.goesOn = name, true
			return
		}
	}
	s := &search{event: event, why: why, client: client, first: name, names: 1, goesOn: true}
	if len(j.searches) == maxSearches {
		j.writeSearch(s)
		return
	}
	if len(j.searches) == 0 {
		time.AfterFunc(searchPause, j.endSearches)
	}
	j.searches = append(j.searches, s)
}

// endSearches writes the searches in which a pause was without a name, or that lasted long enough.
func (j *journal) endSearches() {
	j.mu.Lock()
	defer j.mu.Unlock()
	left := j.searches[:0]
	for _, s := range j.searches {
		s.pauses++
		if s.goesOn && s.pauses < searchPauses && !j.closed {
			s.goesOn = false
			left = append(left, s)
		} else {
			j.writeSearch(s)
		}
	}
	j.searches = left
	if len(left) > 0 {
		time.AfterFunc(searchPause, j.endSearches)
	}
}

func (j *journal) writeSearch(s *search) {
	format := "file=%+q client=%v why=%+q"
	args := []any{s.first, s.client, s.why}
	if s.names > 1 {
		format += " more=%d last=%+q"
		args = append(args, s.names-1, s.last)
	}
	j.countLocked(s.event, s.client, s.names, format, args...)
}

// count writes a line while there are few of its event, and else counts it. An empty format only
// counts.
func (j *journal) count(event string, client netip.AddrPort, format string, args ...any) {
	j.mu.Lock()
	j.countLocked(event, client, 1, format, args...)
	j.mu.Unlock()
}

// countLocked is count for a line that stands for so many.
func (j *journal) countLocked(event string, client netip.AddrPort, weight int, format string, args ...any) {
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
	perNetwork, lines, ofAll := linesPerNetwork, &j.lines, linesOfAll
	if event == "sent" {
		perNetwork, lines, ofAll = sentPerNetwork, &j.sent, sentOfAll
	}
	if format == "" || s.lines == perNetwork || *lines == ofAll {
		s.suppressed += weight
		if format != "" {
			j.counts.linesSuppressed.Add(1)
		}
		return
	}
	s.lines++
	*lines++
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
	j.lines, j.sent = 0, 0
	if j.timer != nil {
		j.timer.Stop()
		j.timer = nil
	}
}

var strayEvent = singleport.RefusedStray.String()

// Refused implements singleport.Observer. Datagrams that anyone can send without end, and that
// nobody needs to see one by one, are only counted.
func (j *journal) Refused(client netip.AddrPort, name string, why singleport.Refusal) {
	j.counts.refusals[why].Add(1)
	switch why {
	case singleport.RefusedWrite, singleport.RefusedMode:
		j.counts.request("denied")
	case singleport.RefusedBusy, singleport.RefusedStopping:
		j.counts.request("busy")
	}
	switch why {
	case singleport.RefusedWrite:
		j.refused("denied", client, name, "write request")
	case singleport.RefusedMode:
		j.refused("denied", client, name, "neither octet nor netascii")
	case singleport.RefusedBusy:
		j.refused("busy", client, name, "-max-transfers are running")
	case singleport.RefusedHanging:
		j.refused("hanging", client, name, "the disk of this file, or of many others, does not answer")
	case singleport.RefusedStopping:
		j.refused("busy", client, name, "the server is stopping")
	case singleport.RefusedRate:
		j.count("over rate", client, "")
	default:
		j.count(why.String(), client, "")
	}
}

// Ended implements singleport.Observer: it counts a request by how it ended.
func (j *journal) Ended(err error, acknowledged int64) {
	refusal, isRefused := err.(*refused)
	switch {
	case isRefused:
		j.counts.request(refusal.event)
	case err == singleport.ErrHung:
		j.counts.request("hanging")
	default:
		j.counts.request(outcome(err, acknowledged))
	}
}

// Panicked implements singleport.Observer. Only the first panics are written with their stack.
func (j *journal) Panicked(value any, stack []byte) {
	j.counts.panicked.Add(1)
	j.mu.Lock()
	j.panics++
	withStack := j.panics <= panicStacks
	j.mu.Unlock()
	if withStack {
		j.printf("panicked value=%+q stack=%+q", fmt.Sprint(value), stack)
		return
	}
	j.count("panicked", netip.AddrPort{}, "value=%+q", fmt.Sprint(value))
}

// wedged writes the last line of a process that has to end. It takes no lock, because the loop that
// stands still may hold it or wait for it, and gives up after a second if the reader does not take
// the line.
func (j *journal) wedged(w singleport.Wedge) {
	line := fmt.Appendf(nil, "wedged loop=%+q listen=%v stack=%+q\n", w.Loop, w.Addr, w.Stacks)
	written := make(chan struct{})
	go func() {
		j.w.Write(line)
		close(written)
	}()
	select {
	case <-written:
	case <-time.After(time.Second):
	}
}
