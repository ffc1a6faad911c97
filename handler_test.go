package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
func newHandler(t *testing.T) (h *handler, folder string, log func() string) {
	t.Helper()
	folder = t.TempDir()
	root, err := os.OpenRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	var out bytes.Buffer
	j := newJournal(&out)
	return &handler{root: root, allow: mustAllow(t, defaultAllow), log: j}, folder, func() string {
		j.close()
		return out.String()
	}
}

func TestAnswer(t *testing.T) {
	h, folder, log := newHandler(t)
	outside := t.TempDir()
	testkit.WriteFile(t, outside+"/secret.txt", []byte("secret"))
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	testkit.WriteFile(t, folder+"/empty.txt", nil)
	testkit.WriteFile(t, folder+"/sub/b.txt", []byte("below"))
	testkit.WriteFile(t, folder+"/.hidden/c.txt", []byte("hidden"))
	testkit.WriteFile(t, folder+"/a.key", []byte("key"))
	testkit.Must(t, os.Mkdir(folder+"/folder.txt", 0o755))
	testkit.Must(t, os.Symlink("a.txt", folder+"/link.txt"))
	testkit.Must(t, os.Symlink("../a.txt", folder+"/sub/up.txt"))
	testkit.Must(t, os.Symlink("sub", folder+"/linked"))
	testkit.Must(t, os.Symlink("absent.txt", folder+"/dangling.txt"))
	testkit.Must(t, os.Symlink("loop.txt", folder+"/loop.txt"))
	testkit.Must(t, os.Symlink("folder.txt", folder+"/tofolder.txt"))
	testkit.Must(t, os.Symlink(outside+"/secret.txt", folder+"/out.txt"))
	testkit.Must(t, os.Symlink("../"+filepath.Base(outside)+"/secret.txt", folder+"/outrel.txt"))
	testkit.Must(t, os.Symlink(outside, folder+"/outfolder"))
	testkit.Must(t, os.Symlink("/dev/zero", folder+"/zero.bin"))

	for _, c := range []struct {
		name string
		want string
		err  error
	}{
		{"a.txt", "hello", nil},
		{"/A/../a.txt", "", singleport.ErrAccess},
		{"\\sub\\b.txt\xff", "below", nil},
		{"empty.txt", "", nil},
		{"link.txt", "hello", nil},
		{"sub/up.txt", "hello", nil},
		{"linked/b.txt", "below", nil},
		{"absent.txt", "", singleport.ErrNotFound},
		{"absent/a.txt", "", singleport.ErrNotFound},
		{"a.txt/b.txt", "", singleport.ErrNotFound},
		{"dangling.txt", "", singleport.ErrNotFound},
		{"a.key", "", singleport.ErrAccess},
		{"absent.key", "", singleport.ErrAccess},
		{".hidden/c.txt", "", singleport.ErrAccess},
		{"folder.txt", "", singleport.ErrAccess},
		{"tofolder.txt", "", singleport.ErrAccess},
		{"loop.txt", "", singleport.ErrAccess},
		{"out.txt", "", singleport.ErrAccess},
		{"outrel.txt", "", singleport.ErrAccess},
		{"outfolder/secret.txt", "", singleport.ErrAccess},
		{"zero.bin", "", singleport.ErrAccess},
		{"", "", singleport.ErrAccess},
	} {
		f := &fakeTransfer{name: c.name, mode: singleport.Octet}
		err := f.run(h)
		if f.sent.String() != c.want || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%q: sent %q, %v; want %q, %v", c.name, f.sent.String(), err, c.want, c.err)
		}
		if c.err == nil && f.size != int64(len(c.want)) {
			t.Errorf("%q: size %d", c.name, f.size)
		}
		if c.err != nil && f.size != -1 {
			t.Errorf("%q: there is a file", c.name)
		}
	}
	lines := log()
	for _, want := range []string{
		`sent file="a.txt" client=192.0.2.7:2070 bytes=5 blksize=1468 windowsize=4 retransmits=2 duration=212.3ms` + "\n",
		`denied file="/A/../a.txt" client=192.0.2.7:2070 why="a .. element in the name"` + "\n",
		`not found file="absent.txt" client=192.0.2.7:2070 why="no such file or directory"` + "\n",
		`denied file="folder.txt" client=192.0.2.7:2070 why="not a regular file"` + "\n",
		`denied file="" client=192.0.2.7:2070 why="the name is empty"` + "\n",
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("no line %q in the log:\n%s", want, lines)
		}
	}
}

// A FIFO without a writer, a device and a socket neither block nor leave a descriptor behind.
func TestAnswerSpecialFiles(t *testing.T) {
	h, folder, _ := newHandler(t)
	testkit.Must(t, syscall.Mkfifo(folder+"/fifo.txt", 0o644))
	testkit.Must(t, os.Mkdir(folder+"/folder.txt", 0o755))
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	testkit.Must(t, err)
	defer syscall.Close(socket)
	testkit.Must(t, syscall.Bind(socket, &syscall.SockaddrUnix{Name: folder + "/socket.txt"}))
	names := []string{"fifo.txt", "folder.txt", "socket.txt"}
	// Only root may make a device, and not in every container. A FIFO takes the same way through
	// open.
	if syscall.Mknod(folder+"/zero.bin", syscall.S_IFCHR|0o644, 1<<8|5) == nil {
		names = append(names, "zero.bin")
	}
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			testkit.Skip(t, "no /proc/self/fd: "+err.Error())
		}
		return len(entries)
	}
	// Once before counting: the runtime opens its poller with the first FIFO.
	for _, name := range names {
		(&fakeTransfer{name: name}).run(h)
	}
	before := descriptors()
	for range 20 {
		for _, name := range names {
			f := &fakeTransfer{name: name}
			if err := f.run(h); !errors.Is(err, singleport.ErrAccess) || f.size != -1 {
				t.Fatalf("%s: %v, size %d", name, err, f.size)
			}
		}
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestAnswerNetASCII(t *testing.T) {
	h, folder, _ := newHandler(t)
	content := testkit.Pattern(3*segment + 17)
	testkit.WriteFile(t, folder+"/a.txt", content)
	f := &fakeTransfer{name: "a.txt", mode: singleport.NetASCII}
	if err := f.run(h); err != nil || !bytes.Equal(f.sent.Bytes(), content) {
		t.Errorf("%v, size %d, %d bytes", err, f.size, f.sent.Len())
	}
}

// A file that changes while it is sent arrives whole as it was, or ends in an error before the last
// block.
func TestAnswerChangedFile(t *testing.T) {
	path := "a.img"
	whole := func(size int) []byte { return testkit.Pattern(size) }
	for _, size := range []int{segment + 1, 2 * segment, 3*segment - 1, 4 * segment} {
		for _, c := range []struct {
			what   string
			change func(path string) error
			fails  bool
		}{
			{"nothing", func(string) error { return nil }, false},
			{"removed", os.Remove, false},
			{"replaced", func(path string) error {
				if err := os.WriteFile(path+".new", bytes.Repeat([]byte("x"), size), 0o644); err != nil {
					return err
				}
				return os.Rename(path+".new", path)
			}, false},
			{"made unreadable", func(path string) error { return os.Chmod(path, 0) }, false},
			{"truncated to nothing", func(path string) error { return os.Truncate(path, 0) }, true},
			{"truncated to what was sent", func(path string) error { return os.Truncate(path, segment) }, true},
			{"truncated by a byte", func(path string) error { return os.Truncate(path, int64(size-1)) }, true},
			{"written again", func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o644) }, true},
			{"made longer", func(path string) error { return os.WriteFile(path, whole(size+1), 0o644) }, true},
		} {
			for _, mode := range []singleport.Mode{singleport.Octet, singleport.NetASCII} {
				h, folder, log := newHandler(t)
				full := filepath.Join(folder, path)
				testkit.WriteFile(t, full, whole(size))
				// Older than any write of the test, however coarse the file system's clock is.
				testkit.Must(t, os.Chtimes(full, time.Time{}, time.Unix(1e9, 0)))
				f := &fakeTransfer{name: path, mode: mode, during: func() { testkit.Must(t, c.change(full)) }}
				err := f.run(h)
				switch {
				case !c.fails && (err != nil || !bytes.Equal(f.sent.Bytes(), whole(size))):
					t.Errorf("%d bytes, %s, %s: %v after %d bytes", size, mode, c.what, err, f.sent.Len())
				case c.fails && (!errors.Is(err, singleport.ErrRead) || f.sent.Len() >= size):
					t.Errorf("%d bytes, %s, %s: %v after %d bytes", size, mode, c.what, err, f.sent.Len())
				}
				if lines := log(); c.fails != strings.HasPrefix(lines, `failed file="a.img" `) {
					t.Errorf("%d bytes, %s, %s: log %q", size, mode, c.what, lines)
				}
			}
		}
	}
}

// An error of a file stays: what is read again never looks like its end, and any part of a whole
// file can be read again.
func TestWholeFileAgain(t *testing.T) {
	h, folder, _ := newHandler(t)
	content := testkit.Pattern(100)
	testkit.WriteFile(t, folder+"/a.txt", content)
	file, err := open(h.root, "a.txt")
	testkit.Must(t, err)
	defer file.Close()
	part := make([]byte, 60)
	for _, offset := range []int64{0, 40, 10, 40} {
		if n, err := file.ReadAt(part, offset); n != 60 || err != nil || !bytes.Equal(part, content[offset:][:60]) {
			t.Errorf("at %d: %d bytes, %v", offset, n, err)
		}
	}
	if n, err := file.ReadAt(part, 70); n != 30 || err != io.EOF {
		t.Errorf("over the end: %d bytes, %v", n, err)
	}
	testkit.Must(t, os.Truncate(folder+"/a.txt", 50))
	for range 3 {
		if n, err := file.ReadAt(part, 40); !errors.Is(err, singleport.ErrRead) || n != 0 {
			t.Errorf("at 40 of 50: %d, %v", n, err)
		}
		if n, err := io.ReadFull(file, make([]byte, 100)); !errors.Is(err, singleport.ErrRead) || n > 50 {
			t.Errorf("as text: %d, %v", n, err)
		}
	}
}

func TestOutcome(t *testing.T) {
	h, folder, log := newHandler(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	for _, err := range []error{
		singleport.ErrTimedOut, singleport.ErrReplaced, singleport.ErrStopped,
		&singleport.ClientError{Code: 8, Message: "User aborted\x1b[2J"}, errors.New("another"),
	} {
		(&fakeTransfer{name: "a.txt", mode: singleport.Octet, fails: err}).run(h)
	}
	const figures = ` file="a.txt" client=192.0.2.7:2070 bytes=5 blksize=1468 windowsize=4 retransmits=2 duration=212.3ms why=`
	want := "timed out" + figures + `"no answer from the client"` + "\n" +
		"failed" + figures + `"the client began another request"` + "\n" +
		"failed" + figures + `"the server stopped"` + "\n" +
		"failed" + figures + `"the client sent ERROR 8 \"User aborted\\x1b[2J\""` + "\n" +
		"failed" + figures + `"another"` + "\n"
	if got := log(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestOpenFailure(t *testing.T) {
	for _, c := range []struct {
		err  error
		want *singleport.Error
	}{
		{fs.ErrNotExist, singleport.ErrNotFound},
		{syscall.ENOENT, singleport.ErrNotFound},
		{syscall.ENOTDIR, singleport.ErrNotFound},
		{syscall.ENAMETOOLONG, singleport.ErrNotFound},
		{syscall.EACCES, singleport.ErrAccess},
		{syscall.EPERM, singleport.ErrAccess},
		{syscall.ELOOP, singleport.ErrAccess},
		{syscall.ENXIO, singleport.ErrAccess},
		{errors.New("path escapes from parent"), singleport.ErrAccess},
		{syscall.EMFILE, singleport.ErrBusy},
		{syscall.ENFILE, singleport.ErrBusy},
		{syscall.EIO, singleport.ErrRead},
		{syscall.ESTALE, singleport.ErrRead},
	} {
		got := openFailure(&fs.PathError{Op: "openat", Path: "/srv/secret/a.txt", Err: c.err})
		if got.answer != c.want || strings.Contains(got.why, "secret") {
			t.Errorf("%v: %v %q", c.err, got.answer, got.why)
		}
	}
}

// The health check asks for the empty name every few seconds; it is no event.
func TestHealthcheckLeavesNoLine(t *testing.T) {
	h, _, log := newHandler(t)
	h.own = []netip.Addr{netip.MustParseAddr("192.0.2.7")}
	if err := new(fakeTransfer).run(h); !errors.Is(err, singleport.ErrAccess) {
		t.Error(err)
	}
	if lines := log(); lines != "" {
		t.Errorf("log %q", lines)
	}
}
