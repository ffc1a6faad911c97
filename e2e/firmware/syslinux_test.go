//go:build linux

package firmware

import (
	"path/filepath"
	"testing"

	"flytftp/internal/testkit"
)

var (
	pxelinux    = syslinux("pxelinux", "/usr/lib/PXELINUX/pxelinux.0", "bios", "ldlinux.c32")
	lpxelinux   = syslinux("pxelinux", "/usr/lib/PXELINUX/lpxelinux.0", "bios", "ldlinux.c32")
	syslinuxEFI = syslinux("syslinux-efi", "/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi", "efi64", "ldlinux.e64")
)

// syslinuxMenu has three entries. The first two leave for the prompt.
const syslinuxMenu = `UI menu.c32
MENU TITLE The menu
LABEL absent
MENU LABEL ^absent
COM32 cat.c32
APPEND ` + absentName + `
LABEL empty
COM32 cat.c32
APPEND ` + emptyName + `
LABEL memtest
LINUX memtest.bin
INITRD ` + bigName + `
APPEND console=ttyS0,115200
`

// syslinux makes a loader of one of the family. It shows a menu, and starts a memory test with the
// big file as its initial RAM disk.
func syslinux(pkg, program, modules, core string) *loader {
	name := filepath.Base(program)
	return &loader{
		name:     name,
		packages: []string{pkg, "syslinux-common", "memtest86+"},
		dhcp:     bootFile(name),
		serve: func(t *testing.T, root string, bigSize int) {
			serveCommon(t, root, bigSize)
			copyFile(t, program, root+"/"+name)
			for _, module := range []string{core, "menu.c32", "cat.c32", "libutil.c32", "libcom32.c32"} {
				copyFile(t, "/usr/lib/syslinux/modules/"+modules+"/"+module, root+"/"+module)
			}
			copyFile(t, "/boot/"+memtestBIOS, root+"/memtest.bin")
			testkit.WriteFile(t, root+"/pxelinux.cfg/default", []byte(syslinuxMenu))
		},
		check: func(b *boot) {
			b.t.Helper()
			b.sees("The menu")
			b.types("a\r") // choose the entry, and start it
			b.sees("file not found")
			b.sees("boot:")
			b.types("empty\r")
			b.sees("boot:")
			b.types("memtest\r")
			b.sees("Memtest86+")
			b.receivedCommon()
			b.received("memtest.bin")
		},
	}
}
