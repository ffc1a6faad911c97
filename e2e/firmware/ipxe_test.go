//go:build linux

package firmware

import (
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

var (
	ipxeROM   = ipxe{memtest: "memtest86+x64.bin"}.loader(bootFile(ipxeScript))
	undionly  = ipxe{program: "undionly.kpxe", chained: true}.loader(bootFile(ipxeScript))
	ipxeEFI   = ipxe{program: "ipxe.efi", memtest: "memtest86+x64.efi"}.loader(bootIPXE("ipxe.efi"))
	snponly   = ipxe{program: "snponly.efi"}.loader(bootIPXE("snponly.efi"))
	ipxeARM64 = ipxe{program: "ipxe-arm64.efi", notEmpty: true}.loader(bootIPXE("ipxe-arm64.efi"))
	ipxeIPv6  = ipxe{program: "ipxe.efi"}.loader([]string{
		"--enable-ra", "--dhcp-range=2001:db8::100,2001:db8::1ff,64,1h", "--dhcp-userclass=set:ipxe,iPXE",
		"--dhcp-option=tag:!ipxe,option6:bootfile-url,tftp://[" + serverAddr6 + "]/ipxe.efi",
		"--dhcp-option=tag:ipxe,option6:bootfile-url,tftp://[" + serverAddr6 + "]/" + ipxeScript})
)

// ipxe is iPXE of the firmware, or a program of Debian's package.
type ipxe struct {
	program  string
	chained  bool   // the ROM's iPXE loads the program, which uses the ROM's driver
	memtest  string // the memory test to start in the end, where the machine can run one
	notEmpty bool   // it crashes on an empty file, whatever the server
}

const ipxeScript = "boot.ipxe"

// bootIPXE tells firmware to load a program, and iPXE, which that is, to load its script.
func bootIPXE(program string) []string {
	return []string{"--dhcp-userclass=set:ipxe,iPXE",
		"--dhcp-boot=tag:!ipxe," + program + ",," + serverAddr, "--dhcp-boot=tag:ipxe," + ipxeScript + ",," + serverAddr}
}

func (i ipxe) loader(dhcp []string) *loader {
	name := i.program
	if name == "" {
		name = ipxeScript
	}
	return &loader{name: name, packages: []string{"ipxe", "memtest86+"}, dhcp: dhcp, serve: i.serve, check: i.check}
}

func (i ipxe) serve(t *testing.T, root string, bigSize int) {
	serveCommon(t, root, bigSize)
	if i.program != "" {
		copyFile(t, unpacked("/usr/lib/ipxe/"+i.program), root+"/"+i.program)
	}
	if i.memtest != "" {
		copyFile(t, "/boot/"+i.memtest, root+"/"+i.memtest)
	}
	testkit.WriteFile(t, root+"/"+ipxeScript, []byte(i.script()))
}

func (i ipxe) script() string {
	var lines []string
	add := func(line string) { lines = append(lines, line) }
	add("#!ipxe")
	if i.chained {
		add("iseq ${net0/chip} virtio-net && chain " + i.program + " ||") // it lacks this driver
	}
	add("imgfetch " + bigName + " || goto failed")
	add("imgfree")
	if !i.notEmpty {
		add("imgfetch " + emptyName + " || goto failed")
		add("imgfree")
	}
	add("imgfetch " + absentName + " && goto failed ||")
	add("echo " + marker)
	if i.memtest != "" {
		add("kernel " + i.memtest + " console=ttyS0,115200 && boot")
	}
	add("shell")
	add(":failed")
	add("echo " + failure)
	add("shell")
	return strings.Join(lines, "\n") + "\n"
}

func (i ipxe) check(b *boot) {
	b.t.Helper()
	b.sees(marker, failure)
	b.received(ipxeScript)
	b.received(bigName)
	if !i.notEmpty {
		b.received(emptyName)
	}
	b.notFound(absentName)
	if i.program != "" {
		b.received(i.program)
	}
	if i.memtest != "" {
		b.sees("Memtest86+")
		b.received(i.memtest)
	}
}
