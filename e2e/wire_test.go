package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
		{rrq("a.key", "octet"), notFound, `denied file="a.key" client=`},
		{rrq("absent.key", "octet"), notFound, `denied file="absent.key" client=`},
		{rrq("../a.txt", "octet"), notFound, `denied file="../a.txt" client=`},
		{rrq("sub", "octet"), notFound, `denied file="sub" client=`},
		{rrq("out.txt", "octet"), notFound, `denied file="out.txt" client=`},
		{rrq("a.key", "octet", "tsize", "0"), notFound, `denied file="a.key" client=`},
		{rrq("a.txt\xff\x80\x2b/..", "octet"), "\x00\x03\x00\x01a\nb", `sent file="a.txt" client=`},
		{rrq("fifo.txt", "octet"), notFound, `denied file="fifo.txt" client=`},
		{rrq("\x1b]0;x\x07.txt", "octet"), notFound, `denied file="\x1b]0;x\a.txt" client=`},
		{rrq("a.txt", "mail"), illegal, `denied file="a.txt" client=`},
		{wrq("a.txt"), readOnly, `denied file="a.txt" client=`},
	} {
		client := dial(t, d.addr)
		if got := client.ask(c.request); got != c.answer {
			t.Errorf("%q is answered %q, want %q", c.request, got, c.answer)
		}
		if strings.HasPrefix(c.answer, "\x00\x03") {
			client.conn.Write([]byte(ack(1)))
		}
		// In the log a search ends with a pause.
		if strings.HasPrefix(c.line, "sent ") || c.line != "" && !testing.Short() {
			d.waitFor(c.line + client.conn.LocalAddr().String())
		}
	}
	for i, b := range []byte(d.logged()) {
		if b != '\n' && (b < ' ' || b > '~') {
			t.Fatalf("byte %#x at %d of the log", b, i)
		}
	}
}

// Junk that firmware hands to boot programs is answered like an absent name, whatever is allowed:
// shim goes on to its default after ERROR 1, and stops at ERROR 2.
func TestJunkNames(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.Must(t, os.Mkdir(folder+"/EFI", 0o755))
	testkit.WriteFile(t, folder+"/Onboard", []byte("served to those who ask for all"))
	for _, allow := range []string{"default", "*"} {
		d := start(t, folder, "-allow", allow)
		for _, name := range []string{
			"\xeaOnboard", "\xeaUSB", "\xfdOn", "\x01?USB", "EFI/", "EFI", "loader/\x80USB", "grub/\ufffdOnboard", "\xff", "\x80", "..", "",
		} {
			if got := dial(t, d.addr).ask(rrq(name, "octet", "tsize", "0")); got != notFound {
				t.Errorf("-allow %s: %q is answered %q", allow, name, got)
			}
		}
		if got := dial(t, d.addr).ask(rrq("Onboard", "octet")); (got == notFound) != (allow == "default") {
			t.Errorf("-allow %s: Onboard is answered %q", allow, got)
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

// The search of a boot program is one line of the log, whatever it looks for.
func TestSearchesInTheLog(t *testing.T) {
	testkit.SkipIfShort(t)
	var pxelinux, grub []string
	for _, id := range []string{"4c4c4544-0000-1000-8000-000000000000", "01-52-54-00-77-00-22"} {
		pxelinux = append(pxelinux, "pxelinux.cfg/"+id)
	}
	for digits := len("C0A80001"); digits > 0; digits-- {
		pxelinux = append(pxelinux, "pxelinux.cfg/"+"C0A80001"[:digits])
		grub = append(grub, "grub/grub.cfg-"+"C0A80001"[:digits])
	}
	grub = append([]string{"grub/grub.cfg-01-52-54-00-77-00-22"}, grub...)
	shim := []string{"revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"}
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/pxelinux.cfg/default", []byte("found"))
	for _, c := range []struct{ allow, event string }{{"default", "not found"}, {"txt", "denied"}} {
		d := start(t, folder, "-allow", c.allow)
		for i, search := range [][]string{pxelinux, grub, shim} {
			from := fmt.Sprintf("127.0.0.%d", i+1)
			for _, name := range search {
				if got := dialFrom(t, from, d.addr).ask(rrq(name, "octet", "tsize", "0", "blksize", "1408")); got != notFound {
					t.Errorf("%s: %q", name, got)
				}
			}
		}
		for range 3 {
			line := d.waitFor(c.event + ` file="`)
			for _, search := range [][]string{pxelinux, grub, shim} {
				if strings.Contains(line, `file="`+search[0]+`"`) &&
					!strings.HasSuffix(line, fmt.Sprintf(" more=%d last=%q", len(search)-1, search[len(search)-1])) {
					t.Error(line)
				}
			}
		}
		if lines := strings.Count(d.logged(), c.event+" file="); lines != 3 {
			t.Errorf("%d lines", lines)
		}
	}
}

// A program for a 32-bit machine serves files of 2 GiB and more.
func TestLargeFileOn32Bit(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	const (
		emulator = "qemu-arm-static"
		size     = 3<<30 + 7
	)
	needClient(t, []string{emulator})
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.iso", nil)
	testkit.Must(t, os.Truncate(folder+"/a.iso", size))
	readSourceFolders()
	path := filepath.Join(testkit.PublicFolder(t), "flytftp")
	testkit.Must(t, build(path, "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm"))
	calls := filepath.Join(t.TempDir(), "calls")
	d := startCommand(t, exec.Command(emulator, "-strace", "-D", calls, path, "-listen", "127.0.0.1:0", "-root", folder))
	c := dial(t, d.addr)
	want := fmt.Sprintf("\x00\x06tsize\x00%d\x00", int64(size))
	if got := c.ask(rrq("a.iso", "octet", "tsize", "0")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := c.ask(ack(0)), data(1, make([]byte, defaultBlockSize)); got != want {
		t.Errorf("%.99q, want %.99q", got, want)
	}
	// The emulator opens large files for any program. A kernel wants to be asked.
	opened := regexp.MustCompile(`openat\(\d+,"a.iso",\S*`).FindAllString(testkit.ReadText(t, calls), -1)
	for _, call := range opened {
		if !strings.Contains(call, "O_LARGEFILE") {
			t.Error(call)
		}
	}
	if opened == nil {
		t.Error("the calls of the program are not known")
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
		{"moved away", func(path string) error { return os.Rename(path, path+".old") }, true},
		{"written again", func(path string) error {
			return os.WriteFile(path, testkit.Pattern(300_000)[1:], 0o644)
		}, false},
		{"written again, the time set back", func(path string) error {
			return errors.Join(os.WriteFile(path, testkit.Pattern(300_000)[1:], 0o644),
				os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)))
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
