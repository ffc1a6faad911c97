package status

import (
	"bytes"
	"os"
	"sync"
	"syscall"
	"time"
)

// Process tells what this process uses. It is opened before the fences of the process shut the way
// to what the kernel says of that.
type Process struct {
	began    time.Time
	maxFiles uint64
	status   *os.File // what the kernel says of the process, nil if that cannot be read

	mu     sync.Mutex
	usage  Usage
	usedAt time.Time
}

// usageTime is how long a Usage is told again: to count descriptors costs a system call for each.
const usageTime = time.Second

// OpenProcess returns the process, which began just now.
func OpenProcess() *Process {
	p := &Process{began: time.Now()}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		p.maxFiles = uint64(limit.Cur)
	}
	p.status, _ = os.Open("/proc/self/status")
	return p
}

// Usage is what a process uses. What is not known is negative.
type Usage struct {
	StartTime float64 // seconds since 1970
	CPU       float64 // seconds, of user and system
	Resident  float64 // bytes of memory
	OpenFiles float64
	MaxFiles  float64
}

// Usage returns what the process uses, or used a moment ago.
func (p *Process) Usage() Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.usedAt) >= usageTime {
		p.usage, p.usedAt = p.look(), now
	}
	return p.usage
}

func (p *Process) look() Usage {
	u := Usage{StartTime: float64(p.began.UnixMilli()) / 1e3, CPU: cpuSeconds(), Resident: -1, OpenFiles: -1, MaxFiles: float64(p.maxFiles)}
	var buffer [4096]byte
	if p.status == nil {
		return u
	}
	n, _ := p.status.ReadAt(buffer[:], 0)
	text := buffer[:n]
	if resident := numberOf(text, "\nVmRSS:"); resident >= 0 {
		u.Resident = float64(resident) * 1024
	}
	// The kernel gives a process its lowest free descriptor, and says how many it has room for.
	if room := numberOf(text, "\nFDSize:"); room >= 0 {
		u.OpenFiles = float64(countFiles(room))
	}
	return u
}

// numberOf returns the number behind a name; negative if there is none.
func numberOf(text []byte, name string) int {
	_, after, found := bytes.Cut(text, []byte(name))
	if !found {
		return -1
	}
	n := 0
	for _, c := range bytes.TrimLeft(after, " \t") {
		if c < '0' || '9' < c {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}
