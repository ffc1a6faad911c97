// Command flytftp serves a folder over TFTP: read-only, on one UDP port, for network boot.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"flytftp/sandbox"
	"flytftp/singleport"
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
		err = run(c)
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
func run(c *config) error {
	log := newJournal(os.Stderr)
	defer log.close()

	// A log whose reader has gone must not end the server.
	signal.Ignore(syscall.SIGPIPE)

	// The root comes before the ports: a wrong path is the commonest mistake. From here on the open
	// folder is served, whatever its path comes to name.
	root, err := openRoot(c.root)
	if err != nil {
		return err
	}
	defer root.Close()

	// The ports come while the process may still be root: ports below 1024 need it.
	c.limits.Sockets = takeProcessors()
	c.limits.Observer = log
	server, err := bind(c.listen, c.limits)
	if err != nil {
		return err
	}

	// Nothing after the bind needs root, and no datagram has been read yet.
	report, err := sandbox.DropPrivileges(c.user)
	if err != nil {
		return err
	}
	log.printf("%s", report)

	// The folder is tried again: the new user may be unable to read what root could.
	if err := readable(root); err != nil {
		return err
	}

	// The fences come last: they forbid what the steps above did.
	reports, err := sandbox.Fence(root)
	if err != nil {
		return err
	}
	for _, report := range reports {
		log.printf("%s", report)
	}

	// Signals are caught before the line that supervisors wait for. Until here the default action
	// holds: a signal ends the process at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)

	if room := server.SendRoom(); 0 < room && room < singleport.BufferSize {
		log.printf("send buffer size=%d wanted=%d why=%+q", room, singleport.BufferSize, "net.core.wmem_max is small")
	}
	log.printf("serving listen=%s root=%+q max-blksize=%d max-windowsize=%d ahead=%d max-transfers=%d rate=%d version=%+q",
		joinAddrs(server.Addrs()), c.root, c.limits.MaxBlockSize, c.limits.MaxWindowSize, c.limits.Ahead, c.limits.MaxTransfers, c.limits.Rate, version)
	h := &handler{root: root, allow: c.allow, log: log, own: ownAddrs(server.Addrs())}
	return serve(server, h, c.grace, signals)
}

// openRoot opens the folder that is served. Its errors say what to do.
func openRoot(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if err == nil {
		return root, readable(root)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no folder %+q: create it, or name the folder of the files with -root", path)
	}
	if info, failed := os.Stat(path); failed == nil && !info.IsDir() {
		return nil, fmt.Errorf("%+q is not a folder: name the folder of the files with -root", path)
	}
	return nil, unreadable(path, err)
}

// readable returns an error unless the process may list the folder and look up names in it.
func readable(root *os.Root) error {
	folder, err := root.Open(".")
	if err != nil {
		return unreadable(root.Name(), err)
	}
	return folder.Close()
}

func unreadable(path string, err error) error {
	if in, ok := errors.AsType[*fs.PathError](err); ok {
		err = in.Err
	}
	return fmt.Errorf("user %d cannot read the folder %+q: %w: allow it (chmod -R a+rX) or choose another -user or -root", os.Geteuid(), path, err)
}

// serve answers requests until the first signal. Then running transfers have the time of grace,
// which the second signal ends.
func serve(server *singleport.Server, h *handler, grace time.Duration, signals <-chan os.Signal) error {
	ended := make(chan error, 1)
	go func() {
		ended <- server.Serve(func(t *singleport.Transfer) (singleport.File, error) { return h.answer(t) })
	}()
	select {
	case err := <-ended:
		return err
	case <-signals:
	}
	h.log.printf("stopping transfers=%d grace=%v", server.Active(), grace)
	left, cancel := context.WithTimeout(context.Background(), grace)
	go func() {
		<-signals
		cancel()
	}()
	server.Shutdown(left)
	err := <-ended
	h.log.printf("stopped")
	return err
}
