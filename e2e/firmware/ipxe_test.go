//go:build linux

package firmware

import (
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

var (
	ipxeROM     = ipxe{memtest: memtestBIOS}.loader(bootFile(ipxeScript))
	undionly    = ipxe{program: "undionly.kpxe", chained: true}.loader(bootFile(ipxeScript))
	ipxeEFI     = ipxe{program: "ipxe.efi", memtest: memtestEFI}.loader(bootIPXE("ipxe.efi"))
	snponly     = ipxe{program: "snponly.efi"}.loader(bootIPXE("snponly.efi"))
	ipxeARM64   = ipxe{program: "ipxe-arm64.efi", notEmpty: true}.loader(bootIPXE("ipxe-arm64.efi"))
	ipxeIPv6    = ipxe{program: "ipxe.efi"}.loader(bootIPXE6("ipxe.efi"))
	snponlyIPv6 = ipxe{program: "snponly.efi"}.loader(bootIPXE6("snponly.efi"))
)

const ipxeScript = "boot.ipxe"

// The memory test of the package memtest86+, in /boot.
const (
	memtestBIOS = "memtest86+x64.bin"
	memtestEFI  = "memtest86+x64.efi"
)

// bootIPXE has the DHCP server tell firmware to load a program, and iPXE to load its script.
func bootIPXE(program string) []string {
	return []string{"--dhcp-userclass=set:ipxe,iPXE",
		"--dhcp-boot=tag:!ipxe," + program + ",," + serverAddr,
		"--dhcp-boot=tag:ipxe," + ipxeScript + ",," + serverAddr}
}

// bootIPXE6 does the same over IPv6.
func bootIPXE6(program string) []string {
	return []string{"--dhcp-range=" + guestRange6 + ",64", "--dhcp-userclass=set:ipxe,iPXE",
		"--dhcp-option=tag:!ipxe,option6:bootfile-url,tftp://[" + serverAddr6 + "]/" + program,
		"--dhcp-option=tag:ipxe,option6:bootfile-url,tftp://[" + serverAddr6 + "]/" + ipxeScript}
}

// ipxe is the iPXE of the firmware, or a program of Debian's package.
type ipxe struct {
	program  string
	chained  bool   // the firmware's iPXE loads the program, which uses its driver
	memtest  string // the memory test to start in the end, where the machine can run one
	notEmpty bool   // it crashes on an empty file, from any server
}

func (i ipxe) loader(dhcp []string) *loader {
	name := i.program
	if name == "" {
		name = ipxeScript
	}
	packages := []string{"ipxe", "memtest86+"}
	return &loader{name: name, packages: packages, dhcp: dhcp, serve: i.serve, check: i.check}
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
	lines := []string{"#!ipxe"}
	if i.chained {
		// Only the first of the two has a driver of its own.
		lines = append(lines, "iseq ${net0/chip} virtio-net && chain "+i.program+" ||")
	}
	lines = append(lines, "imgfetch "+bigName+" || goto failed", "imgfree")
	if !i.notEmpty {
		lines = append(lines, "imgfetch "+emptyName+" || goto failed", "imgfree")
	}
	lines = append(lines, "imgfetch "+absentName+" && goto failed ||", "echo "+marker)
	if i.memtest != "" {
		lines = append(lines, "kernel "+i.memtest+" console=ttyS0,115200 && boot")
	}
	return strings.Join(append(lines, "shell", ":failed", "echo "+failure, "shell", ""), "\n")
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
