// Command bench gives flytftp and the TFTP servers installed on this machine the same work in turns
// and prints the results as Markdown tables. With -soak it attacks flytftp alone and reports which
// promises were kept.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const usage = `usage: go run ./bench [flags] > tables.md

Gives flytftp, built as its image builds it, and its peers the same work in turns and prints the results
as Markdown. Progress goes to standard error.

The peers are a minimal server on github.com/pin/tftp (bench/bare), dnsmasq, tftpd-hpa (in.tftpd) and
atftpd, looked for in $DNSMASQ, $IN_TFTPD, $ATFTPD, PATH, /usr/sbin and %[1]s.
Debian's atftpd conflicts with tftpd-hpa, but it can be unpacked there:
  mkdir -p %[1]s && cd %[1]s && apt-get download atftpd && dpkg-deb -x atftpd_*.deb .
dnsmasq and in.tftpd need root.

A single work, for development: -works link-window4-1428-1MiB -rounds 1. A word that is a full name chooses
nothing else. -peers flytftp,flytftp-ahead1 lets flytftp take part twice, the second time with -ahead 1.

The works at a slow interface of the server need root and tc (Debian's iproute2).

With -soak the peers stay out. Hundreds of clients fetch from flytftp, with its default limits, while requests
are forged and files change. The exit status is 1 if a promise was broken. Only root can forge requests; they
stay in a network namespace of their own.

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
	soak       time.Duration
}

func main() {
	runArguments()
	var c config
	flag.BoolVar(&c.quick, "quick", false, "only the works that the targets name, once: about two minutes")
	flag.StringVar(&c.peers, "peers", "",
		"servers with one of these words in their names, comma separated (default all but "+nameAhead1+")")
	flag.StringVar(&c.works, "works", "",
		"works with one of these words in their keys, comma separated; cold-start is one (default all)")
	flag.BoolVar(&c.list, "list", false, "print the keys of the works and the servers, and exit")
	flag.IntVar(&c.rounds, "rounds", 0, "turns of each server on each work (default 5, with -quick 1)")
	flag.DurationVar(&c.span, "span", 0,
		"time in which clients begin transfers, for works without a fixed number (default 1s, with -quick 400ms)")
	flag.Uint64Var(&c.seed, "seed", 1, "seed of file contents and of the relay's losses")
	flag.IntVar(&c.threads, "threads", max(runtime.NumCPU()/2, 1),
		"threads that drive the clients; the default leaves as many CPUs to the server")
	flag.BoolVar(&c.pin, "pin", false, "run each server on CPU 0 alone")
	flag.StringVar(&c.flytftp, "flytftp", "", "binary of flytftp (default built)")
	flag.StringVar(&c.packed, "packed", "", "packed binary of flytftp, for its cold start (default none)")
	flag.StringVar(&c.packedBare, "packed-bare", "", "packed binary of bench/bare, for its cold start (default none)")
	flag.DurationVar(&c.soak, "soak", 0, "attack flytftp for this long instead, 15s or more, and check its promises")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), usage, cacheFolder())
		flag.PrintDefaults()
	}
	flag.Parse()
	if c.soak != 0 && c.soak < soakLeast {
		fmt.Fprintf(os.Stderr, "bench: -soak takes %v or more\n", soakLeast)
		os.Exit(2)
	}
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

// run does what the flags say and prints the results to out.
func run(ctx context.Context, c config, out, progress io.Writer) error {
	works := choose(plan(c.quick), c.works, func(w work) string { return w.key })
	if c.list {
		for _, w := range works {
			fmt.Fprintln(out, w.key)
		}
		for _, p := range contenders("", "") {
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
	b := &bench{
		config: c, folder: filepath.Join(folder, "files"), files: map[int][]byte{},
		progress: progress, began: time.Now(),
		samples: map[string]map[string][]sample{}, unable: map[string]bool{},
	}
	if c.soak > 0 {
		return b.soak(ctx, out)
	}
	b.contenders = chooseContenders(contenders(c.flytftp, bare), c.peers)
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

// choose returns the elements whose names contain one of the words, or all if there are no words. A
// word that is the full name of an element chooses no other one.
func choose[T any](all []T, words string, name func(T) string) []T {
	if words == "" {
		return all
	}
	full := map[string]bool{}
	for _, e := range all {
		full[name(e)] = true
	}
	var chosen []T
	for _, e := range all {
		for word := range strings.SplitSeq(words, ",") {
			if word == name(e) || !full[word] && strings.Contains(name(e), word) {
				chosen = append(chosen, e)
				break
			}
		}
	}
	return chosen
}
