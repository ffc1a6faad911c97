package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// again runs a test of this program in another process with a variable.
func again(test, variable string, before ...string) *exec.Cmd {
	argv := append(before, os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), variable)
	return cmd
}

// The server's datagrams wait for the rate of the interface, those of the clients and relays pass
// by.
func TestEgress(t *testing.T) {
	if os.Getenv(folderVariable) == "" {
		if _, err := exec.LookPath("tc"); err != nil || os.Geteuid() != 0 {
			testkit.Skip(t, "no tc, or not root")
		}
		cmd := again("TestEgress", folderVariable+"=none")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		output, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		if strings.Contains(string(output), "--- SKIP") {
			t.Skipf("%s", output)
		}
		return
	}
	const count, size = 300, 1000
	if err := raiseLoopback(); err != nil {
		t.Fatal(err)
	}
	if err := limitEgress(8 * megabit); err != nil {
		testkit.Skip(t, err.Error()) // a kernel without htb or tbf
	}
	receiver, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	receiver.SetReadBuffer(clientBuffer)
	send := func(payload []byte, datagrams int, prepare func(fd int)) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		prepare(fd)
		to := rawAddr(receiver.LocalAddr().(*net.UDPAddr).AddrPort())
		for range datagrams {
			sendTo(fd, payload, &to)
		}
	}
	began := time.Now()
	send(make([]byte, size), count, func(fd int) { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20) })
	send([]byte("fast"), 1, passBy)
	buffer := make([]byte, 2*size)
	fast := -1
	for i := range count + 1 {
		receiver.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := receiver.Read(buffer)
		if err != nil {
			t.Fatalf("after %d datagrams: %v", i, err)
		}
		if n == len("fast") {
			fast = i
		}
	}
	// The queue begins with a burst.
	if least := time.Duration(count*size-3000) * time.Microsecond; time.Since(began) < least {
		t.Errorf("%d bytes took %v, at 8 Mbit/s they take %v", count*size, time.Since(began), least)
	}
	if fast < 0 || fast >= count {
		t.Errorf("the datagram that passes by arrived as number %d of %d", fast, count+1)
	}
	freeEgress()
	if output, err := exec.Command("tc", "qdisc", "show", "dev", "lo").CombinedOutput(); err != nil || strings.Contains(string(output), "tbf") {
		t.Errorf("after freeEgress: %v, %s", err, output)
	}
}

// Without a network namespace of its own the benchmark touches no interface.
func TestEgressNeedsNamespace(t *testing.T) {
	t.Setenv(folderVariable, "")
	if limitEgress(megabit) == nil {
		t.Error("the interface of this machine has a rate")
	}
}

// A program that may not enlarge its send buffer neither gets one nor sees an unusual error.
func TestKeepSendBuffer(t *testing.T) {
	const variable = "FLYTFTP_BENCH_SEND_BUFFER"
	if os.Getenv(variable) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		output, err := again("TestKeepSendBuffer", variable+"=1", self, keepBufferFlag).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		text, err := os.ReadFile("/proc/sys/net/core/wmem_default")
		if err != nil {
			t.Fatal(err)
		}
		if want := "send buffer " + string(text); !strings.Contains(string(output), want) {
			t.Errorf("the program says\n%s, want %q", output, want)
		}
		kept, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		if want := fmt.Sprintf("%d KiB", kept>>10); sendBufferText() != want {
			t.Errorf("sendBufferText() = %q, want %q", sendBufferText(), want)
		}
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != unix.EPERM {
		t.Errorf("SO_SNDBUFFORCE: %v", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<20); err != nil {
		t.Errorf("SO_SNDBUF: %v", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 100_000); err != nil {
		t.Errorf("SO_RCVBUF: %v", err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 7)
	if ttl, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL); err != nil || ttl != 7 {
		t.Errorf("IP_TTL: %d, %v", ttl, err)
	}
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("send buffer", size)
}
