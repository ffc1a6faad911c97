//go:build !linux

package folder

import "syscall"

// openFlags open a file to read it. Without O_NONBLOCK, opening a FIFO or a device would wait for
// its other end.
const openFlags = syscall.O_RDONLY | syscall.O_NONBLOCK
