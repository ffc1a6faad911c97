//go:build linux

package firmware

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

var (
	grubPC = &loader{
		name: "GRUB", packages: []string{"grub-pc-bin"}, dhcp: bootFile("boot/grub/i386-pc/core.0"),
		serve: serveGRUB("i386-pc"), check: checkGRUB,
	}
	grubEFI = &loader{
		name: "GRUB", packages: []string{"grub-efi-amd64-bin"}, dhcp: bootFile("boot/grub/x86_64-efi/core.efi"),
		serve: serveGRUB("x86_64-efi"), check: checkGRUB,
	}
	shim = &loader{
		name: "shim, GRUB, Linux", packages: []string{"shim-signed", "grub-efi-amd64-signed", installerPackage}, dhcp: bootFile("shimx64.efi"),
		serve: serveShim, check: checkShim,
	}
)

// grubConfig has GRUB fetch the files on the serial console and then do the commands.
func grubConfig(big, commands string) []byte {
	return []byte(`
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
if ! ` + big + ` ; then echo ` + failure + ` ; fi
if ! cat /` + emptyName + ` ; then echo ` + failure + ` ; fi
if cat /` + absentName + ` ; then echo ` + failure + ` ; fi
echo ` + marker + `
` + commands + `
`)
}

// serveGRUB serves what grub-mknetdir makes of GRUB for a platform. GRUB itself compares the big
// file with its SHA-256.
func serveGRUB(platform string) func(*testing.T, string, int) {
	return func(t *testing.T, root string, bigSize int) {
		serveCommon(t, root, bigSize)
		mknetdir := exec.Command("grub-mknetdir", "--net-directory="+root, "--subdir=boot/grub", "--directory=/usr/lib/grub/"+platform)
		if out, err := mknetdir.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		testkit.WriteFile(t, root+"/sums.txt", fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(testkit.Pattern(bigSize)), bigName))
		testkit.WriteFile(t, root+"/boot/grub/grub.cfg", grubConfig("sha256sum --check /sums.txt --prefix /", "sleep 1000"))
	}
}

func checkGRUB(b *boot) {
	b.t.Helper()
	b.sees(bigName+": OK", failure)
	b.sees(marker, failure)
	b.receivedCommon()
	b.received("boot/grub/grub.cfg")
}

// serveShim serves a chain of signed programs up to Linux, which is the big file: GRUB loads no
// modules with Secure Boot on, and has no other command in it that reads a file to its end.
func serveShim(t *testing.T, root string, bigSize int) {
	serveCommon(t, root, 0)
	copyFile(t, installer+"/debian-installer/amd64/linux", root+"/"+bigName)
	copyFile(t, "/usr/lib/shim/shimx64.efi.signed", root+"/shimx64.efi")
	copyFile(t, "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", root+"/grubx64.efi")
	testkit.WriteFile(t, root+"/grub/grub.cfg", grubConfig("linux /"+bigName+" console=ttyS0,115200 earlyprintk=ttyS0,115200", "boot"))
}

func checkShim(b *boot) {
	b.t.Helper()
	b.sees(marker, failure)
	b.receivedCommon()
	b.received("shimx64.efi")
	b.received("grubx64.efi")
	b.sees("Secure boot enabled")
}

// Debian's installer as its package has it, and where it is started from.
const (
	installerPackage = "debian-installer-12-netboot-amd64"
	installer        = "/usr/lib/debian-installer/images/12/amd64/text"
)

var (
	installerPXELINUX = &loader{
		name: "PXELINUX, Debian installer", packages: []string{installerPackage}, dhcp: bootFile("pxelinux.0"), server: anyName,
		serve: serveInstaller, big: "debian-installer/amd64/initrd.gz", check: checkInstaller, limit: 8 * time.Minute,
	}
	installerGRUB = &loader{
		name: "GRUB, Debian installer", packages: []string{installerPackage}, dhcp: bootFile("debian-installer/amd64/bootnetx64.efi"), server: anyName,
		serve: serveInstaller, big: "debian-installer/amd64/initrd.gz", check: checkInstaller, limit: 8 * time.Minute,
	}
)

// serveInstaller serves the package's own tree. Its menus start the installer after a second and
// on the serial line.
func serveInstaller(t *testing.T, root string, bigSize int) {
	const serial = "s/vga=788/console=ttyS0,115200 earlyprintk=ttyS0,115200/"
	testkit.Must(t, os.CopyFS(root, os.DirFS(installer)))
	// Its shim looks for GRUB in the root where DHCP names the boot file in option 67 alone, as
	// dnsmasq does.
	testkit.Must(t, os.Symlink("debian-installer/amd64/grubx64.efi", root+"/grubx64.efi"))
	for _, edit := range [][2]string{
		{"boot-screens/syslinux.cfg", "s/^timeout 0/timeout 10/"},
		{"boot-screens/txt.cfg", serial},
		{"grub/grub.cfg", serial},
		{"grub/grub.cfg", "1i timeout=1"},
	} {
		sed := exec.Command("sed", "--in-place", edit[1], root+"/debian-installer/amd64/"+edit[0])
		if out, err := sed.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

func checkInstaller(b *boot) {
	b.t.Helper()
	b.sees("Linux version")
	b.received("debian-installer/amd64/linux")
	b.received("debian-installer/amd64/initrd.gz")
}
