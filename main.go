// Command flytftp serves a folder over TFTP: read-only, on one UDP port, for network boot.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"flytftp/internal/folder"
	"flytftp/sandbox"
	"flytftp/singleport"
	"flytftp/status"
)

// version is set by -ldflags "-X main.version=...".
var version = "devel"

func main() {
	c, err := parse(os.Args[1:], os.Getenv)
	switch {
	case err == errHelp:
		fmt.Print(usage())
		return
	case err != nil:
		exit(2, fmt.Errorf("%w (-h lists the flags)", err))
	case c.version:
		fmt.Println("flytftp", version)
		return
	case c.healthcheck:
		err = healthcheck(c.listen, checkTime, checkPace)
	default:
		err = run(c, newJournal(os.Stderr))
	}
	if err != nil {
		exit(1, err)
	}
}

func exit(status int, err error) {
	fmt.Fprintln(os.Stderr, "flytftp:", err)
	os.Exit(status)
}

// run serves until SIGINT or SIGTERM. A step that fails leaves nothing half started.
func run(c *config, log *journal) error {
	defer log.close()

	// A log whose reader has gone must not end the server.
	signal.Ignore(syscall.SIGPIPE)

	// The folder comes before the ports: a wrong path is the commonest mistake.
	files, err := folder.Open(c.root)
	if err != nil {
		return err
	}
	defer files.Close()

	// The ports come while the process may still be root: ports below 1024 need it.
	c.limits.Sockets = takeProcessors()
	c.limits.Observer = log
	server, err := bind(log, c.listen, c.limits)
	if err != nil {
		return err
	}

	// The page for health and metrics, too, and what tells of the process: the fences shut both
	// ways.
	var pages *status.Server
	if c.http != "" {
		if pages, err = bindHTTP(c.http); err != nil {
			return err
		}
	}
	process := status.OpenProcess()

	// Nothing after the bind needs root, and no datagram has been read yet.
	report, err := sandbox.DropPrivileges(c.user)
	if err != nil {
		return err
	}
	log.printf("%s", report)

	// The folder is tried again: the new user may be unable to read what root could.
	if err := files.Readable(); err != nil {
		return err
	}

	// The fences come last: they forbid what the steps above did.
	reports, err := sandbox.Fence(files.Root())
	if err != nil {
		return err
	}
	for _, report := range reports {
		log.printf("%s", report)
	}

	// The folder is tried once more: the fences may stand in the way of the mount that it is on.
	if err := files.StillReadable(); err != nil {
		return err
	}

	// Signals are caught before the line that supervisors wait for. Until here the default action
	// holds: a signal ends the process at once.
	stop, others := make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	signal.Notify(others, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)

	go endIfWedged(log, server)
	if pages != nil {
		answerHTTP(pages, &health{server: server, folder: files}, &metrics{&log.counts, server, process, c.limits.MaxTransfers})
		log.printf("status http=%v", pages.Addr())
	}
	announce(log, server, c)
	h := &handler{folder: files, allow: c.allow, log: log, own: ownAddrs(server.Addrs())}
	return serve(server, h, c.grace, stop, others)
}

// answerHTTP begins to answer health checks and scrapes.
func answerHTTP(pages *status.Server, h *health, m *metrics) {
	go pages.Serve([]status.Page{{Path: "/healthz", Get: h.alive}, {Path: "/readyz", Get: h.ready}, {Path: "/metrics", Get: m.page}})
}

// endIfWedged ends the process once a loop of the server stands still: nothing outside would. What
// waits for that loop waits for ever, so no step of a stop is tried.
func endIfWedged(log *journal, server *singleport.Server) {
	log.wedged(<-server.Wedged())
	os.Exit(1)
}

// announce writes that the server serves, and how.
func announce(log *journal, server *singleport.Server, c *config) {
	reportSendBuffer(log, server.SendRoom())
	log.printf("serving listen=%s root=%+q max-blksize=%d max-windowsize=%d ahead=%d max-transfers=%d rate=%d version=%+q",
		joinAddrs(server.Addrs()), c.root, c.limits.MaxBlockSize, c.limits.MaxWindowSize, c.limits.Ahead, c.limits.MaxTransfers, c.limits.Rate, version)
}

// serve answers requests until the first signal of stop, or until the folder is not the one any
// more that its path leads to: the fences keep the process from opening another. Then running
// transfers have the time of grace, which the next signal ends. Signals of others only leave a
// line.
func serve(server *singleport.Server, h *handler, grace time.Duration, stop, others <-chan os.Signal) error {
	ended := make(chan error, 1)
	go func() {
		ended <- server.Serve(func(t *singleport.Transfer) (singleport.File, error) { return h.answer(t) })
	}()
	lost := watch(h.folder)
	go watchDisk(server.Hanging, h.log)
	var failure error
	for stopping := false; !stopping; {
		select {
		case err := <-ended:
			return err
		case failure = <-lost:
			h.log.printf("folder lost why=%+q", failure.Error())
			stopping = true
		case <-stop:
			stopping = true
		case s := <-others:
			h.log.printf("ignored signal=%+q why=%+q", s.String(), "there is nothing to read again: files are opened for each request")
		}
	}
	h.log.printf("stopping transfers=%d grace=%v", server.Active(), grace)
	left, cancel := context.WithTimeout(context.Background(), grace)
	go func() {
		<-stop
		cancel()
	}()
	server.Shutdown(left)
	err := <-ended
	h.log.printf("stopped")
	if err == nil {
		err = failure
	}
	return err
}

// watchPace lies between two looks at the path of the folder.
const watchPace = 2 * time.Second

// watch returns a channel that receives why the folder is lost.
func watch(files *folder.Folder) <-chan error {
	lost := make(chan error, 1)
	go func() {
		for {
			time.Sleep(watchPace)
			if err := files.Lost(); err != nil {
				lost <- err
				return
			}
		}
	}()
	return lost
}

// watchDisk writes a line when files begin to hang, and another when none does any more: the lines
// of their clients are many, and do not say what to do.
func watchDisk(hanging func() int, log *journal) {
	for hung := false; ; time.Sleep(watchPace) {
		count := hanging()
		switch {
		case !hung && count > 0:
			log.printf("disk hangs operations=%d why=%+q", count,
				"a disk or mount below -root does not answer: see the kernel's log; other files go on")
		case hung && count == 0:
			log.printf("disk answers operations=0")
		}
		hung = count > 0
	}
}
