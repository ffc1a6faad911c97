//go:build linux

package firmware

import (
	"crypto/sha256"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

var (
	grubPC  = grub("grub-pc-bin", "i386-pc", "core.0")
	grubEFI = grub("grub-efi-amd64-bin", "x86_64-efi", "core.efi")
	shim    = &loader{
		name: "shim, GRUB, Linux", dhcp: bootFile("shimx64.efi"), serve: serveShim, check: checkShim, memory: 512,
		packages: []string{"shim-signed", "grub-efi-amd64-signed", installerPackage},
	}
)

// grub makes a loader of what grub-mknetdir makes of GRUB for a platform. GRUB itself compares the
// big file with its SHA-256.
func grub(pkg, platform, core string) *loader {
	return &loader{
		name: "GRUB", packages: []string{pkg}, dhcp: bootFile("boot/grub/" + platform + "/" + core),
		serve: func(t *testing.T, root string, bigSize int) {
			serveCommon(t, root, bigSize)
			run(t, "grub-mknetdir", "--net-directory="+root, "--subdir=boot/grub", "--directory=/usr/lib/grub/"+platform)
			sum := fmt.Sprintf("%x  %s\n", sha256.Sum256(testkit.Pattern(bigSize)), bigName)
			testkit.WriteFile(t, root+"/sums.txt", []byte(sum))
			config := grubScript("sha256sum --check /sums.txt --prefix /", "sleep 1000")
			testkit.WriteFile(t, root+"/boot/grub/grub.cfg", config)
		},
		check: func(b *boot) {
			b.t.Helper()
			b.sees(bigName+": OK", failure)
			b.sees(marker, failure)
			b.receivedCommon()
			b.received("boot/grub/grub.cfg")
		},
	}
}

// grubScript has GRUB fetch the files and show the marker on the serial line. readBig is how it
// fetches the big one, and end what it does in the end.
func grubScript(readBig, end string) []byte {
	return []byte(`serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
if ! ` + readBig + ` ; then echo ` + failure + ` ; fi
if ! cat /` + emptyName + ` ; then echo ` + failure + ` ; fi
if cat /` + absentName + ` ; then echo ` + failure + ` ; fi
echo ` + marker + `
` + end + `
`)
}

// secureBootPage lists the files of the chain.
const secureBootPage = "../../docs/secureboot.md"

// serveShim serves a chain of signed programs up to a kernel, which is the big file: with Secure
// Boot on, GRUB loads no modules, and no other command that it has reads a file to its end.
func serveShim(t *testing.T, root string, _ int) {
	serveCommon(t, root, 0)
	copyFile(t, installerFolder+"/"+installerKernel, root+"/"+bigName)
	files := testkit.TableRows(testkit.ReadSection(t, secureBootPage, "## A distribution's shim and GRUB"))
	for _, row := range files[:2] {
		copyFile(t, strings.Trim(row[2], "`"), root+"/"+strings.Trim(row[0], "`"))
	}
	testkit.WriteFile(t, root+"/"+strings.Trim(files[2][0], "`"),
		grubScript("linux /"+bigName+" console=ttyS0,115200 earlyprintk=ttyS0,115200", "boot"))
}

func checkShim(b *boot) {
	b.t.Helper()
	b.sees(marker, failure)
	b.receivedCommon()
	b.received("shimx64.efi")
	b.received("grubx64.efi")
	for _, name := range []string{"revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"} {
		b.notFound(name)
	}
	b.sees("Secure boot enabled")
}

// run runs a program that prepares what is served.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
