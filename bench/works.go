package main

import (
	"fmt"
	"time"
)

// work is a set of transfers that every server is given.
type work struct {
	group      string
	key        string // for -works and the targets
	blockSize  int
	windowSize int
	fileSize   int // bytes
	clients    int
	each       int           // files that a client fetches in a row; 0 is all it begins within -span
	roundTrip  time.Duration // of a relay in between; 0 is no relay
	loss       float64       // of the relay, each way
	rounds     int           // at most; 0 is -rounds
	limit      time.Duration
	abreast    bool // all servers at the same time, because the link is the bottleneck
}

// Groups, in the order of their tables.
const (
	groupLockStep = "Lock-step"
	groupWindows  = "Windows"
	groupBlocks   = "Block sizes"
	groupMany     = "1,000 clients at once, 64 KiB files"
	groupLink     = "20 ms round trip"
	groupLossy    = "20 ms round trip, 1 % loss each way"
)

const (
	kiB = 1 << 10
	miB = 1 << 20

	roundTrip = 20 * time.Millisecond
	loss      = 0.01

	loadLimit = 6 * time.Second  // until a work's transfers are cut off
	manyLimit = 40 * time.Second // the same for 1,000 clients
	linkLimit = 2 * time.Minute  // the same over the relay
)

// Works that the targets name.
const (
	keyLockStep1   = "lockstep-1428-1MiB-1"
	keyLockStep16  = "lockstep-1428-1MiB-16"
	keyLockStep128 = "lockstep-1428-1MiB-128"
	keyWindow16    = "window16-1428-1MiB-16"
	keyMany        = "lockstep-1428-64KiB-1000"
	keyLink64      = "link-window64-1428-1MiB"
	keyLossy       = "lossy-lockstep-1428-256KiB"
	keyLossy4      = "lossy-window4-1428-1MiB"
	keyLossy16     = "lossy-window16-1428-1MiB"
)

// plan returns the works in the order of their tables. If quick is set, it is only those that the
// targets name, some of them smaller.
func plan(quick bool) []work {
	p := &planner{quick: quick}
	p.lockStep()
	p.windows()
	p.blocks()
	p.many()
	p.link()
	p.lossy()
	return p.works
}

// planner collects the works of a plan.
type planner struct {
	quick bool
	works []work
}

func (p *planner) add(group string, w work) {
	w.group, w.key = group, w.name()
	if w.limit == 0 {
		w.limit = loadLimit
		if p.quick {
			w.limit /= 2
		}
	}
	p.works = append(p.works, w)
}

func (p *planner) lockStep() {
	for _, clients := range []int{1, 16, 128} {
		p.add(groupLockStep, work{blockSize: 1428, windowSize: 1, fileSize: miB, clients: clients})
	}
	if !p.quick {
		p.add(groupLockStep, work{blockSize: 1428, windowSize: 1, fileSize: 64 * kiB, clients: 16})
	}
}

func (p *planner) windows() {
	for _, window := range []int{4, 16, 64} {
		for _, clients := range []int{1, 16, 128} {
			if !p.quick || window == 16 && clients == 16 {
				p.add(groupWindows, work{blockSize: 1428, windowSize: window, fileSize: miB, clients: clients})
			}
		}
	}
}

func (p *planner) blocks() {
	if p.quick {
		return
	}
	for _, block := range []int{512, 8192} {
		for _, window := range []int{1, 16} {
			p.add(groupBlocks, work{blockSize: block, windowSize: window, fileSize: miB, clients: 16})
		}
	}
}

func (p *planner) many() {
	many := work{blockSize: 1428, windowSize: 1, fileSize: 64 * kiB, clients: 1000, each: 2, rounds: 3, limit: manyLimit}
	if p.quick {
		many.each = 1
	}
	p.add(groupMany, many)
	if !p.quick {
		many.windowSize = 16
		p.add(groupMany, many)
	}
}

func (p *planner) link() {
	link := work{
		blockSize: 1428, windowSize: 1, fileSize: 64 * kiB, clients: 4, each: 2,
		roundTrip: roundTrip, rounds: 3, limit: linkLimit,
	}
	if !p.quick {
		p.add(groupLink, link)
	}
	link.fileSize = miB
	for _, window := range []int{4, 16, 64} {
		link.windowSize = window
		if !p.quick || window == 64 {
			p.add(groupLink, link)
		}
	}
}

func (p *planner) lossy() {
	lossy := work{
		blockSize: 1428, windowSize: 1, fileSize: 256 * kiB, clients: 200, each: 1,
		roundTrip: roundTrip, loss: loss, rounds: 1, limit: linkLimit,
	}
	if p.quick {
		lossy.clients, lossy.limit, lossy.abreast = 50, 10*time.Second, true
	}
	p.add(groupLossy, lossy)
	lossy.fileSize = miB
	for _, window := range []int{4, 16} {
		lossy.windowSize = window
		p.add(groupLossy, lossy)
	}
	if !p.quick {
		lossy.windowSize = 64
		p.add(groupLossy, lossy)
	}
}

// name returns the key of w.
func (w *work) name() string {
	mode := "lockstep"
	if w.windowSize > 1 {
		mode = fmt.Sprintf("window%d", w.windowSize)
	}
	key := fmt.Sprintf("%s-%d-%s", mode, w.blockSize, size(w.fileSize))
	switch {
	case w.loss > 0:
		return "lossy-" + key
	case w.roundTrip > 0:
		return "link-" + key
	}
	return fmt.Sprintf("%s-%d", key, w.clients)
}

// title describes w above its table.
func (w *work) title() string {
	mode := "lock-step"
	if w.windowSize > 1 {
		mode = fmt.Sprintf("windowsize %d", w.windowSize)
	}
	clients := fmt.Sprintf("%d clients", w.clients)
	if w.clients == 1 {
		clients = "1 client"
	}
	return fmt.Sprintf("%s, blksize %d, %s, %s", mode, w.blockSize, sizeText(w.fileSize), clients)
}

func size(n int) string {
	if n%miB == 0 {
		return fmt.Sprintf("%dMiB", n/miB)
	}
	return fmt.Sprintf("%dKiB", n/kiB)
}

func sizeText(n int) string {
	s := size(n)
	return s[:len(s)-3] + " " + s[len(s)-3:]
}
