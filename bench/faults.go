package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stopTime    = time.Second     // how long the server is stopped
	restartTime = time.Second / 2 // after which it is killed
	starveTime  = time.Second     // how long a server without descriptors is watched
	starvedMost = 25              // percent of a CPU that it may take then
	fewFiles    = 24              // descriptors that it may have; it needs a dozen
	changeAfter = 64 * kiB        // bytes of a file that have arrived when it changes
	changeSize  = 256 * kiB       // bytes of such a file, more than the server has read by then
	changers    = 4               // files that change at a time
	stepTimer   = time.Second     // until get repeats its last datagram
	stepTries   = 8               // of get without progress
	answerTime  = 5 * time.Second // for a server to recover
)

// tftpError is an ERROR that the server sent.
type tftpError struct {
	code uint16
	text string
}

func (e *tftpError) Error() string { return fmt.Sprintf("ERROR %d %q", e.code, e.text) }

var errNoEnd = errors.New("no answer")

// get fetches a file in lock-step without options. When after bytes have arrived, it calls during.
func get(server netip.AddrPort, name string, after int, during func() error) (content []byte, err error) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	datagram := append([]byte{0, opRRQ}, name+"\x00octet\x00"...)
	buffer := make([]byte, 1024)
	block := uint16(1)
	for try := 0; try < stepTries; {
		conn.Write(datagram)
		conn.SetReadDeadline(time.Now().Add(stepTimer))
		n, err := conn.Read(buffer)
		for err == nil && (n < 4 || buffer[1] == opData && binary.BigEndian.Uint16(buffer[2:]) != block) {
			n, err = conn.Read(buffer)
		}
		switch {
		case err != nil:
			try++
			continue
		case buffer[1] == opError:
			text, _, _ := bytes.Cut(buffer[4:n], []byte{0})
			return content, &tftpError{binary.BigEndian.Uint16(buffer[2:]), string(text)}
		}
		try = 0
		content = append(content, buffer[4:n]...)
		if len(content) >= after && during != nil {
			if err := during(); err != nil {
				return nil, err
			}
			during = nil
		}
		datagram = ackOf(block)
		if n < 4+512 {
			conn.Write(datagram)
			return content, nil
		}
		block++
	}
	return content, errNoEnd
}

// fault is a way that a file changes while it is sent, and how transfers of it ended.
type fault struct {
	name   string
	change func(path string, content []byte) error // content is the new one
	right  ending
	// Ends of transfers. Contents that are neither the old file nor the new one are wrong, and so
	// is a whole file that no longer exists.
	old, new, refused, wrong, lost int
}

// ending is how a transfer of a file that changes may end.
type ending int

const (
	either  ending = iota // whole or with an ERROR
	whole                 // whatever happens to the file's name
	refused               // with an ERROR: the rest of the file is gone
)

func (e ending) String() string { return [...]string{"whole or ERROR", "whole", "ERROR"}[e] }

// count takes the results of get. It returns err if this machine is the cause, not the server.
func (f *fault) count(content []byte, err error, old, changed []byte) error {
	var answer *tftpError
	switch {
	case errors.As(err, &answer):
		f.refused++
	case err == errNoEnd:
		f.lost++
	case err != nil:
		return err
	case bytes.Equal(content, old) && f.right != refused:
		f.old++
	case bytes.Equal(content, changed) && f.right != refused:
		f.new++
	default:
		f.wrong++
	}
	return nil
}

func (f *fault) all() int { return f.old + f.new + f.refused + f.wrong + f.lost }

func (f *fault) promise() promise {
	delivered := f.old + f.new
	kept := f.all() > 0 && f.wrong+f.lost == 0 && (f.right != whole || f.refused == 0)
	measured := fmt.Sprintf("%d whole, %d ERRORs of %d", delivered, f.refused, f.all())
	return promise{"a file " + f.name, f.right.String(), measured, kept}
}

func fileFaults() []fault {
	return []fault{
		{name: "replaced by rename", right: whole, change: func(path string, content []byte) error {
			if err := os.WriteFile(path+".new", content, 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
		{name: "removed", right: whole, change: func(path string, _ []byte) error { return os.Remove(path) }},
		{name: "truncated in place", right: refused, change: func(path string, _ []byte) error {
			return os.Truncate(path, changeAfter+1000)
		}},
		{name: "truncated to nothing", right: refused, change: func(path string, _ []byte) error {
			return os.Truncate(path, 0)
		}},
		{name: "written to in place", change: func(path string, content []byte) error {
			return write(path, 0, content)
		}},
		{name: "appended to", change: func(path string, content []byte) error {
			return write(path, os.O_APPEND, content)
		}},
	}
}

// write writes content to the file that is there; flag is of os.OpenFile.
func write(path string, flag int, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|flag, 0)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

// changeFiles changes files while they are sent until ctx is done, at least once in each way.
func (s *soak) changeFiles(ctx context.Context, _ *result) error {
	old, changed := make([]byte, changeSize), make([]byte, changeSize)
	for i := range old {
		old[i], changed[i] = s.files[goodSize][i%goodSize], ^s.files[goodSize][i%goodSize]
	}
	s.faults = fileFaults()
	var mutex sync.Mutex
	var running sync.WaitGroup
	errs := make([]error, changers)
	for n := range changers {
		running.Go(func() {
			for turn := n; errs[n] == nil && (ctx.Err() == nil || turn < n+changers*len(s.faults)); turn++ {
				f := &s.faults[turn%len(s.faults)]
				name := fmt.Sprintf("changing-%d.bin", n)
				path := s.filePath(name)
				// Time stamps may be coarse, so the file's must lie well before the change.
				longAgo := s.began.Add(-time.Hour)
				errs[n] = errors.Join(os.WriteFile(path, old, 0o644), os.Chtimes(path, longAgo, longAgo))
				if errs[n] != nil {
					return
				}
				content, err := get(s.server.addr, name, changeAfter, func() error { return f.change(path, changed) })
				mutex.Lock()
				errs[n] = f.count(content, err, old, changed)
				mutex.Unlock()
				os.Remove(path)
			}
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, f := range s.faults {
		s.promises = append(s.promises, f.promise())
	}
	return nil
}

// closeRoot makes the served folder unreadable for a while.
func (s *soak) closeRoot(ctx context.Context) error {
	s.note("the folder becomes unreadable")
	name := "during.bin"
	content := bytes.Repeat(s.files[goodSize], changeSize/goodSize)
	if err := os.WriteFile(s.filePath(name), content, 0o644); err != nil {
		return err
	}
	var refusal error
	got, err := get(s.server.addr, name, changeAfter, func() error {
		if err := os.Chmod(s.folder, 0); err != nil {
			return err
		}
		_, refusal = get(s.server.addr, fileName(goodSize), 0, nil)
		return nil
	})
	if failed := os.Chmod(s.folder, 0o755); failed != nil {
		return failed
	}
	var answer *tftpError
	s.promise(errors.As(refusal, &answer), "a request while the folder is unreadable", "ERROR", "%v", refusal)
	s.promise(err == nil && bytes.Equal(got, content), "a transfer that had begun before", "whole",
		"%d of %d bytes, error %v", len(got), len(content), err)
	again, err := get(s.server.addr, fileName(goodSize), 0, nil)
	s.promise(err == nil && bytes.Equal(again, s.files[goodSize]), "a request when it is readable again",
		"whole", "%d bytes, error %v", len(again), err)
	if !s.server.alive() {
		return fmt.Errorf("%w: the folder was unreadable: %s", errDied, s.server.lastLine())
	}
	return ctx.Err()
}

// stopAndContinue stops the server's process for a while.
func (s *soak) stopAndContinue(ctx context.Context, _ *result) error {
	wait(ctx, stopTime/2)
	if err := s.signal(unix.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, stopTime)
	return s.signal(unix.SIGCONT)
}

// restart kills the server in the middle of its transfers and starts another on the same port.
func (s *soak) restart(ctx context.Context, _ *result) error {
	wait(ctx, restartTime)
	s.panics += s.countPanics()
	addr := s.server.addr
	s.server.kill()
	listen := s.argv
	if !namespaced() {
		listen = append([]string{}, s.argv...)
		listen[2] = addr.String()
	}
	server, err := startProcess(listen, addr, false, -1)
	if err != nil {
		return err
	}
	s.server = server
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// starve starts a server that has hardly more descriptors than it needs, and asks it for more.
func (s *soak) starve(ctx context.Context) error {
	// A shell sets the limit: this process could not raise its own again, and not every user may
	// set that of another process.
	argv := append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, fewFiles)}, s.argv...)
	argv[3+2] = "127.0.0.1:0"
	server, err := startProcess(argv, netip.AddrPort{}, false, -1)
	if err != nil {
		return err
	}
	defer server.kill()
	if err := s.askTooMany(ctx, server); err != nil {
		return err
	}
	var last error
	for deadline := time.Now().Add(answerTime); ctx.Err() == nil && time.Now().Before(deadline); {
		var content []byte
		content, last = get(server.addr, fileName(goodSize), 0, nil)
		if last == nil && bytes.Equal(content, s.files[goodSize]) {
			break
		}
		wait(ctx, 20*time.Millisecond)
	}
	s.promise(last == nil, "a request when there are descriptors again", "whole", "error %v", last)
	alive := map[bool]string{true: "lives", false: "died"}[server.alive()]
	s.promise(server.alive(), "a server without descriptors", "lives", "%s", alive)
	return ctx.Err()
}

// askTooMany begins transfers that server has no descriptors for, and ends them.
func (s *soak) askTooMany(ctx context.Context, server *process) error {
	to := rawAddr(server.addr)
	buffer := make([]byte, 2048)
	request := rrq(fileName(goodSize), 512, 1)
	var all []*stranger
	defer func() { closeAll(all, &to) }()
	spent, _ := server.cpu()
	began := time.Now()
	begun, busy, other := map[*stranger]bool{}, 0, 0
	for ctx.Err() == nil && time.Since(began) < starveTime {
		h, err := openStranger([4]byte{127, 1, byte(len(all) % goodNetworks), 1})
		if err != nil {
			return err
		}
		all = append(all, h)
		sendTo(h.fd, request, &to)
		time.Sleep(20 * time.Millisecond)
		for _, h := range all {
			switch op, code := h.drain(buffer); {
			case op == opOACK || op == opData:
				if !begun[h] {
					sendTo(h.fd, ackOf(0), &to) // an unconfirmed transfer would make way for others
				}
				begun[h] = true
			case op == opError && code == 0:
				busy++
			case op == opError:
				other++
			}
		}
	}
	spentAfter, _ := server.cpu()
	load := int(100 * (spentAfter - spent) / time.Since(began))
	s.promise(busy > 0 && other == 0, "requests beyond the limit of descriptors", "busy",
		"%d begun, %d busy, %d refused otherwise, of %d", len(begun), busy, other, len(all))
	s.promise(load <= starvedMost, "CPU without descriptors", fmt.Sprintf("≤ %d %%", starvedMost), "%d %%", load)
	return nil
}
