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
	each       int           // files of a client, in a row; 0 is all it begins within -span
	link       link          // of a relay in between; the zero link is no relay
	egress     int           // rate of the server's own interface, bits a second; 0 is no limit
	keepBuffer bool          // the server cannot get a larger send buffer
	rounds     int           // at most; 0 is -rounds
	limit      time.Duration // until transfers that still run are cut off
	abreast    bool          // all servers at the same time, because the link is the bottleneck
}

// Groups, in the order of their tables.
const (
	groupLockStep = "Lock-step"
	groupWindows  = "Windows"
	groupBlocks   = "Block sizes"
	groupMany     = "1,000 clients at once, 64 KiB files"
	groupLink     = "20 ms round trip"
	groupLossy    = "20 ms round trip, 1 % loss each way"
	groupSlow     = "Slow links that lose nothing, 20 ms round trip"
	groupShared   = "Links that many clients share, 20 ms round trip"
)

const (
	kiB = 1 << 10
	miB = 1 << 20

	kilobit = 1_000 // a second, like the rates of links
	megabit = 1_000_000

	roundTrip = 20 * time.Millisecond
	loss      = 0.01

	// sharedQueue is what a router holds for a link that many clients share.
	sharedQueue = 100 * time.Millisecond

	loadLimit  = 6 * time.Second  // of works on loopback
	manyLimit  = 40 * time.Second // of works with 1,000 clients
	linkLimit  = 2 * time.Minute  // of works with a relay
	quickLimit = 10 * time.Second // of the last two with -quick
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
	p.slow()
	p.shared()
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
	p.add(groupLockStep, work{blockSize: 1428, windowSize: 1, fileSize: 64 * kiB, clients: 16})
}

func (p *planner) windows() {
	for _, window := range []int{4, 16, 64} {
		for _, clients := range []int{1, 16, 128} {
			if !p.quick || window == 64 && clients == 128 {
				p.add(groupWindows, work{blockSize: 1428, windowSize: window, fileSize: miB, clients: clients})
			}
		}
	}
}

func (p *planner) blocks() {
	for _, block := range []int{512, 8192} {
		for _, window := range []int{1, 16} {
			if !p.quick || block == 8192 && window == 16 {
				p.add(groupBlocks, work{blockSize: block, windowSize: window, fileSize: miB, clients: 16})
			}
		}
	}
}

func (p *planner) many() {
	many := work{
		blockSize: 1428, windowSize: 1, fileSize: 64 * kiB, clients: 1000, each: 2,
		rounds: 3, limit: manyLimit,
	}
	if p.quick {
		many.each, many.limit = 1, quickLimit
	}
	p.add(groupMany, many)
	if !p.quick {
		many.windowSize = 16
		p.add(groupMany, many)
	}
}

func (p *planner) link() {
	for _, window := range []int{1, 4, 16, 64} {
		w := work{
			blockSize: 1428, windowSize: window, fileSize: miB, clients: 4, each: 2,
			link: link{roundTrip: roundTrip}, rounds: 3, limit: linkLimit,
		}
		if window == 1 { // 735 round trips
			w.each, w.rounds, w.abreast = 1, 1, true
		}
		if p.quick {
			w.limit = quickLimit
		}
		if !p.quick || window != 16 {
			p.add(groupLink, w)
		}
	}
}

func (p *planner) lossy() {
	for _, window := range []int{1, 4, 16, 64} {
		w := work{
			blockSize: 1428, windowSize: window, fileSize: miB, clients: 200, each: 1,
			link: link{roundTrip: roundTrip, loss: loss}, rounds: 1, limit: linkLimit,
		}
		if window == 1 {
			w.fileSize = 256 * kiB
		}
		if window < 64 { // so few that no one waits for a processor, and 208 transfers
			w.clients, w.each, w.abreast = 16, 13, true
		}
		if p.quick {
			w.clients, w.each, w.limit, w.abreast = min(w.clients, 50), min(w.each, 3), quickLimit, true
		}
		p.add(groupLossy, w)
	}
}

// slow adds links whose queues drop nothing, so that no block needs to be sent twice.
func (p *planner) slow() {
	for _, rate := range []int{512 * kilobit, 2 * megabit, 20 * megabit} {
		for _, window := range []int{1, 4, 16, 64} {
			w := work{
				blockSize: 1428, windowSize: window, fileSize: miB, clients: 1, each: 1,
				link: link{roundTrip: roundTrip, rate: rate}, rounds: 1, limit: linkLimit, abreast: true,
			}
			if window == 1 || rate < megabit {
				w.fileSize = 256 * kiB
			}
			if !p.quick || window == 64 {
				p.add(groupSlow, w)
			}
		}
	}
}

// sharedLink is a link on which the windows of all clients together are more than it holds.
type sharedLink struct {
	clients, rate int
	goal          float64 // time of all transfers to the link's own
}

var sharedLinks = []sharedLink{{12, 20 * megabit, 1.15}, {48, 100 * megabit, 1.25}}

// works returns the works of s: behind a router that drops what does not fit, and at the server's
// own interface, which makes the server wait, with a large and a small send buffer.
func (s sharedLink) works() []work {
	w := work{
		blockSize: 1428, windowSize: 64, fileSize: miB, clients: s.clients, each: 1,
		link: link{roundTrip: roundTrip}, rounds: 1, limit: linkLimit,
	}
	router, server, small := w, w, w
	router.link.rate, router.link.queue = s.rate, sharedQueue
	server.egress = s.rate
	small.egress, small.keepBuffer = s.rate, true
	return []work{router, server, small}
}

func (p *planner) shared() {
	for _, s := range sharedLinks {
		for _, w := range s.works() {
			if p.quick {
				w.fileSize, w.limit = 256*kiB, quickLimit
			}
			p.add(groupShared, w)
		}
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
	case w.keepBuffer:
		return fmt.Sprintf("sndbuf%s-%s-%d", rateKey(w.egress), mode, w.clients)
	case w.egress > 0:
		return fmt.Sprintf("egress%s-%s-%d", rateKey(w.egress), mode, w.clients)
	case w.link.queue > 0:
		return fmt.Sprintf("router%s-%s-%d", rateKey(w.link.rate), mode, w.clients)
	case w.link.rate > 0:
		return fmt.Sprintf("slow%s-%s", rateKey(w.link.rate), key)
	case w.link.loss > 0:
		return "lossy-" + key
	case w.link.roundTrip > 0:
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
	return fmt.Sprintf("%s, blksize %d, %s, %s%s", mode, w.blockSize, sizeText(w.fileSize), clients, w.bottleneck())
}

// bottleneck describes the rate of the link, "" if it has none.
func (w *work) bottleneck() string {
	switch {
	case w.keepBuffer:
		return fmt.Sprintf(", %s at the server, send buffer of %s", rateText(w.egress), sendBufferText())
	case w.egress > 0:
		return fmt.Sprintf(", %s at the server", rateText(w.egress))
	case w.link.queue > 0:
		return fmt.Sprintf(", %s, queue of %d ms", rateText(w.link.rate), w.link.queue.Milliseconds())
	case w.link.rate > 0:
		return ", " + rateText(w.link.rate)
	}
	return ""
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

func rateKey(bits int) string {
	if bits%megabit == 0 {
		return fmt.Sprintf("%dM", bits/megabit)
	}
	return fmt.Sprintf("%dk", bits/kilobit)
}

func rateText(bits int) string {
	s := rateKey(bits)
	return s[:len(s)-1] + " " + s[len(s)-1:] + "bit/s"
}

// ownTime returns how long the link is busy with the DATA of all clients if each block passes once;
// 0 if the link has no rate.
func (w *work) ownTime() time.Duration {
	path, headers := w.link, 4+ipHeaders
	if w.egress > 0 {
		path.rate, headers = w.egress, 4+ipHeaders+ethernetHeader
	}
	if path.rate == 0 {
		return 0
	}
	blocks := w.fileSize/w.blockSize + 1
	return path.transmission(w.clients * w.each * (w.fileSize + blocks*headers))
}
