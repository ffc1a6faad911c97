package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flytftp/singleport"
)

var testClient = netip.MustParseAddrPort("192.0.2.7:2070")

// Whatever bytes a name has, a terminal sees printable ASCII, and one line.
func TestJournalEscapes(t *testing.T) {
	var every []byte
	for b := range 256 {
		every = append(every, byte(b))
	}
	name := string(every) + "\u009b2J\u202e\u2028"
	var out bytes.Buffer
	j := newJournal(&out)
	j.Refused(testClient, name, singleport.RefusedWrite)
	j.Refused(testClient, name, singleport.RefusedMode)
	j.Refused(testClient, name, singleport.RefusedBusy)
	j.Panicked(name, []byte("main.f()\n\tmain.go:1\n"))
	h := &handler{log: j, allow: mustAllow(t, "*")}
	(&fakeTransfer{name: name}).run(h)
	j.ended(name, &fakeTransfer{}, nil)
	j.ended(name, &fakeTransfer{}, &singleport.ClientError{Message: name})
	j.close()
	if lines := strings.Count(out.String(), "\n"); lines != 7 {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
	for _, b := range out.Bytes() {
		if b != '\n' && (b < ' ' || b > '~') {
			t.Fatalf("byte %#x in the log", b)
		}
	}
}

// lockedBuffer can be read while the journal writes.
type lockedBuffer struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func TestJournalSumsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		j := newJournal(&out)
		other := netip.MustParseAddrPort("[2001:db8:0:1ff::1]:7")
		for i := range 100 {
			j.refused("denied", testClient, "file=%+q", fmt.Sprint(i))
		}
		for range 5 {
			j.Refused(other, "", singleport.RefusedRate)
			j.Refused(other, "", singleport.RefusedMalformed)
			j.Refused(other, "", singleport.RefusedStray)
		}
		j.refused("not found", testClient, "file=%+q", "x")
		synctest.Wait()
		before := out.String()
		if lines := strings.Count(before, "\n"); lines != linesPerNetwork+1 {
			t.Errorf("%d lines before the sum:\n%s", lines, before)
		}
		time.Sleep(sumInterval)
		synctest.Wait()
		sums := strings.TrimPrefix(out.String(), before)
		for _, want := range []string{
			"denied network=192.0.2.0/24 suppressed=80 in=10s\n",
			"over rate network=2001:db8:0:100::/56 suppressed=5 in=10s\n",
			"malformed network=2001:db8:0:100::/56 suppressed=5 in=10s\n",
		} {
			if !strings.Contains(sums, want) {
				t.Errorf("no %q in\n%s", want, sums)
			}
		}
		if strings.Count(sums, "\n") != 3 {
			t.Errorf("other sums, too:\n%s", sums)
		}
		for range fewStrays {
			j.Refused(other, "", singleport.RefusedStray)
		}
		j.refused("denied", testClient, "file=%+q", "again") // has its line again
		before = out.String()
		j.close()
		if got, want := strings.TrimPrefix(out.String(), before), "denied file=\"again\"\nstray network=2001:db8:0:100::/56 suppressed=16 in=0s\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// However many sources there are, the lines of an interval and the memory are bounded, and every
// event is counted.
func TestJournalManySources(t *testing.T) {
	var out bytes.Buffer
	j := newJournal(&out)
	const sources = 20_000
	for i := range sources {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 7)
		j.refused("denied", client, "file=%+q", "x")
		j.Refused(client, "", singleport.RefusedMalformed)
	}
	j.mu.Lock()
	if len(j.sums) > maxSums+2 {
		t.Errorf("%d sums", len(j.sums))
	}
	j.mu.Unlock()
	j.close()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) > linesOfAll+maxSums+2 {
		t.Errorf("%d lines", len(lines))
	}
	counted := map[string]int{}
	for _, line := range lines {
		event, rest, _ := strings.Cut(line, " ")
		more := 1
		if i := strings.Index(rest, "suppressed="); i >= 0 {
			fmt.Sscanf(rest[i:], "suppressed=%d", &more)
		}
		counted[event] += more
	}
	if counted["denied"] != sources || counted["malformed"] != sources {
		t.Errorf("counted %v", counted)
	}
	if !strings.Contains(out.String(), "network=others") {
		t.Error("nobody is among others")
	}
}

// stuckWriter takes nothing until it is opened.
type stuckWriter struct {
	open chan struct{}
	mu   sync.Mutex
	out  bytes.Buffer
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	<-w.open
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

// A reader that does not read delays nobody and costs bounded memory.
func TestJournalStuckReader(t *testing.T) {
	w := &stuckWriter{open: make(chan struct{})}
	j := newJournal(w)
	const lines = 100_000
	for i := range lines {
		j.printf("sent file=%+q", fmt.Sprint(i))
	}
	j.mu.Lock()
	if len(j.pending) > maxPending+100 {
		t.Errorf("%d bytes wait", len(j.pending))
	}
	j.mu.Unlock()
	close(w.open)
	j.close()
	out := w.out.String()
	var lost int
	for _, rest := range strings.Split(out, "log lost lines=")[1:] {
		var n int
		fmt.Sscanf(rest, "%d", &n)
		lost += n
	}
	if sent := strings.Count(out, "sent "); lost == 0 || sent+lost != lines {
		t.Errorf("%d lines of %d, %d lost", sent, lines, lost)
	}
}

// A stop does not wait for such a reader for ever.
func TestJournalCloseStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{open: make(chan struct{})}
		j := newJournal(w)
		j.printf("line")
		began := time.Now()
		j.close()
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		close(w.open)
	})
}

func TestJournalPanics(t *testing.T) {
	var out bytes.Buffer
	j := newJournal(&out)
	for range 1000 {
		j.Panicked("value", []byte("stack"))
	}
	j.close()
	if stacks := strings.Count(out.String(), "stack="); stacks != panicStacks {
		t.Errorf("%d stacks", stacks)
	}
	if lines := strings.Count(out.String(), "\n"); lines != panicStacks+linesPerNetwork+1 {
		t.Errorf("%d lines", lines)
	}
}
