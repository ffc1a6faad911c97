package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flytftp/internal/testkit"
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
	h := &handler{log: j, allow: allowList{"*"}}
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
			j.count("denied", testClient, "file=%+q", fmt.Sprint(i))
		}
		for range 5 {
			j.Refused(other, "", singleport.RefusedRate)
			j.Refused(other, "", singleport.RefusedMalformed)
			j.Refused(other, "", singleport.RefusedStray)
		}
		j.count("not found", testClient, "file=%+q", "x")
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
		before = out.String()
		j.count("denied", testClient, "file=%+q", "again") // has its line again
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
		j.refused("denied", client, "x", "y")
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

// A boot program that searches writes one line for its search, a while after its last name.
func TestJournalSearches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		j := newJournal(&out)
		other := netip.MustParseAddrPort("192.0.2.8:2070")
		search := func(client netip.AddrPort, event, why string, names ...string) {
			for i, name := range names {
				j.refused(event, netip.AddrPortFrom(client.Addr(), client.Port()+uint16(i)), name, why)
				time.Sleep(100 * time.Millisecond)
			}
		}
		search(testClient, "not found", "absent", "revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi")
		search(other, "denied", "a", "x")
		search(testClient, "denied", "a", "y")
		search(testClient, "denied", "b", "z")
		synctest.Wait()
		if out.String() != "" {
			t.Errorf("too early: %s", out.String())
		}
		time.Sleep(3 * searchPause)
		synctest.Wait()
		want := `not found file="revocations_sku.efi" client=192.0.2.7:2070 why="absent" more=2 last="shim_certificate_0.efi"
denied file="x" client=192.0.2.8:2070 why="a"
denied file="y" client=192.0.2.7:2070 why="a"
denied file="z" client=192.0.2.7:2070 why="b"
`
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		j.close()
	})
}

// A search without end writes a line now and then, and a room full of searches leaves the lines of
// its network to what matters.
func TestJournalManySearches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		j := newJournal(&out)
		const minute = 600
		for i := range minute {
			j.refused("not found", testClient, fmt.Sprint(i), "absent")
			time.Sleep(100 * time.Millisecond)
		}
		j.close()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		names := len(lines)
		for _, line := range lines {
			_, more, _ := strings.Cut(line, " more=")
			var n int
			fmt.Sscanf(more, "%d", &n)
			names += n
		}
		if len(lines) > 7 || names != minute {
			t.Errorf("%d names in\n%s", names, out.String())
		}

		out = lockedBuffer{}
		j = newJournal(&out)
		for name := range 10 {
			for machine := range linesPerNetwork - 1 {
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(machine)}), 7)
				j.refused("not found", client, fmt.Sprint(name), "absent")
			}
		}
		time.Sleep(3 * searchPause)
		j.refused("not found", testClient, "vmlinuz", "absent")
		j.close()
		if strings.Count(out.String(), "more=9") != linesPerNetwork-1 || !strings.Contains(out.String(), `not found file="vmlinuz" `) ||
			strings.Contains(out.String(), "suppressed") {
			t.Errorf("log:\n%s", out.String())
		}

		// What is only counted counts each name.
		out = lockedBuffer{}
		j = newJournal(&out)
		const machines = 2 * maxSearches
		for range 10 {
			for machine := range machines {
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(machine)}), 7)
				j.refused("not found", client, "a", "absent")
				if len(j.searches) > maxSearches {
					t.Fatalf("%d searches", len(j.searches))
				}
			}
		}
		j.close()
		counted := 0
		for line := range strings.Lines(out.String()) {
			var n, more int
			if _, rest, found := strings.Cut(line, " suppressed="); found {
				fmt.Sscanf(rest, "%d", &n)
			} else if _, rest, found := strings.Cut(line, " more="); found {
				fmt.Sscanf(rest, "%d", &more)
				n = 1 + more
			} else {
				n = 1
			}
			counted += n
		}
		if counted != 10*machines {
			t.Errorf("%d names of %d in\n%s", counted, 10*machines, out.String())
		}
	})
}

// Whole transfers are written while they are few in their network, and in all, and then counted.
func TestJournalManySent(t *testing.T) {
	for what, c := range map[string]struct{ networks, lines int }{
		"one network": {1, sentPerNetwork}, "many": {100, sentOfAll},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out lockedBuffer
			j := newJournal(&out)
			const each = 2000
			for i := range each * c.networks {
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i % c.networks), 1}), 7)
				j.ended("a", &smallTransfer{client}, nil)
			}
			j.refused("denied", testClient, "a", "b")
			j.close()
			lines, suppressed := strings.Count(out.String(), "sent file="), 0
			for _, rest := range strings.Split(out.String(), "suppressed=")[1:] {
				var n int
				fmt.Sscanf(rest, "%d", &n)
				suppressed += n
			}
			if lines != c.lines || lines+suppressed != each*c.networks || !strings.Contains(out.String(), "denied file=") {
				t.Errorf("%s: %d lines, %d counted", what, lines, suppressed)
			}
		})
	}
}

// smallTransfer is a transfer of one byte.
type smallTransfer struct{ client netip.AddrPort }

func (c *smallTransfer) Name() string            { return "a" }
func (c *smallTransfer) Client() netip.AddrPort  { return c.client }
func (c *smallTransfer) Stats() singleport.Stats { return singleport.Stats{Bytes: 1} }

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

// wedgeVariable has the binary of these tests, when it is started again, become the program. A byte
// on its standard input has one of its goroutines keep the lock of the log for ever.
const wedgeVariable = "FLYTFTP_WEDGE"

func init() {
	if os.Getenv(wedgeVariable) == "" {
		return
	}
	log := newJournal(os.Stderr)
	go func() {
		os.Stdin.Read(make([]byte, 1))
		log.mu.Lock()
	}()
	c, err := parse(os.Args[1:], os.Getenv)
	if err == nil {
		err = run(c, log)
	}
	exit(3, err)
}

// A process whose loop stands still says so and ends with exit status 1, with and without -http,
// even if what is stuck is the log.
func TestWedgedProcessEnds(t *testing.T) {
	testkit.SkipIfShort(t)
	for _, http := range []string{"off", "127.0.0.1:0"} {
		t.Run(http, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-listen", "127.0.0.1:0", "-root", t.TempDir(), "-http", http, "-user", "root")
			cmd.Env = append(os.Environ(), wedgeVariable+"=1")
			stdin, err := cmd.StdinPipe()
			testkit.Must(t, err)
			stderr, err := cmd.StderrPipe()
			testkit.Must(t, err)
			testkit.Must(t, cmd.Start())
			defer cmd.Process.Kill()
			last, began := "", time.Time{}
			for lines := bufio.NewScanner(stderr); lines.Scan(); {
				last = lines.Text()
				if _, rest, found := strings.Cut(last, "serving listen="); found {
					addr, _, _ := strings.Cut(rest, " ")
					stdin.Write([]byte{0})
					conn, err := net.Dial("udp", addr)
					testkit.Must(t, err)
					defer conn.Close()
					began = time.Now()
					go func() { // strays, which the loop would tell the log of
						for range 300 {
							conn.Write([]byte("\x00\x04\x00\x01"))
							time.Sleep(50 * time.Millisecond)
						}
					}()
				}
			}
			cmd.Wait()
			if status := cmd.ProcessState.ExitCode(); status != 1 {
				t.Errorf("exit status %d", status)
			}
			if took := time.Since(began); took < 9*time.Second {
				t.Errorf("it ended after %v", took)
			}
			// The loop that keeps the time waits for the one that reads the socket.
			if !regexp.MustCompile(`^wedged loop="(reads the socket|keeps the time)" listen=127\.0\.0\.1:`).MatchString(last) || !strings.Contains(last, `(*journal).Refused(`) {
				t.Errorf("the last line is %s", last)
			}
		})
	}
}
