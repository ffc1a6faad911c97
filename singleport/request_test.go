package singleport

import (
	"bytes"
	"strconv"
	"testing"
)

// rebuilt returns a request with what is kept of r.
func (r *request) rebuilt() []byte {
	options := []string{}
	for _, a := range r.options() {
		options = append(options, string(a.name), strconv.Itoa(a.value))
	}
	b := requestOf(string(r.name), string(r.mode), options...)
	if r.write {
		b[1] = wireWRQ
	}
	return b
}

func seedRequests(f *testing.F, add func(request []byte)) {
	for _, request := range [][]byte{
		requestOf("a", "octet"),
		requestOf("undionly.kpxe", "octet", "blksize", "1432", "tsize", "0"),
		requestOf("a", "NETASCII", "TSize", "0", "BlkSize", "1468", "WindowSize", "4", "timeout", "5"),
		requestOf("a", "octet", "blksize", "8", "blksize", "9", "windowsize", "0", "timeout", "256", "multicast", ""),
		requestOf("a", "mail", "blksize", "0000000512", "tsize", "-1", "windowsize", "65535"),
		[]byte("\x00\x01a"), []byte("\x00\x01a\x00octet"), []byte("\x00\x02\x00\x00"), []byte("\x00\x01a\x00octet\x00blksize"),
		[]byte("\x00\x01a\x00octet\x00blksize\x00512"), requestOf(string(bytes.Repeat([]byte("x"), 600)), "octet", "tsize", "0"),
		requestOf("a", "octet", "tsize", string(bytes.Repeat([]byte("9"), 600))),
	} {
		add(request)
	}
}

// A request is never more than it may be, and reads the same when it is put together again from
// what was kept of it.
func FuzzRequest(f *testing.F) {
	seedRequests(f, func(request []byte) { f.Add(request) })
	f.Fuzz(func(t *testing.T, datagram []byte) {
		if len(datagram) < 4 {
			return // malformed, as receive says
		}
		r, ok := parseRequest(datagram)
		if !ok {
			if bytes.Count(datagram[2:], []byte{0}) >= 2 {
				t.Fatal("name and mode end, and it is refused")
			}
			return
		}
		var seen [optionCount]bool
		for _, a := range r.options() {
			if seen[a.option] || a.value < optionBounds[a.option][0] || a.value > optionBounds[a.option][1] || !equalFold(a.name, optionNames[a.option]) {
				t.Fatalf("option %q = %d", a.name, a.value)
			}
			seen[a.option] = true
		}
		again, ok := parseRequest(r.rebuilt())
		if !ok || !bytes.Equal(again.rebuilt(), r.rebuilt()) {
			t.Fatalf("%q was read as %q and again as %q", datagram, r.rebuilt(), again.rebuilt())
		}
		if mode, ok := r.servedMode(); ok {
			transfer := Transfer{name: string(r.name), mode: mode, segmentSize: largestSegment}
			// More overflows a buffer of pin/tftp (sender.go, sendDatagram).
			if b := transfer.appendDelivery(nil, deliverRequest); len(b) > 516 {
				t.Fatalf("the engine is given %d bytes", len(b))
			}
		}
	})
}

// What is granted was asked for, in the words and in the order of the request, within every limit.
func FuzzNegotiate(f *testing.F) {
	seedRequests(f, func(request []byte) { f.Add(request, uint16(1468), uint16(64), int64(70_274)) })
	f.Add(requestOf("a", "octet", "windowsize", "64", "blksize", "65464", "tsize", "0"), uint16(65464), uint16(32767), int64(0))
	f.Add(requestOf("a", "octet", "tsize", "0"), uint16(512), uint16(1), int64(-1))
	f.Fuzz(func(t *testing.T, datagram []byte, maxBlockSize, maxWindowSize uint16, size int64) {
		if len(datagram) < 4 {
			return
		}
		r, ok := parseRequest(datagram)
		if !ok {
			return
		}
		mostBlock, mostWindow := max(int(maxBlockSize), DefaultBlockSize), max(int(maxWindowSize), 1)
		agreed, oack := negotiate(r.options(), mostBlock, mostWindow, size)
		if agreed.blockSize < MinBlockSize || agreed.blockSize > mostBlock || agreed.windowSize < 1 || agreed.windowSize > mostWindow ||
			agreed.timeout < 0 || agreed.timeout > MaxTimeout {
			t.Fatalf("%+v", agreed)
		}
		if oack == nil {
			if agreed != (terms{DefaultBlockSize, 1, 0}) {
				t.Fatalf("%+v without an OACK", agreed)
			}
			return
		}
		if most := r.largestAnswer(); len(oack) > most {
			t.Fatalf("an OACK of %d bytes, foreseen were %d", len(oack), most)
		}
		if !bytes.HasPrefix(oack, []byte{0, wireOACK}) || oack[len(oack)-1] != 0 {
			t.Fatalf("OACK %q", oack)
		}
		fields := bytes.Split(oack[2:len(oack)-1], []byte{0})
		asked := r.options()
		for i := 0; i < len(fields); i += 2 {
			for len(asked) > 0 && !bytes.Equal(asked[0].name, fields[i]) {
				asked = asked[1:]
			}
			if len(asked) == 0 || i+1 == len(fields) {
				t.Fatalf("OACK %q of %q", oack, datagram)
			}
			granted := map[option]int64{optionBlockSize: int64(agreed.blockSize), optionTimeout: int64(agreed.timeout),
				optionTransferSize: size, optionWindowSize: int64(agreed.windowSize)}[asked[0].option]
			if string(fields[i+1]) != strconv.FormatInt(granted, 10) || granted > int64(asked[0].value) && asked[0].option != optionTransferSize || granted < 1 {
				t.Fatalf("OACK %q of %q", oack, datagram)
			}
			asked = asked[1:]
		}
	})
}
