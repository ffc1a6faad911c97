// Package folder opens the files of the folder that is served, and notices when they, or the
// folder, are no longer what they were. It knows nothing of TFTP, nor of which names are allowed.
package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Folder is the open folder. It stays the same one, whatever its path comes to name.
type Folder struct {
	root    *os.Root
	path    string // as it was given
	found   string // the same, from the root of the file system
	opened  fs.FileInfo
	sample  string        // a file that could be read; empty if there was none
	waiting chan struct{} // has an element for each OpenFile that waits for the end of a lease
}

// Open opens the folder at path. Its errors say what to do.
func Open(path string) (*Folder, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no folder %+q: create it, or name the folder of the files with -root", path)
	}
	if err != nil {
		if info, failed := os.Stat(path); failed == nil && !info.IsDir() {
			return nil, fmt.Errorf("%+q is not a folder: name the folder of the files with -root", path)
		}
		return nil, unreadable(path, err)
	}
	f := &Folder{root: root, path: path, found: path, waiting: make(chan struct{}, mostWaiting)}
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		f.found = here + "/" + path // as it is: a link before a .. counts
	}
	if f.opened, err = root.Stat("."); err != nil {
		return nil, unreadable(path, err)
	}
	return f, f.Readable()
}

// Close closes the folder, but not the files that are open.
func (f *Folder) Close() error { return f.root.Close() }

// Root returns the folder for what confines the process to it.
func (f *Folder) Root() *os.Root { return f.root }

// sampleNames bounds the names that are tried to find a file that can be read.
const sampleNames = 100

// Readable returns an error unless the process may list the folder and look up names in it. It
// remembers one of the files for StillReadable.
func (f *Folder) Readable() error {
	folder, err := f.root.Open(".")
	if err != nil {
		return unreadable(f.path, err)
	}
	defer folder.Close()
	f.sample = ""
	names, _ := folder.Readdirnames(sampleNames)
	for _, name := range names {
		if file, failure := f.OpenFile(name); failure == nil {
			file.Close()
			f.sample = name
			break
		}
	}
	return nil
}

// StillReadable returns an error if the process may no longer read what Readable could: where
// Docker Desktop mounts a folder of its host, Landlock does not recognise what lies beneath.
func (f *Folder) StillReadable() error {
	if f.sample == "" {
		return nil
	}
	file, failure := f.OpenFile(f.sample)
	switch {
	case failure == nil:
		return file.Close()
	case failure.Kind == NotFound:
		return nil // it was removed meanwhile
	}
	return fmt.Errorf("the sandbox keeps the server from the files in %+q: %w: "+
		"on bind mounts of Docker Desktop it does; put the files into a volume or into the image", f.path, failure)
}

func unreadable(path string, err error) error {
	return fmt.Errorf("user %d cannot read the folder %+q: %w: allow it (chmod -R a+rX) or choose another -user or -root",
		os.Geteuid(), path, cause(err))
}

// cause returns err without the path that package os names in it.
func cause(err error) error {
	if in, ok := errors.AsType[*fs.PathError](err); ok {
		return in.Err
	}
	return err
}

// Lost returns why the folder is not the one any more that its path leads to. It returns nil while
// it is, and while that cannot be told because the process may not look up the path.
func (f *Folder) Lost() error {
	there, err := os.Stat(f.found)
	switch {
	case err == nil && !os.SameFile(there, f.opened):
		return fmt.Errorf("the path of the folder %+q leads to another one", f.path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("the folder %+q was moved or deleted", f.path)
	}
	open, err := f.root.Stat(".")
	if errors.Is(err, syscall.ESTALE) || err == nil && open.Sys().(*syscall.Stat_t).Nlink == 0 {
		return fmt.Errorf("the folder %+q was deleted", f.path)
	}
	return nil
}
