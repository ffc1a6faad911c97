package singleport

import "time"

// When a server is full, who waits is not only a matter of who came first: whoever holds transfers without using them, and whoever holds
// most of them, makes room.
const (
	// roomTime lies between two looks for room, which cost a step for each transfer.
	roomTime = 20 * time.Millisecond
	// stalledTime without an ACK of something new makes a transfer one that others need not wait for.
	stalledTime = 5 * time.Second
	// slowTime and slowRate, bytes a second, do the same for one that gets its ACKs now and then. A boot program in lock-step
	// over the worst of links is ten times as fast.
	slowTime = 30 * time.Second
	slowRate = 512
	// hoardTime and hoardRate, bytes a second, do the same within a network that holds more than half of all transfers.
	hoardTime = time.Second
	hoardRate = 8 << 10
)

// makeRoom ends confirmed transfers for the sake of a request from from: all that are idle, else, if another network holds more than half of
// all, its longest and what more of its slow ones is over that half. It reports whether there were any.
func (s *shard) makeRoom(from network, now int64) bool {
	if now-s.lookedForRoom < int64(roomTime) {
		return false
	}
	s.lookedForRoom = now
	found := false
	// A majority is what is left when each of its members is set against one of the others (Boyer and Moore).
	var majority network
	surplus := 0
	for _, t := range s.clients {
		switch {
		case t.canMakeWay() && t.isIdle(now):
			s.makeWay(t)
			found = true
		case surplus == 0:
			majority, surplus = networkOf(t.route.client.ip), 1
		case majority == networkOf(t.route.client.ip):
			surplus++
		default:
			surplus--
		}
	}
	if found || majority == from {
		return found
	}
	held := 0
	var longest *Transfer
	for _, t := range s.clients {
		if networkOf(t.route.client.ip) == majority {
			held++
			if t.canMakeWay() && (longest == nil || t.began < longest.began) {
				longest = t
			}
		}
	}
	surplus = held - len(s.clients)/2
	if longest == nil || surplus <= 0 {
		return false
	}
	s.makeWay(longest)
	for _, t := range s.clients {
		if surplus == 1 { // that was longest
			break
		}
		if t.canMakeWay() && networkOf(t.route.client.ip) == majority && t.isSlow(now, hoardTime, hoardRate) {
			s.makeWay(t)
			surplus--
		}
	}
	return true
}

// canMakeWay reports whether t is confirmed, and its goroutine, which waits for the client and not for a file, ends with it.
func (t *Transfer) canMakeWay() bool { return t.confirmed && t.waiting }

// isIdle reports whether the client of a confirmed transfer makes next to no use of it.
func (t *Transfer) isIdle(now int64) bool {
	return now-t.progress >= int64(stalledTime) || t.isSlow(now, slowTime, slowRate)
}

// isSlow reports whether a transfer of at least the age had fewer bytes a second than the rate.
func (t *Transfer) isSlow(now int64, age time.Duration, rate int64) bool {
	ran := time.Duration(now - t.began)
	return ran >= age && t.window.bytesAcked() < int64(ran)*rate/int64(time.Second)
}

// makeWay ends t silently, and its account at once.
func (s *shard) makeWay(t *Transfer) {
	s.drop(t, ErrMadeWay)
	s.server.admission.end(&t.pass)
}
