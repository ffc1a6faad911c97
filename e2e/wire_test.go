package e2e

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// Every answer that a request can get, byte by byte, and its line in the log.
func TestAnswersOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("a\nb"))
	testkit.WriteFile(t, folder+"/a.key", []byte("key"))
	testkit.WriteFile(t, folder+"/sub/b.txt", []byte("below"))
	testkit.Must(t, os.Symlink("/etc/hostname", folder+"/out.txt"))
	testkit.Must(t, syscall.Mkfifo(folder+"/fifo.txt", 0o644))
	d := start(t, folder)
	for _, c := range []struct{ request, answer, line string }{
		{rrq("a.txt", "octet"), "\x00\x03\x00\x01a\nb", `sent file="a.txt" client=`},
		{rrq("a.txt", "NetASCII"), "\x00\x03\x00\x01a\r\nb", `sent file="a.txt" client=`},
		{rrq(`\sub\\b.txt`+"\xff", "octet"), "\x00\x03\x00\x01below", `sent file="sub/b.txt" client=`},
		{rrq("a.txt", "octet", "tsize", "0"), "\x00\x06tsize\x003\x00", ""},
		{rrq("absent.txt", "octet"), notFound, `not found file="absent.txt" client=`},
		{rrq("a.key", "octet"), denied, `denied file="a.key" client=`},
		{rrq("absent.key", "octet"), denied, `denied file="absent.key" client=`},
		{rrq("../a.txt", "octet"), denied, `denied file="../a.txt" client=`},
		{rrq("sub", "octet"), denied, `denied file="sub" client=`},
		{rrq("out.txt", "octet"), denied, `denied file="out.txt" client=`},
		{rrq("fifo.txt", "octet"), denied, `denied file="fifo.txt" client=`},
		{rrq("\x1b]0;x\x07.txt", "octet"), denied, `denied file="\x1b]0;x\a.txt" client=`},
		{rrq("a.txt", "mail"), illegal, `denied file="a.txt" client=`},
		{wrq("a.txt"), denied, `denied file="a.txt" client=`},
	} {
		client := dial(t, d.addr)
		if got := client.ask(c.request); got != c.answer {
			t.Errorf("%q is answered %q, want %q", c.request, got, c.answer)
		}
		if strings.HasPrefix(c.answer, "\x00\x03") {
			client.conn.Write([]byte(ack(1)))
		}
		if c.line != "" {
			d.waitFor(c.line + client.conn.LocalAddr().String())
		}
	}
	for i, b := range []byte(d.logged()) {
		if b != '\n' && (b < ' ' || b > '~') {
			t.Fatalf("byte %#x at %d of the log", b, i)
		}
	}
}

// The first answer to every kind of option: an OACK with what was granted, as the client wrote it,
// or DATA if nothing was.
func TestOptionsOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("a\nb"))
	const (
		octet    = "\x00\x03\x00\x01a\nb"
		netASCII = "\x00\x03\x00\x01a\r\nb"
	)
	usual := start(t, folder)
	small := start(t, folder, "-max-blksize", "1024", "-max-windowsize", "8")
	for _, c := range []struct {
		d               *daemon
		request, answer string
	}{
		{usual, rrq("a.txt", "octet", "blksize", "8"), "\x00\x06blksize\x008\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "1468"), "\x00\x06blksize\x001468\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "1469"), "\x00\x06blksize\x001468\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "65464"), "\x00\x06blksize\x001468\x00"},
		{small, rrq("a.txt", "octet", "blksize", "1025"), "\x00\x06blksize\x001024\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "7"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "0"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "65465"), "\x00\x06blksize\x001468\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "-512"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "0x200"), octet},
		{usual, rrq("a.txt", "octet", "blksize", " 512"), octet},
		{usual, rrq("a.txt", "octet", "blksize", "18446744073709552128"), // 512 in 64 bits
			"\x00\x06blksize\x001468\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "1"), "\x00\x06windowsize\x001\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "64"), "\x00\x06windowsize\x0064\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "65"), "\x00\x06windowsize\x0064\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "65535"), "\x00\x06windowsize\x0064\x00"},
		{small, rrq("a.txt", "octet", "windowsize", "9"), "\x00\x06windowsize\x008\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "0"), octet},
		{usual, rrq("a.txt", "octet", "windowsize", "65536"), "\x00\x06windowsize\x0064\x00"},
		{usual, rrq("a.txt", "octet", "timeout", "1"), "\x00\x06timeout\x001\x00"},
		{usual, rrq("a.txt", "octet", "timeout", "255"), "\x00\x06timeout\x00255\x00"},
		{usual, rrq("a.txt", "octet", "timeout", "0"), octet},
		{usual, rrq("a.txt", "octet", "timeout", "256"), octet},
		{usual, rrq("a.txt", "octet", "tsize", "999"), "\x00\x06tsize\x003\x00"},
		{usual, rrq("a.txt", "netascii", "tsize", "0"), netASCII},
		{usual, rrq("a.txt", "NETascii", "tsize", "0", "blksize", "512"),
			"\x00\x06blksize\x00512\x00"},
		{usual, rrq("a.txt", "octet", "multicast", ""), octet},
		{usual, rrq("a.txt", "octet", "", ""), octet},
		{usual, rrq("a.txt", "octet", "blksize ", "512"), octet},
		{usual, rrq("a.txt", "octet", "rollover", "0", "blksize", "512", "utimeout", "1000"),
			"\x00\x06blksize\x00512\x00"},
		{usual, rrq("a.txt", "octet", "blksize"), octet},
		{usual, rrq("a.txt", "octet", "blksize", ""), octet},
		{usual, rrq("a.txt", "octet", "tsize", "0", "blksize"), "\x00\x06tsize\x003\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "600", "blksize", "700"),
			"\x00\x06blksize\x00600\x00"},
		{usual, rrq("a.txt", "octet", "blksize", "600", "BLKSIZE", "700", "tsize", "0"),
			"\x00\x06blksize\x00600\x00tsize\x003\x00"},
		{usual, rrq("a.txt", "octet", "windowsize", "4", "timeout", "9", "blksize", "512", "tsize", "0"),
			"\x00\x06windowsize\x004\x00timeout\x009\x00blksize\x00512\x00tsize\x003\x00"},
	} {
		dial(t, c.d.addr).plays("option", says(c.request, c.answer))
	}
}

// A file that changes while it is sent arrives whole as it was, or not at all.
func TestChangedFileOnTheWire(t *testing.T) {
	folder := testkit.PublicFolder(t)
	d := start(t, folder)
	content := testkit.Pattern(300_000)
	for _, c := range []struct {
		what   string
		change func(path string) error
		whole  bool
	}{
		{"removed", os.Remove, true},
		{"replaced", func(path string) error {
			if err := os.WriteFile(path+".new", testkit.Pattern(200_000), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, true},
		{"truncated", func(path string) error { return os.Truncate(path, 150_000) }, false},
		{"written again", func(path string) error {
			return os.WriteFile(path, testkit.Pattern(300_000)[1:], 0o644)
		}, false},
	} {
		path := folder + "/a.img"
		testkit.WriteFile(t, path, content)
		testkit.Must(t, os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)))
		got, failure := dial(t, d.addr).fetch(rrq("a.img", "octet"), func(blocks int) {
			if blocks == 10 {
				testkit.Must(t, c.change(path))
			}
		})
		if c.whole {
			if failure != "" || !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes, %q", c.what, len(got), failure)
			}
			d.waitFor(`sent file="a.img"`)
			continue
		}
		if failure != readFailed {
			t.Errorf("%s: %d bytes, %q", c.what, len(got), failure)
		}
		d.waitFor(`failed file="a.img"`)
	}
}
