package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readyFile is a file of one block; a server that sends it is ready.
const readyFile = "ready"

type bench struct {
	config
	folder     string
	contenders []*contender
	files      map[int][]byte // contents by size
	progress   io.Writer
	began      time.Time

	mutex   sync.Mutex                     // guards what follows, and contender.missing
	samples map[string]map[string][]sample // by key of the work and name of the server
	unable  map[string]bool                // works not granted, by key and name
}

// sample is one turn of a server on a work.
type sample struct {
	outcome
	cpu     time.Duration // negative if it could not be measured
	clients time.Duration // CPU time of this process: the clients and the relay
	memory  int64         // bytes
	traffic traffic       // of the relay
	died    bool
}

func (s *sample) megabytesPerSecond() float64 { return float64(s.bytes) / 1e6 / s.elapsed.Seconds() }
func (s *sample) transfersPerSecond() float64 { return float64(len(s.latencies)) / s.elapsed.Seconds() }

// cpuPerMegabyte is in milliseconds.
func (s *sample) cpuPerMegabyte() float64 { return s.cpu.Seconds() * 1e3 / (float64(s.bytes) / 1e6) }

// ownCPU returns the CPU time of this process.
func ownCPU() time.Duration { return clock(unix.CLOCK_PROCESS_CPUTIME_ID) }

// threadCPU returns the CPU time of this thread.
func threadCPU() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

func clock(id int32) time.Duration {
	var now unix.Timespec
	unix.ClockGettime(id, &now)
	return time.Duration(now.Nano())
}

func fileName(size int) string { return fmt.Sprintf("%d.bin", size) }

func (b *bench) writeFiles(works []work) error {
	if err := os.Mkdir(b.folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.folder, readyFile), []byte("ready\n"), 0o644); err != nil {
		return err
	}
	source := rand.NewChaCha8([32]byte{byte(b.seed), byte(b.seed >> 8), byte(b.seed >> 16), byte(b.seed >> 24)})
	for _, w := range works {
		if b.files[w.fileSize] != nil {
			continue
		}
		contents := make([]byte, w.fileSize)
		source.Read(contents)
		b.files[w.fileSize] = contents
		if err := os.WriteFile(filepath.Join(b.folder, fileName(w.fileSize)), contents, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// measure gives w to every server in turn, for as many rounds as it has.
func (b *bench) measure(ctx context.Context, w work, index, total int) error {
	b.samples[w.key] = map[string][]sample{}
	rounds := b.rounds
	if w.rounds > 0 {
		rounds = min(rounds, w.rounds)
	}
	for round := range rounds {
		title := fmt.Sprintf("[%d/%d] %s, round %d/%d: ", index+1, total, w.key, round+1, rounds)
		var abreast sync.WaitGroup
		for _, p := range b.contenders {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			turn := func() { b.turn(ctx, p, w, round, title) }
			if w.abreast {
				abreast.Go(turn)
			} else {
				turn()
			}
		}
		abreast.Wait()
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return nil
}

// turn gives w to p and keeps the sample. A server that cannot do the work does not get it again.
func (b *bench) turn(ctx context.Context, p *contender, w work, round int, title string) {
	b.mutex.Lock()
	able := p.missing == "" && !b.unable[w.key+p.name]
	b.mutex.Unlock()
	if !able {
		return
	}
	s, err := b.sample(ctx, p, w, round)
	b.mutex.Lock()
	defer b.mutex.Unlock()
	switch {
	case errors.Is(err, errUnable):
		b.unable[w.key+p.name] = true
		b.note("%s%s: %v", title, p.name, err)
	case err != nil:
		p.missing = err.Error()
		b.note("%s: %v", p.name, err)
	default:
		b.samples[w.key][p.name] = append(b.samples[w.key][p.name], s)
		b.note("%s%s: %s", title, p.name, s.text(w))
	}
}

// text describes s in the progress.
func (s *sample) text(w work) string {
	text := fmt.Sprintf("%.1f MB/s, %.0f transfers/s, p50 %s, p99 %s, %.2f CPU ms/MB, server %.0f %% and clients %.0f %% of a CPU",
		s.megabytesPerSecond(), s.transfersPerSecond(), duration(percentile(s.latencies, 50)),
		duration(percentile(s.latencies, 99)), s.cpuPerMegabyte(), 100*s.cpu.Seconds()/s.elapsed.Seconds(),
		100*s.clients.Seconds()/s.elapsed.Seconds())
	if s.traffic.data > 0 {
		text += fmt.Sprintf(", %d of %d DATA sent twice, %d dropped", s.traffic.again, s.traffic.data, s.traffic.dropped)
	}
	if own := w.ownTime(); own > 0 {
		text += fmt.Sprintf(", %.2f of the link's own time", s.elapsed.Seconds()/own.Seconds())
	}
	return fmt.Sprintf("%s, %d failed%s, %d cut", text, s.failed(), reasons(s.failures), s.cut)
}

func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(b.progress, "%4.0fs "+format+"\n", append([]any{time.Since(b.began).Seconds()}, args...)...)
}

// reasons lists why transfers failed.
func reasons(failures map[string]int) string {
	var text strings.Builder
	for reason, count := range failures {
		fmt.Fprintf(&text, ", %d× %s", count, reason)
	}
	return text.String()
}

// errUnable is the error of a server or a machine that cannot do the work.
var errUnable = errors.New("left out")

// sample starts p, lets one client try the options, and then gives it the whole work.
func (b *bench) sample(ctx context.Context, p *contender, w work, round int) (sample, error) {
	server, err := b.start(p, w)
	if err != nil {
		return sample{}, err
	}
	defer server.kill()
	l := load{
		server: server.addr, name: fileName(w.fileSize), content: b.files[w.fileSize],
		blockSize: w.blockSize, windowSize: w.windowSize,
		clients: 1, each: 1, limit: loadLimit, threads: 1,
	}
	trial, err := l.run(ctx)
	if err != nil {
		return sample{}, err
	}
	for reason := range trial.failures {
		if strings.Contains(reason, "granted") || strings.Contains(reason, "negotiated") {
			return sample{}, fmt.Errorf("%w: %s", errUnable, reason)
		}
	}
	l.clients, l.each, l.span, l.limit, l.threads = w.clients, w.each, b.span, w.limit, b.threads
	l.yielding = true // a server that grants the window to one client may grant less to many
	before, errBefore := server.cpu()
	clientsBefore := ownCPU()
	s, err := l.over(ctx, w, b.seed+uint64(round))
	if err != nil {
		return sample{}, err
	}
	after, errAfter := server.cpu()
	s.clients = ownCPU() - clientsBefore
	s.cpu = after - before
	if errBefore != nil || errAfter != nil {
		s.cpu = -1
	}
	s.memory = server.memory()
	s.died = !server.alive()
	return s, nil
}

// start starts p as w needs it.
func (b *bench) start(p *contender, w work) (*process, error) {
	argv, addr, err := p.command(b.folder, w.blockSize)
	if err != nil {
		return nil, err
	}
	if w.keepBuffer {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = append([]string{self, keepBufferFlag}, argv...)
	}
	cpu := -1
	if b.pin {
		cpu = 0
	}
	server, err := startProcess(argv, addr, p.forks, cpu)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", argv[0], err)
	}
	return server, nil
}

// over runs l over the links of w.
func (l *load) over(ctx context.Context, w work, seed uint64) (sample, error) {
	if w.egress > 0 {
		if err := limitEgress(w.egress); err != nil {
			return sample{}, fmt.Errorf("%w: %w", errUnable, err)
		}
		defer freeEgress()
	}
	if w.link == (link{}) {
		o, err := l.run(ctx)
		return sample{outcome: o}, err
	}
	between, err := newRelay(l.server, w.link, seed)
	if err != nil {
		return sample{}, err
	}
	l.server = between.addr
	o, err := l.run(ctx)
	between.close()
	return sample{outcome: o, traffic: between.traffic}, err
}

// coldStart is the times a binary took from its start to its first answer.
type coldStart struct {
	name  string
	times []time.Duration
}

const coldStartsEach = 15

// coldStarts starts the binaries in turns.
func (b *bench) coldStarts(ctx context.Context, flytftp, bare string) ([]coldStart, error) {
	starts := []coldStart{{name: nameFlytftp + ", not packed"}, {name: nameBare + ", not packed"}}
	binaries := []string{flytftp, bare}
	if b.packed != "" {
		starts, binaries = append(starts, coldStart{name: namePacked}), append(binaries, b.packed)
	}
	if b.packedBare != "" {
		starts = append(starts, coldStart{name: nameBare + ", packed"})
		binaries = append(binaries, b.packedBare)
	}
	for range coldStartsEach {
		for i := range starts {
			if ctx.Err() != nil {
				return nil, errors.New("interrupted")
			}
			if binaries[i] == "" {
				continue
			}
			addr, err := freeAddress()
			if err != nil {
				return nil, err
			}
			argv := []string{binaries[i], addr.String(), b.folder, "1428"}
			if strings.HasPrefix(starts[i].name, nameFlytftp) {
				argv = []string{binaries[i], "-listen", addr.String(), "-root", b.folder, "-allow", "*,none"}
			}
			start := time.Now()
			server, err := startProcess(argv, addr, false, -1)
			if err != nil {
				b.note("cold start: %s: %v", starts[i].name, err)
				binaries[i] = ""
				continue
			}
			starts[i].times = append(starts[i].times, time.Since(start))
			server.kill()
		}
	}
	for _, s := range starts {
		b.note("cold start: %s: %.1f ms", s.name, percentile(s.times, 50).Seconds()*1e3)
	}
	return starts, nil
}

const namePacked = nameFlytftp + ", packed"
