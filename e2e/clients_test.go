package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

// way is how a command-line client fetches a file. In its arguments HOST, PORT, ADDR (both, for a
// URL), NAME and FILE stand for what a test fills in, and FAMILY for 4 or 6.
type way struct {
	name  string
	args  []string
	terms string // the options that the log must show, so that the client did ask for them
	large bool   // its blocks are short and its pace is quick: it fetches over 65,535 of them, too
	flaw  string // what it prints when it gives up a transfer that it could finish
}

// secondOACK is what atftp 0.8.0 says of an OACK that came twice, whether the network repeated it
// or its ACK was lost.
const secondOACK = "unexpected OACK"

var ways = []way{
	{"atftp", atftp(),
		"blksize=512 windowsize=1", false, ""},
	{"atftp windowsize", atftp("windowsize 64"),
		"blksize=512 windowsize=64", true, secondOACK},
	{"atftp all options", atftp("tsize 0", "blksize 1428", "windowsize 4", "timeout 3"),
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

// atftp returns the arguments of atftp with these options.
func atftp(options ...string) []string {
	args := []string{"atftp"}
	for _, option := range options {
		args = append(args, "--option", option)
	}
	return append(args, "--get", "--remote-file", "NAME", "--local-file", "FILE", "HOST", "PORT")
}

// fill puts what a test has into the arguments of a client.
func fill(args []string, addr, name, file string) []string {
	host, port, _ := net.SplitHostPort(addr)
	family := "4"
	if strings.Contains(host, ":") {
		family = "6"
	}
	filler := strings.NewReplacer("HOST", host, "PORT", port, "ADDR", addr, "NAME", name,
		"FILE", file, "FAMILY", family)
	filled := make([]string, len(args))
	for i, arg := range args {
		filled[i] = filler.Replace(arg)
	}
	return filled
}

// runClient runs a client to its end and returns all that it printed. A client that hangs ends with
// the context, or after two times patience.
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

// Every client fetches files of every size at which a block begins or ends, byte for byte.
func TestClients(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	files := map[string][]byte{}
	sizes := []int{0, 1, 512, 16 * 1468}
	var large []byte
	if !testing.Short() {
		sizes = append(sizes, 511, 513, 1427, 1428, 1429, 1467, 1468, 1469, 16*1428, 3<<20+1)
		large = testkit.Pattern(65_537*512 + 1) // 34 MB, 65,538 blocks
		testkit.WriteFile(t, folder+"/large.img", large)
	}
	for _, size := range sizes {
		name := fmt.Sprintf("%d.img", size)
		files[name] = testkit.Pattern(size)
		testkit.WriteFile(t, folder+"/"+name, files[name])
	}
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
				if w.large && host == "127.0.0.1" && large != nil {
					fetch("large.img", large)
				}
			})
		})
	}
}

// In netascii the file arrives with the line ends of the client's system, and that is the file
// again here. curl converts nothing: it shows what was on the wire.
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
		{way{name: "atftp", args: atftp("mode netascii")}, content},
		{way{name: "tftp-hpa", args: []string{"tftp", "-FAMILY", "-m", "ascii", "HOST", "PORT",
			"-c", "get", "NAME", "FILE"}}, content},
		{way{name: "curl", args: []string{"curl", "-sS", "--use-ascii", "-o", "FILE",
			"tftp://ADDR/NAME"}}, []byte(onWire)},
		{way{name: "curl mode", args: []string{"curl", "-sS", "--tftp-blksize", "1024", "-o", "FILE",
			"tftp://ADDR/NAME;mode=netascii"}}, []byte(onWire)},
	} {
		t.Run(c.name, func(t *testing.T) {
			needClient(t, c.args)
			eachFamily(t, func(t *testing.T, host string) {
				d := start(t, folder, "-listen", net.JoinHostPort(host, "0"))
				file := filepath.Join(t.TempDir(), "fetched")
				if err := c.fetch(t.Context(), d.addr, "a.txt", file, c.want); err != nil {
					t.Error(err)
				}
				d.waitFor(`sent file="a.txt"`)
			})
		})
	}
}

// tftp-hpa asks for every file of its session from one port, and acknowledges an ERROR before the
// next request.
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
		if err != nil || status != 0 || strings.Count(shown, "Error code 1: File not found\n") != 2 {
			t.Errorf("status %d, %v: %s", status, err, shown)
		}
		for name, want := range map[string][]byte{
			"1": content, "2": nil, "3": nil, "4": content, "5": []byte("a\nb\n"), "6": content,
		} {
			if got, err := os.ReadFile(filepath.Join(local, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		events, clients := map[string]int{}, map[string]bool{}
		for range 6 { // in any order: a transfer may be logged after the next request
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

// Every client shows a refusal and ends at once.
func TestClientsRefused(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.key", []byte("key"))
	local := t.TempDir()
	upload := filepath.Join(local, "upload")
	testkit.WriteFile(t, upload, []byte("upload"))
	// curl tells the two apart by its exit status. Its message is lost where it then asks for the
	// address of the client.
	for _, c := range []struct {
		name            string
		get, put        []string
		shown           string // CODE and TEXT are the ERROR's
		absent, refused int    // exit statuses
	}{
		{name: "atftp", get: atftp(),
			put: []string{"atftp", "--put", "--remote-file", "NAME", "--local-file", "FILE",
				"HOST", "PORT"},
			shown: "tftp: error received from server <TEXT>\n", absent: 255, refused: 255},
		{name: "tftp-hpa",
			get:   []string{"tftp", "-m", "binary", "HOST", "PORT", "-c", "get", "NAME", "FILE"},
			put:   []string{"tftp", "-m", "binary", "HOST", "PORT", "-c", "put", "FILE", "NAME"},
			shown: "Error code CODE: TEXT\n", absent: 0, refused: 0},
		{name: "busybox",
			get:   []string{"busybox", "tftp", "-g", "-r", "NAME", "-l", "FILE", "HOST", "PORT"},
			put:   []string{"busybox", "tftp", "-p", "-r", "NAME", "-l", "FILE", "HOST", "PORT"},
			shown: "tftp: server error: (CODE) TEXT\n", absent: 1, refused: 1},
		{name: "curl",
			get:   []string{"curl", "-sS", "-o", "FILE", "tftp://ADDR/NAME"},
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
					{c.get, "a.key", fetched, "1", "File not found", c.absent, "denied"},
					{c.get, "absent.key", fetched, "1", "File not found", c.absent, "denied"},
					{c.put, "new.img", upload, "2", "Access violation", c.refused, "denied"},
				} {
					args := fill(request.args, d.addr, request.name, request.file)
					shown, status, err := runClient(t.Context(), "", args...)
					want := strings.NewReplacer("CODE", request.code, "TEXT", request.text).Replace(c.shown)
					if err != nil || status != request.status || !strings.Contains(shown, want) {
						t.Errorf("%q: status %d, %v, %q; want %d, %q",
							request.args, status, err, shown, request.status, want)
					}
					if !testing.Short() { // a search ends with a pause
						d.waitFor(request.line + ` file="` + request.name + `" client=`)
					}
				}
				if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
					t.Errorf("the folder has now %v %v", left, err)
				}
			})
		})
	}
}
