package main

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"syscall"
	"time"

	"flytftp/singleport"
)

// transfer is what the handler needs of a *singleport.Transfer.
type transfer interface {
	Name() string
	Client() netip.AddrPort
	Stats() singleport.Stats
}

// handler answers RRQs with the regular files beneath root.
type handler struct {
	root  *os.Root
	allow allowList
	log   *journal
	own   []netip.Addr // the bound addresses: only this machine sends from them
}

// answer answers one RRQ: name to path, path to open file. The file, or what refuses the request,
// writes one line in the log.
func (h *handler) answer(t transfer) (singleport.File, error) {
	path, err := resolveName(t.Name(), h.allow)
	if err != nil {
		if t.Name() != "" || !h.isOwn(t.Client().Addr()) { // else it is -healthcheck
			h.log.refused("denied", t.Client(), "file=%+q client=%v why=%+q", t.Name(), t.Client(), err.Error())
		}
		return nil, singleport.ErrAccess
	}
	file, err := open(h.root, path)
	if err != nil {
		h.log.refused(outcome(err), t.Client(), "file=%+q client=%v why=%+q", path, t.Client(), err.Error())
		return nil, err
	}
	return &sentFile{wholeFile: file, log: h.log, path: path, transfer: t}, nil
}

// sentFile is the file of a transfer, whose end it writes to the log.
type sentFile struct {
	*wholeFile
	log      *journal
	path     string
	transfer transfer
}

// Ended implements singleport.File.
func (f *sentFile) Ended(err error) {
	f.Close()
	f.log.ended(f.path, f.transfer, err)
}

func (h *handler) isOwn(client netip.Addr) bool {
	for _, own := range h.own {
		if client == own {
			return true
		}
	}
	return client.IsLoopback()
}

// failure is why a file cannot be read. The client gets answer; why goes to the log alone.
type failure struct {
	answer *singleport.Error
	why    string
}

func (f *failure) Error() string { return f.why }
func (f *failure) Unwrap() error { return f.answer }

// outcome returns the words that begin the log line of a request that ended with err.
func outcome(err error) string {
	switch {
	case err == nil:
		return "sent"
	case errors.Is(err, singleport.ErrNotFound):
		return "not found"
	case errors.Is(err, singleport.ErrAccess):
		return "denied"
	case errors.Is(err, singleport.ErrBusy):
		return "busy"
	case errors.Is(err, singleport.ErrTimedOut):
		return "timed out"
	}
	return "failed"
}

// open opens the regular file at path beneath root. Its errors are all *failure.
func open(root *os.Root, path string) (*wholeFile, error) {
	// Without O_NONBLOCK, opening a FIFO or a device would wait for its other end.
	file, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, openFailure(err)
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		return &wholeFile{file: file, size: info.Size(), modified: info.ModTime()}, nil
	}
	file.Close()
	if err != nil {
		return nil, openFailure(err)
	}
	return nil, &failure{singleport.ErrAccess, "not a regular file"}
}

func openFailure(err error) *failure {
	if in, ok := errors.AsType[*fs.PathError](err); ok {
		err = in.Err // the log line names the file already
	}
	_, fromSystem := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return &failure{singleport.ErrNotFound, err.Error()}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &failure{singleport.ErrBusy, err.Error() + ": raise the limit (ulimit -n) or lower -max-transfers"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV),
		!fromSystem: // os.Root's own error: a link leaves the root
		return &failure{singleport.ErrAccess, err.Error()}
	}
	return &failure{singleport.ErrRead, err.Error()}
}

// wholeFile reads a file of the size that it had when it was opened. A file that is written to
// meanwhile ends in an error, so that it never looks whole at the other end. A file that is
// replaced by rename is read as it was.
type wholeFile struct {
	file     *os.File
	size     int64 // bytes
	modified time.Time
	text     *bufio.Reader // of Read
}

func (f *wholeFile) Close() error { return f.file.Close() }

// Size implements singleport.File.
func (f *wholeFile) Size() int64 { return f.size }

// ReadAt implements singleport.File.
func (f *wholeFile) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.file.ReadAt(p[:max(min(int64(len(p)), f.size-offset), 0)], offset)
	switch {
	case err == io.EOF:
		return 0, &failure{singleport.ErrRead, "the file became shorter while it was sent"}
	case err != nil:
		return 0, &failure{singleport.ErrRead, openFailure(err).why}
	case offset+int64(n) < f.size:
		return n, nil
	}
	// The check comes before the last block leaves: with that block the client takes the file for
	// whole.
	if info, err := f.file.Stat(); err != nil || !info.ModTime().Equal(f.modified) {
		return 0, &failure{singleport.ErrRead, "the file was written to while it was sent; replace it by rename instead"}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Read implements singleport.File. Netascii is read 256 bytes at a time (pin/tftp
// netascii/netascii.go, ToReader).
func (f *wholeFile) Read(p []byte) (int, error) {
	if f.text == nil {
		f.text = bufio.NewReader(io.NewSectionReader(f, 0, f.size))
	}
	return f.text.Read(p)
}
