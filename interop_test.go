package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// way is how a command-line client fetches a file. In its arguments HOST, PORT, ADDR (both, for a URL), NAME and FILE stand for
// what a test fills in, and FAMILY for 4 or 6.
type way struct {
	name  string
	args  []string
	terms string // the options that the log must show, so that the client did ask for them
	large bool   // its blocks are short and its pace is quick: it also fetches more than 65,535 of them
	flaw  string // what it prints when it gives up a transfer that it could finish
}

// secondOACK is what atftp 0.8.0 says of an OACK that was repeated, be it by the network or because its ACK was lost.
const secondOACK = "unexpected OACK"

var ways = []way{
	{"atftp", []string{"atftp", "--get", "--remote-file", "NAME", "--local-file", "FILE", "HOST", "PORT"},
		"blksize=512 windowsize=1", false, ""},
	{"atftp windowsize", []string{"atftp", "--option", "windowsize 64", "--get", "--remote-file", "NAME", "--local-file", "FILE", "HOST", "PORT"},
		"blksize=512 windowsize=64", true, secondOACK},
	{"atftp all options", []string{"atftp", "--option", "tsize 0", "--option", "blksize 1428", "--option", "windowsize 4", "--option", "timeout 3",
		"--get", "--remote-file", "NAME", "--local-file", "FILE", "HOST", "PORT"},
		"blksize=1428 windowsize=4", false, secondOACK},
	{"tftp-hpa", []string{"tftp", "-FAMILY", "-m", "binary", "HOST", "PORT", "-c", "get", "NAME", "FILE"},
		"blksize=512 windowsize=1", true, ""},
	{"busybox", []string{"busybox", "tftp", "-g", "-r", "NAME", "-l", "FILE", "HOST", "PORT"},
		"blksize=512 windowsize=1", false, ""},
	{"busybox -b", []string{"busybox", "tftp", "-b", "1428", "-g", "-r", "NAME", "-l", "FILE", "HOST", "PORT"},
		"blksize=1428 windowsize=1", false, ""},
	{"curl", []string{"curl", "-sS", "-o", "FILE", "tftp://ADDR/NAME"},
		"blksize=512 windowsize=1", false, ""},
	{"curl --tftp-no-options", []string{"curl", "-sS", "--tftp-no-options", "-o", "FILE", "tftp://ADDR/NAME"},
		"blksize=512 windowsize=1", true, ""},
	{"curl --tftp-blksize", []string{"curl", "-sS", "--tftp-blksize", "1468", "-o", "FILE", "tftp://ADDR/NAME"},
		"blksize=1468 windowsize=1", false, ""},
}

// fill puts what a test has into the arguments of a client.
func fill(args []string, addr, name, file string) []string {
	host, port, _ := net.SplitHostPort(addr)
	family := "4"
	if strings.Contains(host, ":") {
		family = "6"
	}
	filler := strings.NewReplacer("HOST", host, "PORT", port, "ADDR", addr, "NAME", name, "FILE", file, "FAMILY", family)
	filled := make([]string, len(args))
	for i, arg := range args {
		filled[i] = filler.Replace(arg)
	}
	return filled
}

// runClient runs a client to its end and returns all that it printed. Clients that hang end with the context of the test.
func runClient(ctx context.Context, input string, args ...string) (shown string, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); ended && ctx.Err() == nil {
		err = nil
	}
	return string(out), cmd.ProcessState.ExitCode(), err
}

// fetch lets the client fetch a file and compares it.
func (w way) fetch(ctx context.Context, addr, name, file string, want []byte) error {
	shown, status, err := runClient(ctx, "", fill(w.args, addr, name, file)...)
	if err != nil || status != 0 {
		return fmt.Errorf("%s: status %d, %v: %s", name, status, err, shown)
	}
	got, err := os.ReadFile(file)
	if os.IsNotExist(err) && len(want) == 0 {
		return nil // curl makes no file of nothing
	}
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%d bytes that are not the file's %d", len(got), len(want))
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, shown)
	}
	return nil
}

// needClient skips a test whose client is not installed.
func needClient(t *testing.T, args []string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		testkit.Skip(t, args[0]+" is not installed")
	}
}

// eachFamily runs a test over IPv4 and over IPv6.
func eachFamily(t *testing.T, run func(t *testing.T, host string)) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			conn, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil {
				testkit.Skip(t, err.Error())
			}
			conn.Close()
			run(t, host)
		})
	}
}

// Every client fetches files of every size at which a block begins or ends, byte for byte.
func TestClients(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	files := map[string][]byte{}
	for _, size := range []int{0, 1, 511, 512, 513, 1427, 1428, 1429, 1467, 1468, 1469, 16 * 1428, 16 * 1468, 3<<20 + 1} {
		name := fmt.Sprintf("%d.img", size)
		files[name] = testkit.Pattern(size)
		testkit.WriteFile(t, folder+"/"+name, files[name])
	}
	large := testkit.Pattern(65_537*512 + 1) // 34 MB, 65,538 blocks
	testkit.WriteFile(t, folder+"/large.img", large)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			needClient(t, w.args)
			eachFamily(t, func(t *testing.T, host string) {
				d := start(t, folder, "-listen", net.JoinHostPort(host, "0"))
				file := filepath.Join(t.TempDir(), "fetched")
				fetch := func(name string, want []byte) {
					os.Remove(file)
					if err := w.fetch(t.Context(), d.addr, name, file, want); err != nil {
						t.Error(err)
						return
					}
					line := d.waitFor(`sent file="` + name + `"`)
					if !strings.Contains(line, fmt.Sprintf(" bytes=%d %s ", len(want), w.terms)) {
						t.Errorf("not with %s: %s", w.terms, line)
					}
				}
				for name, want := range files {
					fetch(name, want)
				}
				if w.large && host == "127.0.0.1" {
					fetch("large.img", large)
				}
			})
		})
	}
}

// In netascii the file arrives with the line ends of the client's system, and that is the file again here. curl converts nothing:
// it shows what was on the wire.
func TestClientsNetASCII(t *testing.T) {
	t.Parallel()
	content := testkit.Pattern(10_000)
	for i, b := range content {
		content[i] = "\n\r\x00\xffab"[b%6] // every pair of them, also where a block ends
	}
	onWire := strings.NewReplacer("\n", "\r\n", "\r", "\r\x00").Replace(string(content))
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", content)
	for _, c := range []struct {
		way
		want []byte
	}{
		{way{name: "atftp", args: []string{"atftp", "--option", "mode netascii", "--get", "--remote-file", "NAME", "--local-file", "FILE", "HOST", "PORT"}}, content},
		{way{name: "tftp-hpa", args: []string{"tftp", "-FAMILY", "-m", "ascii", "HOST", "PORT", "-c", "get", "NAME", "FILE"}}, content},
		{way{name: "curl", args: []string{"curl", "-sS", "--use-ascii", "-o", "FILE", "tftp://ADDR/NAME"}}, []byte(onWire)},
		{way{name: "curl mode", args: []string{"curl", "-sS", "--tftp-blksize", "1024", "-o", "FILE", "tftp://ADDR/NAME;mode=netascii"}}, []byte(onWire)},
	} {
		t.Run(c.name, func(t *testing.T) {
			needClient(t, c.args)
			eachFamily(t, func(t *testing.T, host string) {
				d := start(t, folder, "-listen", net.JoinHostPort(host, "0"))
				if err := c.fetch(t.Context(), d.addr, "a.txt", filepath.Join(t.TempDir(), "fetched"), c.want); err != nil {
					t.Error(err)
				}
				d.waitFor(`sent file="a.txt"`)
			})
		})
	}
}

// tftp-hpa asks for every file of its session from one port, and acknowledges an ERROR before the next request.
func TestClientSession(t *testing.T) {
	t.Parallel()
	needClient(t, []string{"tftp"})
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(5000)
	testkit.WriteFile(t, folder+"/a.img", content)
	testkit.WriteFile(t, folder+"/b.txt", []byte("a\nb\n"))
	eachFamily(t, func(t *testing.T, host string) {
		d := start(t, folder, "-listen", net.JoinHostPort(host, "0"))
		local := t.TempDir()
		_, port, _ := net.SplitHostPort(d.addr)
		shown, status, err := runClient(t.Context(), strings.ReplaceAll(`binary
get a.img LOCAL/1
get absent.img LOCAL/2
get a.key LOCAL/3
get a.img LOCAL/4
ascii
get b.txt LOCAL/5
get a.img LOCAL/6
quit
`, "LOCAL", local), "tftp", host, port)
		if err != nil || status != 0 || !strings.Contains(shown, "Error code 1: File not found\n") || !strings.Contains(shown, "Error code 2: Access violation\n") {
			t.Errorf("status %d, %v: %s", status, err, shown)
		}
		for name, want := range map[string][]byte{"1": content, "2": nil, "3": nil, "4": content, "5": []byte("a\nb\n"), "6": content} {
			if got, err := os.ReadFile(filepath.Join(local, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		events, clients := map[string]int{}, map[string]bool{}
		for range 6 { // in any order: the goroutine of a transfer may log after the next request's
			line := d.waitFor("")
			event, _, _ := strings.Cut(line, " file=")
			events[event]++
			clients[field(line, "client")] = true
		}
		if events["sent"] != 4 || events["not found"] != 1 || events["denied"] != 1 || len(clients) != 1 {
			t.Errorf("%v from %v", events, clients)
		}
	})
}

// What each client shows of a refusal, and that it ends at once.
func TestClientsRefused(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.key", []byte("key"))
	local := t.TempDir()
	upload := filepath.Join(local, "upload")
	testkit.WriteFile(t, upload, []byte("upload"))
	// curl tells the two apart by its exit status; its message is lost where it then asks for the address of the client.
	for _, c := range []struct {
		name            string
		get, put        []string
		shown           string // CODE and TEXT are the ERROR's
		absent, refused int    // exit statuses
	}{
		{name: "atftp", get: ways[0].args,
			put:   []string{"atftp", "--put", "--remote-file", "NAME", "--local-file", "FILE", "HOST", "PORT"},
			shown: "tftp: error received from server <TEXT>\n", absent: 255, refused: 255},
		{name: "tftp-hpa", get: []string{"tftp", "-m", "binary", "HOST", "PORT", "-c", "get", "NAME", "FILE"},
			put:   []string{"tftp", "-m", "binary", "HOST", "PORT", "-c", "put", "FILE", "NAME"},
			shown: "Error code CODE: TEXT\n", absent: 0, refused: 0},
		{name: "busybox", get: []string{"busybox", "tftp", "-g", "-r", "NAME", "-l", "FILE", "HOST", "PORT"},
			put:   []string{"busybox", "tftp", "-p", "-r", "NAME", "-l", "FILE", "HOST", "PORT"},
			shown: "tftp: server error: (CODE) TEXT\n", absent: 1, refused: 1},
		{name: "curl", get: []string{"curl", "-sS", "-o", "FILE", "tftp://ADDR/NAME"},
			put:   []string{"curl", "-sS", "-T", "FILE", "tftp://ADDR/NAME"},
			shown: "", absent: 68, refused: 69},
	} {
		t.Run(c.name, func(t *testing.T) {
			needClient(t, c.get)
			eachFamily(t, func(t *testing.T, host string) {
				d := start(t, folder, "-listen", net.JoinHostPort(host, "0"))
				fetched := filepath.Join(t.TempDir(), "fetched")
				for _, request := range []struct {
					args       []string
					name, file string
					code, text string
					status     int
					line       string
				}{
					{c.get, "absent.img", fetched, "1", "File not found", c.absent, "not found"},
					{c.get, "a.key", fetched, "2", "Access violation", c.refused, "denied"},
					{c.get, "absent.key", fetched, "2", "Access violation", c.refused, "denied"},
					{c.put, "new.img", upload, "2", "Access violation", c.refused, "denied"},
				} {
					shown, status, err := runClient(t.Context(), "", fill(request.args, d.addr, request.name, request.file)...)
					want := strings.NewReplacer("CODE", request.code, "TEXT", request.text).Replace(c.shown)
					if err != nil || status != request.status || !strings.Contains(shown, want) {
						t.Errorf("%q: status %d, %v, %q; want %d, %q", request.args, status, err, shown, request.status, want)
					}
					d.waitFor(request.line + ` file="` + request.name + `" client=`)
				}
				if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
					t.Errorf("the folder has now %v %v", left, err)
				}
			})
		})
	}
}

// relay passes datagrams between clients and a server, and loses, repeats and holds back some of both directions. What
// becomes of the datagrams of a client depends on seed and their order alone.
func relay(t *testing.T, server string, seed uint64) (addr string) {
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	testkit.Must(t, err)
	var running sync.WaitGroup
	flows := map[string]net.Conn{}
	t.Cleanup(func() {
		front.Close()
		running.Wait()
	})
	running.Go(func() {
		defer func() {
			for _, flow := range flows {
				flow.Close()
			}
		}()
		up := &link{dice: rand.New(rand.NewPCG(seed, 0))}
		b := make([]byte, 65536)
		for {
			n, client, err := front.ReadFrom(b)
			if err != nil {
				return
			}
			flow := flows[client.String()]
			if flow == nil {
				if flow, err = net.Dial("udp", server); err != nil {
					t.Error(err)
					return
				}
				flows[client.String()] = flow
				running.Go(func() {
					down := &link{dice: rand.New(rand.NewPCG(seed, 1))}
					b := make([]byte, 65536)
					for {
						n, err := flow.Read(b)
						if errors.Is(err, net.ErrClosed) {
							return
						}
						if err == nil {
							down.pass(b[:n], func(datagram []byte) { front.WriteTo(datagram, client) })
						}
					}
				})
			}
			up.pass(b[:n], func(datagram []byte) { flow.Write(datagram) })
		}
	})
	return front.LocalAddr().String()
}

// link is one direction of a relay. It never fails twice in a row: an unconfirmed client is sent three first answers, and if all
// came to nothing the transfer would rightly end.
type link struct {
	dice   *rand.Rand
	failed bool
	held   []byte // overtaken by the next
}

func (l *link) pass(datagram []byte, send func([]byte)) {
	n, held := l.dice.IntN(100), l.held
	if l.failed {
		n += 20
	}
	l.failed, l.held = n < 15, nil
	switch {
	case n < 10: // lost
	case n < 15:
		l.held = bytes.Clone(datagram)
	case n < 20:
		send(datagram)
		send(datagram)
	default:
		send(datagram)
	}
	if held != nil {
		send(held)
	}
}

// Every client fetches a file over a network that loses, repeats and reorders datagrams. All run at once: they wait most of the
// time, for their own timers (a lost request costs 5 s) and the server's.
func TestClientsLossy(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(20_000)
	testkit.WriteFile(t, folder+"/a.img", content)
	local := t.TempDir()
	d := start(t, folder)
	const runs = 4
	results := make([]chan error, len(ways))
	for i, w := range ways {
		results[i] = make(chan error, runs)
		if _, err := exec.LookPath(w.args[0]); err != nil {
			continue
		}
		for run := range runs {
			var addrs []string
			for try := range 5 {
				addrs = append(addrs, relay(t, d.addr, uint64((i*runs+run)*5+try)))
			}
			go func() {
				var err error
				for try, addr := range addrs {
					err = w.fetch(t.Context(), addr, "a.img", fmt.Sprintf("%s/%d-%d-%d", local, i, run, try), content)
					if err == nil || w.flaw == "" || !strings.Contains(err.Error(), w.flaw) {
						break
					}
				}
				results[i] <- err
			}()
		}
	}
	for i, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			needClient(t, w.args)
			for range runs {
				if err := <-results[i]; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// step is a datagram that a client sends, and those that it gets. After a step without answers, anything that comes shows as a
// wrong answer to the next.
type step struct {
	send    string
	answers []string
}

func says(send string, answers ...string) step { return step{send, answers} }

// quickest is the shortest time that the server waits before it repeats something (minTimeout of package singleport).
const quickest = 100 * time.Millisecond

// plays sends each datagram once and compares every answer. A last request shows that nothing else was under way. The machine may
// be slow: what the server's timer can have repeated meanwhile is no fault.
func (c *client) plays(what string, steps ...step) {
	c.t.Helper()
	steps = append(steps, says(rrq("absent.txt", "octet"), notFound))
	asked := map[string]time.Time{} // when the step began that a datagram first answered
	b := make([]byte, 65536)
	for i, s := range steps {
		began := time.Now()
		c.conn.Write([]byte(s.send))
		for j := 0; j < len(s.answers); {
			c.conn.SetReadDeadline(time.Now().Add(patience))
			n, err := c.conn.Read(b)
			if err != nil {
				c.t.Fatalf("%s: step %d, %q: no answer %d: %v", what, i+1, s.send, j+1, err)
			}
			got := string(b[:n])
			first, again := asked[got]
			if got == s.answers[j] {
				asked[got] = began
				j++
			} else if !again || time.Since(first) < quickest {
				c.t.Fatalf("%s: step %d, %q: answer %d is %.99q, want %.99q", what, i+1, s.send, j+1, got, s.answers[j])
			}
		}
	}
}

func data(block uint16, content []byte) string {
	return string(binary.BigEndian.AppendUint16([]byte{0, 3}, block)) + string(content)
}

const notFound = "\x00\x05\x00\x01File not found\x00"

// The boot programs of firmware, as they were captured: what they send, datagram by datagram, and the exact answers.
func TestFirmware(t *testing.T) {
	folder := testkit.PublicFolder(t)
	const script = "#!ipxe\nshell\n"
	efi, kernel := testkit.Pattern(5*1468), testkit.Pattern(11*1468+700)
	block := func(content []byte, size, number int) string {
		from := (number - 1) * size
		return data(uint16(number), content[from:min(from+size, len(content))])
	}
	for name, content := range map[string]string{
		"boot.ipxe": script, "empty.ipxe": "", "snp.efi": string(efi), "kernel.img": string(kernel),
		"grub/grub.cfg": "outer\n", "boot/grub/grub.cfg": "inner\n", "ldlinux.c32": "C32", "Boot/BCD": "bcd", "a.img": string(testkit.Pattern(700)),
	} {
		testkit.WriteFile(t, folder+"/"+name, []byte(content))
	}
	var search []step
	for _, name := range []string{"b8945908-d6a6-41a9-611d-74a6ab80b83d", "01-88-99-aa-bb-cc-dd",
		"C0A8025B", "C0A8025", "C0A802", "C0A80", "C0A8", "C0A", "C0", "C", "default"} {
		search = append(search, says(rrq("pxelinux.cfg/"+name, "octet", "tsize", "0", "blksize", "1408"), notFound))
	}
	for _, c := range []struct {
		what  string
		line  string // of the log, up to the client
		end   string // of the same line, from its bytes on
		steps []step
	}{
		{"iPXE", `sent file="boot.ipxe"`, "bytes=13 blksize=1432 windowsize=1 ", []step{
			says(rrq("boot.ipxe", "octet", "blksize", "1432", "tsize", "0"), "\x00\x06blksize\x001432\x00tsize\x0013\x00"),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\nshell\n"),
			says(ack(1)),
		}},
		{"iPXE, a block that is full", `sent file="snp.efi"`, "bytes=7340 blksize=1432 windowsize=1 ", []step{
			says(rrq("/snp.efi", "octet", "blksize", "1432", "tsize", "0"), "\x00\x06blksize\x001432\x00tsize\x007340\x00"),
			says(ack(0), block(efi, 1432, 1)),
			says(ack(1), block(efi, 1432, 2)),
			says(ack(2), block(efi, 1432, 3)),
			says(ack(3), block(efi, 1432, 4)),
			says(ack(4), block(efi, 1432, 5)),
			says(ack(5), block(efi, 1432, 6)),
			says(ack(6)),
		}},
		{"EDK2 asks for the size", `failed file="snp.efi"`, `why="the client sent ERROR 8 \"User aborted the transfer\""`, []step{
			says(rrq("snp.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"), "\x00\x06tsize\x007340\x00blksize\x001468\x00windowsize\x004\x00"),
			says("\x00\x05\x00\x08User aborted the transfer\x00"),
		}},
		{"EDK2 fetches", `sent file="snp.efi"`, "bytes=7340 blksize=1468 windowsize=4 ", []step{
			says(rrq("snp.efi", "octet", "blksize", "1468", "windowsize", "4"), "\x00\x06blksize\x001468\x00windowsize\x004\x00"),
			says(ack(0), block(efi, 1468, 1), block(efi, 1468, 2), block(efi, 1468, 3), block(efi, 1468, 4)),
			says(ack(4), block(efi, 1468, 5), "\x00\x03\x00\x06"),
			says(ack(6)),
		}},
		{"U-Boot, the third block of a window is lost", `sent file="kernel.img"`, "bytes=16848 blksize=1468 windowsize=8 ", []step{
			says(rrq("kernel.img", "octet", "timeout", "5", "tsize", "0", "blksize", "1468", "windowsize", "8"),
				"\x00\x06timeout\x005\x00tsize\x0016848\x00blksize\x001468\x00windowsize\x008\x00"),
			says(ack(0), block(kernel, 1468, 1), block(kernel, 1468, 2), block(kernel, 1468, 3), block(kernel, 1468, 4),
				block(kernel, 1468, 5), block(kernel, 1468, 6), block(kernel, 1468, 7), block(kernel, 1468, 8)),
			says(ack(2), block(kernel, 1468, 3), block(kernel, 1468, 4), block(kernel, 1468, 5), block(kernel, 1468, 6),
				block(kernel, 1468, 7), block(kernel, 1468, 8), block(kernel, 1468, 9), block(kernel, 1468, 10)),
			says(ack(10), block(kernel, 1468, 11), block(kernel, 1468, 12)),
			says(ack(12)),
		}},
		{"GRUB", `sent file="boot/grub/grub.cfg"`, "bytes=6 blksize=1024 windowsize=1 ", []step{
			says(rrq("/grub/grub.cfg", "octet", "blksize", "1024", "tsize", "0"), "\x00\x06blksize\x001024\x00tsize\x006\x00"),
			says(ack(0), "\x00\x03\x00\x01outer\n"),
			says(ack(1)),
			says(rrq("/boot/grub/grub.cfg", "octet", "blksize", "1024", "tsize", "0"), "\x00\x06blksize\x001024\x00tsize\x006\x00"),
			says(ack(0), "\x00\x03\x00\x01inner\n"),
			says(ack(1)),
		}},
		{"PXELINUX", `sent file="ldlinux.c32"`, "bytes=3 blksize=1408 windowsize=1 ", append(search,
			says(rrq("ldlinux.c32", "octet", "tsize", "0", "blksize", "1408"), "\x00\x06tsize\x003\x00blksize\x001408\x00"),
			says(ack(0), "\x00\x03\x00\x01C32"),
			says(ack(1)),
		)},
		{"bootmgr", `sent file="Boot/BCD"`, "bytes=3 blksize=1456 windowsize=4 ", []step{
			says(rrq(`\Boot\BCD`, "octet", "tsize", "0", "blksize", "1456", "windowsize", "4"), "\x00\x06tsize\x003\x00blksize\x001456\x00windowsize\x004\x00"),
			says(ack(0), "\x00\x03\x00\x01bcd"),
			says(ack(1)),
		}},
		{"tftp-hpa acknowledges an ERROR", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=1 ", []step{
			says(rrq("absent.img", "octet"), notFound),
			says(ack(1)),
			says(rrq("a.img", "octet"), block(testkit.Pattern(700), 512, 1)),
			says(ack(1), block(testkit.Pattern(700), 512, 2)),
			says(ack(2)),
		}},
		{"option names in upper case", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=2 ", []step{
			says(rrq("a.img", "OCTET", "WINDOWSIZE", "2", "TSize", "0", "BlkSize", "512"), "\x00\x06WINDOWSIZE\x002\x00TSize\x00700\x00BlkSize\x00512\x00"),
			says(ack(0), block(testkit.Pattern(700), 512, 1), block(testkit.Pattern(700), 512, 2)),
			says(ack(2)),
		}},
		{"the smallest blocks", `sent file="boot.ipxe"`, "bytes=13 blksize=8 windowsize=1 ", []step{
			says(rrq("boot.ipxe", "octet", "blksize", "8"), "\x00\x06blksize\x008\x00"),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\ns"),
			says(ack(1), "\x00\x03\x00\x02hell\n"),
			says(ack(2)),
		}},
		{"an ACK is repeated", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=1 ", []step{
			says(rrq("a.img", "octet", "blksize", "512"), "\x00\x06blksize\x00512\x00"),
			says(ack(0), block(testkit.Pattern(700), 512, 1)),
			says(ack(0)),
			says(ack(1), block(testkit.Pattern(700), 512, 2)),
			says(ack(1)),
			says(ack(0)),
			says(ack(7)),
			says(ack(2)),
			says(ack(2)),
		}},
		{"the request is repeated before its OACK arrived", `sent file="boot.ipxe"`, "bytes=13 blksize=1432 windowsize=1 ", []step{
			says(rrq("boot.ipxe", "octet", "blksize", "1432"), "\x00\x06blksize\x001432\x00"),
			says(rrq("boot.ipxe", "octet", "blksize", "1432"), "\x00\x06blksize\x001432\x00"),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\nshell\n"),
			says(ack(1)),
		}},
		{"the request is repeated before its DATA arrived", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=1 ", []step{
			says(rrq("a.img", "octet"), block(testkit.Pattern(700), 512, 1)),
			says(rrq("a.img", "octet"), block(testkit.Pattern(700), 512, 1)),
			says(ack(1), block(testkit.Pattern(700), 512, 2)),
			says(ack(2)),
		}},
		{"a client starts again", `failed file="kernel.img"`, `why="the client began another request"`, []step{
			says(rrq("kernel.img", "octet", "windowsize", "2"), "\x00\x06windowsize\x002\x00"),
			says(ack(0), block(kernel, 512, 1), block(kernel, 512, 2)),
			says(rrq("boot.ipxe", "octet", "blksize", "1432"), "\x00\x06blksize\x001432\x00"),
			says(ack(2)),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\nshell\n"),
			says(ack(1)),
		}},
		{"an ERROR ends it", `failed file="kernel.img"`, `why="the client sent ERROR 3 \"disk full\""`, []step{
			says(rrq("kernel.img", "octet"), block(kernel, 512, 1)),
			says("\x00\x05\x00\x03disk full\x00"),
			says(ack(1)),
			says("\x00\x05\x00\x03disk full\x00"),
		}},
		{"what is no request and belongs to none", "", "", []step{
			says("x"), says("\x00"), says("\x00\x01"), says("\x00\x01boot.ipxe"), says("\x00\x01boot.ipxe\x00octet"), says("\x00\x02boot.ipxe"),
			says(ack(0)), says(ack(1)), says(ack(65535)), says("\x00\x04"), says("\x00\x04\x00"), says(data(1, []byte("data"))),
			says("\x00\x05\x00\x00text\x00"), says("\x00\x05"), says("\x00\x06blksize\x00512\x00"), says("\x00\x07\x00\x00"), says("\x01\x00boot.ipxe\x00octet\x00"),
		}},
	} {
		d := start(t, folder, "-allow", "*") // PXELINUX asks for names without an extension
		client := dial(t, d.addr)
		client.plays(c.what, c.steps...)
		if c.line == "" {
			continue
		}
		if line := d.waitFor(c.line + " client=" + client.conn.LocalAddr().String()); !strings.Contains(line, c.end) {
			t.Errorf("%s: no %q in %s", c.what, c.end, line)
		}
		if strings.HasPrefix(c.line, "sent ") && strings.Contains(d.logged(), "failed ") {
			t.Errorf("%s: more than one transfer", c.what)
		}
	}
}

// iPXE never acknowledges the empty block of an empty file: it sends ACK 0 again. That ends the transfer, and is no failure.
func TestFirmwareEmptyFile(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/empty.ipxe", nil)
	d := start(t, folder)
	for _, c := range []struct {
		what  string
		begin []step
		end   string
	}{
		{"iPXE", []step{
			says(rrq("empty.ipxe", "octet", "blksize", "1432", "tsize", "0"), "\x00\x06blksize\x001432\x00"), // no tsize
			says(ack(0), "\x00\x03\x00\x01"),
		}, ack(0)},
		{"no option is granted", []step{says(rrq("empty.ipxe", "octet", "tsize", "0"), "\x00\x03\x00\x01")}, ack(1)},
		{"no options", []step{says(rrq("empty.ipxe", "octet"), "\x00\x03\x00\x01")}, ack(1)},
	} {
		client := dial(t, d.addr)
		for _, s := range c.begin {
			if got := client.ask(s.send); got != s.answers[0] {
				t.Fatalf("%s: %q is answered %q, want %q", c.what, s.send, got, s.answers[0])
			}
		}
		client.conn.Write([]byte(c.end))
		d.waitFor(`sent file="empty.ipxe" client=` + client.conn.LocalAddr().String() + " bytes=0 ")
	}
}

// The first answer to every kind of option: an OACK with what was granted, as the client wrote it, or DATA if nothing was.
func TestOptionsOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("a\nb"))
	const (
		octet    = "\x00\x03\x00\x01a\nb"
		netASCII = "\x00\x03\x00\x01a\r\nb"
	)
	usual, small := start(t, folder), start(t, folder, "-max-blksize", "1024", "-max-windowsize", "8")
	for _, c := range []struct {
		d               *daemon
		request, answer string
	}{
		{usual, rrq("a.txt", "octet", "blksize", "8"), "\x00\x06blksize\x008\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "1468"), "\x00\x06blksize\x001468\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "1469"), "\x00\x06blksize\x001468\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "65464"), "\x00\x06blksize\x001468\x00"},
		{small, rrq("a.txt", "octet", "blksize", "1025"), "\x00\x06blksize\x001024\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "7"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "0"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "65465"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "-512"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "0x200"), octet},
		{usual, rrq("a.txt", "octet", "blksize", " 512"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "18446744073709552128"), octet}, // 512 in 64 bits
		{usual, rrq("a.txt", "octet", "windowsize", "1"), "\x00\x06windowsize\x001\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "64"), "\x00\x06windowsize\x0064\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "65"), "\x00\x06windowsize\x0064\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "65535"), "\x00\x06windowsize\x0064\x00"},
		{small, rrq("a.txt", "octet", "windowsize", "9"), "\x00\x06windowsize\x008\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "0"), octet},
		{usual, rrq("a.txt", "octet", "windowsize", "65536"), octet},
		{usual, rrq("a.txt", "octet", "timeout", "1"), "\x00\x06timeout\x001\x00"},
		{usual, rrq("a.txt", "octet", "timeout", "255"), "\x00\x06timeout\x00255\x00"},
		{usual, rrq("a.txt", "octet", "timeout", "0"), octet},
		{usual, rrq("a.txt", "octet", "timeout", "256"), octet},
		{usual, rrq("a.txt", "octet", "tsize", "999"), "\x00\x06tsize\x003\x00"},
		{usual, rrq("a.txt", "netascii", "tsize", "0"), netASCII},
		{usual, rrq("a.txt", "NETascii", "tsize", "0", "blksize", "512"), "\x00\x06blksize\x00512\x00"},
		{usual, rrq("a.txt", "octet", "multicast", ""), octet},
		{usual, rrq("a.txt", "octet", "", ""), octet},
		{usual, rrq("a.txt", "octet", "blksize "+"", "512"), octet},
		{usual, rrq("a.txt", "octet", "rollover", "0", "blksize", "512", "utimeout", "1000"), "\x00\x06blksize\x00512\x00"},
		{usual, rrq("a.txt", "octet", "blksize"), octet},
		{usual, rrq("a.txt", "octet", "blksize", ""), octet},
		{usual, rrq("a.txt", "octet", "tsize", "0", "blksize"), "\x00\x06tsize\x003\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "600", "blksize", "700"), "\x00\x06blksize\x00600\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "600", "BLKSIZE", "700", "tsize", "0"), "\x00\x06blksize\x00600\x00tsize\x003\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "4", "timeout", "9", "blksize", "512", "tsize", "0"), "\x00\x06windowsize\x004\x00timeout\x009\x00blksize\x00512\x00tsize\x003\x00"},
	} {
		dial(t, c.d.addr).plays("option", says(c.request, c.answer))
	}
}

// A client that never answers draws three datagrams, and then the transfer is over.
func TestSilentClient(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := start(t, folder)
	c := dial(t, d.addr)
	c.conn.Write([]byte(rrq("a.txt", "octet", "timeout", "1")))
	line := d.waitFor(`timed out file="a.txt" client=` + c.conn.LocalAddr().String())
	if !strings.Contains(line, " bytes=0 ") || !strings.Contains(line, " retransmits=2 ") {
		t.Error(line)
	}
	oack := "\x00\x06timeout\x001\x00"
	c.plays("silent client", says("", oack, oack, oack))
}

// At -max-transfers one answer a second says so, and over -rate there is none.
func TestLimitsOnTheWire(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(5000))
	answers := func(c *client, request string, times int) (got []string, took time.Duration) {
		began := time.Now()
		for range times {
			c.conn.Write([]byte(request))
		}
		b := make([]byte, 2000)
		for {
			c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // after the last answer
			n, err := c.conn.Read(b)
			if err != nil {
				return got, time.Since(began)
			}
			got = append(got, string(b[:n]))
		}
	}

	d := start(t, folder, "-max-transfers", "1")
	first := dial(t, d.addr)
	first.ask(rrq("a.img", "octet", "blksize", "1024"))
	if answer := first.ask(ack(0)); !strings.HasPrefix(answer, "\x00\x03\x00\x01") {
		t.Fatalf("%q", answer)
	}
	got, took := answers(dial(t, d.addr), rrq("a.img", "octet"), 50)
	if len(got) == 0 || len(got) > 1+int(took/time.Second) || got[0] != "\x00\x05\x00\x00Server busy\x00" {
		t.Errorf("%d answers in %v: %q", len(got), took, got)
	}
	d.waitFor(`busy file="a.img"`)

	const (
		write  = "\x00\x02a.img\x00octet\x00"
		denied = "\x00\x05\x00\x02Access violation\x00"
	)
	d = start(t, folder, "-rate", "1")
	got, took = answers(dial(t, d.addr), write, 200)
	// A prefix may draw 1,692 bytes at once, headers included, and 64 more each second (package singleport, admission).
	if size := 28 + len(denied); len(got) == 0 || len(got)*size > 1692+64*(int(took/time.Second)+1) {
		t.Errorf("%d answers of %d bytes in %v", len(got), size, took)
	}
	local, err := net.ResolveUDPAddr("udp", "127.0.1.1:0")
	testkit.Must(t, err)
	server, err := net.ResolveUDPAddr("udp", d.addr)
	testkit.Must(t, err)
	conn, err := net.DialUDP("udp", local, server)
	testkit.Must(t, err)
	defer conn.Close()
	if answer := (&client{t, conn}).ask(write); answer != denied {
		t.Errorf("another network is answered %q", answer)
	}
}

// lpxelinux asks for every file from one port, right behind the last ACK: none of its requests waits for a timer, its own or the
// server's. A machine that stands still for a tenth of a second makes the server repeat something too; not in each of three runs.
func TestPortReuse(t *testing.T) {
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(1400)
	testkit.WriteFile(t, folder+"/a.img", content)
	d := start(t, folder)
	sequence := [][]step{
		{
			says(rrq("a.img", "octet", "tsize", "0", "blksize", "1408"), "\x00\x06tsize\x001400\x00blksize\x001408\x00"),
			says(ack(0), data(1, content)),
			says(ack(1)),
		},
		{
			says(rrq("a.img", "octet"), data(1, content[:512])),
			says(ack(1), data(2, content[512:1024])),
			says(ack(2), data(3, content[1024:])),
			says(ack(3)),
		},
		{
			says(rrq("a.img", "octet", "blksize", "700"), "\x00\x06blksize\x00700\x00"),
			says(ack(0), data(1, content[:700])),
			says(ack(1), data(2, content[700:])),
			says(ack(2), data(3, nil)),
			says(ack(3)),
		},
	}
	sequence = append(sequence, sequence[0]) // which the next round begins with: the same request twice in a row
	for range 3 {
		c := dial(t, d.addr)
		const transfers = 1000
		for i := range transfers {
			c.hurries(sequence[i%len(sequence)])
		}
		repeats := 0
		for range transfers {
			line := d.waitFor(`sent file="a.img" client=` + c.conn.LocalAddr().String() + " bytes=1400 ")
			if field(line, "retransmits") != "0" {
				repeats++
			}
		}
		if repeats == 0 {
			return
		}
		t.Logf("the server repeated something in %d of %d transfers", repeats, transfers)
	}
	t.Error("in every run")
}

// hurries goes through the steps of a transfer, one answer each, and does not wait for what comes after the last. It sends nothing
// again but the ACK of what came again.
func (c *client) hurries(steps []step) {
	c.t.Helper()
	b := make([]byte, 65536)
	c.conn.Write([]byte(steps[0].send))
	for at := 0; len(steps[at].answers) > 0; {
		c.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := c.conn.Read(b)
		if err != nil {
			c.t.Fatalf("%q: %v", steps[at].send, err)
		}
		for i, s := range steps[:at+1] {
			if string(b[:n]) == s.answers[0] {
				c.conn.Write([]byte(steps[i+1].send))
				at = max(at, i+1)
				break
			}
		}
	}
}

// iPXE itself, the option ROM of an emulated network card, boots from the server: a script, what that chains to beside it, and files of
// a few sizes; it goes on after an absent one. QEMU's 10.0.2.2 is this machine's loopback.
func TestIPXE(t *testing.T) {
	t.Parallel()
	emulator := "qemu-system-x86_64"
	needClient(t, []string{emulator})
	folder := testkit.PublicFolder(t)
	for name, content := range map[string][]byte{
		"boot.ipxe":     []byte("#!ipxe\nchain boot/next.ipxe\n"),
		"boot/full.img": testkit.Pattern(1432 * 1000),
		// Of many blocks, and it is the last lines that do something. The very last is cut off by the restart.
		"boot/next.ipxe": []byte("#!ipxe\n" + strings.Repeat("# comment\n", 2000) + `imgfetch full.img && echo full is here
imgfetch absent.img || echo absent is not
imgfetch secret.key || echo secret is not
imgfetch empty.img && echo empty is here
echo This machine starts again.
reboot
`),
		"boot/empty.img": nil,
	} {
		testkit.WriteFile(t, folder+"/"+name, content)
	}
	d := start(t, folder)
	console, status, err := runClient(t.Context(), "", emulator, "-M", "pc,graphics=off", "-m", "64", "-nodefaults", "-display", "none",
		"-serial", "stdio", "-no-reboot", "-boot", "n", "-nic", "user,model=virtio-net-pci,bootfile=tftp://"+strings.Replace(d.addr, "127.0.0.1", "10.0.2.2", 1)+"/boot.ipxe")
	if strings.Contains(console, "romfile") {
		testkit.Skip(t, "iPXE is not installed: "+console)
	}
	if err != nil || status != 0 {
		t.Errorf("status %d, %v", status, err)
	}
	for _, want := range []string{"full is here", "absent is not", "secret is not", "empty is here"} {
		if !strings.Contains(console, want) {
			t.Errorf("no %q on the console", want)
		}
	}
	if t.Failed() {
		t.Logf("console: %q", console)
	}
	for _, want := range []string{
		`sent file="boot.ipxe" `, `sent file="boot/next.ipxe" `, `sent file="boot/full.img" `, `not found file="boot/absent.img" `, `denied file="boot/secret.key" `,
		`sent file="boot/empty.img" `,
	} {
		if line := d.waitFor(want); strings.HasPrefix(line, "sent ") && !strings.Contains(line, " blksize=1432 windowsize=1 ") {
			t.Error(line)
		}
	}
}
