package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// raiseFileLimit allows this process and the servers a socket and a file for each of 1,000 clients.
func raiseFileLimit() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
}

// prepare makes a folder that every server may read and builds the binaries as the image does.
func prepare() (string, error) {
	folder, err := os.MkdirTemp("", "flytftp-bench-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-gcflags=all=-l",
		"-gcflags=flytftp/singleport=", "-o", folder, "flytftp", "flytftp/bench/bare")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=nogreenteagc")
	if output, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(folder)
		return "", fmt.Errorf("build (run the bench in the folder of the module): %w\n%s", err, output)
	}
	return folder, nil
}

// folderVariable passes the folder of prepare to the copy of this program in the network namespace.
const folderVariable = "FLYTFTP_BENCH_FOLDER"

// namespaced reports whether this program has a network of its own, where every port is free.
func namespaced() bool { return os.Getenv(folderVariable) != "" }

// runNamespaced runs this program again in a network namespace of its own.
func runNamespaced(ctx context.Context, folder string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.Env = append(os.Environ(), folderVariable+"="+folder)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errReported
	}
	return err
}

// errReported is an error that the copy of this program has printed.
var errReported = errors.New("reported")

// raiseLoopback sets up loopback in the new network namespace. It also gets an address of RFC 5737:
// in.tftpd does not start where getaddrinfo with AI_ADDRCONFIG finds no address but 127.0.0.1.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, loopback); err != nil {
		return err
	}
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr([]byte{192, 0, 2, 1}); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias)
}
