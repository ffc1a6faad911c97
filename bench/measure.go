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
	died    bool
}

func (s *sample) megabytesPerSecond() float64 { return float64(s.bytes) / 1e6 / s.elapsed.Seconds() }
func (s *sample) transfersPerSecond() float64 { return float64(len(s.latencies)) / s.elapsed.Seconds() }

// cpuPerMegabyte is in milliseconds.
func (s *sample) cpuPerMegabyte() float64 { return s.cpu.Seconds() * 1e3 / (float64(s.bytes) / 1e6) }

// ownCPU returns the CPU time of this process.
func ownCPU() time.Duration {
	var spent unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &spent)
	return time.Duration(spent.Nano())
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
	case errors.Is(err, errNotGranted):
		b.unable[w.key+p.name] = true
		b.note("%s%s: %v", title, p.name, err)
	case err != nil:
		p.missing = err.Error()
		b.note("%s: %v", p.name, err)
	default:
		b.samples[w.key][p.name] = append(b.samples[w.key][p.name], s)
		b.note("%s%s: %.1f MB/s, %.0f transfers/s, %.2f CPU ms/MB, server %.0f %% and clients %.0f %% of a CPU, %d failed%s",
			title, p.name, s.megabytesPerSecond(), s.transfersPerSecond(), s.cpuPerMegabyte(),
			100*s.cpu.Seconds()/s.elapsed.Seconds(), 100*s.clients.Seconds()/s.elapsed.Seconds(),
			s.failed(), reasons(s.failures))
	}
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

// errNotGranted is the error of a server that does not grant the options of the work.
var errNotGranted = errors.New("left out")

// sample starts p, lets one client try the options, and then gives it the whole work.
func (b *bench) sample(ctx context.Context, p *contender, w work, round int) (sample, error) {
	argv, addr, err := p.command(b.folder, w.blockSize)
	if err != nil {
		return sample{}, err
	}
	cpu := -1
	if b.pin {
		cpu = 0
	}
	server, err := startProcess(argv, addr, p.forks, cpu)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", argv[0], err)
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
			return sample{}, fmt.Errorf("%w: %s", errNotGranted, reason)
		}
	}
	if w.roundTrip > 0 {
		link, err := newRelay(server.addr, w.roundTrip, w.loss, b.seed+uint64(round))
		if err != nil {
			return sample{}, err
		}
		defer link.close()
		l.server = link.addr
	}
	l.clients, l.each, l.span, l.limit, l.threads = w.clients, w.each, b.span, w.limit, b.threads
	l.yielding = true // a server that grants the window to one client may grant less to many
	before, errBefore := server.cpu()
	clientsBefore := ownCPU()
	s := sample{}
	if s.outcome, err = l.run(ctx); err != nil {
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
