package folder

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Failure is why a file cannot be read.
type Failure struct {
	Kind Kind
	Why  string // for the operator; names no path
}

func (f *Failure) Error() string { return f.Why }

// Kind is what a Failure comes to for whoever asked.
type Kind int

const (
	NotFound Kind = iota // there is nothing at the path
	Denied               // there is, but no regular file of the folder that may be read
	Busy                 // it may be readable soon
	Broken               // reading fails, or the file changed while it was read
)

// A program that writes to a file may hold a lease on it: Samba for a client's cache, an NFS server
// for a delegation. The kernel then has it write back what it cached before others may open the
// file.
const (
	// leaseTime is how long that is waited for. The kernel gives the holder 45 s, which is longer
	// than any boot program waits.
	leaseTime = 3 * time.Second
	leasePace = 50 * time.Millisecond // between two attempts
	// mostWaiting bounds those who wait: each keeps one of the places at the disk.
	mostWaiting = 8
)

// OpenFile opens the regular file at path, which is slash-separated and valid for fs.ValidPath.
// Neither .. nor a symbolic link leads out of the folder; an absolute link counts as one that does.
func (f *Folder) OpenFile(path string) (*File, *Failure) {
	file, err := f.openReleased(path)
	if err != nil {
		return nil, failureOf(err)
	}
	opened := &File{folder: f, path: path, file: file}
	if opened.was, err = opened.status(); err == nil && opened.was.Mode&unix.S_IFMT == unix.S_IFREG {
		return opened, nil
	}
	file.Close()
	if err != nil {
		return nil, failureOf(err)
	}
	return nil, &Failure{Denied, "not a regular file"}
}

// openReleased opens a file, and waits for the end of a lease on it.
func (f *Folder) openReleased(path string) (*os.File, error) {
	for waited := time.Duration(0); ; waited += leasePace {
		file, err := f.root.OpenFile(path, openFlags, 0)
		if !errors.Is(err, syscall.EAGAIN) || waited >= leaseTime {
			return file, err
		}
		select {
		case f.waiting <- struct{}{}:
			time.Sleep(leasePace)
			<-f.waiting
		default:
			return nil, err
		}
	}
}

func failureOf(err error) *Failure {
	err = cause(err)
	_, fromSystem := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return &Failure{NotFound, err.Error()}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &Failure{Busy, err.Error() + ": raise the limit (ulimit -n) or lower -max-transfers"}
	case errors.Is(err, syscall.EAGAIN):
		return &Failure{Busy, "another program holds a lease on the file (Samba, NFS)"}
	case !fromSystem: // os.Root's own
		return &Failure{Denied, err.Error() + ": a link leads out of the folder or is absolute"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return &Failure{Denied, err.Error()}
	}
	return &Failure{Broken, err.Error()}
}

// File is an open file. It is read as it was when it was opened: where it is written to meanwhile,
// reading its end fails, so that it never looks whole. A file that is replaced by rename, moved or
// removed is read to its end.
type File struct {
	folder *Folder
	path   string
	file   *os.File
	was    unix.Stat_t
	text   *bufio.Reader // of Read
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Size returns the size of the file in bytes.
func (f *File) Size() int64 { return f.was.Size }

// ReadAt reads any part of the file, as io.ReaderAt has it. Errors other than io.EOF are *Failure.
func (f *File) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.file.ReadAt(p[:max(min(int64(len(p)), f.Size()-offset), 0)], offset)
	switch {
	case err == io.EOF:
		return 0, &Failure{Broken, "the file became shorter while it was sent"}
	case err != nil:
		return 0, &Failure{Broken, cause(err).Error()}
	case offset+int64(n) < f.Size():
		return n, nil
	}
	// The check comes before the last block leaves: with that block the client takes the file for
	// whole.
	if f.isWrittenTo() {
		return 0, &Failure{Broken, "the file was written to while it was sent; replace it by rename instead"}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Read reads the file from its beginning, in steps of any size.
func (f *File) Read(p []byte) (int, error) {
	if f.text == nil {
		f.text = bufio.NewReader(io.NewSectionReader(f, 0, f.Size()))
	}
	return f.text.Read(p)
}

// isWrittenTo reports whether the file is not what it was when it was opened. A tool may set the
// time of modification back, as cp -p and rsync do, but not that of change, which also moves when
// the file is linked, moved, removed or given other rights.
func (f *File) isWrittenTo() bool {
	is, err := f.status()
	was := &f.was
	switch {
	case err != nil || is.Size != was.Size || is.Mtim != was.Mtim:
		return true
	case is.Ctim == was.Ctim, is.Nlink != was.Nlink, is.Mode != was.Mode, is.Uid != was.Uid, is.Gid != was.Gid:
		return false
	}
	there, err := f.folder.root.Stat(f.path)
	here, failed := f.file.Stat()
	return err == nil && failed == nil && os.SameFile(there, here)
}

func (f *File) status() (status unix.Stat_t, err error) {
	raw, err := f.file.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &status) })
	}
	return status, err
}
