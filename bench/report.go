package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// summary is the result of a server on a work in all rounds: medians of the rounds, and percentiles
// of all transfers together.
type summary struct {
	samples   []sample
	speed     float64 // MB/s
	transfers float64 // a second
	p50, p99  time.Duration
	cpu       float64 // ms/MB
	memory    float64 // MiB, the highest
	failed    int
	cut       int
	died      int
	whole     int // transfers
}

func summarize(samples []sample) summary {
	s := summary{samples: samples}
	var latencies []time.Duration
	for _, turn := range samples {
		latencies = append(latencies, turn.latencies...)
		s.failed += turn.failed()
		s.cut += turn.cut
		s.memory = max(s.memory, float64(turn.memory)/miB)
		if turn.died {
			s.died++
		}
	}
	s.whole = len(latencies)
	s.p50, s.p99 = percentile(latencies, 50), percentile(latencies, 99)
	s.speed = medianOf(samples, (*sample).megabytesPerSecond)
	s.transfers = medianOf(samples, (*sample).transfersPerSecond)
	s.cpu = medianOf(samples, (*sample).cpuPerMegabyte)
	return s
}

func medianOf(samples []sample, figure func(*sample) float64) float64 {
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = figure(&samples[i])
	}
	return median(values)
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// ratio returns the median of a's figure divided by b's in the same round, because the machine may
// be slower in another round.
func ratio(a, b summary, figure func(*sample) float64) float64 {
	var values []float64
	for i := range min(len(a.samples), len(b.samples)) {
		values = append(values, figure(&a.samples[i])/figure(&b.samples[i]))
	}
	return median(values)
}

// report prints the tables.
func (b *bench) report(out io.Writer, works []work, starts []coldStart) {
	fmt.Fprintf(out, "# Benchmarks\n\n`%s`\n\n", strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " "))
	fmt.Fprintf(out, "%s, %s, seed %d, %d rounds in turns, %d client threads, %.0f s in all.\n\n",
		machine(), time.Now().Format(time.DateOnly), b.seed, b.rounds, b.threads, time.Since(b.began).Seconds())
	fmt.Fprint(out, legend)
	for _, p := range b.contenders {
		if p.missing != "" {
			fmt.Fprintf(out, "\nNot measured: %s: %s.\n", p.name, p.missing)
		}
	}
	summaries := map[string]map[string]summary{}
	group := ""
	for _, w := range works {
		if w.group != group {
			group = w.group
			fmt.Fprintf(out, "\n## %s\n", group)
		}
		summaries[w.key] = b.table(out, w)
	}
	if len(starts) > 0 {
		fmt.Fprint(out, "\n## Cold start\n\nFrom the start of the process to its first answer:\n\n| Binary | median | slowest |\n|---|--:|--:|\n")
		for _, s := range starts {
			fmt.Fprintf(out, "| %s | %s | %s |\n", s.name, duration(percentile(s.times, 50)), duration(percentile(s.times, 100)))
		}
	}
	targets(out, summaries, starts)
}

// legend explains the columns of the tables.
const legend = `MB is 10^6 bytes of file contents, all of them compared. MB/s, transfers/s and CPU are medians of the rounds,
p50 and p99 are over all transfers, memory is the largest resident set. CPU is the server's user and system
time, children included. Each client uses a new port for each transfer and resends after 1 s. *Cut* transfers
ran when the time for the work was over: their bytes count, their times do not. A server that does not grant
the options of a work to a lone client is left out; to many clients it may grant smaller windows.
`

// table prints the results of a work and returns them by server.
func (b *bench) table(out io.Writer, w work) map[string]summary {
	fmt.Fprintf(out, "\n%s:\n\n| Server | MB/s | transfers/s | p50 | p99 | CPU ms/MB | memory MiB | failed | cut |\n"+
		"|---|--:|--:|--:|--:|--:|--:|--:|--:|\n", capital(w.title()))
	all := map[string]summary{}
	for _, p := range b.contenders {
		samples := b.samples[w.key][p.name]
		if len(samples) == 0 {
			continue
		}
		s := summarize(samples)
		all[p.name] = s
		cpu := fmt.Sprintf("%.2f", s.cpu)
		if s.cpu < 0 {
			cpu = "?"
		}
		failed := fmt.Sprint(s.failed)
		if s.died > 0 {
			failed += fmt.Sprintf(", died %d×", s.died)
		}
		fmt.Fprintf(out, "| %s | %.1f | %.0f | %s | %s | %s | %.1f | %s | %d |\n", p.name, s.speed, s.transfers,
			duration(s.p50), duration(s.p99), cpu, s.memory, failed, s.cut)
	}
	if ours, ok := all[nameFlytftp]; ok {
		speed, best := bestRatio(ours, all, (*sample).megabytesPerSecond, true)
		if best != "" {
			cpu, least := bestRatio(ours, all, (*sample).cpuPerMegabyte, false)
			fmt.Fprintf(out, "\nflytftp to the best peer: MB/s %.2f (%s), CPU %.2f (%s).\n", speed, best, cpu, least)
		}
	}
	return all
}

// bestRatio compares ours with the peer that is best by figure. Peers with failed transfers count
// only if every peer has some.
func bestRatio(ours summary, all map[string]summary, figure func(*sample) float64, high bool) (float64, string) {
	best, value := "", 0.0
	for _, flawless := range []bool{true, false} {
		for name, s := range all {
			if name == nameFlytftp || len(s.samples) == 0 || flawless && s.failed > 0 {
				continue
			}
			v := medianOf(s.samples, figure)
			if v <= 0 { // nothing arrived, or the CPU time could not be measured
				continue
			}
			if best == "" || high && v > value || !high && v < value {
				best, value = name, v
			}
		}
		if best != "" {
			return ratio(ours, all[best], figure), best
		}
	}
	return 0, ""
}

// targets prints the project's targets and the figures that they are about.
func targets(out io.Writer, all map[string]map[string]summary, starts []coldStart) {
	fmt.Fprint(out, "\n## Targets\n\n| Work | Figure | Target | Measured | Met |\n|---|---|--:|--:|---|\n")
	t := &targetTable{out: out, all: all}
	t.loopback()
	t.links()
	t.coldStart(starts)
}

// targetTable prints the rows of the table of targets.
type targetTable struct {
	out io.Writer
	all map[string]map[string]summary // by key of the work and name of the server
}

func (t *targetTable) row(work, figure, target, measured string, met bool) {
	answer := "yes"
	if !met {
		answer = "**no**"
	}
	fmt.Fprintf(t.out, "| %s | %s | %s | %s | %s |\n", work, figure, target, measured, answer)
}

func (t *targetTable) missing(work string) { fmt.Fprintf(t.out, "| %s | | | not measured | |\n", work) }

func (t *targetTable) atMost(work, figure string, target, measured float64, against string) {
	t.row(work, figure, fmt.Sprintf("≤ %.2f", target), fmt.Sprintf("%.2f (%s)", measured, against), measured <= target)
}

func (t *targetTable) atLeast(work, figure string, target, measured float64, against string) {
	t.row(work, figure, fmt.Sprintf("≥ %.2f", target), fmt.Sprintf("%.2f (%s)", measured, against), measured >= target)
}

func (t *targetTable) within(work, figure string, target, measured time.Duration) {
	t.row(work, figure, "≤ "+duration(target), duration(measured), measured > 0 && measured <= target)
}

func (t *targetTable) unfailing(work string, s summary) {
	lost := s.failed + s.cut
	t.row(work, "transfers that failed", "0", fmt.Sprintf("%d of %d", lost, lost+s.whole), lost == 0 && s.whole > 0)
}

// ours returns the summary of flytftp. It prints a row for a work that flytftp or too many of its
// peers did not do.
func (t *targetTable) ours(key, title string, peers int) (summary, bool) {
	s, ok := t.all[key][nameFlytftp]
	if !ok || len(t.all[key]) <= peers {
		t.missing(title)
		return s, false
	}
	return s, true
}

func (t *targetTable) loopback() {
	title := "lock-step, 1428, 1 MiB, 1 client"
	if s, ok := t.ours(keyLockStep1, title, 1); ok {
		if single, ok := t.all[keyLockStep1][nameDnsmasqSingle]; ok {
			r := ratio(s, single, (*sample).cpuPerMegabyte)
			t.atMost(title, "CPU ms/MB to dnsmasq single-port", 1, r, nameDnsmasqSingle)
		} else {
			t.missing(title)
		}
	}
	for clients, key := range []string{keyLockStep16, keyLockStep128} {
		title := fmt.Sprintf("the same, %d clients", []int{16, 128}[clients])
		if s, ok := t.ours(key, title, 1); ok {
			r, best := bestRatio(s, t.all[key], (*sample).megabytesPerSecond, true)
			t.atLeast(title, "MB/s to the best peer", 1.15, r, best)
		}
	}
	title = "windowsize 16, 1428, 1 MiB, 16 clients"
	if s, ok := t.ours(keyWindow16, title, 1); ok {
		r, best := bestRatio(s, t.all[keyWindow16], (*sample).megabytesPerSecond, true)
		t.atLeast(title, "MB/s to the best peer", 1.4, r, best)
		r, best = bestRatio(s, t.all[keyWindow16], (*sample).cpuPerMegabyte, false)
		t.atMost(title, "CPU ms/MB to the best peer", 0.6, r, best)
	}
	title = "64 KiB, 1,000 clients at once"
	if s, ok := t.ours(keyMany, title, 1); ok {
		r, best := bestRatio(s, t.all[keyMany], (*sample).transfersPerSecond, true)
		t.atLeast(title, "transfers/s to the best peer", 1.2, r, best)
		t.unfailing(title, s)
		p99 := func(turn *sample) float64 { return percentile(turn.latencies, 99).Seconds() }
		r, best = bestRatio(s, t.all[keyMany], p99, false)
		t.atMost(title, "p99 to the best peer", 0.7, r, best)
	}
}

func (t *targetTable) links() {
	title := "20 ms, 1 MiB, windowsize 64"
	if s, ok := t.ours(keyLink64, title, 0); ok {
		t.within(title, "p50", 260*time.Millisecond, s.p50)
	}
	for _, lossy := range []struct {
		key, title string
		p50, p99   time.Duration
	}{
		{keyLossy, "20 ms, 1 % loss, 256 KiB, lock-step", 4600 * time.Millisecond, 6 * time.Second},
		{keyLossy4, "20 ms, 1 % loss, 1 MiB, windowsize 4", 5200 * time.Millisecond, 0},
		{keyLossy16, "20 ms, 1 % loss, 1 MiB, windowsize 16", 1400 * time.Millisecond, 0},
	} {
		s, ok := t.ours(lossy.key, lossy.title, 0)
		if !ok {
			continue
		}
		t.within(lossy.title, "p50", lossy.p50, s.p50)
		if lossy.p99 > 0 {
			t.within(lossy.title, "p99", lossy.p99, s.p99)
		}
		t.unfailing(lossy.title, s)
	}
}

func (t *targetTable) coldStart(starts []coldStart) {
	for _, s := range starts {
		if s.name == namePacked {
			t.within("cold start, packed", "median", 100*time.Millisecond, percentile(s.times, 50))
			return
		}
	}
	t.missing("cold start, packed")
}

// duration formats d with three digits or so, 0 as a dash.
func duration(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// machine describes what the figures were measured on.
func machine() string {
	var name unix.Utsname
	unix.Uname(&name)
	model := "unknown CPU"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d CPUs (%s), Linux %s, %s %s/%s", runtime.NumCPU(), model,
		unix.ByteSliceToString(name.Release[:]), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
