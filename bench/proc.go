package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startLimit   = 5 * time.Second        // for a server to answer its first request
	memorySample = 100 * time.Millisecond // between looks at the children of a server that forks
)

// process is a running server.
type process struct {
	addr   netip.AddrPort
	cmd    *exec.Cmd
	exited chan struct{}
	output string // file with the server's standard output and error
	forks  bool
	perf   int           // counter of a server that forks, or -1
	stop   chan struct{} // ends the memory sampler
	peak   atomic.Int64  // bytes, of all children together
}

// startProcess runs argv as a server and waits until it answers. addr is where it will listen; if
// it is zero, the address is read from the server's output. The server runs on the CPU cpu alone
// unless that is negative.
func startProcess(argv []string, addr netip.AddrPort, forks bool, cpu int) (*process, error) {
	output, err := os.CreateTemp("", "flytftp-bench-output-")
	if err != nil {
		return nil, err
	}
	defer output.Close()
	p := &process{addr: addr, exited: make(chan struct{}), output: output.Name(), forks: forks, perf: -1, stop: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := startOn(p.cmd, cpu); err != nil {
		os.Remove(p.output)
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	if err := p.ready(); err != nil {
		p.kill()
		return nil, err
	}
	if forks {
		p.perf = openTaskClock(p.cmd.Process.Pid)
		go p.sampleChildren()
	}
	return p, nil
}

// startOn starts cmd, which inherits the affinity of the thread that starts it.
func startOn(cmd *exec.Cmd, cpu int) error {
	if cpu < 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	only.Set(cpu)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	defer unix.SchedSetaffinity(0, &before)
	return cmd.Start()
}

var boundAddress = regexp.MustCompile(`127\.0\.0\.1:[1-9][0-9]*`)

// ready waits until the server answers.
func (p *process) ready() error {
	deadline := time.Now().Add(startLimit)
	for !p.addr.IsValid() {
		text, err := os.ReadFile(p.output)
		if err != nil {
			return err
		}
		if found := boundAddress.Find(text); found != nil {
			if p.addr, err = netip.ParseAddrPort(string(found)); err != nil {
				return err
			}
			break
		}
		select {
		case <-p.exited:
			return errors.New("it ended: " + p.lastLine())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.New("it named no address")
		}
	}
	return firstAnswer(p.addr, readyFile, deadline, p.exited)
}

// firstAnswer asks for the one-block file name until it is sent.
func firstAnswer(server netip.AddrPort, name string, deadline time.Time, exited <-chan struct{}) error {
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	// An unconnected socket hears of a closed port only with this option.
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1) })
	if err != nil {
		return err
	}
	request := []byte("\x00\x01" + name + "\x00octet\x00")
	buffer := make([]byte, 1024)
	for time.Now().Before(deadline) {
		select {
		case <-exited:
			return errors.New("it ended")
		default:
		}
		conn.WriteToUDPAddrPort(request, server)
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, syscall.ECONNREFUSED) {
			time.Sleep(500 * time.Microsecond)
		}
		if err != nil {
			continue
		}
		if n < 4 || buffer[1] != opData {
			return fmt.Errorf("it answered %q", buffer[:n])
		}
		conn.WriteToUDPAddrPort([]byte{0, opAck, 0, 1}, from)
		return nil
	}
	return errors.New("it did not answer")
}

// lastLine returns the end of what the server wrote.
func (p *process) lastLine() string {
	text, _ := os.ReadFile(p.output)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// kill ends the server and its children and waits for it.
func (p *process) kill() {
	unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	<-p.exited
	close(p.stop)
	if p.perf >= 0 {
		unix.Close(p.perf)
	}
	os.Remove(p.output)
}

// alive reports whether the server still runs.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// cpu returns the user and system time of the server, including all threads and children, also
// those that have ended.
func (p *process) cpu() (time.Duration, error) {
	if p.forks {
		var value [8]byte
		if p.perf < 0 {
			return 0, errors.New("no perf counter for the children")
		}
		if _, err := unix.Read(p.perf, value[:]); err != nil {
			return 0, err
		}
		return time.Duration(binary.NativeEndian.Uint64(value[:])), nil
	}
	// The CPU clock of another process: clock_getcpuclockid(3).
	const scheduled = 2 // CPUCLOCK_SCHED
	var spent unix.Timespec
	err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|scheduled), &spent)
	return time.Duration(spent.Nano()), err
}

// openTaskClock returns a counter of the CPU time of pid and of all children it will have, or -1.
// /proc keeps nothing about the children of a server that ignores SIGCHLD.
func openTaskClock(pid int) int {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK,
		Bits: unix.PerfBitInherit,
	}, pid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1
	}
	return fd
}

// memory returns the peak of resident memory, bytes.
func (p *process) memory() int64 {
	return int64(statusField(p.cmd.Process.Pid, "VmHWM")) + p.peak.Load()
}

// sampleChildren keeps the peak of the memory that the children do not share with the server.
func (p *process) sampleChildren() {
	path := fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid)
	for {
		select {
		case <-p.stop:
			return
		case <-time.After(memorySample):
		}
		children, _ := os.ReadFile(path)
		var sum int64
		for _, pid := range strings.Fields(string(children)) {
			statm, _ := os.ReadFile("/proc/" + pid + "/statm")
			if fields := strings.Fields(string(statm)); len(fields) > 2 {
				resident, _ := strconv.ParseInt(fields[1], 10, 64)
				shared, _ := strconv.ParseInt(fields[2], 10, 64)
				sum += (resident - shared) * int64(os.Getpagesize())
			}
		}
		if sum > p.peak.Load() {
			p.peak.Store(sum)
		}
	}
}

// statusField returns a field of /proc/PID/status in bytes, 0 if it is missing; the file has kB.
func statusField(pid int, name string) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			kB, _ := strconv.Atoi(strings.TrimSuffix(string(bytes.TrimSpace(value)), " kB"))
			return kB << 10
		}
	}
	return 0
}
