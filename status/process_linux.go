package status

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// cpuSeconds returns the CPU time of the process. The fences leave clock_gettime, but not
// getrusage.
func cpuSeconds() float64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return -1
	}
	return float64(t.Nano()) / 1e9
}

// countFiles returns how many descriptors below room are open.
func countFiles(room int) (open int) {
	var status syscall.Stat_t
	for fd := range room {
		if syscall.Fstat(fd, &status) != syscall.EBADF {
			open++
		}
	}
	return open
}
