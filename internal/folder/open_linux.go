package folder

import "syscall"

// openFlags open a file to read it. Without O_NONBLOCK, opening a FIFO or a device would wait for
// its other end. Without O_LARGEFILE, which os.Root does not set, files of 2 GiB and more cannot be
// opened on 32-bit systems.
const openFlags = syscall.O_RDONLY | syscall.O_NONBLOCK | syscall.O_LARGEFILE
