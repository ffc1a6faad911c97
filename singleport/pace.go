package singleport

import "time"

// pace spreads what leaves at one time. The network cards of boot programs have room for a few
// frames only, 4 to 32, and the drivers of some never recover from a full ring. So no more blocks
// are sent at one time than a burst, and then no more than the client drains meanwhile.
type pace struct {
	burst    int           // blocks that may wait at the client
	perBlock time.Duration // that the client takes for a block, as far as is known
	slowest  time.Duration // it is not taken for faster than this: that lost blocks before
	waiting  time.Duration // how long the client has yet to drain at that pace, at the time
	at       int64         // of the last change

	began    int64         // when the present flight began; 0 if it is not measured
	from     uint64        // the block before that
	ramp     int           // blocks in which the pace becomes e times as fast; 0 if it stays
	steady   time.Duration // perBlock when the present flight began
	standing int           // blocks that wait at the client, or before it, when the next one begins
	ticked   int64         // when the last ACK of new blocks came; 0 if none did since a loss
	known    bool          // an ACK of DATA came
	whole    bool          // a window was acknowledged whole
	spread   bool          // more blocks than a burst arrived in one flight
	most     int           // blocks; larger bursts were too much for the queue; 0 if none were
	misses   int           // losses in a row that no ACK told of
	cut      int           // losses in a row before which next to nothing arrived
	ticks    int           // measurements of interval
	interval time.Duration // between blocks, as their ACKs come, smoothed; 0 if it is not known
}

const (
	// nearBurst and farBurst, in blocks, are what any client gets at one time, until its pace
	// shows that it is no boot program: on a local network, or while nothing is known, what the
	// smallest rings take.
	nearBurst = 4
	farBurst  = 8
	// firstPerBlock is slower than any boot program seen drains its ring.
	firstPerBlock = 125 * time.Microsecond
	// fastestPerBlock is a full frame at 1 Gbit/s.
	fastestPerBlock = 12 * time.Microsecond
	// crowdTime is longer than any ring takes to drain: on a local network whoever waits so long
	// waits for others.
	crowdTime = 8 * time.Millisecond
	// quickTicks measurements are enough to believe it.
	quickTicks = 8
	// quickPerBlock is faster than boot programs are.
	quickPerBlock = 15 * time.Microsecond
	// fastestFar is the same elsewhere: over long round trips it hardly shows when a client falls
	// behind.
	fastestFar = 40 * time.Microsecond
	// shortestWait is worth a timer for such a client: blocks due within it are sent together.
	shortestWait = 50 * time.Microsecond
	// slowestPerBlock bounds what is measured: a full frame at 128 kbit/s.
	slowestPerBlock = 100 * time.Millisecond
	// tellTime bounds how late an ACK may tell of a loss for a pace to be taken from it: clients
	// with windows acknowledge after a second of silence, too.
	tellTime = 700 * time.Millisecond
	// nearStep and farStep, in blocks, are what may wait at a client whose pace was overestimated
	// by a step or a ramp.
	nearStep = 4
	farStep  = 16
	// mostCut losses in a row are no accidents, if next to nothing arrives between them.
	mostCut = 2
)

// newPace returns the pace of a client that is not known. One that asks for blocks larger than
// frames can put fragments together, so it is no boot program.
func newPace(blockSize int) pace {
	if blockSize > DefaultMaxBlockSize {
		return pace{burst: nearBurst, perBlock: fastestPerBlock}
	}
	return pace{burst: nearBurst, perBlock: firstPerBlock}
}

// allowed returns how many blocks may be sent now, and, if none may, how long to wait for one.
func (p *pace) allowed(now int64) (blocks int, wait time.Duration) {
	left := max(p.waiting-time.Duration(now-p.at), 0)
	if left == 0 {
		return p.burst, 0
	}
	// Half of it stays free for what else may be on its way.
	half := max(p.burst/2, 1)
	if blocks = half - int((left+p.perBlock-1)/p.perBlock); blocks > 0 {
		return blocks, 0
	}
	wait = max(left-time.Duration(half-1)*p.perBlock, 1)
	if p.perBlock == fastestPerBlock {
		wait = max(wait, shortestWait)
	}
	return 0, wait
}

// sent notes that so many blocks were sent.
func (p *pace) sent(blocks int, now int64) {
	p.waiting = max(p.waiting-time.Duration(now-p.at), 0) + time.Duration(blocks)*p.perBlock
	p.at = now
	if p.ramp > 0 {
		p.perBlock = max(p.perBlock-p.perBlock*time.Duration(blocks)/time.Duration(p.ramp), p.steady/2, p.slowest, fastestFar)
	}
}

// mayWait returns how long blocks may wait at the client, or before it, because the pace of the
// present flight tries what it takes.
func (p *pace) mayWait() time.Duration {
	if p.ramp == 0 {
		return 0
	}
	return farStep * p.steady
}

// isQuick reports whether the ACKs of blocks that were under way together show a client faster
// than boot programs are.
func (p *pace) isQuick() bool {
	return 0 < p.ticked && p.interval < quickPerBlock && p.ticks >= quickTicks
}

// begin notes that the block behind from is sent, with nothing else under way.
func (p *pace) begin(from uint64, now int64) {
	p.from, p.began, p.steady = from, now, p.perBlock
	p.waiting, p.at, p.standing = time.Duration(p.standing)*p.perBlock, now, 0
}

// tick takes an ACK of so many new blocks, the last of which was sent at sentAt, that leaves so
// many in flight: no more can wait at the client. Only of blocks that were under way together
// does the time between their ACKs tell the pace of the way.
func (p *pace) tick(blocks, inFlight int, sentAt, now int64) {
	p.waiting = min(max(p.waiting-time.Duration(now-p.at), 0), time.Duration(inFlight)*p.perBlock)
	p.at = now
	if 0 < sentAt && sentAt < p.ticked {
		interval := min(time.Duration(now-p.ticked)/time.Duration(blocks), slowestPerBlock)
		if p.interval == 0 {
			p.interval = interval
		}
		p.interval += (interval - p.interval) / 8
		p.ticks++
		p.perBlock = max(min(p.perBlock, p.interval), p.slowest, quickPerBlock/4)
	}
	p.ticked, p.known, p.spread = now, true, p.spread || blocks > p.burst
}

// rested returns the pace without what is of the present flight alone.
func (p pace) rested() pace {
	p.began, p.ticked, p.waiting, p.standing, p.ramp = 0, 0, 0, 0, 0
	return p
}

// toDrain returns how long the blocks in flight take, if they take as long as those which the
// first ACK of a flight was for.
func (p *pace) toDrain(inFlight, acked int, now int64, least time.Duration) time.Duration {
	if p.began == 0 {
		return 0
	}
	return time.Duration(inFlight) * max(time.Duration(now-p.began)-least, 0) / time.Duration(acked)
}

// arrived takes the ACK of whole windows of that many blocks, up to acked, which was sent at
// sentAt. least is the shortest round trip, near says that it is that of a local network.
func (p *pace) arrived(acked uint64, blocks int, sentAt, now int64, least time.Duration, near bool) {
	step, slack, fastest := min(farStep, (blocks+3)/4), farBurst*p.perBlock+least/8, fastestFar
	p.misses, p.cut, p.whole = 0, 0, true
	p.burst = min(2*p.burst, farBurst)
	if p.most > 0 {
		p.burst = min(p.burst, p.most)
	}
	switch {
	case near:
		p.burst, step, slack, fastest = min(p.burst, nearBurst), min(nearStep, (blocks+7)/8), p.perBlock/2+least/8, fastestPerBlock
	case p.ramp > 0:
		slack = farBurst*p.steady + min(least/8, farBurst/2*p.steady)
	}
	began := p.began
	p.began, p.ramp = 0, 0
	if blocks <= p.burst || began == 0 || acked-p.from != uint64(blocks) || least == 0 {
		if p.perBlock > firstPerBlock {
			p.perBlock = max(p.perBlock-p.perBlock/4, firstPerBlock)
		}
		return
	}
	faster := p.perBlock - p.perBlock*time.Duration(step)/time.Duration(blocks)
	switch {
	case near && p.perBlock > firstPerBlock:
		faster = max(p.perBlock-p.perBlock/4, firstPerBlock)
	case !near && p.perBlock >= 2*firstPerBlock && blocks > farBurst:
		// If the way takes no more than now, this lets about farStep blocks wait.
		faster, p.ramp = p.perBlock, max(blocks*7/4, blocks*blocks/36)
	}
	if waited := time.Duration(now-sentAt) - least; waited > slack && (!near || waited < crowdTime) {
		faster, p.ramp = max(faster, drained(blocks, now-began, least)), 0
	}
	p.perBlock = max(min(faster, p.perBlock*2), p.slowest, fastest)
}

// isLate reports whether the client told of a loss long after the blocks arrived: it waited for
// those that did not.
func (p *pace) isLate(l loss) bool {
	if l.trip > 0 {
		return l.trip >= tellTime
	}
	return l.toldAt > 0 && l.toldAt-p.began >= int64(tellTime)
}

// lost takes a loss. least is the shortest round trip, near says that it is that of a local
// network.
func (p *pace) lost(l loss, least time.Duration, near bool) {
	told, late, full := l.toldAt > 0, p.isLate(l), l.full || l.tries > 1
	arrived := int(l.acked - p.from)
	overflow := !near && arrived < p.burst && (told && full && p.burst > 2 || !told && p.whole)
	if near || full || p.misses > 0 || !p.whole || overflow {
		p.burst = max(p.burst/2, 1)
	}
	if overflow {
		p.most = p.burst
	}
	if near {
		p.slowest = min(max(p.slowest, p.perBlock+p.perBlock/4), firstPerBlock)
	}
	p.perBlock, p.ramp = max(p.perBlock, p.slowest), 0
	if full {
		p.perBlock = max(p.perBlock, p.interval, p.steady)
	}
	if told && full && !near {
		p.standing = min(farStep, l.inFlight/4)
	}
	p.cut++
	if arrived >= farBurst {
		p.misses, p.cut = 0, 0
	}
	if !told {
		p.misses++
	}
	switch {
	case !told && !p.known: // all of it may have been too much
		p.perBlock = min(max(2*p.perBlock, least/8), slowestPerBlock)
	case late && !p.whole: // most of it may
		p.perBlock = min(max(p.perBlock, least/8), slowestPerBlock)
	case !told && (full || p.misses > 1):
		p.perBlock = min(2*p.perBlock, slowestPerBlock)
	case !told || late || p.began == 0 || least == 0:
	case !near && !full && 0 < l.trip && l.trip <= least+least/16 && arrived >= farBurst:
		// Nothing waits.
		p.perBlock = max(p.perBlock-p.perBlock/8, p.slowest, fastestFar)
	case arrived >= farBurst:
		p.perBlock = max(p.perBlock, drained(arrived+2, l.toldAt-p.began, least))
	case !near && !overflow && (full || p.cut > mostCut): // what waits leaves no room
		p.perBlock = min(p.perBlock*3/2, slowestPerBlock)
	}
	p.began, p.ticked = 0, 0
}

// drained returns the time that each of so many blocks took that arrived in so many nanoseconds.
// The shortest round trip has one of them.
func drained(blocks int, took int64, least time.Duration) time.Duration {
	return min(max((time.Duration(took)-least)/time.Duration(blocks-1), 0), slowestPerBlock)
}
