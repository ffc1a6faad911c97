//go:build !linux

package folder

import "syscall"

// openFlags open a file to read it. Without O_NONBLOCK, opening a FIFO or a device would wait for
// its other end.
const openFlags = syscall.O_RDONLY | syscall.O_NONBLOCK

// The times of modification and of change of a file.
func modified(s *syscall.Stat_t) syscall.Timespec { return s.Mtimespec }
func changed(s *syscall.Stat_t) syscall.Timespec  { return s.Ctimespec }
