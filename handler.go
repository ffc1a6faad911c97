package main

import (
	"net/netip"

	"flytftp/internal/folder"
	"flytftp/singleport"
)

// transfer is what the handler needs of a *singleport.Transfer.
type transfer interface {
	Name() string
	Client() netip.AddrPort
	Stats() singleport.Stats
}

// handler answers RRQs with the files of the folder.
type handler struct {
	folder *folder.Folder
	allow  allowList
	log    *journal
	own    []netip.Addr // the bound addresses: only this machine sends from them
}

// answer answers one RRQ: name to path, path to open file. The file, or what refuses the request,
// writes one line in the log.
func (h *handler) answer(t transfer) (singleport.File, error) {
	path, err := resolveName(t.Name(), h.allow)
	if err != nil {
		if t.Name() == "" && h.isOwn(t.Client().Addr()) {
			return nil, &refused{singleport.ErrNotFound, ""} // it is -healthcheck
		}
		h.log.refused("denied", t.Client(), t.Name(), err.Error())
		return nil, &refused{singleport.ErrNotFound, "denied"}
	}
	file, failure := h.folder.OpenFile(path)
	if failure != nil {
		answer, event := refusal(failure.Kind)
		h.log.refused(event, t.Client(), path, failure.Why)
		return nil, &refused{answer, event}
	}
	return &sentFile{file, h.log, path, t}, nil
}

// refused is why a request gets no file: what the client is told, and the word of the log, which is
// empty for a request that nobody is to see.
type refused struct {
	answer *singleport.Error
	event  string
}

func (r *refused) Error() string { return r.event }

// Unwrap makes a *singleport.Error of it.
func (r *refused) Unwrap() error { return r.answer }

// sentFile is the file of a transfer, whose end it writes to the log.
type sentFile struct {
	*folder.File
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

// outcome returns the words that begin the log line of a transfer that ended with err, when the
// client had acknowledged so many bytes. A client that only wants the size of a file sends an ERROR
// in place of its first ACK.
func outcome(err error, bytes int64) string {
	_, fromClient := err.(*singleport.ClientError)
	switch {
	case err == nil:
		return "sent"
	case err == singleport.ErrTimedOut:
		return "timed out"
	case fromClient && bytes == 0:
		return "probed"
	}
	return "failed"
}

// refusal returns the ERROR for a request whose file cannot be opened, and the words that begin its
// log line. What is denied is answered like what is absent: the client learns no difference, and
// boot programs go on to their next name, as some do not after an access violation.
func refusal(kind folder.Kind) (*singleport.Error, string) {
	switch kind {
	case folder.NotFound:
		return singleport.ErrNotFound, "not found"
	case folder.Denied:
		return singleport.ErrNotFound, "denied"
	case folder.Busy:
		return singleport.ErrBusy, "busy"
	}
	return singleport.ErrRead, "failed"
}
