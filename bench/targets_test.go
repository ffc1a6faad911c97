package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A target whose work was renamed would never be measured, without a word.
func TestTargetsNameWorks(t *testing.T) {
	for _, quick := range []bool{false, true} {
		all := results{}
		for _, w := range plan(quick) {
			if all[w.key] != nil {
				t.Errorf("two works are called %s", w.key)
			}
			s := summarize([]sample{{outcome: outcome{latencies: []time.Duration{1}, bytes: 1, elapsed: 1}, cpu: 1}}, w)
			all[w.key] = map[string]summary{nameFlytftp: s, "peer": s}
		}
		for _, target := range targets() {
			if text, _ := target.measure(all); text == "" {
				t.Errorf("quick %v: no work for %s, %s", quick, target.work, target.figure)
			}
			if text, met := target.measure(results{}); text != "" || met {
				t.Errorf("%s, %s of nothing: %q, met %v", target.work, target.figure, text, met)
			}
		}
	}
}

// rounds returns a summary of rounds of one transfer that took so many ms each.
func rounds(ms ...int) summary {
	var samples []sample
	for _, n := range ms {
		took := time.Duration(n) * time.Millisecond
		samples = append(samples, sample{outcome: outcome{bytes: 1e6, elapsed: took, latencies: []time.Duration{took}}, cpu: took})
	}
	return summarize(samples, work{})
}

func TestTargets(t *testing.T) {
	failing, cut, empty := rounds(100), rounds(100), summary{}
	failing.failed, cut.cut = 1, 1
	again := rounds(100)
	again.again, again.own = 2.5, 1.2
	speed, cpu := (*sample).megabytesPerSecond, (*sample).cpuPerMegabyte
	for _, c := range []struct {
		name       string
		target     target
		ours, peer summary
		met        bool
	}{
		{"p50", within("", "work", 50, 200*time.Millisecond), rounds(100, 200, 300), empty, true},
		{"p50 too long", within("", "work", 50, 199*time.Millisecond), rounds(100, 200, 300), empty, false},
		{"p99", within("", "work", 99, 200*time.Millisecond), rounds(100, 200, 300), empty, false},
		{"nothing ended", within("", "work", 50, time.Second), empty, empty, false},
		{"best peer", withinBest("", "work", 50, 0), rounds(100), rounds(100), true},
		{"best peer is faster", withinBest("", "work", 50, 0), rounds(101), rounds(100), false},
		{"within the margin", withinBest("", "work", 50, time.Millisecond), rounds(101), rounds(100), true},
		{"no failure", unfailing("", "work"), rounds(100), empty, true},
		{"failed", unfailing("", "work"), failing, empty, false},
		{"cut", unfailing("", "work"), cut, empty, false},
		{"sent twice", sentAgain("", "wo", 2.5), again, empty, true},
		{"sent twice too often", sentAgain("", "wo", 2.4), again, empty, false},
		{"sent never", sentAgain("", "wo", 2), failing, empty, false},
		{"own time", ownTime("", "work", 1.2), again, empty, true},
		{"own time missed", ownTime("", "work", 1.19), again, empty, false},
		{"ratio", atLeast("", "work", "", speed, 2), rounds(100, 100), rounds(200, 220), true},
		{"ratio missed", atLeast("", "work", "", speed, 2.2), rounds(100, 100), rounds(200, 220), false},
		{"CPU", atMost("", "work", "", cpu, 0.5), rounds(100, 100), rounds(200, 220), true},
		{"CPU missed", atMost("", "work", "", cpu, 0.45), rounds(100, 100), rounds(200, 220), false},
	} {
		all := results{"work": {nameFlytftp: c.ours, nameAhead1: rounds(1), "slow": rounds(10_000)}}
		if len(c.peer.samples) > 0 {
			all["work"]["peer"] = c.peer
		}
		if text, met := c.target.measure(all); met != c.met || text == "" {
			t.Errorf("%s: %q, met %v", c.name, text, met)
		}
	}
}

// The best peer is neither a second flytftp nor one that fails while others do not.
func TestBestPeer(t *testing.T) {
	failing := rounds(1)
	failing.failed = 1
	all := map[string]summary{nameFlytftp: rounds(1), nameAhead1: rounds(1), "failing": failing, "good": rounds(100), "slow": rounds(200)}
	p50 := func(s summary) float64 { return s.latency(50).Seconds() }
	if best := bestPeer(all, p50, false); best != "good" {
		t.Errorf("the least is that of %q", best)
	}
	if best := bestPeer(all, p50, true); best != "slow" {
		t.Errorf("the most is that of %q", best)
	}
	delete(all, "good")
	delete(all, "slow")
	if best := bestPeer(all, p50, false); best != "failing" {
		t.Errorf("where all fail it is %q", best)
	}
	delete(all, "failing")
	if best := bestPeer(all, p50, false); best != "" {
		t.Errorf("without peers it is %q", best)
	}
}

// Markdown tables need as many columns in every row as in their header.
func TestReportTables(t *testing.T) {
	works := plan(false)
	b := &bench{samples: map[string]map[string][]sample{}, contenders: []*contender{{name: nameFlytftp}, {name: "peer"}}}
	for _, w := range works {
		s := sample{outcome: outcome{bytes: 1e6, elapsed: time.Second, latencies: []time.Duration{time.Second}}, cpu: -1, died: true}
		b.samples[w.key] = map[string][]sample{nameFlytftp: {s}, "peer": {s, s}}
	}
	var out bytes.Buffer
	b.report(&out, works, []coldStart{{name: "flytftp", times: []time.Duration{1}}})
	columns, tables := 0, 0
	for line := range strings.Lines(out.String()) {
		switch {
		case !strings.HasPrefix(line, "|"):
			columns = 0
		case columns == 0:
			columns = strings.Count(line, "|")
			tables++
		case strings.Count(line, "|") != columns:
			t.Errorf("not %d columns: %s", columns-1, line)
		}
	}
	if want := len(works) + 2; tables != want {
		t.Errorf("%d tables, want %d", tables, want)
	}
	for _, w := range works {
		if title := capital(w.title()); strings.Count(out.String(), fmt.Sprintf("\n%s:\n", title)) == 0 {
			t.Errorf("no table %q", title)
		}
	}
}
