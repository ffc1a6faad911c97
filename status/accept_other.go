//go:build !linux

package status

import "syscall"

// accept takes a connection.
func accept(fd int) (int, error) {
	accepted, _, err := syscall.Accept(fd)
	if err == nil {
		syscall.CloseOnExec(accepted)
		err = syscall.SetNonblock(accepted, true)
	}
	return accepted, err
}
