package e2e

import (
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

// block returns a block of a file as DATA.
func block(content []byte, size, number int) string {
	from := (number - 1) * size
	return data(uint16(number), content[from:min(from+size, len(content))])
}

func blocks(content []byte, size, first, last int) (all []string) {
	for number := first; number <= last; number++ {
		all = append(all, block(content, size, number))
	}
	return all
}

// The boot programs of firmware, as they were captured: what they send, datagram by datagram, and
// the exact answers.
func TestFirmware(t *testing.T) {
	folder := testkit.PublicFolder(t)
	const script = "#!ipxe\nshell\n"
	efi, kernel, image := testkit.Pattern(5*1468), testkit.Pattern(11*1468+700), testkit.Pattern(700)
	for name, content := range map[string]string{
		"boot.ipxe": script, "empty.ipxe": "", "snp.efi": string(efi), "kernel.img": string(kernel),
		"grub/grub.cfg": "outer\n", "boot/grub/grub.cfg": "inner\n", "ldlinux.c32": "C32",
		"Boot/BCD": "bcd", "a.img": string(image),
	} {
		testkit.WriteFile(t, folder+"/"+name, []byte(content))
	}
	var search []step
	for _, name := range []string{"b8945908-d6a6-41a9-611d-74a6ab80b83d", "01-88-99-aa-bb-cc-dd",
		"C0A8025B", "C0A8025", "C0A802", "C0A80", "C0A8", "C0A", "C0", "C", "default"} {
		request := rrq("pxelinux.cfg/"+name, "octet", "tsize", "0", "blksize", "1408")
		search = append(search, says(request, notFound))
	}
	for _, c := range []struct {
		what  string
		line  string // of the log, up to the client
		end   string // of the same line, from its bytes on
		steps []step
	}{
		{"iPXE", `sent file="boot.ipxe"`, "bytes=13 blksize=1432 windowsize=1 ", []step{
			says(rrq("boot.ipxe", "octet", "blksize", "1432", "tsize", "0"),
				"\x00\x06blksize\x001432\x00tsize\x0013\x00"),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\nshell\n"),
			says(ack(1)),
		}},
		{"iPXE, a block that is full", `sent file="snp.efi"`, "bytes=7340 blksize=1432 windowsize=1 ", []step{
			says(rrq("/snp.efi", "octet", "blksize", "1432", "tsize", "0"),
				"\x00\x06blksize\x001432\x00tsize\x007340\x00"),
			says(ack(0), block(efi, 1432, 1)),
			says(ack(1), block(efi, 1432, 2)),
			says(ack(2), block(efi, 1432, 3)),
			says(ack(3), block(efi, 1432, 4)),
			says(ack(4), block(efi, 1432, 5)),
			says(ack(5), block(efi, 1432, 6)),
			says(ack(6)),
		}},
		{"EDK2 asks for the size", `probed file="snp.efi"`,
			`why="the client sent ERROR 8 \"User aborted the transfer\""`, []step{
				says(rrq("snp.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"),
					"\x00\x06tsize\x007340\x00blksize\x001468\x00windowsize\x004\x00"),
				says("\x00\x05\x00\x08User aborted the transfer\x00"),
			}},
		{"EDK2 fetches", `sent file="snp.efi"`, "bytes=7340 blksize=1468 windowsize=4 ", []step{
			says(rrq("snp.efi", "octet", "blksize", "1468", "windowsize", "4"),
				"\x00\x06blksize\x001468\x00windowsize\x004\x00"),
			says(ack(0), blocks(efi, 1468, 1, 4)...),
			says(ack(4), block(efi, 1468, 5), "\x00\x03\x00\x06"),
			says(ack(6)),
		}},
		{"U-Boot, the third block of a window is lost", `sent file="kernel.img"`,
			"bytes=16848 blksize=1468 windowsize=8 ", []step{
				says(rrq("kernel.img", "octet", "timeout", "5", "tsize", "0", "blksize", "1468", "windowsize", "8"),
					"\x00\x06timeout\x005\x00tsize\x0016848\x00blksize\x001468\x00windowsize\x008\x00"),
				says(ack(0), blocks(kernel, 1468, 1, 8)...),
				says(ack(2), blocks(kernel, 1468, 3, 10)...),
				says(ack(10), blocks(kernel, 1468, 11, 12)...),
				says(ack(12)),
			}},
		{"GRUB", `sent file="boot/grub/grub.cfg"`, "bytes=6 blksize=1024 windowsize=1 ", []step{
			says(rrq("/grub/grub.cfg", "octet", "blksize", "1024", "tsize", "0"),
				"\x00\x06blksize\x001024\x00tsize\x006\x00"),
			says(ack(0), "\x00\x03\x00\x01outer\n"),
			says(ack(1)),
			says(rrq("/boot/grub/grub.cfg", "octet", "blksize", "1024", "tsize", "0"),
				"\x00\x06blksize\x001024\x00tsize\x006\x00"),
			says(ack(0), "\x00\x03\x00\x01inner\n"),
			says(ack(1)),
		}},
		{"PXELINUX", `sent file="ldlinux.c32"`, "bytes=3 blksize=1408 windowsize=1 ", append(search,
			says(rrq("ldlinux.c32", "octet", "tsize", "0", "blksize", "1408"),
				"\x00\x06tsize\x003\x00blksize\x001408\x00"),
			says(ack(0), "\x00\x03\x00\x01C32"),
			says(ack(1)),
		)},
		{"bootmgr", `sent file="Boot/BCD"`, "bytes=3 blksize=1456 windowsize=4 ", []step{
			says(rrq(`\Boot\BCD`, "octet", "tsize", "0", "blksize", "1456", "windowsize", "4"),
				"\x00\x06tsize\x003\x00blksize\x001456\x00windowsize\x004\x00"),
			says(ack(0), "\x00\x03\x00\x01bcd"),
			says(ack(1)),
		}},
		{"tftp-hpa acknowledges an ERROR", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=1 ", []step{
			says(rrq("absent.img", "octet"), notFound),
			says(ack(1)),
			says(rrq("a.img", "octet"), block(image, 512, 1)),
			says(ack(1), block(image, 512, 2)),
			says(ack(2)),
		}},
		{"option names in upper case", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=2 ", []step{
			says(rrq("a.img", "OCTET", "WINDOWSIZE", "2", "TSize", "0", "BlkSize", "512"),
				"\x00\x06WINDOWSIZE\x002\x00TSize\x00700\x00BlkSize\x00512\x00"),
			says(ack(0), block(image, 512, 1), block(image, 512, 2)),
			says(ack(2)),
		}},
		{"the smallest blocks", `sent file="boot.ipxe"`, "bytes=13 blksize=8 windowsize=1 ", []step{
			says(rrq("boot.ipxe", "octet", "blksize", "8"), "\x00\x06blksize\x008\x00"),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\ns"),
			says(ack(1), "\x00\x03\x00\x02hell\n"),
			says(ack(2)),
		}},
		{"an ACK is repeated", `sent file="a.img"`, "bytes=700 blksize=512 windowsize=1 ", []step{
			says(rrq("a.img", "octet", "blksize", "512"), "\x00\x06blksize\x00512\x00"),
			says(ack(0), block(image, 512, 1)),
			says(ack(0)),
			says(ack(1), block(image, 512, 2)),
			says(ack(1)),
			says(ack(0)),
			says(ack(7)),
			says(ack(2)),
			says(ack(2)),
		}},
		{"the request is repeated before its OACK arrived", `sent file="boot.ipxe"`,
			"bytes=13 blksize=1432 windowsize=1 ", []step{
				says(rrq("boot.ipxe", "octet", "blksize", "1432"), "\x00\x06blksize\x001432\x00"),
				says(rrq("boot.ipxe", "octet", "blksize", "1432"), "\x00\x06blksize\x001432\x00"),
				says(ack(0), "\x00\x03\x00\x01#!ipxe\nshell\n"),
				says(ack(1)),
			}},
		{"the request is repeated before its DATA arrived", `sent file="a.img"`,
			"bytes=700 blksize=512 windowsize=1 ", []step{
				says(rrq("a.img", "octet"), block(image, 512, 1)),
				says(rrq("a.img", "octet"), block(image, 512, 1)),
				says(ack(1), block(image, 512, 2)),
				says(ack(2)),
			}},
		{"a client starts again", `failed file="kernel.img"`, `why="the client began another request"`, []step{
			says(rrq("kernel.img", "octet", "windowsize", "2"), "\x00\x06windowsize\x002\x00"),
			says(ack(0), block(kernel, 512, 1), block(kernel, 512, 2)),
			says(rrq("boot.ipxe", "octet", "blksize", "1432"), "\x00\x06blksize\x001432\x00"),
			says(ack(2)),
			says(ack(0), "\x00\x03\x00\x01#!ipxe\nshell\n"),
			says(ack(1)),
		}},
		{"an ERROR ends it", `failed file="kernel.img"`, `why="the client sent ERROR 3 \"disk full\""`, []step{
			says(rrq("kernel.img", "octet", "timeout", "9"), "\x00\x06timeout\x009\x00"),
			says(ack(0), block(kernel, 512, 1)),
			says(ack(1), block(kernel, 512, 2)),
			says("\x00\x05\x00\x03disk full\x00"),
			says(ack(1)),
			says("\x00\x05\x00\x03disk full\x00"),
		}},
		{"an ERROR for the first block", `probed file="kernel.img"`, `why="the client sent ERROR 0 \"Early terminate\""`, []step{
			says(rrq("kernel.img", "octet"), block(kernel, 512, 1)),
			says("\x00\x05\x00\x00Early terminate\x00"),
			says(ack(1)),
		}},
		{"an ERROR of another kind", `probed file="kernel.img"`, `why="the client sent ERROR 3 \"disk full\""`, []step{
			says(rrq("kernel.img", "octet"), block(kernel, 512, 1)),
			says("\x00\x05\x00\x03disk full\x00"),
			says(ack(1)),
			says("\x00\x05\x00\x03disk full\x00"),
		}},
		{"neither a request nor part of a transfer", "", "", []step{
			says("x"), says("\x00"), says("\x00\x01"), says("\x00\x01boot.ipxe"),
			says("\x00\x01boot.ipxe\x00octet"), says("\x00\x02boot.ipxe"),
			says(ack(0)), says(ack(1)), says(ack(65535)), says("\x00\x04"), says("\x00\x04\x00"),
			says(data(1, []byte("data"))), says("\x00\x05\x00\x00text\x00"), says("\x00\x05"),
			says("\x00\x06blksize\x00512\x00"), says("\x00\x07\x00\x00"),
			says("\x01\x00boot.ipxe\x00octet\x00"),
		}},
	} {
		d := start(t, folder, "-ahead", "1") // no block that the client did not ask for
		client := dial(t, d.addr)
		client.plays(c.what, c.steps...)
		if c.line == "" {
			continue
		}
		line := d.waitFor(c.line + " client=" + client.conn.LocalAddr().String())
		if !strings.Contains(line, c.end) {
			t.Errorf("%s: no %q in %s", c.what, c.end, line)
		}
		if strings.HasPrefix(c.line, "sent ") && strings.Contains(d.logged(), "failed ") {
			t.Errorf("%s: more than one transfer", c.what)
		}
	}
}

// iPXE never acknowledges the empty block of an empty file: it sends ACK 0 again. That ends the
// transfer, and is no failure.
func TestFirmwareEmptyFile(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/empty.ipxe", nil)
	d := start(t, folder)
	for _, c := range []struct {
		what  string
		begin []step
		end   string
	}{
		{"iPXE", []step{
			says(rrq("empty.ipxe", "octet", "blksize", "1432", "tsize", "0"),
				"\x00\x06blksize\x001432\x00"), // no tsize
			says(ack(0), "\x00\x03\x00\x01"),
		}, ack(0)},
		{"no option is granted", []step{
			says(rrq("empty.ipxe", "octet", "tsize", "0"), "\x00\x03\x00\x01"),
		}, ack(1)},
		{"no options", []step{says(rrq("empty.ipxe", "octet"), "\x00\x03\x00\x01")}, ack(1)},
	} {
		client := dial(t, d.addr)
		for _, s := range c.begin {
			if got := client.ask(s.send); got != s.answers[0] {
				t.Fatalf("%s: %q is answered %q, want %q", c.what, s.send, got, s.answers[0])
			}
		}
		client.conn.Write([]byte(c.end))
		d.waitFor(`sent file="empty.ipxe" client=` + client.conn.LocalAddr().String() + " bytes=0 ")
	}
}

// lpxelinux asks for every file from one port, right behind the last ACK. None of its requests
// waits for a timer, its own or the server's. A machine that stalls for a tenth of a second makes
// the server repeat something too, but not in each of three runs.
func TestPortReuse(t *testing.T) {
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(1400)
	testkit.WriteFile(t, folder+"/a.img", content)
	sequence := [][]step{
		{
			says(rrq("a.img", "octet", "tsize", "0", "blksize", "1408"),
				"\x00\x06tsize\x001400\x00blksize\x001408\x00"),
			says(ack(0), data(1, content)),
			says(ack(1)),
		},
		{
			says(rrq("a.img", "octet"), data(1, content[:512])),
			says(ack(1), data(2, content[512:1024])),
			says(ack(2), data(3, content[1024:])),
			says(ack(3)),
		},
		{
			says(rrq("a.img", "octet", "blksize", "700"), "\x00\x06blksize\x00700\x00"),
			says(ack(0), data(1, content[:700])),
			says(ack(1), data(2, content[700:])),
			says(ack(2), data(3, nil)),
			says(ack(3)),
		},
	}
	// The next round begins with the first again, so that the same request comes twice in a row.
	sequence = append(sequence, sequence[0])
	for range 3 {
		d := start(t, folder)
		c := dial(t, d.addr)
		const transfers = 100 // of which the log has a line each
		for i := range transfers {
			c.hurries(sequence[i%len(sequence)])
		}
		repeats := 0
		for range transfers {
			line := d.waitFor(`sent file="a.img" client=` + c.conn.LocalAddr().String() + " bytes=1400 ")
			if field(line, "retransmits") != "0" {
				repeats++
			}
		}
		if repeats == 0 {
			return
		}
		t.Logf("the server repeated something in %d of %d transfers", repeats, transfers)
	}
	t.Error("in every run")
}
