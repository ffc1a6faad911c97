package status

import "syscall"

// accept takes a connection, in the one call that the fences of the process leave for that.
func accept(fd int) (int, error) {
	accepted, _, err := syscall.Accept4(fd, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
	return accepted, err
}
