package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The soak runs one server with its default limits while good clients fetch without a pause, and
// attacks it as servers on public addresses are attacked. It ends with a table of promises.

const (
	soakLeast = 15 * time.Second // of -soak; with less the phases are too short to show anything

	// soakFixed is the length of the phases that do not depend on -soak: the stop, the restart with
	// the patience of its clients, and the server without descriptors.
	soakFixed = 11 * time.Second

	goodLockStep = 200 // clients, as firmware asks
	goodWindowed = 100 // clients with a window of goodWindow
	goodWindow   = 16  // blocks
	goodNetworks = 16  // /24 networks that the clients come from
	goodSize     = 64 * kiB
	goodPatience = 2 // sends until a client of a restarted server asks again

	phaseLimit   = 10 * time.Second // for transfers that run when their phase is over
	memoryEvery  = 20 * time.Millisecond
	settleLimit  = 45 * time.Second // until the server has given up what the attacks left
	latencyGoal  = 3                // times the quiet latency
	latencyGross = 10               // times the quiet p99: more than a noisy machine explains
	busyMost     = 2                // percent refused while one address takes every free transfer
	memoryMost   = 96 << 20         // bytes, with 2,000 transfers at a time
	memoryGrowth = 16 << 20         // bytes more after the attacks than good clients alone need
	threadsMost  = 256              // each read of a file takes one, and Go keeps them
)

// soak is a run of -soak.
type soak struct {
	*bench
	argv     []string
	server   *process
	sources  []netip.Addr // of the good clients
	results  []*result
	forged   [2]forgery
	faults   []fault
	promises []promise
	panics   int
	notes    []string
}

// result is the outcome of the good clients in a phase.
type result struct {
	outcome
	name   string
	quiet  bool          // without attacks and faults
	sent   int64         // datagrams of the attack
	cpu    time.Duration // of the server; negative if there were two
	memory int64         // peak, bytes
}

// load returns the CPU time of the server in percent of the phase.
func (r *result) load() string {
	if r.cpu < 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*r.cpu.Seconds()/r.elapsed.Seconds())
}

func (r *result) attempted() int { return len(r.latencies) + r.failed() + r.cut }

// promise is a line of the last table.
type promise struct {
	what, target, measured string
	kept                   bool
}

func (s *soak) promise(kept bool, what, target, format string, args ...any) {
	s.promises = append(s.promises, promise{what, target, fmt.Sprintf(format, args...), kept})
}

// leaveOut notes something that this machine or this user does not allow.
func (s *soak) leaveOut(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.notes = append(s.notes, text)
	s.note("%s", text)
}

// condition is what /proc says of a process at one moment.
type condition struct {
	memory      int64 // bytes, resident
	threads     int
	descriptors int // 0 if this user may not see them
}

func conditionOf(p *process) condition {
	pid := p.cmd.Process.Pid
	list := func(folder string) int {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/%s", pid, folder))
		return len(entries)
	}
	return condition{memory: int64(statusField(pid, "VmRSS")), threads: list("task"), descriptors: list("fd")}
}

// errDied ends the soak early.
var errDied = errors.New("the server died")

var errPromise = errors.New("soak: a promise was broken")

// soak runs the phases and prints the results.
func (b *bench) soak(ctx context.Context, out io.Writer) error {
	// More threads than CPUs let the kernel schedule clients and attackers, not Go.
	runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	s := &soak{bench: b}
	for i := range goodLockStep {
		s.sources = append(s.sources, netip.AddrFrom4([4]byte{127, 1, byte(i % goodNetworks), byte(1 + i/goodNetworks)}))
	}
	if err := b.writeFiles([]work{{fileSize: goodSize}}); err != nil {
		return err
	}
	defer os.RemoveAll(b.folder)
	listen := "127.0.0.1:0"
	addr := netip.AddrPort{}
	if namespaced() {
		listen, addr = ":69", netip.MustParseAddrPort("127.0.0.1:69")
	}
	s.argv = []string{b.flytftp, "-listen", listen, "-root", b.folder, "-allow", "*,none"}
	var err error
	if s.server, err = startProcess(s.argv, addr, false, -1); err != nil {
		return err
	}
	defer func() { s.server.kill() }()
	wait(ctx, memoryEvery) // until its first transfer has ended
	before := conditionOf(s.server)
	err = s.phases(ctx, before)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil && !errors.Is(err, errDied) {
		return err
	}
	s.panics += s.countPanics()
	lives := "it lives"
	if err != nil {
		lives = err.Error()
	}
	s.judge(lives)
	s.report(out)
	for _, p := range s.promises {
		if !p.kept {
			return errPromise
		}
	}
	return nil
}

// phases runs the attacks first, so that the server has time to give up their transfers, and
// examines the process that survived all of it before killing it.
func (s *soak) phases(ctx context.Context, before condition) error {
	left := s.config.soak - soakFixed
	share := func(percent int) time.Duration { return left * time.Duration(percent) / 100 }

	var victims *tap
	steps := []struct {
		name   string
		span   time.Duration
		forges bool
		during func(context.Context, *result) error // nil: nothing
	}{
		{"quiet", share(10), false, nil},
		{"forged requests, thousands of sources", share(16), true, s.forgeMany},
		{"forged requests, one victim", share(10), true, s.forgeOne},
		{"hostile clients", share(15), false, s.harass},
		{"quiet again", share(6), false, nil},
		{"all of these at once", share(15), true, s.everything},
		{hoardPhase, max(share(15), hoardTime), false, s.hoard},
		{"files change", share(7), false, s.changeFiles},
		{"quiet at the end", share(6), false, nil},
		{"server stopped and continued", stopTime * 3 / 2, false, s.stopAndContinue},
	}
	if namespaced() {
		var err error
		if victims, err = listenVictims(&s.forged); err != nil {
			return err
		}
		defer victims.close()
	} else {
		s.leaveOut("Not root: no forged requests.")
	}
	for i, step := range steps {
		if step.forges && victims == nil {
			continue
		}
		s.note("[%d/%d] %s", i+1, len(steps)+1, step.name)
		if err := s.phase(ctx, step.name, step.span, 0, step.during); err != nil {
			return err
		}
	}
	if err := s.closeRoot(ctx); err != nil {
		return err
	}
	s.note("no descriptors")
	if err := s.starve(ctx); err != nil {
		return err
	}
	s.settle(ctx, before)
	if victims != nil {
		s.amplification()
	}
	const last = "server killed and started again"
	s.note("[%d/%d] %s", len(steps)+1, len(steps)+1, last)
	return s.phase(ctx, last, restartTime*2, goodPatience, s.restart)
}

// phase lets the good clients begin transfers for span and runs during until they are done.
func (s *soak) phase(ctx context.Context, name string, span time.Duration, patience int,
	during func(context.Context, *result) error) error {
	r := &result{name: name, quiet: during == nil, outcome: outcome{failures: map[string]int{}}}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	loading, cut := context.WithCancel(ctx)
	defer cut()
	server := s.server
	started, _ := server.cpu()
	var running sync.WaitGroup
	running.Go(func() { r.memory = peakMemory(inner, server) })
	if patience == 0 { // with patience, the server is killed on purpose
		running.Go(func() {
			select {
			case <-server.exited:
				cut() // no client will get an answer
			case <-inner.Done():
			}
		})
	}
	var trouble error
	if during != nil {
		running.Go(func() { trouble = during(inner, r) })
	}
	failure := s.fetch(loading, r, server.addr, span, patience)
	r.cpu = -1
	if patience == 0 {
		ended, _ := server.cpu()
		r.cpu = ended - started
	}
	stop()
	running.Wait()
	s.results = append(s.results, r)
	s.note("  %d transfers, %d failed%s, %d cut, p50 %s, p99 %s, worst %s, %.1f MiB, server CPU %s",
		r.attempted(), r.failed(), reasons(r.failures), r.cut, duration(percentile(r.latencies, 50)),
		duration(percentile(r.latencies, 99)), duration(percentile(r.latencies, 100)),
		float64(r.memory)/miB, r.load())
	if !s.server.alive() {
		return fmt.Errorf("%w: %s: %s", errDied, name, s.server.lastLine())
	}
	if err := errors.Join(failure, trouble); err != nil {
		return err
	}
	return ctx.Err()
}

// fetch runs the good clients and adds their outcome to r.
func (s *soak) fetch(ctx context.Context, r *result, server netip.AddrPort, span time.Duration,
	patience int) error {
	loads := []load{
		{blockSize: 1428, windowSize: 1, clients: goodLockStep},
		{blockSize: 1468, windowSize: goodWindow, clients: goodWindowed},
	}
	outcomes := make([]outcome, len(loads))
	failures := make([]error, len(loads))
	var fetching sync.WaitGroup
	for i := range loads {
		l := &loads[i]
		l.server, l.name, l.content = server, fileName(goodSize), s.files[goodSize]
		l.span, l.limit, l.threads = span, span+phaseLimit, 1
		l.sources, l.patience, l.yielding = s.sources, patience, true
		fetching.Go(func() { outcomes[i], failures[i] = l.run(ctx) })
	}
	fetching.Wait()
	for _, o := range outcomes {
		r.add(o)
	}
	return errors.Join(failures...)
}

// peakMemory returns the server's largest resident set until ctx is done.
func peakMemory(ctx context.Context, server *process) int64 {
	pid, peak := server.cmd.Process.Pid, 0
	for {
		peak = max(peak, statusField(pid, "VmRSS"))
		select {
		case <-ctx.Done():
			return int64(peak)
		case <-time.After(memoryEvery):
		}
	}
}

// settle waits until the server has given up what the attacks left, and checks what it keeps.
func (s *soak) settle(ctx context.Context, before condition) {
	began := time.Now()
	quiet := s.results[0].memory
	after := conditionOf(s.server)
	// Go gives memory back in small steps, which take longer on a busy machine.
	for (after.descriptors > before.descriptors || after.memory > quiet+memoryGrowth) &&
		time.Since(began) < settleLimit && ctx.Err() == nil {
		time.Sleep(memoryEvery)
		after = conditionOf(s.server)
	}
	took := time.Since(began)
	s.note("settled after %s: %.1f MiB, %d threads, %d descriptors", duration(took), float64(after.memory)/miB,
		after.threads, after.descriptors)
	s.promise(after.memory <= quiet+memoryGrowth, "resident memory after the attacks",
		fmt.Sprintf("≤ %d MiB more than in quiet", memoryGrowth/miB),
		"%.1f MiB; quiet %.1f, at the start %.1f; waited %s",
		float64(after.memory)/miB, float64(quiet)/miB, float64(before.memory)/miB, duration(took))
	s.promise(after.threads <= threadsMost, "threads after the attacks", fmt.Sprintf("≤ %d", threadsMost),
		"%d, at the start %d", after.threads, before.threads)
	if before.descriptors == 0 {
		s.leaveOut("This user may not see the server's descriptors: they were not counted.")
		return
	}
	s.promise(after.descriptors <= before.descriptors, "open descriptors after the attacks", "as at the start",
		"%d, at the start %d; waited %s", after.descriptors, before.descriptors, duration(took))
}

// countPanics returns the number of panics of the engine that the server survived.
func (s *soak) countPanics() int {
	text, _ := os.ReadFile(s.server.output)
	return strings.Count("\n"+string(text), "\npanicked ")
}

const hoardPhase = "one address holds all transfers"

// judge compares the phases with the quiet ones.
func (s *soak) judge(lives string) {
	quiet := s.quiet()
	finished, failed, wrong := 0, 0, 0
	refused, asked := 0, 0 // in hoardPhase
	causes := map[string]int{}
	for _, r := range s.results {
		finished += len(r.latencies)
		failed += r.failed() + r.cut
		wrong += r.failures[reasonWrong]
		if r.cut > 0 {
			causes[r.name+": no end within "+duration(phaseLimit)] = r.cut
		}
		for reason, n := range r.failures {
			if r.name == hoardPhase && strings.Contains(reason, "Server busy") {
				refused, failed = refused+n, failed-n
				continue
			}
			causes[r.name+": "+reason] += n
		}
		if r.name == hoardPhase {
			asked = len(r.latencies) + r.failed() + r.cut
		}
	}
	var peak int64
	var p99, worst float64
	for _, r := range s.results {
		peak = max(peak, r.memory)
		if !r.quiet && !r.stalls() {
			p99, worst = max(p99, over(r, quiet, 99)), max(worst, over(r, quiet, 100))
		}
	}
	first := []promise{
		{"the server", "it lives", lives, lives == "it lives"},
		{"good transfers that did not finish", "0",
			fmt.Sprintf("%d of %d%s", failed, failed+finished, reasons(causes)), failed == 0 && finished > 0},
		{"good transfers refused while one address takes all there are", fmt.Sprintf("≤ %d %%", busyMost),
			fmt.Sprintf("%d of %d", refused, asked), 100*refused <= busyMost*asked},
		{"good transfers with wrong bytes", "0", fmt.Sprint(wrong), wrong == 0},
		{"latency under attack, to quiet", fmt.Sprintf("≤ %d, broken at p99 over %d", latencyGoal, latencyGross),
			fmt.Sprintf("p99 %.1f, worst %.1f", p99, worst), p99 <= latencyGross},
		{"panics", "0", fmt.Sprint(s.panics), s.panics == 0},
		{"resident memory, peak", fmt.Sprintf("≤ %d MiB", memoryMost/miB),
			fmt.Sprintf("%.1f MiB", float64(peak)/miB), peak <= memoryMost},
	}
	s.promises = append(first, s.promises...)
}

// quiet returns all quiet phases as one, because the machine may become slower during the soak.
func (s *soak) quiet() *result {
	all := &result{outcome: outcome{failures: map[string]int{}}}
	for _, r := range s.results {
		if r.quiet {
			all.add(r.outcome)
		}
	}
	return all
}

// stalls reports whether the phase itself delays its transfers.
func (r *result) stalls() bool { return r.cpu < 0 || strings.Contains(r.name, "stopped") }

// over returns a percentile of r's latencies divided by the quiet one.
func over(r, quiet *result, percent int) float64 {
	return percentile(r.latencies, percent).Seconds() / percentile(quiet.latencies, percent).Seconds()
}

// report prints the tables.
func (s *soak) report(out io.Writer) {
	fmt.Fprintf(out, "# Soak\n\n`%s`\n\n", strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " "))
	fmt.Fprintf(out, "%s, %s, seed %d, %.0f s in all. Server, %d good clients and attackers share the CPUs.\n\n",
		machine(), time.Now().Format(time.DateOnly), s.seed, time.Since(s.began).Seconds(), goodLockStep+goodWindowed)
	fmt.Fprintf(out, "The server has its default limits. %d clients in lock-step and %d with windowsize %d, in %d networks,\n"+
		"fetch 64 KiB files one after another and compare every byte. *Asked again*: requests of clients that\n"+
		"had no answer for %d s and rebooted. The last columns are p99 and the worst divided by those of all quiet phases.\n",
		goodLockStep, goodWindowed, goodWindow, goodNetworks, goodPatience)
	for _, note := range s.notes {
		fmt.Fprintf(out, "\n%s\n", note)
	}
	fmt.Fprint(out, "\n| Phase | hostile datagrams/s | transfers | finished | failed | wrong bytes | asked again "+
		"| p50 | p99 | worst | memory MiB | server CPU | p99 | worst |\n"+
		"|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	quiet := s.quiet()
	for _, r := range s.results {
		ratios := "| – | – |"
		if !r.stalls() {
			ratios = fmt.Sprintf("| %.1f | %.1f |", over(r, quiet, 99), over(r, quiet, 100))
		}
		fmt.Fprintf(out, "| %s | %.0f | %d | %d | %d | %d | %d | %s | %s | %s | %.1f | %s %s\n", capital(r.name),
			float64(r.sent)/r.elapsed.Seconds(), r.attempted(), len(r.latencies), r.failed()+r.cut,
			r.failures[reasonWrong], r.again, duration(percentile(r.latencies, 50)),
			duration(percentile(r.latencies, 99)), duration(percentile(r.latencies, 100)),
			float64(r.memory)/miB, r.load(), ratios)
	}
	if s.forged[0].requests.Load() > 0 {
		fmt.Fprint(out, "\n## Answers to forged requests\n\n"+
			"Bytes with IP and UDP headers, counted on the interface. A fifth of the requests has no options.\n\n"+
			"| Forged in the name of | requests | bytes sent | bytes drawn | factor |\n|---|--:|--:|--:|--:|\n")
		for i, name := range []string{"thousands of sources", "one victim"} {
			f := &s.forged[i]
			fmt.Fprintf(out, "| %s | %d | %d | %d | %.2f |\n", name, f.requests.Load(), f.sent.Load(), f.drawn.Load(), f.factor())
		}
	}
	fmt.Fprint(out, "\n## Files that change while they are sent\n\n"+
		"| Change | transfers | whole, old | whole, new | ERROR | wrong bytes | no end |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, f := range s.faults {
		fmt.Fprintf(out, "| %s | %d | %d | %d | %d | %d | %d |\n",
			f.name, f.all(), f.old, f.new, f.refused, f.wrong, f.lost)
	}
	fmt.Fprintf(out, "\n## Promises\n\n| Promise | Target | Measured | Kept |\n|---|--:|--:|---|\n")
	for _, p := range s.promises {
		answer := "yes"
		if !p.kept {
			answer = "**no**"
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", capital(p.what), p.target, p.measured, answer)
	}
}

// filePath returns the path of a served file.
func (s *soak) filePath(name string) string { return filepath.Join(s.folder, name) }

// signal sends to the server's process alone.
func (s *soak) signal(signal unix.Signal) error { return s.server.cmd.Process.Signal(signal) }
