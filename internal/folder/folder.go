// Package folder opens the files of the folder that is served, and notices when they, or the
// folder, are no longer what they were. It knows nothing of TFTP, nor of which names are allowed.
package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Folder is the open folder. It stays the same one, whatever its path comes to name.
type Folder struct {
	root    *os.Root
	self    *os.File
	path    string        // as it was given
	found   string        // the same, from the root of the file system
	waiting chan struct{} // has an element for each OpenFile that waits for the end of a lease
}

// Open opens the folder at path. Its errors say what to do.
func Open(path string) (*Folder, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no folder %+q: create it, or name the folder of the files with -root", path)
	}
	var there syscall.Stat_t
	if err != nil && syscall.Stat(path, &there) == nil && there.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return nil, fmt.Errorf("%+q is not a folder: name the folder of the files with -root", path)
	}
	f := &Folder{root: root, path: path, found: path, waiting: make(chan struct{}, mostWaiting)}
	if err == nil {
		f.self, err = root.Open(".")
	}
	if err != nil {
		return nil, f.unreadable(err)
	}
	if path == "" || path[0] != '/' {
		here, err := syscall.Getwd()
		if err != nil {
			return nil, err
		}
		f.found = here + "/" + path // as it is: a link before a .. counts
	}
	return f, nil
}

// Close closes the folder, but not the files that are open.
func (f *Folder) Close() error {
	f.self.Close()
	return f.root.Close()
}

// Root returns the folder for what confines the process to it.
func (f *Folder) Root() *os.Root { return f.root }

// Readable returns an error unless the process may list the folder and look up names in it.
func (f *Folder) Readable() error {
	folder, err := f.root.Open(".")
	if err != nil {
		return f.unreadable(err)
	}
	return folder.Close()
}

// StillReadable is Readable behind the fences: on some mounts, such as those of Docker Desktop,
// Landlock does not recognise the folder.
func (f *Folder) StillReadable() error {
	err := f.Readable()
	if err != nil {
		err = fmt.Errorf("the sandbox does not fit this mount: put the files into a volume or into the image: %w", err)
	}
	return err
}

func (f *Folder) unreadable(err error) error {
	return fmt.Errorf("user %d cannot read the folder %+q: %w: allow it (chmod -R a+rX) or choose another -user or -root",
		os.Geteuid(), f.path, cause(err))
}

// cause returns err without the path that package os names in it.
func cause(err error) error {
	if in, ok := errors.AsType[*fs.PathError](err); ok {
		return in.Err
	}
	return err
}

// Lost returns an error if the folder is not the one any more that its path leads to. It returns
// nil while it is, and while that cannot be told because the process may not look up the path.
func (f *Folder) Lost() error {
	var there syscall.Stat_t
	err := syscall.Stat(f.found, &there)
	self, failed := status(f.self)
	switch {
	case err == syscall.ENOENT, err == syscall.ENOTDIR, failed == syscall.ESTALE:
	case failed == nil && (self.Nlink == 0 || err == nil && !isSame(&there, &self)):
	default:
		return nil
	}
	return fmt.Errorf("the folder %+q was moved, deleted or replaced", f.path)
}

func isSame(a, b *syscall.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino }

// status returns what the kernel knows of an open file.
func status(file *os.File) (status syscall.Stat_t, err error) {
	raw, err := file.SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { err = syscall.Fstat(int(fd), &status) })
	}
	return status, err
}
