package e2e

import (
	"regexp"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

// iPXE itself, the option ROM of an emulated network card, boots from the server: a script, the one
// that this chains to beside it, and files of a few sizes. It goes on after an absent one. QEMU's
// 10.0.2.2 is this machine's loopback.
func TestIPXE(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	emulator := "qemu-system-x86_64"
	needClient(t, []string{emulator})
	folder := testkit.PublicFolder(t)
	for name, content := range map[string][]byte{
		"boot.ipxe":     []byte("#!ipxe\nchain boot/next.ipxe\n"),
		"boot/full.img": testkit.Pattern(1432 * 1000),
		// The lines that do something come last, so that every one of its many blocks counts. The
		// restart cuts off the output of the very last.
		"boot/next.ipxe": []byte("#!ipxe\n" + strings.Repeat("# comment\n", 2000) + `
imgfetch full.img && echo full is here
imgfetch absent.img || echo absent is not
imgfetch secret.key || echo secret is not
imgfetch empty.img && echo empty is here
echo This machine starts again.
reboot
`),
		"boot/empty.img": nil,
	} {
		testkit.WriteFile(t, folder+"/"+name, content)
	}
	d := start(t, folder)
	card := "user,model=virtio-net-pci,bootfile=tftp://" +
		strings.Replace(d.addr, "127.0.0.1", "10.0.2.2", 1) + "/boot.ipxe"
	console, status, err := runClient(t.Context(), "", emulator, "-M", "pc,graphics=off", "-m", "64",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-boot", "n", "-nic", card)
	if strings.Contains(console, "romfile") {
		testkit.Skip(t, "iPXE is not installed: "+console)
	}
	if err != nil || status != 0 {
		t.Errorf("status %d, %v", status, err)
	}
	for _, want := range []string{"full is here", "absent is not", "secret is not", "empty is here"} {
		if !strings.Contains(console, want) {
			t.Errorf("no %q on the console", want)
		}
	}
	if t.Failed() {
		t.Logf("console: %q", console)
	}
	for _, want := range []string{
		`sent file="boot.ipxe" `, `sent file="boot/next.ipxe" `, `sent file="boot/full.img" `,
		`not found file="boot/absent.img" `, `denied file="boot/secret.key" `,
		`sent file="boot/empty.img" `,
	} {
		line := d.waitFor(want)
		if strings.HasPrefix(line, "sent ") && !strings.Contains(line, " blksize=1432 windowsize=1 ") {
			t.Error(line)
		}
	}
}

// The script that is served jumps to labels that it has. The rest of it takes iPXE to try.
func TestBootScript(t *testing.T) {
	script := testkit.ReadText(t, "../files/boot.ipxe")
	if !strings.HasPrefix(script, "#!ipxe\n") {
		t.Error("iPXE would not take it for a script")
	}
	for _, match := range regexp.MustCompile(`goto (\w+)`).FindAllStringSubmatch(script, -1) {
		if !strings.Contains(script, "\n:"+match[1]+"\n") {
			t.Errorf("no label %s", match[1])
		}
	}
}
