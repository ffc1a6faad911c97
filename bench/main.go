// Command bench compares flytftp with the TFTP servers that are installed on the same machine: the same work, in turns,
// in Markdown tables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyFile is the one-block file that tells whether a server answers.
const readyFile = "ready"

const usage = `usage: go run ./bench [flags] > tables.md

Runs flytftp, built as its image builds it, and the TFTP servers of this machine in turns on the same work, and
prints what they did as Markdown. Progress goes to standard error.

Peers: a minimal server of github.com/pin/tftp (bench/bare), dnsmasq, tftpd-hpa (in.tftpd), atftpd. They are looked
for in $DNSMASQ, $IN_TFTPD, $ATFTPD, PATH and /usr/sbin. Debian's atftpd cannot be installed beside tftpd-hpa; unpacked
it is found as well:
  mkdir -p %[1]s && cd %[1]s && apt-get download atftpd && dpkg-deb -x atftpd_*.deb .
Run it as root: in.tftpd and dnsmasq need it.

`

type config struct {
	quick      bool
	peers      string
	works      string
	list       bool
	rounds     int
	span       time.Duration
	seed       uint64
	threads    int
	pin        bool
	flytftp    string
	packed     string
	packedBare string
}

func main() {
	var c config
	flag.BoolVar(&c.quick, "quick", false, "the works of the targets alone, once: about a minute")
	flag.StringVar(&c.peers, "peers", "", "servers whose names contain one of these words, comma separated (default all)")
	flag.StringVar(&c.works, "works", "", "works whose keys contain one of these words, comma separated; cold-start is one (default all)")
	flag.BoolVar(&c.list, "list", false, "print the keys of the works and the servers, and exit")
	flag.IntVar(&c.rounds, "rounds", 0, "turns of each server on each work (default 5, with -quick 1)")
	flag.DurationVar(&c.span, "span", 0, "time in which clients begin transfers, for works without a fixed number (default 1s, with -quick 400ms)")
	flag.Uint64Var(&c.seed, "seed", 1, "of file contents and of the relay's losses")
	flag.IntVar(&c.threads, "threads", max(runtime.NumCPU()/2, 1), "threads that drive the clients: as many CPUs are left to the server")
	flag.BoolVar(&c.pin, "pin", false, "server on CPU 0 alone")
	flag.StringVar(&c.flytftp, "flytftp", "", "binary of this server (default built)")
	flag.StringVar(&c.packed, "packed", "", "packed binary of this server, for its cold start (default not packed)")
	flag.StringVar(&c.packedBare, "packed-bare", "", "bench/bare packed the same way, to compare (default not packed)")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), usage, cacheFolder())
		flag.PrintDefaults()
	}
	flag.Parse()
	if c.rounds == 0 {
		c.rounds = 5
		if c.quick {
			c.rounds = 1
		}
	}
	if c.span == 0 {
		c.span = time.Second
		if c.quick {
			c.span = 400 * time.Millisecond
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := run(ctx, c, os.Stdout, os.Stderr)
	if err != nil && err != errReported {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// run measures and prints.
func run(ctx context.Context, c config, out, progress io.Writer) error {
	works := choose(plan(c.quick), c.works, func(w work) string { return w.key })
	if c.list {
		for _, w := range works {
			fmt.Fprintln(out, w.key)
		}
		for _, p := range peers("", "") {
			fmt.Fprintln(out, p.name)
		}
		return nil
	}
	folder := os.Getenv(folderVariable)
	if folder == "" {
		var err error
		if folder, err = prepare(); err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		if os.Geteuid() == 0 {
			return runNamespaced(ctx, folder)
		}
	}
	if namespaced() {
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("loopback of the new network namespace: %w", err)
		}
	}
	raiseFileLimit()
	if c.flytftp == "" {
		c.flytftp = filepath.Join(folder, "flytftp")
	}
	bare := filepath.Join(folder, "bare")
	b := &bench{config: c, folder: filepath.Join(folder, "files"), files: map[int][]byte{}, progress: progress, began: time.Now(),
		samples: map[string]map[string][]sample{}, unable: map[string]bool{}}
	b.servers = choose(peers(c.flytftp, bare), c.peers, func(p *peer) string { return p.name })
	if err := b.writeFiles(works); err != nil {
		return err
	}
	defer os.RemoveAll(b.folder)
	for i, w := range works {
		if err := b.measure(ctx, w, i, len(works)); err != nil {
			return err
		}
	}
	var starts []coldStart
	if len(choose([]string{"cold-start"}, c.works, func(s string) string { return s })) > 0 {
		var err error
		if starts, err = b.coldStarts(ctx, c.flytftp, bare); err != nil {
			return err
		}
	}
	b.report(out, works, starts)
	return nil
}

// choose returns the elements whose names contain one of the words, all where there is no word.
func choose[T any](all []T, words string, name func(T) string) []T {
	if words == "" {
		return all
	}
	var chosen []T
	for _, e := range all {
		for word := range strings.SplitSeq(words, ",") {
			if strings.Contains(name(e), word) {
				chosen = append(chosen, e)
				break
			}
		}
	}
	return chosen
}

// raiseFileLimit lets this process and the servers have a socket for each of the 1,000 clients, and a file.
func raiseFileLimit() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}

// prepare makes the folder that every server may read, with the binaries built the way the image is.
func prepare() (string, error) {
	folder, err := os.MkdirTemp("", "flytftp-bench-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-gcflags=all=-l", "-gcflags=flytftp/singleport=", "-o", folder,
		"flytftp", "flytftp/bench/bare")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(folder)
		return "", fmt.Errorf("build (run the bench in the folder of the module): %w\n%s", err, output)
	}
	return folder, nil
}

// folderVariable names what prepare made to the copy of this program that runs in a network namespace.
const folderVariable = "FLYTFTP_BENCH_FOLDER"

// namespaced reports whether this program has a network of its own, where no port is taken.
func namespaced() bool { return os.Getenv(folderVariable) != "" }

// runNamespaced runs this program again in a network namespace of its own.
func runNamespaced(ctx context.Context, folder string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.Env = append(os.Environ(), folderVariable+"="+folder)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errReported
	}
	return err
}

// errReported is an error that the copy of this program has printed.
var errReported = errors.New("reported")

// raiseLoopback sets the new network up. Beside 127.0.0.1 it gets an address of RFC 5737: in.tftpd refuses to start
// where getaddrinfo's AI_ADDRCONFIG finds none but 127.0.0.1.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, loopback); err != nil {
		return err
	}
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr([]byte{192, 0, 2, 1}); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias)
}

type bench struct {
	config
	folder   string
	servers  []*peer
	files    map[int][]byte // contents by size
	progress io.Writer
	began    time.Time

	mutex   sync.Mutex // of what servers that run abreast add to
	samples map[string]map[string][]sample
	unable  map[string]bool // key of a work and name of a server that does not grant its options
}

// sample is one turn of a server on a work.
type sample struct {
	outcome
	cpu     time.Duration // negative where it could not be measured
	clients time.Duration // CPU time of the clients and of the relay
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
		var abreast sync.WaitGroup
		for _, p := range b.servers {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			turn := func() {
				b.turn(ctx, p, w, round, fmt.Sprintf("[%d/%d] %s, round %d/%d: ", index+1, total, w.key, round+1, rounds))
			}
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

// turn gives w to p and keeps what came of it. A server that cannot do the work is not asked again.
func (b *bench) turn(ctx context.Context, p *peer, w work, round int, title string) {
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
		b.note("%s%s: %.1f MB/s, %.0f transfers/s, %.2f CPU ms/MB, server %.0f %% and clients %.0f %% of a CPU, %d failed%s", title, p.name, s.megabytesPerSecond(),
			s.transfersPerSecond(), s.cpuPerMegabyte(), 100*s.cpu.Seconds()/s.elapsed.Seconds(), 100*s.clients.Seconds()/s.elapsed.Seconds(), s.failed(),
			reasons(s.failures))
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

// errNotGranted is a server that does not negotiate what the work needs.
var errNotGranted = errors.New("left out")

// sample starts p afresh, lets one client try the options, and then gives it the whole work.
func (b *bench) sample(ctx context.Context, p *peer, w work, round int) (sample, error) {
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
		server: server.addr, name: fileName(w.fileSize), content: b.files[w.fileSize], blockSize: w.blockSize, windowSize: w.windowSize,
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

// coldStart is how long a binary took from its start to its first answer.
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
		starts, binaries = append(starts, coldStart{name: nameBare + ", packed"}), append(binaries, b.packedBare)
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
