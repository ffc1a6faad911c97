package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// fuse is a file system of regular files that answers only what it is told to: a disk that hangs,
// with the kernel between it and the program. It speaks to /dev/fuse as in Linux's fuse(4) and
// include/uapi/linux/fuse.h.
type fuse struct {
	*testkit.Namespace // that it is mounted in
	t                  *testing.T
	fd                 int
	names              []string // of node 2, 3, ...
	content            []byte   // of every file
	served             sync.WaitGroup

	mu      sync.Mutex
	hangs   func(operation uint32, name string) bool
	kept    []fuseRequest // that hang
	openers int           // how often the root may be opened; 0 is without end
}

// The operations that the program's system calls come to.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseOpen        = 14
	fuseRead        = 15
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReaddir     = 28
	fuseReleasedir  = 29
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42
)

// fuseRequest is struct fuse_in_header, without what is not needed here, and what follows it.
type fuseRequest struct {
	operation uint32
	unique    uint64
	node      uint64
	data      []byte
}

const fuseRoot = 1 // FUSE_ROOT_ID

// mountFuse mounts a file system with these files at path, in a namespace of its own. The end of
// the test lets go of all that hangs.
func mountFuse(t *testing.T, path string, names []string, content []byte) *fuse {
	t.Helper()
	needRoot(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testkit.Skip(t, "/dev/fuse: "+err.Error())
	}
	f := &fuse{Namespace: testkit.NewNamespace(t), t: t, fd: fd, names: names, content: content}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd)
	testkit.Must(t, f.Do(func() error { return unix.Mount("test", path, "fuse", unix.MS_NODEV|unix.MS_NOSUID, options) }))
	f.served.Go(f.serve)
	t.Cleanup(func() {
		// The connection ends with its last mount, and with it all that waits in the kernel.
		testkit.Must(t, f.Do(func() error { return unix.Unmount(path, unix.MNT_FORCE|unix.MNT_DETACH) }))
		f.served.Wait()
		unix.Close(fd)
	})
	return f
}

// hang has operations wait from now on.
func (f *fuse) hang(which func(operation uint32, name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangs = which
}

// heal answers all that waits.
func (f *fuse) heal() {
	f.mu.Lock()
	kept := f.kept
	f.kept, f.hangs = nil, nil
	f.mu.Unlock()
	for _, r := range kept {
		f.answer(r)
	}
}

// waiting returns how many operations hang.
func (f *fuse) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.kept)
}

func (f *fuse) serve() {
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(f.fd, b)
		if err == unix.ENODEV { // unmounted
			return
		}
		if err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT { // it was taken back
			continue
		}
		if err != nil || n < 40 {
			f.t.Errorf("/dev/fuse: %d bytes, %v", n, err)
			return
		}
		in := binary.NativeEndian
		r := fuseRequest{in.Uint32(b[4:]), in.Uint64(b[8:]), in.Uint64(b[16:]), bytes.Clone(b[40:n])}
		f.mu.Lock()
		keep := f.hangs != nil && r.operation != fuseInit && r.operation != fuseDestroy && f.hangs(r.operation, f.nameOf(r))
		if keep {
			f.kept = append(f.kept, r)
		}
		f.mu.Unlock()
		if !keep {
			f.answer(r)
		}
	}
}

// nameOf returns the name of the file that a request is about, or "" for the root.
func (f *fuse) nameOf(r fuseRequest) string {
	if r.operation == fuseLookup {
		return strings.TrimRight(string(r.data), "\x00")
	}
	if at := int(r.node) - fuseRoot - 1; 0 <= at && at < len(f.names) {
		return f.names[at]
	}
	return ""
}

func (f *fuse) answer(r fuseRequest) {
	in := binary.NativeEndian
	var out []byte
	var failure unix.Errno
	switch r.operation {
	case fuseForget, fuseBatchForget, fuseInterrupt, fuseDestroy:
		return // no answer
	case fuseInit:
		out = make([]byte, 64)
		in.PutUint32(out, 7)          // major
		in.PutUint32(out[4:], 31)     // minor
		in.PutUint32(out[8:], 64<<10) // max_readahead
		in.PutUint16(out[16:], 1000)  // max_background
		in.PutUint16(out[18:], 1000)  // congestion_threshold
		in.PutUint32(out[20:], 4096)  // max_write
	case fuseLookup:
		failure = unix.ENOENT
		for i, name := range f.names {
			if name == f.nameOf(r) {
				failure = 0
				node := uint64(i) + fuseRoot + 1
				out = in.AppendUint64(nil, node)
				out = append(out, make([]byte, 32)...) // nothing is valid for long
				out = append(out, f.attributes(node)...)
			}
		}
	case fuseGetattr:
		out = append(make([]byte, 16), f.attributes(r.node)...)
	case fuseOpen, fuseOpendir:
		out = make([]byte, 16)
		f.mu.Lock()
		if r.operation == fuseOpendir && f.openers > 0 {
			if f.openers--; f.openers == 0 {
				out, failure, f.openers = nil, unix.EACCES, 1
			}
		}
		f.mu.Unlock()
	case fuseRead:
		offset, size := in.Uint64(r.data[8:]), in.Uint32(r.data[16:])
		from := min(int(offset), len(f.content))
		out = f.content[from:min(from+int(size), len(f.content))]
	case fuseStatfs:
		out = make([]byte, 80)
	case fuseReaddir, fuseRelease, fuseReleasedir:
	default:
		failure = unix.ENOSYS
	}
	header := in.AppendUint32(nil, uint32(16+len(out)))
	header = in.AppendUint32(header, uint32(-int32(failure)))
	header = in.AppendUint64(header, r.unique)
	unix.Write(f.fd, append(header, out...)) // ENOENT if nobody waits any more
}

// attributes returns the struct fuse_attr of a node.
func (f *fuse) attributes(node uint64) []byte {
	in := binary.NativeEndian
	mode, size, links := uint32(unix.S_IFREG|0o444), uint64(len(f.content)), uint32(1)
	if node == fuseRoot {
		mode, size, links = unix.S_IFDIR|0o555, 0, 2
	}
	b := in.AppendUint64(nil, node)
	b = in.AppendUint64(b, size)
	b = append(b, make([]byte, 8+3*8+3*4)...) // blocks, times
	b = in.AppendUint32(b, mode)
	b = in.AppendUint32(b, links)
	b = append(b, make([]byte, 3*4)...) // owner, device
	b = in.AppendUint32(b, 4096)
	return append(b, make([]byte, 4)...)
}

// start starts the program in the namespace, where the file system is. What hangs is let go before
// the end of the test waits for the program: a thread that waits for a disk survives every signal.
func (f *fuse) start(t *testing.T, root string, args ...string) *daemon {
	t.Helper()
	cmd := f.Command(append([]string{program(), "-listen", "127.0.0.1:0", "-root", root}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	d := startCommand(t, cmd)
	t.Cleanup(f.heal)
	return d
}
