package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The slow interface of a server is loopback itself. Its queue holds the datagrams of the server
// alone; those of clients and relays pass by.

const (
	ethernetHeader = 14 // bytes that the queue counts for each IP datagram

	// ownPriority is the handle of the queue, 1:0. tc-htb(8) sends what has it as priority at once.
	ownPriority = 1 << 16
)

// passBy lets the datagrams of a socket pass by the queue of limitEgress.
func passBy(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, ownPriority) }

// limitEgress gives the server's interface a rate in bits a second and a queue that drops nothing,
// until freeEgress. It changes loopback, so it fails outside of the benchmark's network namespace.
func limitEgress(rate int) error {
	if !namespaced() {
		return errors.New("a slow interface needs root, for a network namespace")
	}
	burst := max(rate/8/1000, 3000) // bytes; the kernel may wake up 1 ms late
	for _, args := range []string{
		"qdisc replace dev lo root handle 1: htb default 2",
		"class replace dev lo parent 1: classid 1:2 htb rate 100gbit quantum 60000",
		// htb would pass 64 segments as one datagram, tbf divides them.
		fmt.Sprintf("qdisc replace dev lo parent 1:2 handle 2: tbf rate %dbit burst %d limit 256mb", rate, burst),
	} {
		if output, err := exec.Command("tc", strings.Fields(args)...).CombinedOutput(); err != nil {
			freeEgress()
			return fmt.Errorf("tc %s: %w: %s", args, err, strings.TrimSpace(string(output)))
		}
	}
	return nil
}

// freeEgress ends limitEgress.
func freeEgress() { exec.Command("tc", "qdisc", "delete", "dev", "lo", "root").Run() }

// keepBufferFlag makes this program run another one whose sockets keep the send buffer that they
// have at first, as if net.core.wmem_max were small and the user had no rights. The sysctl itself
// belongs to the whole machine.
const keepBufferFlag = "-keep-send-buffer"

// sendBufferText returns the size of that buffer.
func sendBufferText() string {
	text, _ := os.ReadFile("/proc/sys/net/core/wmem_default")
	size, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return fmt.Sprintf("%d KiB", size/kiB)
}

// runArguments obeys keepBufferFlag. It returns if that is not the first argument.
func runArguments() {
	if len(os.Args) > 2 && os.Args[1] == keepBufferFlag {
		err := execKeepBuffer(os.Args[2:])
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// execKeepBuffer replaces this program with argv. It returns only if that fails.
func execKeepBuffer(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	const ( // offsets of struct seccomp_data, little-endian
		number = 0
		level  = 16 + 1*8
		option = 16 + 2*8
	)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	verdict := func(value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
	}
	filter := []unix.SockFilter{
		load(number), unless(unix.SYS_SETSOCKOPT, 7),
		load(level), unless(unix.SOL_SOCKET, 5),
		load(option), unless(unix.SO_SNDBUFFORCE, 1), verdict(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
		unless(unix.SO_SNDBUF, 1), verdict(unix.SECCOMP_RET_ERRNO), // success, without an effect
		verdict(unix.SECCOMP_RET_ALLOW),
	}
	runtime.LockOSThread() // the filter is one of this thread
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return syscall.Exec(path, argv, syscall.Environ())
}
