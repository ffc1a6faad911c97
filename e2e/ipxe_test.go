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
	for _, line := range d.waitForAll(`sent file="boot.ipxe" `, `sent file="boot/next.ipxe" `, `sent file="boot/full.img" `,
		`not found file="boot/absent.img" `, `denied file="boot/secret.key" `, `sent file="boot/empty.img" `) {
		if strings.HasPrefix(line, "sent ") && !strings.Contains(line, " blksize=1432 windowsize=1 ") {
			t.Error(line)
		}
	}
}

// autoexec.ipxe makes the network ready and loads boot.ipxe from its folder. Where there is none,
// it ends, and the machine goes on to its next boot device: nothing loops.
func TestAutoexec(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	emulator := "qemu-system-x86_64"
	needClient(t, []string{emulator})
	for what, script := range map[string]string{
		"with boot.ipxe":    "#!ipxe\necho address ${net0/ip}\necho This machine starts again.\nreboot\n",
		"without boot.ipxe": "",
	} {
		folder := testkit.PublicFolder(t)
		testkit.WriteFile(t, folder+"/sub/autoexec.ipxe", []byte(testkit.ReadText(t, "../files/autoexec.ipxe")))
		if script != "" {
			testkit.WriteFile(t, folder+"/sub/boot.ipxe", []byte(script))
		}
		d := start(t, folder)
		card := "user,model=virtio-net-pci,bootfile=tftp://" +
			strings.Replace(d.addr, "127.0.0.1", "10.0.2.2", 1) + "/sub/autoexec.ipxe"
		console, status, err := runClient(t.Context(), "", emulator, "-M", "pc,graphics=off", "-m", "64", "-nodefaults",
			"-display", "none", "-serial", "stdio", "-no-reboot", "-boot", "order=n,reboot-timeout=1", "-nic", card)
		if strings.Contains(console, "romfile") {
			testkit.Skip(t, "iPXE is not installed: "+console)
		}
		if err != nil || status != 0 {
			t.Errorf("%s: status %d, %v", what, status, err)
		}
		d.waitFor(`sent file="sub/autoexec.ipxe" `)
		want, line := "address 10.0.2.15", `sent file="sub/boot.ipxe" `
		if script == "" {
			want, line = "autoexec.ipxe could not load boot.ipxe", `not found file="sub/boot.ipxe" `
		}
		d.waitFor(line)
		if strings.Count(console, want) != 1 || strings.Count(d.logged(), "autoexec.ipxe") != 1 {
			t.Errorf("%s: console %q", what, console)
		}
	}
}

// The scripts that are served jump to labels that they have, and the menu knows each iPXE of the
// boot image. The rest of them takes iPXE to try.
func TestScripts(t *testing.T) {
	for _, name := range []string{"boot.ipxe", "autoexec.ipxe"} {
		script := testkit.ReadText(t, "../files/"+name)
		if !strings.HasPrefix(script, "#!ipxe\n") {
			t.Errorf("iPXE would not take %s for a script", name)
		}
		for _, match := range regexp.MustCompile(`goto (\w+)`).FindAllStringSubmatch(script, -1) {
			if !strings.Contains(script, "\n:"+match[1]+"\n") {
				t.Errorf("%s has no label %s", name, match[1])
			}
		}
	}
	menu := testkit.ReadText(t, "../files/boot.ipxe")
	for _, row := range testkit.TableRows(testkit.ReadSection(t, "../docs/boot.md", "## What is in it")) {
		for _, name := range testkit.CodeSpans(row[0]) {
			if strings.HasPrefix(name, "memtest") != !strings.Contains(menu, "\niseq ${next} "+name+" && goto loop ||\n") {
				t.Errorf("boot.ipxe does not know if %s would lead back to it", name)
			}
		}
	}
	commands := regexp.MustCompile(`(?m)^[^#\n].*`).FindAllString(testkit.ReadText(t, "../files/autoexec.ipxe"), 2)
	if commands[0] != "dhcp" || !strings.HasPrefix(commands[1], "chain --autofree boot.ipxe ") {
		t.Errorf("autoexec.ipxe begins with %q", commands)
	}
}
