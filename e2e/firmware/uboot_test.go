//go:build linux

package firmware

import (
	"fmt"
	"hash/crc32"
	"os/exec"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

var (
	// The driver of virtio never recovers from a full ring, which has 32 buffers.
	ubootFewWindows = uboot("1", "8")
	ubootWindows    = uboot("1", "8", "64")
)

// uboot makes a loader of the script that U-Boot asks for by itself. It fetches the big file once
// with each size of a window.
func uboot(windows ...string) *loader {
	return &loader{
		name: "boot.scr.uimg",
		dhcp: bootFile("boot.scr.uimg"),
		serve: func(t *testing.T, root string, bigSize int) {
			serveCommon(t, root, bigSize)
			testkit.WriteFile(t, root+"/boot.cmd", []byte(`setenv autoload no
for w in `+strings.Join(windows, " ")+`; do
	setenv tftpwindowsize ${w}
	tftpboot ${kernel_addr_r} `+bigName+` && crc32 ${kernel_addr_r} ${filesize} || echo `+failure+`
done
tftpboot ${kernel_addr_r} `+emptyName+` || echo `+failure+`
if tftpboot ${kernel_addr_r} `+absentName+`; then echo `+failure+`; fi
echo `+marker+`
`))
			mkimage := exec.Command("mkimage", "-T", "script", "-C", "none", "-d", root+"/boot.cmd", root+"/boot.scr.uimg")
			if out, err := mkimage.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		},
		check: func(b *boot) {
			b.t.Helper()
			sum := fmt.Sprintf("==> %08x", crc32.ChecksumIEEE(testkit.Pattern(b.setting.bigSize)))
			for range windows {
				b.sees(sum, failure)
			}
			b.sees(marker, failure)
			b.receivedCommon()
			b.received("boot.scr.uimg")
		},
	}
}
