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
	cpu       float64       // ms/MB
	memory    float64       // MiB, the highest
	again     float64       // percent of the blocks that were sent twice over a relay
	own       float64       // time to the link's own; 0 if the link has no rate
	relayLoad float64       // percent of a CPU, the highest
	relayLate time.Duration // of a datagram on average, the longest of all rounds
	failed    int
	cut       int
	died      int
	whole     int // transfers
}

// latency returns p50 or p99.
func (s summary) latency(percent int) time.Duration {
	if percent == 50 {
		return s.p50
	}
	return s.p99
}

// unfinished returns the number of transfers that failed or were cut off.
func (s summary) unfinished() int { return s.failed + s.cut }

func summarize(samples []sample, w work) summary {
	s := summary{samples: samples}
	var latencies []time.Duration
	var all traffic
	for _, turn := range samples {
		all.data += turn.traffic.data
		all.again += turn.traffic.again
		s.relayLoad = max(s.relayLoad, 100*turn.traffic.cpu.Seconds()/turn.elapsed.Seconds())
		s.relayLate = max(s.relayLate, turn.traffic.late/time.Duration(max(turn.traffic.sent, 1)))
		latencies = append(latencies, turn.latencies...)
		s.failed += turn.failed()
		s.cut += turn.cut
		s.memory = max(s.memory, float64(turn.memory)/miB)
		if turn.died {
			s.died++
		}
	}
	if once := all.data - all.again; once > 0 {
		s.again = 100 * float64(all.again) / float64(once)
	}
	if own := w.ownTime(); own > 0 {
		s.own = medianOf(samples, func(turn *sample) float64 { return turn.elapsed.Seconds() / own.Seconds() })
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
	fmt.Fprintf(out, "%s, %s, seed %d.\nRounds in turns: %d, client threads: %d, %.0f s in all.\n\n",
		machine(), time.Now().Format(time.DateOnly), b.seed, b.rounds, b.threads, time.Since(b.began).Seconds())
	fmt.Fprint(out, legend)
	for _, p := range b.contenders {
		if p.missing != "" {
			fmt.Fprintf(out, "\nNot measured: %s: %s.\n", p.name, p.missing)
		}
	}
	summaries := results{}
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
	reportTargets(out, summaries)
}

// legend explains the columns of the tables.
const legend = `MB is 10^6 bytes of file contents, all of them compared. MB/s, transfers/s and CPU are medians of the
rounds, p50 and p99 are over all transfers, memory is the largest resident set. CPU is the server's user and
system time, children included. Each client uses a new port for each transfer and resends after 1 s; clients
in lock-step drop blocks out of order without an ACK. *Cut* transfers ran when the time for the work was over:
their bytes count, their times do not. A server that does not grant the options of a work to a lone client is
left out; to many clients it may grant smaller windows.

A relay delays the datagrams of the works with a round trip and counts those of the server. *Sent twice* are
DATA of a block that had been sent before, to those of a new block. *To own* is the time of all transfers
together to the time in which the link carries each block once.
`

// table prints the results of a work and returns them by server.
func (b *bench) table(out io.Writer, w work) map[string]summary {
	header, rule := "| Server | MB/s | transfers/s | p50 | p99 | CPU ms/MB | memory MiB | failed | cut |", strings.Repeat("--:|", 8)
	own := w.ownTime()
	if w.link.roundTrip > 0 {
		header, rule = header+" sent twice |", rule+"--:|"
	}
	if own > 0 {
		header, rule = header+" to own |", rule+"--:|"
	}
	fmt.Fprintf(out, "\n%s:\n\n%s\n|---|%s\n", capital(w.title()), header, rule)
	all := map[string]summary{}
	for _, p := range b.contenders {
		if samples := b.samples[w.key][p.name]; len(samples) > 0 {
			s := summarize(samples, w)
			all[p.name] = s
			fmt.Fprintln(out, s.row(p.name, w))
		}
	}
	if speed, best := bestRatio(all, (*sample).megabytesPerSecond, true); best != "" {
		cpu, least := bestRatio(all, (*sample).cpuPerMegabyte, false)
		fmt.Fprintf(out, "\nflytftp to the best peer: MB/s %.2f (%s), CPU %.2f (%s).\n", speed, best, cpu, least)
	}
	if own > 0 {
		fmt.Fprintf(out, "\nThe link alone takes %s.\n", duration(own))
	}
	if w.link.roundTrip > 0 {
		load, late := 0.0, time.Duration(0)
		for _, s := range all {
			load, late = max(load, s.relayLoad), max(late, s.relayLate)
		}
		fmt.Fprintf(out, "\nThe relay took at most %.0f %% of a CPU; its datagrams were %s late on average.\n", load, duration(late))
	}
	return all
}

// row formats s as a row of the table of w.
func (s summary) row(name string, w work) string {
	cpu := fmt.Sprintf("%.2f", s.cpu)
	if s.cpu < 0 {
		cpu = "?"
	}
	failed := fmt.Sprint(s.failed)
	if s.died > 0 {
		failed += fmt.Sprintf(", died %d×", s.died)
	}
	row := fmt.Sprintf("| %s | %.1f | %.0f | %s | %s | %s | %.1f | %s | %d |", name, s.speed, s.transfers,
		duration(s.p50), duration(s.p99), cpu, s.memory, failed, s.cut)
	if w.link.roundTrip > 0 {
		row += fmt.Sprintf(" %.1f %% |", s.again)
	}
	if s.own > 0 {
		row += fmt.Sprintf(" %.2f |", s.own)
	}
	return row
}

// bestPeer returns the name of the peer with the best value, "" if there is none. Peers with failed
// transfers count only if every peer has some.
func bestPeer(all map[string]summary, value func(summary) float64, high bool) string {
	for _, flawless := range []bool{true, false} {
		best, least := "", 0.0
		for name, s := range all {
			if strings.HasPrefix(name, nameFlytftp) || len(s.samples) == 0 || flawless && s.failed > 0 {
				continue
			}
			v := value(s)
			if v <= 0 { // nothing arrived, or the CPU time could not be measured
				continue
			}
			if best == "" || high && v > least || !high && v < least {
				best, least = name, v
			}
		}
		if best != "" {
			return best
		}
	}
	return ""
}

// bestRatio compares flytftp with the peer that is best by figure, and returns its name. The name
// is empty if one of the two is missing.
func bestRatio(all map[string]summary, figure func(*sample) float64, high bool) (float64, string) {
	ours, ok := all[nameFlytftp]
	best := bestPeer(all, func(s summary) float64 { return medianOf(s.samples, figure) }, high)
	if !ok || best == "" {
		return 0, ""
	}
	return ratio(ours, all[best], figure), best
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
