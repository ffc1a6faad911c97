//go:build linux

package firmware

import (
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

var (
	// The driver of virtio never recovers from a full ring, which has 32 buffers.
	ubootFewWindows = uboot("1", "8")
	ubootWindows    = uboot("1", "8", "64")
)

const ubootName = "boot.scr.uimg"

// uboot makes a loader of the script that U-Boot asks for by itself. The script fetches the big
// file once with each windowsize, and shows its CRC-32.
func uboot(windowSizes ...string) *loader {
	return &loader{
		name: ubootName,
		dhcp: bootFile(ubootName),
		serve: func(t *testing.T, root string, bigSize int) {
			serveCommon(t, root, bigSize)
			commands := root + "/commands"
			testkit.WriteFile(t, commands, []byte(ubootScript(windowSizes)))
			run(t, "mkimage", "-T", "script", "-C", "none", "-d", commands, root+"/"+ubootName)
		},
		check: func(b *boot) {
			b.t.Helper()
			for range windowSizes {
				b.sees(fmt.Sprintf("==> %08x", crc32.ChecksumIEEE(testkit.Pattern(b.setting.bigSize))), failure)
			}
			b.sees(marker, failure)
			b.receivedCommon()
			b.received(ubootName)
		},
	}
}

func ubootScript(windowSizes []string) string {
	fetch := "tftpboot ${kernel_addr_r} "
	return `setenv autoload no
for w in ` + strings.Join(windowSizes, " ") + `; do
	setenv tftpwindowsize ${w}
	` + fetch + bigName + ` && crc32 ${kernel_addr_r} ${filesize} || echo ` + failure + `
done
` + fetch + emptyName + ` || echo ` + failure + `
if ` + fetch + absentName + `; then echo ` + failure + `; fi
echo ` + marker + `
`
}
