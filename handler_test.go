package main

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"

	"flytftp/internal/folder"
	"flytftp/internal/testkit"
	"flytftp/singleport"
)

// fakeTransfer is a transfer whose file is read as the engine would: a segment at a time, and in
// octet from any offset.
type fakeTransfer struct {
	name   string
	mode   singleport.Mode
	during func() // called after the first segment
	fails  error  // how the transfer ends if the file was read whole
	sent   bytes.Buffer
	size   int64 // of the file; -1 if there was none
}

const segment = 16 << 10

func (t *fakeTransfer) Name() string           { return t.name }
func (t *fakeTransfer) Client() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.7:2070") }
func (t *fakeTransfer) Stats() singleport.Stats {
	return singleport.Stats{Bytes: int64(t.sent.Len()), BlockSize: 1468, WindowSize: 4, Retransmits: 2, Duration: 212345678}
}

// run has h answer the transfer and reads the file. It returns how the transfer ended.
func (t *fakeTransfer) run(h *handler) error {
	t.size = -1
	file, err := h.answer(t)
	if err != nil {
		return err
	}
	t.size = file.Size()
	if err = t.read(file); err == nil {
		err = t.fails
	}
	file.Ended(err)
	return err
}

func (t *fakeTransfer) read(file singleport.File) error {
	buffer := make([]byte, segment)
	var text io.Reader
	if t.mode == singleport.NetASCII {
		text = file
	} else {
		text = io.NewSectionReader(file, 0, file.Size())
	}
	for {
		n, err := io.ReadFull(text, buffer)
		if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
			t.sent.Write(buffer[:n])
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return nil
		case err != nil:
			return err
		}
		if t.during != nil {
			t.during()
			t.during = nil
		}
	}
}

// newHandler returns a handler over a new folder, and a function that ends its log and returns it.
func newHandler(t *testing.T) (h *handler, path string, log func() string) {
	t.Helper()
	path = t.TempDir()
	files, err := folder.Open(path)
	testkit.Must(t, err)
	t.Cleanup(func() { files.Close() })
	var out bytes.Buffer
	j := newJournal(&out)
	return &handler{folder: files, allow: allowList{"default"}, log: j}, path, func() string {
		j.close()
		return out.String()
	}
}

// Every refusal is answered like an absence; the log tells them apart.
func TestAnswer(t *testing.T) {
	h, path, log := newHandler(t)
	testkit.WriteFile(t, path+"/a.txt", []byte("hello"))
	testkit.WriteFile(t, path+"/empty.txt", nil)
	testkit.WriteFile(t, path+"/sub/b.txt", []byte("below"))
	testkit.WriteFile(t, path+"/.hidden/c.txt", []byte("hidden"))
	testkit.WriteFile(t, path+"/a.key", []byte("key"))
	testkit.WriteFile(t, path+"/Onboard", []byte("no extension"))
	testkit.Must(t, os.Mkdir(path+"/folder.txt", 0o755))
	testkit.Must(t, os.Symlink("/etc/passwd", path+"/out.txt"))
	want := ""
	for _, c := range []struct{ name, want, line string }{
		{"a.txt", "hello", `sent file="a.txt" client=192.0.2.7:2070 bytes=5 blksize=1468 windowsize=4 retransmits=2 duration=212.3ms`},
		{"\\sub\\b.txt\xff", "below", `sent file="sub/b.txt" client=192.0.2.7:2070 bytes=5 blksize=1468 windowsize=4 retransmits=2 duration=212.3ms`},
		{"empty.txt", "", `sent file="empty.txt" client=192.0.2.7:2070 bytes=0 blksize=1468 windowsize=4 retransmits=2 duration=212.3ms`},
		{"absent.txt", "", `not found file="absent.txt" client=192.0.2.7:2070 why="no such file or directory"`},
		{"a.txt/b.txt", "", `not found file="a.txt/b.txt" client=192.0.2.7:2070 why="not a directory"`},
		{"/A/../a.txt", "", `denied file="/A/../a.txt" client=192.0.2.7:2070 why="a .. element in the name"`},
		{"a.key", "", `denied file="a.key" client=192.0.2.7:2070 why="not in -allow: -allow default,.key would serve it"`},
		{"absent.lock", "", `denied file="absent.lock" client=192.0.2.7:2070 why="not in -allow: -allow default,.lock would serve it"`},
		{"Onboard", "", `denied file="Onboard" client=192.0.2.7:2070 why="not in -allow: -allow default,none would serve it"`},
		{".hidden/c.txt", "", `denied file=".hidden/c.txt" client=192.0.2.7:2070 why="an element of the name begins with a dot"`},
		{"folder.txt", "", `denied file="folder.txt" client=192.0.2.7:2070 why="not a regular file"`},
		{"out.txt", "", `denied file="out.txt" client=192.0.2.7:2070 why="path escapes from parent: a link leads out of the folder or is absolute"`},
		{"", "", `denied file="" client=192.0.2.7:2070 why="the name is empty"`},
		{"\xeaOnboard", "", `denied file="\xeaOnboard" client=192.0.2.7:2070 why="the name is not UTF-8"`},
	} {
		f := &fakeTransfer{name: c.name, mode: singleport.Octet}
		err := f.run(h)
		served := strings.HasPrefix(c.line, "sent ")
		if f.sent.String() != c.want || served != (err == nil) || !served && !errors.Is(err, singleport.ErrNotFound) {
			t.Errorf("%q: sent %q, %v", c.name, f.sent.String(), err)
		}
		if served && f.size != int64(len(c.want)) || !served && f.size != -1 {
			t.Errorf("%q: size %d", c.name, f.size)
		}
		want += c.line + "\n"
	}
	if got := log(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestAnswerNetASCII(t *testing.T) {
	h, path, _ := newHandler(t)
	content := testkit.Pattern(3*segment + 17)
	testkit.WriteFile(t, path+"/a.txt", content)
	f := &fakeTransfer{name: "a.txt", mode: singleport.NetASCII}
	if err := f.run(h); err != nil || !bytes.Equal(f.sent.Bytes(), content) {
		t.Errorf("%v, size %d, %d bytes", err, f.size, f.sent.Len())
	}
}

// A file that changes while it is sent ends in an error before its last block.
func TestAnswerChangedFile(t *testing.T) {
	for _, mode := range []singleport.Mode{singleport.Octet, singleport.NetASCII} {
		h, path, log := newHandler(t)
		testkit.WriteFile(t, path+"/a.img", testkit.Pattern(3*segment))
		f := &fakeTransfer{name: "a.img", mode: mode, during: func() { testkit.Must(t, os.Truncate(path+"/a.img", segment)) }}
		if err := f.run(h); err == nil || f.sent.Len() >= 3*segment {
			t.Errorf("%s: %v after %d bytes", mode, err, f.sent.Len())
		}
		if lines := log(); !strings.HasPrefix(lines, `failed file="a.img" `) || !strings.Contains(lines, `why="the file became shorter `) {
			t.Errorf("%s: log %q", mode, lines)
		}
	}
}

func TestOutcome(t *testing.T) {
	h, path, log := newHandler(t)
	testkit.WriteFile(t, path+"/a.txt", []byte("hello"))
	for _, err := range []error{
		singleport.ErrTimedOut, singleport.ErrReplaced, singleport.ErrStopped,
		&singleport.ClientError{Code: 8, Message: "User aborted\x1b[2J"}, errors.New("another"),
	} {
		(&fakeTransfer{name: "a.txt", mode: singleport.Octet, fails: err}).run(h)
	}
	testkit.WriteFile(t, path+"/a.txt", nil)
	for _, err := range []error{&singleport.ClientError{Code: 8, Message: "User aborted"}, singleport.ErrStopped} {
		(&fakeTransfer{name: "a.txt", mode: singleport.Octet, fails: err}).run(h)
	}
	const figures = ` file="a.txt" client=192.0.2.7:2070 bytes=5 blksize=1468 windowsize=4 retransmits=2 duration=212.3ms why=`
	want := "timed out" + figures + `"no answer from the client"` + "\n" +
		"failed" + figures + `"the client began another request"` + "\n" +
		"failed" + figures + `"the server stopped"` + "\n" +
		"failed" + figures + `"the client sent ERROR 8 \"User aborted\\x1b[2J\""` + "\n" +
		"failed" + figures + `"another"` + "\n" +
		strings.Replace("probed"+figures, "=5", "=0", 1) + `"the client sent ERROR 8 \"User aborted\""` + "\n" +
		strings.Replace("failed"+figures, "=5", "=0", 1) + `"the server stopped"` + "\n"
	if got := log(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestRefusal(t *testing.T) {
	for kind, want := range map[folder.Kind]*singleport.Error{
		folder.NotFound: singleport.ErrNotFound, folder.Denied: singleport.ErrNotFound, folder.Busy: singleport.ErrBusy, folder.Broken: singleport.ErrRead,
	} {
		if got, _ := refusal(kind); got != want {
			t.Errorf("%d: %v", kind, got)
		}
	}
}

// The health check asks for the empty name every few seconds; it is no event.
func TestHealthcheckLeavesNoLine(t *testing.T) {
	h, _, log := newHandler(t)
	h.own = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	if err := new(fakeTransfer).run(h); !errors.Is(err, singleport.ErrNotFound) {
		t.Error(err)
	}
	if lines := log(); lines != "" {
		t.Errorf("log %q", lines)
	}
}
