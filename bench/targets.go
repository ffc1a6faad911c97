package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// results are the summaries of a run by key of the work and name of the server.
type results map[string]map[string]summary

// target is a figure that the project wants flytftp to reach.
type target struct {
	work, figure string
	goal         string
	measure      measurement
}

// measurement returns a figure of flytftp, with what it was compared with, and whether it reaches
// the goal. The text is empty if the figure was not measured.
type measurement func(results) (text string, met bool)

// Works that the targets name.
const (
	keyLink        = "link-lockstep-1428-1MiB"
	keyLink4       = "link-window4-1428-1MiB"
	keyLink64      = "link-window64-1428-1MiB"
	keyLossy       = "lossy-lockstep-1428-256KiB"
	keyLossy4      = "lossy-window4-1428-1MiB"
	keyLossy16     = "lossy-window16-1428-1MiB"
	keyLossy64     = "lossy-window64-1428-1MiB"
	keySlow        = "slow" // all works whose keys begin with it
	keyLockStep1   = "lockstep-1428-1MiB-1"
	keyLockStep16  = "lockstep-1428-1MiB-16"
	keyLockStep128 = "lockstep-1428-1MiB-128"
	keyShort       = "lockstep-1428-64KiB-16"
	keyMany        = "lockstep-1428-64KiB-1000"
	keyLarge       = "window16-8192-1MiB-16"
	keyWindow64    = "window64-1428-1MiB-128"
)

// targets returns the targets in the order of their table.
func targets() []target {
	speed, cpu, transfers := (*sample).megabytesPerSecond, (*sample).cpuPerMegabyte, (*sample).transfersPerSecond
	all := []target{
		within("20 ms, 1 MiB, lock-step, 4 clients", keyLink, 50, 800*time.Millisecond),
		within("20 ms, 1 MiB, windowsize 4, 4 clients", keyLink4, 50, 750*time.Millisecond),
		withinBest("20 ms, 1 MiB, windowsize 64, 4 clients", keyLink64, 50, 15*time.Millisecond),
		within("20 ms, 1 % loss, 256 KiB, lock-step", keyLossy, 50, 600*time.Millisecond),
		within("20 ms, 1 % loss, 256 KiB, lock-step", keyLossy, 99, 1800*time.Millisecond),
		unfailing("20 ms, 1 % loss, 256 KiB, lock-step", keyLossy),
		within("20 ms, 1 % loss, 1 MiB, windowsize 4", keyLossy4, 50, time.Second),
		within("20 ms, 1 % loss, 1 MiB, windowsize 16", keyLossy16, 50, 750*time.Millisecond),
		within("20 ms, 1 % loss, 1 MiB, windowsize 64, 200 clients", keyLossy64, 50, 1200*time.Millisecond),
		within("20 ms, 1 % loss, 1 MiB, windowsize 64, 200 clients", keyLossy64, 99, 3*time.Second),
		sentAgain("512 kbit/s, 2 and 20 Mbit/s, windows 1 to 64", keySlow, 2),
	}
	for _, s := range sharedLinks {
		for _, w := range s.works() {
			title := fmt.Sprintf("20 ms, windowsize 64, %d clients%s", w.clients, w.bottleneck())
			all = append(all, ownTime(title, w.name(), s.goal))
		}
	}
	return append(all,
		atLeast("loopback, lock-step, 1 MiB, 1 client", keyLockStep1, "MB/s", speed, 5),
		atMost("loopback, lock-step, 1 MiB, 1 client", keyLockStep1, "CPU ms/MB", cpu, 0.4),
		atLeast("loopback, lock-step, 1 MiB, 16 clients", keyLockStep16, "MB/s", speed, 1.5),
		atLeast("loopback, lock-step, 1 MiB, 128 clients", keyLockStep128, "MB/s", speed, 1.4),
		atLeast("loopback, lock-step, 64 KiB, 16 clients", keyShort, "transfers/s", transfers, 1.15),
		atMost("loopback, lock-step, 64 KiB, 16 clients", keyShort, "CPU ms/MB", cpu, 0.85),
		atLeast("loopback, lock-step, 64 KiB, 1,000 clients at once", keyMany, "MB/s", speed, 1.5),
		within("loopback, lock-step, 64 KiB, 1,000 clients at once", keyMany, 99, 600*time.Millisecond),
		unfailing("loopback, lock-step, 64 KiB, 1,000 clients at once", keyMany),
		atLeast("loopback, windowsize 16, blksize 8192, 16 clients", keyLarge, "MB/s", speed, 1.2),
		withinBest("loopback, windowsize 64, 128 clients", keyWindow64, 99, 0),
	)
}

// within wants the p50 or p99 of all transfers to be at most goal.
func within(work, key string, percent int, goal time.Duration) target {
	return target{work, fmt.Sprintf("p%d", percent), "≤ " + duration(goal), func(all results) (string, bool) {
		s, ok := all[key][nameFlytftp]
		if !ok {
			return "", false
		}
		took := s.latency(percent)
		return duration(took), took > 0 && took <= goal
	}}
}

// withinBest wants the p50 or p99 of all transfers to be at most the best peer's and a margin.
func withinBest(work, key string, percent int, margin time.Duration) target {
	goal := "≤ the best peer's"
	if margin > 0 {
		goal += " + " + duration(margin)
	}
	return target{work, fmt.Sprintf("p%d", percent), goal, func(all results) (string, bool) {
		latency := func(s summary) float64 { return s.latency(percent).Seconds() }
		s, ok := all[key][nameFlytftp]
		best := bestPeer(all[key], latency, false)
		if !ok || best == "" {
			return "", false
		}
		took, least := s.latency(percent), all[key][best].latency(percent)
		text := fmt.Sprintf("%s (%s %s)", duration(took), best, duration(least))
		return text, took > 0 && took <= least+margin
	}}
}

// unfailing wants every transfer to end whole.
func unfailing(work, key string) target {
	return target{work, "transfers that failed", "0", func(all results) (string, bool) {
		s, ok := all[key][nameFlytftp]
		if !ok {
			return "", false
		}
		return fmt.Sprintf("%d of %d", s.unfinished(), s.unfinished()+s.whole), s.unfinished() == 0 && s.whole > 0
	}}
}

// sentAgain wants at most a percentage of the blocks to be sent twice in each work whose key begins
// with prefix.
func sentAgain(work, prefix string, goal float64) target {
	return target{work, "DATA sent twice", fmt.Sprintf("≤ %.0f %%", goal), func(all results) (string, bool) {
		text, worst, works, whole := "", -1.0, 0, true
		for key := range all {
			s, ok := all[key][nameFlytftp]
			if !ok || !strings.HasPrefix(key, prefix) {
				continue
			}
			works, whole = works+1, whole && s.unfinished() == 0
			if s.again > worst {
				worst, text = s.again, fmt.Sprintf("%.1f %% (%s", s.again, key)
			}
		}
		if works == 0 {
			return "", false
		}
		return fmt.Sprintf("%s, the worst of %d)", text, works), whole && worst <= goal
	}}
}

// ownTime wants all transfers together to take at most a multiple of the time that the link needs.
func ownTime(work, key string, goal float64) target {
	return target{work, "time to the link's own", fmt.Sprintf("≤ %.2f", goal), func(all results) (string, bool) {
		s, ok := all[key][nameFlytftp]
		if !ok {
			return "", false
		}
		return fmt.Sprintf("%.2f", s.own), s.own <= goal && s.unfinished() == 0
	}}
}

// atLeast wants a figure of the rounds to be at least a multiple of the best peer's.
func atLeast(work, key, name string, figure func(*sample) float64, goal float64) target {
	return target{work, name + " to the best peer", fmt.Sprintf("≥ %.2f", goal), func(all results) (string, bool) {
		r, best := bestRatio(all[key], figure, true)
		if best == "" {
			return "", false
		}
		return fmt.Sprintf("%.2f (%s)", r, best), r >= goal
	}}
}

// atMost wants a figure of the rounds to be at most a multiple of the best peer's.
func atMost(work, key, name string, figure func(*sample) float64, goal float64) target {
	return target{work, name + " to the best peer", fmt.Sprintf("≤ %.2f", goal), func(all results) (string, bool) {
		r, best := bestRatio(all[key], figure, false)
		if best == "" {
			return "", false
		}
		return fmt.Sprintf("%.2f (%s)", r, best), r <= goal
	}}
}

// reportTargets prints the targets and what was measured of them.
func reportTargets(out io.Writer, all results) {
	fmt.Fprint(out, "\n## Targets\n\n| Work | Figure | Target | Measured | Result |\n|---|---|--:|--:|---|\n")
	for _, t := range targets() {
		text, met := t.measure(all)
		answer := "**missed**"
		switch {
		case text == "":
			text, answer = "not measured", ""
		case met:
			answer = "met"
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", t.work, t.figure, t.goal, text, answer)
	}
}
