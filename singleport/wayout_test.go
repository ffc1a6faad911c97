package singleport

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A socket that is full keeps blocks waiting, and none is lost or sent twice: the transfers go on
// in turn.
func TestFullSocketLosesNothing(t *testing.T) {
	file := content(200_000)
	inRig(t, map[string][]byte{"a": file}, generous, 1, func(t *testing.T, n *rig) {
		n.both(path{delay: 10 * time.Millisecond})
		n.room, n.drain, n.batch = 16, time.Millisecond, 8
		began := time.Now()
		var fetching sync.WaitGroup
		ended := make([]time.Duration, 24)
		for i := range ended {
			m := clientOf(once, []int{1, 4, 16, 64}[i%4])
			m.requests = seconds(60)
			fetching.Go(func() {
				m.fetchAll(n, i, "a", 1)
				ended[i] = time.Since(began)
			})
		}
		fetching.Wait()
		for i, d := range ended {
			if d > 10*time.Second {
				t.Errorf("client %d took %v", i, d)
			}
		}
		n.resultsMu.Lock()
		defer n.resultsMu.Unlock()
		for _, r := range n.results {
			if r.stats.Retransmits > 0 {
				t.Errorf("%v was sent %d blocks twice", r.client.addrPort(), r.stats.Retransmits)
			}
		}
	})
}

// A path that swallows the datagrams which the kernel cuts costs a few seconds, not the boot.
func TestSwallowedSegments(t *testing.T) {
	for _, window := range []int{1, 4, 16} {
		m := clientOf(once, window)
		m.quiet = seconds(4.0007)
		inRig(t, map[string][]byte{"a": content(500_000)}, generous, 1, func(t *testing.T, n *rig) {
			n.both(path{delay: time.Millisecond})
			n.swallows = true
			began := time.Now()
			m.fetchAll(n, 1, "a", 1)
			if spent := time.Since(began); spent > 8*time.Second {
				t.Errorf("%s: %v", m.name, spent)
			}
		})
	}
}

// Who makes room is decided over all sockets: a transfer of one makes room for a request that
// came by another.
func TestRoomOfAllSockets(t *testing.T) {
	config := fullOf(4)
	config.Sockets = 2
	synctest.Test(t, func(t *testing.T) {
		n := newRig(t, map[string][]byte{"a": content(100_000)}, 1)
		n.serve(config, n.handle, n.link, &sink{done: make(chan struct{}), wakes: make(chan struct{}, 1)})
		defer n.stop(10 * time.Minute)
		n.crowd(1, 4)
		time.Sleep(stalledTime)
		other := n.server.shards[1]
		other.mu.Lock()
		found := other.makeRoom(network(1), n.server.now())
		other.mu.Unlock()
		if !found {
			t.Error("no room for a request of another socket, though all transfers have stalled")
		}
	})
}

// Of options above what can be granted the most is granted; a tsize of any length is answered.
func TestOptionsBeyondTheirBounds(t *testing.T) {
	digits := "99999999999999999999999999999999999999"
	r, ok := parseRequest(requestOf("a", "octet", "windowsize", "65535", "blksize", digits, "tsize", digits))
	if !ok {
		t.Fatal("refused")
	}
	agreed, oack := negotiate(r.options(), MaxBlockSize, MaxWindowSize, 12345)
	if agreed.windowSize != 32767 || agreed.blockSize != 65464 {
		t.Errorf("%+v", agreed)
	}
	if want := "\x00\x06windowsize\x0032767\x00blksize\x0065464\x00tsize\x0012345\x00"; string(oack) != want {
		t.Errorf("%q, want %q", oack, want)
	}
}
