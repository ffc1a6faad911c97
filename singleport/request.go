package singleport

import (
	"bytes"
	"encoding/binary"
	"strconv"
)

// Opcodes, RFC 1350 section 5 and RFC 2347.
const (
	opRRQ   = 1
	opWRQ   = 2
	opDATA  = 3
	opACK   = 4
	opERROR = 5
	opOACK  = 6
)

// keptNameLength, in bytes, is how much of a file name is kept: what leaves room for the rest of
// a request in the 516 bytes that the engine reads. A longer name is nobody's.
const keptNameLength = 480

// option is one that this server knows. Its values index optionNames.
type option int

const (
	optionBlockSize    option = iota // RFC 2348
	optionTimeout                    // RFC 2349, seconds
	optionTransferSize               // RFC 2349, bytes
	optionWindowSize                 // RFC 7440, blocks
	optionCount
)

var optionNames = [optionCount]string{"blksize", "timeout", "tsize", "windowsize"}

// Lowest and highest values that are granted. Of a blksize or a windowsize above these, the
// highest is granted; a tsize is the server's to say.
var optionBounds = [optionCount][2]int{{MinBlockSize, MaxBlockSize}, {1, MaxTimeout}, {0, mostNumber}, {1, MaxWindowSize}}

// request is an RRQ or a WRQ. Its slices are the datagram's.
type request struct {
	write      bool
	name, mode []byte
	wishes     [optionCount]wish // valid ones, in the order of the request
	count      int               // of wishes
}

// options returns the valid options, in the order of the request.
func (r *request) options() []wish { return r.wishes[:r.count] }

// wish is an option of a request with a value within its bounds.
type wish struct {
	option option
	value  int
	name   []byte // as the client writes it: some compare the OACK's with case
}

// parseRequest reads an RRQ or a WRQ (RFC 1350 section 5, RFC 2347): false if its name or mode
// does not end. An option that is not known or whose value is none counts as not sent, and so
// does what comes after the first option that does not end. Of a repeated option the first
// counts.
func parseRequest(datagram []byte) (request, bool) {
	r := request{write: binary.BigEndian.Uint16(datagram) == opWRQ}
	var ok bool
	rest := datagram[2:]
	if r.name, rest, ok = cutString(rest); !ok {
		return r, false
	}
	if r.mode, rest, ok = cutString(rest); !ok {
		return r, false
	}
	r.name = r.name[:min(len(r.name), keptNameLength)]
	var seen [optionCount]bool
	for {
		var name, value []byte
		if name, rest, ok = cutString(rest); !ok {
			return r, true
		}
		if value, rest, ok = cutString(rest); !ok {
			return r, true
		}
		for o, known := range optionNames {
			if !seen[o] && equalFold(name, known) {
				seen[o] = true
				bounds := optionBounds[o]
				n, ok := parseNumber(value)
				if option(o) != optionTimeout {
					n = min(n, bounds[1])
				}
				if ok && bounds[0] <= n && n <= bounds[1] {
					r.wishes[r.count] = wish{option(o), n, name}
					r.count++
				}
			}
		}
	}
}

// cutString returns the bytes before the first NUL and those after it.
func cutString(b []byte) (before, after []byte, found bool) { return bytes.Cut(b, []byte{0}) }

// equalFold compares names of options and modes (RFC 2347: without regard to case); known is in
// lower case.
func equalFold(b []byte, known string) bool {
	if len(b) != len(known) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != known[i] {
			return false
		}
	}
	return true
}

// mostNumber is what parseNumber returns for all that is larger.
const mostNumber = 1_000_000_000

// parseNumber reads decimal digits, however many.
func parseNumber(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || '9' < c {
			return 0, false
		}
		n = min(10*min(n, mostNumber/10)+int(c-'0'), mostNumber)
	}
	return n, len(b) > 0
}

// servedMode returns the mode of the request; false for one that is not served.
func (r *request) servedMode() (Mode, bool) {
	for _, mode := range []Mode{Octet, NetASCII} {
		if equalFold(r.mode, string(mode)) {
			return mode, true
		}
	}
	return "", false
}

// largestAnswer returns the largest first answer that the request can draw, bytes: an OACK at its
// longest if one is certain, else a DATA of 512 bytes.
func (r *request) largestAnswer() int {
	const longestValue = 19 // digits of a tsize
	size, certain := 2, false
	for _, a := range r.options() {
		size += len(a.name) + 1 + longestValue + 1
		certain = certain || a.option != optionTransferSize // that is left out for an empty file
	}
	if certain {
		return size
	}
	return 4 + DefaultBlockSize
}

// terms are what a transfer was agreed to.
type terms struct {
	blockSize  int // bytes
	windowSize int // blocks
	timeout    int // seconds; 0 where none was agreed
}

// isSimple reports whether a client may be one that takes any block for the next. All that are
// known to do so name no option, or the timeout first.
func isSimple(options []wish) bool {
	return len(options) == 0 || options[0].option == optionTimeout
}

// negotiate grants what may be granted: the terms, and the OACK that says so, or nil where it
// would be empty. size, in bytes, answers a tsize unless it is below one.
func negotiate(options []wish, maxBlockSize, maxWindowSize int, size int64) (terms, []byte) {
	t := terms{blockSize: DefaultBlockSize, windowSize: 1}
	oack := []byte{0, opOACK}
	for _, a := range options {
		value := int64(a.value)
		switch a.option {
		case optionBlockSize:
			t.blockSize = min(a.value, maxBlockSize)
			value = int64(t.blockSize)
		case optionTimeout:
			t.timeout = a.value
		case optionWindowSize:
			t.windowSize = min(a.value, maxWindowSize)
			value = int64(t.windowSize)
		case optionTransferSize:
			if value = size; size < 1 { // curl fails on a tsize of 0
				continue
			}
		}
		oack = append(oack, a.name...)
		oack = append(oack, 0)
		oack = strconv.AppendInt(oack, value, 10)
		oack = append(oack, 0)
	}
	if len(oack) == 2 {
		return t, nil
	}
	return t, oack
}

// appendError appends an ERROR packet, RFC 1350 section 5.
func appendError(b []byte, e *Error) []byte {
	b = append(b, 0, opERROR, byte(e.Code>>8), byte(e.Code))
	b = append(b, e.Message...)
	return append(b, 0)
}
