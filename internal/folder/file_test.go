package folder

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// open returns a new folder and its path.
func open(t *testing.T) (f *Folder, path string) {
	t.Helper()
	path = t.TempDir()
	f, err := Open(path)
	testkit.Must(t, err)
	t.Cleanup(func() { f.Close() })
	return f, path
}

// mustOpen opens a file and closes it at the end of the test.
func mustOpen(t *testing.T, f *Folder, path string) *File {
	t.Helper()
	file, failure := f.OpenFile(path)
	if failure != nil {
		t.Fatal(failure)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestOpenFile(t *testing.T) {
	f, folder := open(t)
	outside := t.TempDir()
	testkit.WriteFile(t, outside+"/secret.txt", []byte("secret"))
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	testkit.WriteFile(t, folder+"/empty.txt", nil)
	testkit.WriteFile(t, folder+"/sub/b.txt", []byte("below"))
	testkit.Must(t, os.Mkdir(folder+"/folder.txt", 0o755))
	for link, target := range map[string]string{
		"link.txt": "a.txt", "sub/up.txt": "../a.txt", "linked": "sub", "dangling.txt": "absent.txt", "loop.txt": "loop.txt",
		"tofolder.txt": "folder.txt", "out.txt": outside + "/secret.txt", "outrel.txt": "../" + filepath.Base(outside) + "/secret.txt",
		"outfolder": outside, "zero.bin": "/dev/zero", "absolute.txt": folder + "/a.txt",
	} {
		testkit.Must(t, os.Symlink(target, folder+"/"+link))
	}
	for path, want := range map[string]string{
		"a.txt": "hello", "empty.txt": "", "link.txt": "hello", "sub/up.txt": "hello", "linked/b.txt": "below",
	} {
		file := mustOpen(t, f, path)
		content, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
		if string(content) != want || err != nil || file.Size() != int64(len(want)) {
			t.Errorf("%s: %q of %d bytes, %v", path, content, file.Size(), err)
		}
	}
	for path, want := range map[string]Failure{
		"absent.txt":           {NotFound, "no such file or directory"},
		"absent/a.txt":         {NotFound, "no such file or directory"},
		"a.txt/b.txt":          {NotFound, "not a directory"},
		"dangling.txt":         {NotFound, "no such file or directory"},
		"folder.txt":           {Denied, "not a regular file"},
		"tofolder.txt":         {Denied, "not a regular file"},
		"loop.txt":             {Denied, "too many levels of symbolic links"},
		"out.txt":              {Denied, "path escapes from parent: a link leads out of the folder or is absolute"},
		"outrel.txt":           {Denied, "path escapes from parent: a link leads out of the folder or is absolute"},
		"outfolder/secret.txt": {Denied, "path escapes from parent: a link leads out of the folder or is absolute"},
		"zero.bin":             {Denied, "path escapes from parent: a link leads out of the folder or is absolute"},
		"absolute.txt":         {Denied, "path escapes from parent: a link leads out of the folder or is absolute"},
	} {
		if _, failure := f.OpenFile(path); failure == nil || *failure != want {
			t.Errorf("%s: %v, want %v", path, failure, want)
		}
	}
}

// A FIFO without a writer, a device and a socket neither block nor leave a descriptor behind.
func TestOpenFileOfSpecialKind(t *testing.T) {
	f, folder := open(t)
	testkit.Must(t, syscall.Mkfifo(folder+"/fifo.txt", 0o644))
	testkit.Must(t, os.Mkdir(folder+"/folder.txt", 0o755))
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	testkit.Must(t, err)
	defer syscall.Close(socket)
	testkit.Must(t, syscall.Bind(socket, &syscall.SockaddrUnix{Name: folder + "/socket.txt"}))
	paths := []string{"fifo.txt", "folder.txt", "socket.txt"}
	// Only root may make a device, and not in every container. A FIFO takes the same way.
	if syscall.Mknod(folder+"/zero.bin", syscall.S_IFCHR|0o644, 1<<8|5) == nil {
		paths = append(paths, "zero.bin")
	}
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			testkit.Skip(t, "no /proc/self/fd: "+err.Error())
		}
		return len(entries)
	}
	// Once before counting: the runtime opens its poller with the first FIFO.
	for _, path := range paths {
		f.OpenFile(path)
	}
	before := descriptors()
	for range 20 {
		for _, path := range paths {
			if _, failure := f.OpenFile(path); failure == nil || failure.Kind != Denied {
				t.Fatalf("%s: %v", path, failure)
			}
		}
	}
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// fetch reads a file a segment at a time, in octet or as text, and calls during after the first.
func fetch(file *File, asText bool, segment int, during func()) (content []byte, err error) {
	var r io.Reader = io.NewSectionReader(file, 0, file.Size())
	if asText {
		r = file
	}
	buffer := make([]byte, segment)
	for {
		n, err := io.ReadFull(r, buffer)
		content = append(content, buffer[:n]...)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return content, nil
		}
		if err != nil {
			return content, err
		}
		if during != nil {
			during()
			during = nil
		}
	}
}

// tick waits until the clock of the file system has moved since, so that a change leaves another
// time.
func tick(t *testing.T, folder string, since time.Time) {
	t.Helper()
	for {
		testkit.WriteFile(t, folder+"/clock", nil)
		info, err := os.Stat(folder + "/clock")
		testkit.Must(t, err)
		if info.ModTime().After(since) {
			return
		}
	}
}

// A file that changes while it is read arrives whole as it was, or reading its last byte fails.
func TestChangedFile(t *testing.T) {
	const segment = 16 << 10
	xs := func(size int) []byte { return bytes.Repeat([]byte("x"), size) }
	long := time.Unix(1e9, 0) // before any write of the test
	for _, size := range []int{segment + 1, 2 * segment, 3*segment - 1, 4 * segment} {
		for _, c := range []struct {
			what   string
			change func(path string) error
			fails  bool
		}{
			{"nothing", func(string) error { return nil }, false},
			{"removed", os.Remove, false},
			{"replaced", func(path string) error {
				return errors.Join(os.WriteFile(path+".new", xs(size), 0o644), os.Rename(path+".new", path))
			}, false},
			{"moved away", func(path string) error { return os.Rename(path, path+".old") }, false},
			{"moved away and replaced", func(path string) error {
				return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, xs(size), 0o644))
			}, false},
			{"linked", func(path string) error { return os.Link(path, path+".link") }, false},
			{"made unreadable", func(path string) error { return os.Chmod(path, 0) }, false},
			{"read", func(path string) error { _, err := os.ReadFile(path); return err }, false},
			{"truncated to nothing", func(path string) error { return os.Truncate(path, 0) }, true},
			{"truncated to what was read", func(path string) error { return os.Truncate(path, segment) }, true},
			{"truncated by a byte", func(path string) error { return os.Truncate(path, int64(size-1)) }, true},
			{"written again", func(path string) error { return os.WriteFile(path, xs(size), 0o644) }, true},
			{"made longer", func(path string) error { return os.WriteFile(path, testkit.Pattern(size+1), 0o644) }, true},
			{"written again, the time set back", func(path string) error {
				return errors.Join(os.WriteFile(path, xs(size), 0o644), os.Chtimes(path, time.Time{}, long))
			}, true},
			{"made longer, the time set back", func(path string) error {
				return errors.Join(os.WriteFile(path, xs(size+1), 0o644), os.Chtimes(path, time.Time{}, long))
			}, true},
		} {
			for _, asText := range []bool{false, true} {
				f, folder := open(t)
				path := folder + "/a.img"
				testkit.WriteFile(t, path, testkit.Pattern(size))
				testkit.Must(t, os.Chtimes(path, time.Time{}, long))
				file := mustOpen(t, f, "a.img")
				tick(t, folder, time.Unix(file.was.Ctim.Unix()))
				content, err := fetch(file, asText, segment, func() { testkit.Must(t, c.change(path)) })
				failure, failed := errors.AsType[*Failure](err)
				switch {
				case !c.fails && (err != nil || !bytes.Equal(content, testkit.Pattern(size))):
					t.Errorf("%d bytes, %s: %v after %d bytes", size, c.what, err, len(content))
				case c.fails && (!failed || failure.Kind != Broken || len(content) >= size):
					t.Errorf("%d bytes, %s: %v after %d bytes", size, c.what, err, len(content))
				}
			}
		}
	}
}

// Any part of a file can be read again, and a failure stays: what is read again never looks like
// the end of the file.
func TestReadAgain(t *testing.T) {
	f, folder := open(t)
	content := testkit.Pattern(100)
	testkit.WriteFile(t, folder+"/a.txt", content)
	file := mustOpen(t, f, "a.txt")
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
		n, err := file.ReadAt(part, 40)
		if _, failed := errors.AsType[*Failure](err); !failed || n != 0 {
			t.Errorf("at 40 of 50: %d, %v", n, err)
		}
		n, err = io.ReadFull(file, make([]byte, 100))
		if _, failed := errors.AsType[*Failure](err); !failed || n > 50 {
			t.Errorf("as text: %d, %v", n, err)
		}
	}
}

func TestFailureOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{fs.ErrNotExist, NotFound}, {syscall.ENOENT, NotFound}, {syscall.ENOTDIR, NotFound}, {syscall.ENAMETOOLONG, NotFound},
		{syscall.EACCES, Denied}, {syscall.EPERM, Denied}, {syscall.ELOOP, Denied}, {syscall.ENXIO, Denied},
		{errors.New("path escapes from parent"), Denied},
		{syscall.EMFILE, Busy}, {syscall.ENFILE, Busy}, {syscall.EAGAIN, Busy},
		{syscall.EIO, Broken}, {syscall.ESTALE, Broken}, {syscall.EOVERFLOW, Broken},
	} {
		got := failureOf(&fs.PathError{Op: "openat", Path: "/srv/secret/a.txt", Err: c.err})
		if got.Kind != c.want || strings.Contains(got.Why, "secret") {
			t.Errorf("%v: %v %q", c.err, got.Kind, got.Why)
		}
	}
}
