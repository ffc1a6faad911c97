package singleport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flytftp/internal/testkit"
)

// checkResults compares what the server says of its transfers with what was seen on the link. The
// last ACK may be lost.
func (n *rig) checkResults(m *model) {
	n.t.Helper()
	n.resultsMu.Lock()
	defer n.resultsMu.Unlock()
	for _, r := range n.results {
		w := r.watch
		switch {
		case r.err == nil:
			if r.stats.Bytes != int64(len(w.content)) || r.stats.BlockSize != w.blockSize || r.stats.WindowSize != w.windowSize {
				n.t.Errorf("%s: %s: sent, %+v", m.name, r.name, r.stats)
			}
		case !errors.Is(r.err, ErrTimedOut) && !errors.Is(r.err, ErrReplaced):
			n.t.Errorf("%s: %s: %v", m.name, r.name, r.err)
		}
	}
}

// edges returns the sizes at which blocks, windows and segments begin and end. A segment is as many
// blocks as 64 KiB hold at most.
func edges(block, window, most int) map[string][]byte {
	files := map[string][]byte{}
	units := []int{0, block, window * block, 2 * window * block, 5 * window * block, 8 * block, DefaultAhead * block, 2 * DefaultAhead * block, 65464 / block * block, 65536 / block * block, 16384 / block * block}
	for _, unit := range units {
		for _, size := range []int{unit - 1, unit, unit + 1, unit - block, unit + block, unit + window*block} {
			if size >= 0 && size <= most {
				files[strconv.Itoa(size)] = content(size)
			}
		}
	}
	return files
}

// Every kind of client has every file whole, over every kind of link.
func TestEveryClientOverEveryLink(t *testing.T) {
	for _, c := range []struct {
		name  string
		path  path
		batch int
		most  int           // bytes of the largest file, in blocks
		tries int           // that a client may need
		limit time.Duration // of model time, for one block on the average
	}{
		{"perfect", path{delay: 50 * usec}, 1, 1 << 20, 1, 2 * msec},
		{"in batches", path{delay: 50 * usec}, 16, 1 << 20, 1, 2 * msec},
		{"100 Mbit/s", path{delay: 50 * usec, rate: 100 * mbit}, 1, 1 << 20, 1, 50 * msec},
		{"300 ms", path{delay: 150 * msec}, 1, 100, 1, 700 * msec},
		{"1 % lost", path{loss: 0.01, delay: 10 * msec}, 1, 300, 2, 300 * msec},
		{"5 % lost", path{loss: 0.05, delay: 2 * msec}, 4, 200, 2, 500 * msec},
		{"10 % lost", path{loss: 0.1, delay: 20 * msec}, 1, 100, 2, time.Second},
		{"30 % lost", path{loss: 0.3, delay: 1 * msec}, 1, 20, 20, 15 * time.Second},
		{"30 % twice", path{duplicate: 0.3, delay: 1 * msec}, 8, 200, 1, 50 * msec},
		{"30 % late", path{reorder: 0.3, delay: 1 * msec}, 8, 100, 1, time.Second},
		{"all of it", path{loss: 0.05, duplicate: 0.1, reorder: 0.1, delay: 5 * msec}, 8, 60, 3, 4 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for i := range models {
				if testing.Short() && i%3 != 0 {
					continue
				}
				m := &models[i]
				files := edges(m.size(), m.window(), min(200_000, c.most*m.size()))
				inRig(t, files, generous, uint64(i), func(t *testing.T, n *rig) {
					n.both(c.path)
					n.batch = c.batch
					blocks := 0
					client := 0
					var mu sync.Mutex
					var spent time.Duration
					var fetching sync.WaitGroup
					for name, data := range files {
						client++
						mine := client
						blocks += len(data)/m.size() + 1
						fetching.Go(func() {
							began := time.Now()
							m.fetchAll(n, mine, name, c.tries)
							mu.Lock()
							spent += time.Since(began)
							mu.Unlock()
						})
					}
					fetching.Wait()
					if !m.deaf {
						spent -= time.Duration(len(files)) * lingerTime
					}
					if testing.Verbose() {
						t.Logf("%s: %s: %d files, %d blocks, %v a block", c.name, m.name, len(files), blocks, spent/time.Duration(blocks))
					}
					if spent > time.Duration(blocks)*c.limit {
						t.Errorf("%s: %s: %d files of %d blocks took %v", c.name, m.name, len(files), blocks, spent)
					}
					n.stop(10 * time.Minute)
					n.checkResults(m)
				})
			}
		})
	}
}

// Block numbers go on with 0 after 65535, in the middle of a window and of a segment, with and
// without losses.
func TestBlockNumbersWrap(t *testing.T) {
	testkit.SkipIfShort(t)
	files := map[string][]byte{"a": content(65536*8 + 8*100 + 3), "b": content(65535 * 8), "c": content(65536 * 8)}
	for _, window := range []int{1, 3, 64, 1000} {
		m := model{name: fmt.Sprint("window ", window), blockSize: 8, windowSize: window, requests: seconds(1.0003), quiet: seconds(1.0003), deaf: true}
		for _, p := range []path{{delay: 50 * time.Microsecond}, {delay: time.Millisecond, loss: 0.0005}} {
			inRig(t, files, generous, 2, func(t *testing.T, n *rig) {
				n.both(p)
				began := time.Now()
				for _, name := range []string{"a", "b", "c"} {
					if p.loss == 0 || name == "a" {
						m.fetchAll(n, 1+len(name), name, 1)
					}
				}
				if spent := time.Since(began); spent > 10*time.Minute {
					t.Errorf("%s: %v", m.name, spent)
				}
				n.stop(time.Minute)
				n.checkResults(&m)
			})
		}
	}
}

// What belongs to no transfer is answered with silence, and counted as what it is.
func TestStrayDatagrams(t *testing.T) {
	inRig(t, nil, generous, 22, func(t *testing.T, n *rig) {
		p := n.client(1, 2000, 64)
		for _, c := range []struct {
			data string
			why  Refusal
		}{
			{string(ackOf(0)), RefusedStray},
			{string(ackOf(1)), RefusedStray}, // tftp-hpa's answer to an ERROR
			{"\x00\x03\x00\x01data", RefusedStray},
			{"\x00\x06blksize\x00512\x00", RefusedStray},
			{string(errorOf(0, "stop")), RefusedStray},
			{"", RefusedMalformed},
			{"\x00", RefusedMalformed},
			{"\x00\x04\x00", RefusedMalformed},
			{"\x00\x00\x00\x00", RefusedMalformed},
			{"\x00\x07\x00\x00", RefusedMalformed},
			{"\xff\xff\xff\xff", RefusedMalformed},
			{"\x00\x01", RefusedMalformed},
			{"\x00\x01name", RefusedMalformed},
			{"\x00\x01name\x00octet", RefusedMalformed},
			{"\x00\x02name\x00octet", RefusedMalformed},
			{string(bytes.Repeat([]byte{0xff}, 65_507)), RefusedMalformed},
		} {
			before := n.observer.refusals(c.why)
			p.send([]byte(c.data))
			if got := p.expect(time.Minute); got != nil {
				t.Errorf("%.40q is answered %q", c.data, got)
			}
			if n.observer.refusals(c.why) != before+1 {
				t.Errorf("%.40q is not counted as %v", c.data, c.why)
			}
		}
	})
}

// Many clients of all kinds at once.
func TestManyClientsAtOnce(t *testing.T) {
	files := map[string][]byte{"a": content(150_000), "b": content(70_274), "c": nil}
	inRig(t, files, generous, 3, func(t *testing.T, n *rig) {
		n.both(path{loss: 0.02, duplicate: 0.01, reorder: 0.01, delay: 3 * time.Millisecond})
		n.batch = 32
		var fetching sync.WaitGroup
		for client := range 160 {
			m := &models[client%len(models)]
			if m.blockSize == 8 {
				continue
			}
			fetching.Go(func() { m.fetchAll(n, client, []string{"a", "b", "c"}[client/16%3], 2) })
		}
		fetching.Wait()
	})
}

// EDK2 asks for the size first, breaks off, and reads from the next port.
func TestAbortThenNextPort(t *testing.T) {
	files := map[string][]byte{"a": content(100_000)}
	inRig(t, files, generous, 5, func(t *testing.T, n *rig) {
		ask := model{blockSize: 1468, windowSize: 4, tsize: true, requests: seconds(4), quiet: seconds(4), aborts: true}
		read := model{name: "EDK2", blockSize: 1468, windowSize: 4, requests: seconds(4), quiet: seconds(4), deaf: true}
		for i := range 100 {
			first := ask.open(n.link, i, 2000)
			if _, err := ask.fetch(first, "a"); err != errAborted {
				t.Fatalf("%v", err)
			}
			second := read.open(n.link, i, 2001)
			if got, err := read.fetch(second, "a"); err != nil || !bytes.Equal(got, files["a"]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if data := first.expect(time.Minute); data != nil {
				t.Fatalf("%q after an ERROR", data)
			}
			if results := n.ended(first.endpoint); len(results) != 1 || !isClientError(results[0].err, 8, "User aborted the transfer") {
				t.Fatalf("%+v", results)
			}
		}
	})
}

func isClientError(err error, code uint16, message string) bool {
	client, ok := errors.AsType[*ClientError](err)
	return ok && client.Code == code && client.Message == message
}

// Whichever datagram is lost, the transfer is repaired without the client's timer, and soon.
func TestOneDatagramLost(t *testing.T) {
	const rtt = 2 * time.Millisecond
	for _, m := range []model{
		{name: "no options"},
		{name: "lock-step", blockSize: 1428, tsize: true, strange: once},
		{name: "a bitmap", blockSize: 1432, tsize: true, strange: keeps},
		{name: "window 4", blockSize: 1428, windowSize: 4, strange: once},
		{name: "window 4, each", blockSize: 1428, windowSize: 4, strange: each},
		{name: "window 16", blockSize: 512, windowSize: 16, strange: once},
	} {
		m.requests, m.quiet = seconds(60), seconds(60)
		files := map[string][]byte{"a": content(m.size() * 33)}
		var counts [2]traffic
		fetch := func(lose func(toServer bool, n int, data []byte) bool) (spent time.Duration, repeats int) {
			inRig(t, files, generous, 6, func(t *testing.T, n *rig) {
				n.both(path{delay: rtt / 2})
				n.lose = lose
				began := time.Now()
				m.fetchAll(n, 1, "a", 1)
				spent = time.Since(began) - lingerTime
				n.stop(time.Minute)
				counts = n.counts
				r := n.results[0]
				if len(n.results) != 1 || r.err != nil {
					t.Errorf("%s: %+v", m.name, n.results)
				}
				repeats = r.watch.repeats
				if r.stats.Retransmits != repeats {
					t.Errorf("%s: %d repeats are reported, %d were sent", m.name, r.stats.Retransmits, repeats)
				}
			})
			return spent, repeats
		}
		base, repeats := fetch(func(bool, int, []byte) bool { return false })
		if repeats != 0 {
			t.Errorf("%s: %d repeats without a loss", m.name, repeats)
		}
		sent := counts
		for direction, toServer := range []bool{true, false} {
			for k := range sent[direction].datagrams {
				if toServer && k == 0 {
					continue // the RRQ is the client's to repeat
				}
				what := ""
				spent, _ := fetch(func(to bool, n int, data []byte) bool {
					if to == toServer && n == k {
						what = fmt.Sprintf("%q", data[:4])
						return true
					}
					return false
				})
				late := spent - base
				if testing.Verbose() {
					t.Logf("%s: datagram %d (%s, to the server: %v) lost: %v later", m.name, k, what, toServer, late)
				}
				most := minLocalTimeout + 60*time.Millisecond
				if k == 0 || k <= m.window() || toServer && k <= 2 {
					// No round trip of a DATA is known, and the rest comes burst by burst.
					most += firstTimeout
					most += time.Duration(m.window()/2) * minTimeout / 2
				}
				if late > most {
					t.Errorf("%s: datagram %d (%s, to the server: %v) lost: %v later", m.name, k, what, toServer, late)
				}
			}
		}
	}
}

// A block that is lost inside of a window is repeated when the partial ACK shows it: no timer
// passes.
func TestLostBlockOfWindowIsResentAtOnce(t *testing.T) {
	const rtt, window, blocks = 10 * time.Millisecond, 8, 40
	for _, strange := range []habit{once, each} {
		for lost := 1; lost <= blocks; lost++ {
			if lost%window == 0 {
				continue // nothing behind it in its window shows the loss
			}
			m := model{name: "window 8", blockSize: 512, windowSize: window, requests: seconds(60), quiet: seconds(60), strange: strange, deaf: true}
			files := map[string][]byte{"a": content(blocks*512 + 100)}
			inRig(t, files, generous, 7, func(t *testing.T, n *rig) {
				n.both(path{delay: rtt / 2})
				dropped := false
				n.lose = func(toServer bool, _ int, data []byte) bool {
					if toServer || dropped || !bytes.HasPrefix(data, binary.BigEndian.AppendUint16([]byte{0, wireDATA}, uint16(lost))) {
						return false
					}
					dropped = true
					return true
				}
				began := time.Now()
				m.fetchAll(n, 1, "a", 1)
				most := 8*rtt + rtt/2 // RRQ, 6 windows, and one more for the loss
				switch {
				case lost == 1 && strange == once:
					most += firstTimeout // it is silent, and no round trip of a DATA is known
					most += window / 2 * minTimeout
				case lost%window == 1:
					// A duplicate ACK shows this loss, not a partial one.
					most += 2 * rtt
				}
				if spent := time.Since(began); spent > most {
					t.Errorf("habit %d, block %d lost: %v, %v without a loss", strange, lost, spent, 7*rtt+rtt/2)
				}
			})
		}
	}
}

// tftp-hpa and lpxelinux use one port for all their files: the next RRQ follows the last ACK at
// once.
func TestBackToBackFromOnePort(t *testing.T) {
	files := map[string][]byte{"a": content(1500), "b": content(512), "c": nil}
	for _, p := range []path{{}, {delay: 100 * time.Microsecond}} {
		for _, batch := range []int{1, 8} {
			inRig(t, files, generous, 8, func(t *testing.T, n *rig) {
				n.both(p)
				n.batch = batch
				m := model{name: "one port", requests: seconds(5), quiet: seconds(5), deaf: true}
				c := m.open(n.link, 1, 49153)
				began := time.Now()
				for i := range 1000 {
					name := []string{"a", "b", "c"}[i%3]
					if got, err := m.fetch(c, name); err != nil || !bytes.Equal(got, files[name]) {
						t.Fatalf("transfer %d: %d bytes, %v", i, len(got), err)
					}
				}
				spent := time.Since(began)
				if most := 1000 * 5 * 2 * p.delay; spent > most {
					t.Errorf("1,000 transfers from one port took %v, want at most %v", spent, most)
				}
				synctest.Wait()
				for i, r := range n.ended(c.endpoint) {
					if r.err != nil {
						t.Errorf("transfer %d: %v", i, r.err)
					}
				}
			})
		}
	}
}

// firsts are requests and the first answer to each.
var firsts = []struct {
	request []byte
	answer  string
}{
	{requestOf("a", "octet"), "\x00\x03\x00\x01" + string(content(2000)[:512])},
	{requestOf("a", "octet", "blksize", "1000", "tsize", "0"), "\x00\x06blksize\x001000\x00tsize\x002000\x00"},
}

// The same RRQ before the first ACK gets the first answer again, and no second transfer. It is no
// reason to send more than a silent client is sent.
func TestSameRequestAgain(t *testing.T) {
	files := map[string][]byte{"a": content(2000)}
	for _, first := range firsts {
		inRig(t, files, generous, 9, func(t *testing.T, n *rig) {
			c := n.client(1, 2000, 64)
			for i := range 3 {
				c.send(first.request)
				if got := c.expect(10 * time.Millisecond); string(got) != first.answer {
					t.Fatalf("RRQ %d is answered %.40q", i+1, got)
				}
			}
			for range 10 {
				c.send(first.request)
			}
			if got := c.expect(0); got != nil {
				t.Errorf("a fourth datagram without an ACK: %.40q", got)
			}
			if active := n.server.Active(); active != 1 {
				t.Errorf("%d transfers", active)
			}
			time.Sleep(time.Minute)
			results := n.ended(c.endpoint)
			if len(results) != 1 || !errors.Is(results[0].err, ErrTimedOut) {
				t.Errorf("%+v", results)
			}
		})
	}
}

// Another RRQ, from a client that began anew, replaces the transfer: confirmed or not, nothing more
// of the old one is sent.
func TestAnotherRequestReplaces(t *testing.T) {
	files := map[string][]byte{"a": content(2000), "b": content(100)}
	for _, confirmed := range []bool{false, true} {
		inRig(t, files, generous, 10, func(t *testing.T, n *rig) {
			n.both(path{delay: time.Millisecond})
			c := n.client(1, 2000, 64)
			c.send(requestOf("a", "octet"))
			c.expect(time.Second)
			if confirmed {
				c.send(ackOf(1))
				if got := c.expect(time.Second); !bytes.HasPrefix(got, []byte("\x00\x03\x00\x02")) {
					t.Fatalf("%.40q", got)
				}
			}
			time.Sleep(20 * time.Millisecond) // what is in flight arrives
			for len(c.arrived) > 0 {
				<-c.arrived
			}
			c.send(requestOf("b", "octet"))
			if got := c.expect(10 * time.Millisecond); !bytes.HasPrefix(got, []byte("\x00\x03\x00\x01")) || !bytes.HasPrefix(files["b"], got[4:]) {
				t.Fatalf("the new request is answered %.40q", got)
			}
			if active := n.server.Active(); active != 1 {
				t.Errorf("%d transfers", active)
			}
			results := n.ended(c.endpoint)
			if len(results) != 1 || !errors.Is(results[0].err, ErrReplaced) {
				t.Errorf("%+v", results)
			}
			c.send(ackOf(1))
			if got := c.expect(time.Minute); got != nil {
				t.Errorf("%.40q after the end", got)
			}
		})
	}
}

// An ERROR of the client ends the transfer without a word, whenever it comes.
func TestClientErrorEndsSilently(t *testing.T) {
	files := map[string][]byte{"a": content(2000)}
	for _, c := range []struct {
		what    string
		acks    int // how many it sends before
		options []string
		message string
		data    []byte
	}{
		{"at the first DATA", 0, nil, "stop", errorOf(0, "stop")},
		{"at the OACK", 0, []string{"blksize", "1000"}, "stop", errorOf(8, "stop")},
		{"in the middle", 2, nil, "disk full", errorOf(3, "disk full")},
		{"without a terminator", 1, nil, "half", []byte("\x00\x05\x00\x00half")},
		{"without a text", 1, nil, "", []byte("\x00\x05\x00\x00")},
		{"very long", 1, nil, string(bytes.Repeat([]byte("x"), 128)), errorOf(0, string(bytes.Repeat([]byte("x"), 60_000)))},
		{"unprintable", 1, nil, "\x1b[2J", errorOf(0, "\x1b[2J")},
	} {
		inRig(t, files, generous, 11, func(t *testing.T, n *rig) {
			p := n.client(1, 2000, 64)
			p.send(requestOf("a", "octet", c.options...))
			p.expect(time.Second)
			for i := range c.acks {
				p.send(ackOf(i + 1))
				p.expect(time.Second)
			}
			synctest.Wait()
			for len(p.arrived) > 0 { // blocks ahead of their ACK
				<-p.arrived
			}
			p.send(c.data)
			if got := p.expect(time.Minute); got != nil {
				t.Errorf("%s: %.40q after an ERROR", c.what, got)
			}
			results := n.ended(p.endpoint)
			code := binary.BigEndian.Uint16(c.data[2:])
			if len(results) != 1 || !isClientError(results[0].err, code, c.message) {
				t.Errorf("%s: %+v", c.what, results)
			}
			if active := n.server.Active(); active != 0 {
				t.Errorf("%s: %d transfers", c.what, active)
			}
		})
	}
}

// arrivals collects what arrives at c until nothing did for a minute, and when.
func (c *port) arrivals() (data [][]byte, after []time.Duration) {
	began := time.Now()
	for {
		d := c.expect(time.Minute)
		if d == nil {
			return data, after
		}
		data = append(data, d)
		after = append(after, time.Since(began))
	}
}

// A client that never acknowledges draws three datagrams, the second after 1 s, and no ERROR.
func TestSilentClient(t *testing.T) {
	files := map[string][]byte{"a": content(2000)}
	for _, c := range []struct {
		options []string
		first   time.Duration
	}{
		{nil, time.Second},
		{[]string{"blksize", "1000"}, time.Second},
		{[]string{"timeout", "1"}, time.Second},
		{[]string{"timeout", "3", "windowsize", "16"}, time.Second},
	} {
		inRig(t, files, generous, 12, func(t *testing.T, n *rig) {
			p := n.client(1, 2000, 64)
			p.send(requestOf("a", "octet", c.options...))
			data, after := p.arrivals()
			if len(data) != 3 || after[1] < c.first*9/10 || after[1] > c.first*11/10 {
				t.Errorf("%q: %d datagrams after %v", c.options, len(data), after)
			}
			results := n.ended(p.endpoint)
			if len(results) != 1 || !errors.Is(results[0].err, ErrTimedOut) || results[0].stats.Duration > 30*time.Second {
				t.Errorf("%q: %+v", c.options, results)
			}
			if active := n.server.Active(); active != 0 {
				t.Errorf("%q: %d transfers", c.options, active)
			}
		})
	}
}

// A client that acknowledged and then falls silent is given a bounded number of tries, which grow
// apart, within 30 s.
func TestClientFallsSilent(t *testing.T) {
	files := map[string][]byte{"a": content(100_000)}
	for _, options := range [][]string{nil, {"blksize", "1000"}, {"windowsize", "16"}, {"timeout", "255"}, {"timeout", "1"}} {
		inRig(t, files, generous, 13, func(t *testing.T, n *rig) {
			n.both(path{delay: time.Millisecond})
			p := n.client(1, 2000, 256)
			p.send(requestOf("a", "octet", options...))
			first := p.expect(time.Second)
			if first[1] == wireOACK {
				p.send(ackOf(0))
			} else {
				p.send(ackOf(1))
			}
			data, after := p.arrivals()
			bursts := 1
			for i := 1; i < len(after); i++ {
				if after[i]-after[i-1] > 150*time.Millisecond {
					bursts++
				}
			}
			if bursts < 4 || bursts > 1+maxTries {
				t.Errorf("%q: %d datagrams at %v", options, len(data), after)
			}
			for _, d := range data {
				if d[1] != wireDATA {
					t.Errorf("%q: %q", options, d)
				}
			}
			life := progressTime
			if len(options) > 0 && options[0] == "timeout" && options[1] == "255" {
				life = progressTimeouts * 255 * time.Second
			}
			time.Sleep(life) // its repeats are more than the minute apart that arrivals waits
			results := n.ended(p.endpoint)
			if len(results) != 1 || !errors.Is(results[0].err, ErrTimedOut) || results[0].stats.Duration > life+time.Second {
				t.Errorf("%q: %+v", options, results)
			}
		})
	}
}

// The timeout option bounds the time between repeats from above.
func TestTimeoutOptionIsUpperBound(t *testing.T) {
	files := map[string][]byte{"a": content(100_000)}
	for _, seconds := range []int{1, 2, 5} {
		inRig(t, files, generous, 14, func(t *testing.T, n *rig) {
			n.both(path{delay: time.Millisecond})
			p := n.client(1, 2000, 64)
			p.send(requestOf("a", "octet", "timeout", strconv.Itoa(seconds)))
			if got := p.expect(time.Second); string(got) != fmt.Sprintf("\x00\x06timeout\x00%d\x00", seconds) {
				t.Fatalf("%q", got)
			}
			p.send(ackOf(0))
			for block := 1; block <= 20; block++ { // so that the round trip is known
				p.expect(time.Second)
				p.send(ackOf(block))
			}
			data, after := p.arrivals()
			bound := time.Duration(seconds) * time.Second
			for i := 1; i < len(data); i++ {
				if data[i][1] == wireDATA && after[i]-after[i-1] > bound+bound/10 {
					t.Errorf("timeout %d: %v between repeats", seconds, after[i]-after[i-1])
				}
			}
			if len(data) < 4 {
				t.Errorf("timeout %d: %d datagrams", seconds, len(data))
			}
		})
	}
}

// Nothing that is no progress keeps a transfer alive: duplicate ACKs, old and future ones, other
// packets, the same RRQ.
func TestNothingExtends(t *testing.T) {
	files := map[string][]byte{"a": content(100_000)}
	request := requestOf("a", "octet")
	for _, confirmed := range []bool{false, true} {
		for _, c := range []struct {
			what string
			data []byte
		}{
			{"a duplicate ACK", ackOf(2)},
			{"an old ACK", ackOf(1)},
			{"ACK 0", ackOf(0)},
			{"an ACK of what was not sent", ackOf(100)},
			{"DATA", []byte("\x00\x03\x00\x01x")},
			{"an OACK", []byte("\x00\x06blksize\x001000\x00")},
			{"half an ACK", []byte("\x00\x04\x00")},
			{"one byte", []byte("\x00")},
			{"nothing", nil},
			{"a half RRQ", []byte("\x00\x01a")},
			{"the same RRQ", request},
			{"a WRQ", []byte("\x00\x02a\x00octet\x00")},
		} {
			if confirmed && c.data != nil && bytes.Equal(c.data, request) {
				continue // a client that began anew
			}
			if !confirmed && c.what == "an old ACK" {
				continue // it is none then
			}
			inRig(t, files, generous, 15, func(t *testing.T, n *rig) {
				p := n.client(1, 2000, 2000)
				p.send(request)
				p.expect(time.Second)
				if confirmed {
					for block := 1; block <= 2; block++ {
						p.send(ackOf(block))
						p.expect(time.Second)
					}
				}
				began := time.Now()
				for time.Since(began) < 2*progressTime && n.server.Active() > 0 {
					p.send(c.data)
					time.Sleep(101 * time.Millisecond)
				}
				if spent := time.Since(began); spent > progressTime+time.Second {
					t.Errorf("confirmed %v: %s kept a transfer alive for %v", confirmed, c.what, spent)
				}
				if c.what == "a WRQ" {
					return // refused each time
				}
				synctest.Wait()
				if results := n.ended(p.endpoint); len(results) != 1 || !errors.Is(results[0].err, ErrTimedOut) {
					t.Errorf("confirmed %v: %s: %+v", confirmed, c.what, results)
				}
				if sent := len(p.arrived); !confirmed && sent > 2 || sent > 30 {
					t.Errorf("confirmed %v: %s drew %d datagrams", confirmed, c.what, sent)
				}
			})
		}
	}
}

// Trickled progress is progress, but a transfer that acknowledges one block in 29 s ends with its
// file, not with the server.
func TestSlowClientIsServed(t *testing.T) {
	files := map[string][]byte{"a": content(1200)}
	inRig(t, files, generous, 16, func(t *testing.T, n *rig) {
		p := n.client(1, 2000, 2000)
		p.send(requestOf("a", "octet"))
		p.expect(time.Second)
		p.send(ackOf(1))
		for block := 2; block <= 3; block++ {
			time.Sleep(10 * time.Second)
			p.send(ackOf(block))
		}
		time.Sleep(time.Millisecond)
		if results := n.ended(p.endpoint); len(results) != 1 || results[0].err != nil {
			t.Errorf("%+v", results)
		}
	})
}

// A stop lets running transfers finish, refuses new ones, and ends at its deadline what does not
// end.
func TestShutdown(t *testing.T) {
	files := map[string][]byte{"a": content(5000)}
	stopping := "\x00\x05\x00\x00Server stopping\x00"
	inRig(t, files, generous, 17, func(t *testing.T, n *rig) {
		n.both(path{delay: time.Millisecond})
		good, stuck, silent, late := n.client(1, 2000, 64), n.client(2, 2000, 64), n.client(3, 2000, 64), n.client(4, 2000, 64)
		for _, p := range []*port{good, stuck, silent} {
			p.send(requestOf("a", "octet"))
			p.expect(time.Second)
		}
		stuck.send(ackOf(1))
		stuck.expect(time.Second)

		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- n.server.Shutdown(ctx) }()
		synctest.Wait()
		for range 2 {
			late.send(requestOf("a", "octet"))
			if got := late.expect(time.Second); string(got) != stopping {
				t.Errorf("a new request is answered %.40q", got)
			}
		}
		for block := 1; block <= 10; block++ {
			good.send(ackOf(block))
			if got := good.expect(time.Second); block < 10 && (len(got) < 4 || got[1] != wireDATA || int(got[3]) != block+1) {
				t.Errorf("DATA %d while it stops: %.40q", block+1, got)
			}
		}
		if results := n.ended(good.endpoint); len(results) != 1 || results[0].err != nil {
			t.Errorf("a running transfer: %+v", results)
		}
		<-done
		if spent := time.Since(began); spent < 4*time.Second || spent > 6*time.Second {
			t.Errorf("the stop took %v", spent)
		}
		for _, p := range []*port{stuck, silent} {
			if results := n.ended(p.endpoint); len(results) != 1 || !errors.Is(results[0].err, ErrStopped) {
				t.Errorf("a transfer that does not end: %+v", results)
			}
		}
		// The ERROR is on its way; the silent client has not acknowledged anything, and three
		// datagrams are all it gets.
		time.Sleep(time.Second)
		var last []byte
		for len(stuck.arrived) > 0 {
			last = <-stuck.arrived
		}
		if string(last) != stopping {
			t.Errorf("the last that a stuck transfer got is %.40q", last)
		}
	})

	// Without transfers it takes no time, before Serve as well as after it, and twice.
	inRig(t, files, generous, 18, func(t *testing.T, n *rig) {
		began := time.Now()
		n.stop(time.Hour)
		if spent := time.Since(began); spent > 2*time.Second {
			t.Errorf("an idle server took %v to stop", spent)
		}
	})
}
