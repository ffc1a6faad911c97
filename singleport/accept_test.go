package singleport

import (
	"testing"
	"testing/synctest"
	"time"
)

// crowd fills the server with confirmed transfers of clients begin to end-1 of one /24, and returns
// their ports.
func (n *rig) crowd(third byte, count int) []*port {
	n.t.Helper()
	var ports []*port
	for i := range count {
		c := n.client(int(third)<<8|i%200, uint16(1000+i), 64)
		c.send(requestOf("a", "octet"))
		if c.expect(time.Second) == nil {
			n.t.Fatalf("client %d has no answer", i)
		}
		c.send(ackOf(1))
		c.expect(time.Second)
		ports = append(ports, c)
	}
	return ports
}

// asks reports whether another client gets a transfer, which it then begins.
func (n *rig) asks(third byte, p uint16) bool {
	c := n.client(int(third)<<8, p, 64)
	c.send(requestOf("a", "octet"))
	answer := c.expect(500 * time.Millisecond)
	c.send(ackOf(1))
	return len(answer) > 1 && answer[1] == wireDATA
}

func fullOf(transfers int) Config {
	return Config{MaxBlockSize: MaxBlockSize, MaxWindowSize: MaxWindowSize, MaxTransfers: transfers, Rate: MaxRate}
}

// When a server is full, a transfer that had no new ACK for stalledTime makes room; before that it
// does not.
func TestStalledTransfersMakeRoom(t *testing.T) {
	inRig(t, map[string][]byte{"a": content(100_000)}, fullOf(8), 1, func(t *testing.T, n *rig) {
		// Two networks of four: none has a majority.
		n.crowd(1, 4)
		n.crowd(2, 4)
		if n.asks(3, 1) {
			t.Error("a full server made room for which nobody was idle")
		}
		time.Sleep(stalledTime)
		if !n.asks(3, 2) {
			t.Error("no room though all transfers have stalled")
		}
	})
}

// A trickle of ACKs does not keep a place.
func TestTricklesMakeRoom(t *testing.T) {
	inRig(t, map[string][]byte{"a": content(100_000)}, fullOf(8), 1, func(t *testing.T, n *rig) {
		ports := append(n.crowd(1, 4), n.crowd(2, 4)...)
		block := 2
		for began := time.Now(); time.Since(began) < slowTime; block++ {
			for _, c := range ports {
				c.send(ackOf(block))
			}
			time.Sleep(4 * time.Second)
		}
		if active := n.server.Active(); active != 8 {
			t.Fatalf("%d transfers are left", active)
		}
		if !n.asks(3, 1) {
			t.Error("no room though all transfers trickle")
		}
	})
}

// A network that holds more than half of all transfers makes room for another, and not for itself.
func TestMajorityMakesRoom(t *testing.T) {
	inRig(t, map[string][]byte{"a": content(100_000)}, fullOf(16), 1, func(t *testing.T, n *rig) {
		n.crowd(1, 12)
		n.crowd(2, 4)
		if n.asks(1, 1) {
			t.Error("room for the network that holds most")
		}
		if n.asks(1, 2) || n.server.Active() != 16 {
			t.Error("a transfer ended for the network that holds most")
		}
		time.Sleep(roomTime)
		if !n.asks(3, 1) {
			t.Error("no room beside a network that holds most")
		}
		time.Sleep(hoardTime)
		if !n.asks(4, 1) {
			t.Error("no room beside a network that hoards")
		}
		synctest.Wait()
		ended := map[byte]int{}
		n.resultsMu.Lock()
		for _, r := range n.results {
			if r.err != ErrMadeWay {
				t.Errorf("a transfer ended with %v", r.err)
			}
			ended[r.client.ip[14]]++
		}
		n.resultsMu.Unlock()
		// One for the first request; for the second all that was slow beyond half of 16.
		if ended[1] < 3 || ended[1] > 5 || ended[2] != 0 {
			t.Errorf("transfers that made way, by network: %v", ended)
		}
	})
}

// However many files keep their readers waiting, few goroutines wait, and other transfers follow
// when they are let go.
func TestWaitingReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newRig(t, nil, 1)
		disk := make(chan struct{})
		waiting := make(chan struct{}, 10_000)
		n.serve(generous, func(t *Transfer) (File, error) {
			n.noteBegin(t, nil)
			waiting <- struct{}{}
			<-disk
			return fileOf(nil)
		}, n.link)
		defer n.stop(10 * time.Minute)
		var ports []*port
		for i := range 3 * maxWaiting {
			c := n.client(i, 7, 8)
			c.send(requestOf("a", "octet"))
			ports = append(ports, c)
		}
		time.Sleep(time.Second)
		if len(waiting) != maxWaiting {
			t.Errorf("%d handlers wait for their files, want %d", len(waiting), maxWaiting)
		}
		close(disk)
		for i, c := range ports {
			if answer := c.expect(time.Second); len(answer) != 4 {
				t.Fatalf("client %d: %q", i, answer)
			}
			c.send(ackOf(1))
		}
	})
}
