package singleport

import "time"

// pace spreads what leaves at one time. The network cards of boot programs have room for a few frames only,
// 4 to 32, and the drivers of some never recover from a full ring. So no more blocks are sent at one time
// than a burst, and then no more than the client drains meanwhile.
type pace struct {
	burst    int           // blocks that may wait at the client
	highest  int           // blocks; a larger burst was lost before
	trial    bool          // the burst was raised and not yet acknowledged
	perBlock time.Duration // that the client takes for a block, as far as is known
	waiting  time.Duration // how long the client has yet to drain at that pace, at the time
	at       int64         // of the last change

	began    int64         // when the first block of the present window was sent; 0 if it is not measured
	from     uint64        // the block before that
	ticked   int64         // when the last ACK of new blocks came; 0 if none did since a loss
	interval time.Duration // between blocks, as their ACKs come, smoothed; 0 if it is not known
}

const (
	// firstBurst, in blocks, is what most rings take, and the most that any client gets at one time before
	// its pace shows that it is no boot program.
	firstBurst = 8
	// firstPerBlock is slower than any boot program seen drains its ring.
	firstPerBlock = 125 * time.Microsecond
	// freePerBlock is faster than any: such a client gets its windows whole.
	freePerBlock = 5 * time.Microsecond
	// slowestPerBlock bounds what is measured: a block of 512 bytes at 128 kbit/s.
	slowestPerBlock = 32 * time.Millisecond
	// tellTime bounds how late an ACK may tell of a loss for a pace to be taken from it: clients with windows
	// acknowledge after a second of silence, too.
	tellTime = 700 * time.Millisecond
	// paceStep, in blocks, is what may wait at a client whose pace was overestimated by a step.
	paceStep = 16
)

func newPace() pace { return pace{burst: firstBurst, highest: firstBurst, perBlock: firstPerBlock} }

// free reports whether the client showed that it takes whole windows.
func (p *pace) free() bool { return p.perBlock <= freePerBlock && p.highest == firstBurst }

// allowed returns how many blocks may be sent now, and, if none may, how long to wait for half a burst.
func (p *pace) allowed(now int64) (blocks int, wait time.Duration) {
	if p.free() {
		return MaxWindowSize, 0
	}
	left := max(p.waiting-time.Duration(now-p.at), 0)
	if blocks = p.burst - int((left+p.perBlock-1)/p.perBlock); blocks > 0 {
		return blocks, 0
	}
	return 0, max(left-time.Duration(p.burst/2)*p.perBlock, p.perBlock)
}

// sent notes that so many blocks were sent.
func (p *pace) sent(blocks int, now int64) {
	p.waiting = max(p.waiting-time.Duration(now-p.at), 0) + time.Duration(blocks)*p.perBlock
	p.at = now
}

// begin notes that the block behind from is sent, with nothing else under way.
func (p *pace) begin(from uint64, now int64) { p.from, p.began, p.waiting = from, now, 0 }

// tick takes an ACK of so many new blocks, the last of which was sent at sentAt, that leaves so many in
// flight: no more can wait at the client. Only of blocks that were under way together does the time between
// their ACKs tell the pace of the way.
func (p *pace) tick(blocks, inFlight int, sentAt, now int64) {
	p.waiting = min(max(p.waiting-time.Duration(now-p.at), 0), time.Duration(inFlight)*p.perBlock)
	p.at = now
	if 0 < sentAt && sentAt < p.ticked {
		interval := min(time.Duration(now-p.ticked)/time.Duration(blocks), slowestPerBlock)
		if p.interval == 0 {
			p.interval = interval
		}
		p.interval += (interval - p.interval) / 4
	}
	p.ticked = now
}

// arrived takes the ACK of whole windows of that many blocks, the last of which was sent at sentAt. least
// is the shortest round trip.
func (p *pace) arrived(blocks int, sentAt, now int64, least time.Duration) {
	if p.trial = false; p.burst < p.highest {
		p.burst, p.trial = min(2*p.burst, p.highest), true
	}
	began := p.began
	p.began = 0
	if blocks <= p.burst || began == 0 || least == 0 {
		return
	}
	faster := p.perBlock - p.perBlock*time.Duration(min(paceStep, (blocks+3)/4))/time.Duration(blocks)
	if waited := time.Duration(now-sentAt) - least; waited > time.Duration(p.burst)*p.perBlock+least/8 {
		faster = max(faster, drained(blocks, now-began, least))
	}
	p.perBlock = min(faster, p.perBlock*2)
}

// lost takes a loss. An ACK said at that time which block arrived last, or none did, and at is 0.
func (p *pace) lost(block uint64, at int64, least time.Duration) {
	p.burst = max(p.burst/2, 1)
	if p.trial {
		p.highest, p.trial = p.burst, false
	}
	p.perBlock = max(p.perBlock, 2*freePerBlock, p.interval)
	switch {
	case at == 0:
		p.perBlock = min(2*p.perBlock, slowestPerBlock) // all of it may have been too much
	case p.began > 0 && p.began < at && at-p.began < int64(tellTime) && block >= p.from+firstBurst && least > 0:
		p.perBlock = max(p.perBlock, drained(int(block-p.from), at-p.began, least))
	}
	p.began, p.ticked = 0, 0
}

// drained returns the time that each of so many blocks took, that arrived in so many nanoseconds and a
// round trip.
func drained(blocks int, took int64, least time.Duration) time.Duration {
	return min(max((time.Duration(took)-least)/time.Duration(blocks), 0), slowestPerBlock)
}
