//go:build linux

package firmware

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

var (
	installerPXELINUX = installer("PXELINUX, Debian installer", "pxelinux.0")
	installerGRUB     = installer("GRUB, Debian installer", "debian-installer/amd64/bootnetx64.efi")
)

// The installer of the Debian that these tests run on, in the folder of its package.
var (
	installerFolder  = first(filepath.Glob("/usr/lib/debian-installer/images/*/amd64/text"))
	installerRelease = filepath.Base(filepath.Dir(filepath.Dir(installerFolder)))
	installerPackage = "debian-installer-" + installerRelease + "-netboot-amd64"
)

func first(paths []string, _ error) string {
	if len(paths) == 0 {
		return ""
	}
	return paths[0]
}

const (
	installerKernel = "debian-installer/amd64/linux"
	installerRAM    = "debian-installer/amd64/initrd.gz"
)

// installer makes a loader of the package's own folder, from a boot file on. It has booted when the
// kernel says its first line.
func installer(name, bootFileName string) *loader {
	return &loader{
		name: name, packages: []string{installerPackage}, dhcp: bootFile(bootFileName),
		serve: serveInstaller, big: installerRAM, memory: 512, limit: 8 * time.Minute,
		check: func(b *boot) {
			b.t.Helper()
			b.sees("Linux version")
			b.received(installerKernel)
			b.received(installerRAM)
		},
	}
}

// serveInstaller serves the folder. Its menus start the installer after a second, on the serial
// line.
func serveInstaller(t *testing.T, root string, _ int) {
	testkit.Must(t, os.CopyFS(root, os.DirFS(installerFolder)))
	// Shim looks for GRUB in the root when DHCP names the boot file in option 67 alone.
	testkit.Must(t, os.Symlink("debian-installer/amd64/grubx64.efi", root+"/grubx64.efi"))
	const serial = "s/vga=788/console=ttyS0,115200 earlyprintk=ttyS0,115200/"
	for _, edit := range [][2]string{
		{"boot-screens/syslinux.cfg", "s/^timeout 0/timeout 10/"},
		{"boot-screens/txt.cfg", serial},
		{"grub/grub.cfg", serial},
		{"grub/grub.cfg", "1i timeout=1"},
	} {
		run(t, "sed", "--in-place", edit[1], root+"/debian-installer/amd64/"+edit[0])
	}
}
