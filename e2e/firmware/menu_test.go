//go:build linux

package firmware

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// What the menu of files/boot.ipxe says.
const (
	choiceNext    = "[n] Next step: "
	choiceMemtest = "[m] Memory test (memtest86+)"
	choiceShell   = `[s] Shell of iPXE; "exit" comes back`
	choiceReboot  = "[r] Reboot"
	choiceLocal   = "[l] Local disk: what the firmware boots after the network"
	nextStep      = "next.ipxe"
)

// docsDHCP is the configuration of dnsmasq in docs/dhcp.md, as arguments and with the address of
// the server here.
func docsDHCP(t *testing.T) (args []string) {
	t.Helper()
	block := testkit.CodeBlocks(testkit.ReadText(t, "../../docs/dhcp.md"), "ini")[0]
	for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
		if !strings.HasPrefix(line, "#") {
			args = append(args, "--"+strings.ReplaceAll(line, "192.0.2.69", serverAddr))
		}
	}
	return args
}

// serveMinimal serves the folder files/, as the minimal image does.
func serveMinimal(t *testing.T, root string) {
	t.Helper()
	testkit.Must(t, os.CopyFS(root, os.DirFS("../../files")))
}

// serveBootImage serves what the image target boot does: the folder of -files, or the same files
// from the packages of this machine. Both hold the programs that docs/boot.md lists.
func serveBootImage(t *testing.T, root string) {
	t.Helper()
	var names []string
	for _, row := range testkit.TableRows(testkit.ReadSection(t, "../../docs/boot.md", "## What is in it")) {
		names = append(names, testkit.CodeSpans(row[0])...)
	}
	if *files != "" {
		testkit.Must(t, os.CopyFS(root, os.DirFS(*files)))
		checkBootImage(t, root, names)
		return
	}
	serveMinimal(t, root)
	for _, name := range names {
		from := unpacked("/usr/lib/ipxe/" + name)
		if strings.HasPrefix(name, "memtest86+") {
			from = "/boot/" + name
		}
		copyFile(t, from, root+"/"+name)
	}
}

// checkBootImage fails the test unless the image serves the folder files/, the programs, and in a
// folder of their own their licences, with the versions of their sources.
func checkBootImage(t *testing.T, root string, programs []string) {
	t.Helper()
	want := append([]string{"licenses"}, programs...)
	for _, folder := range []string{"../../files", root} {
		entries, err := os.ReadDir(folder)
		testkit.Must(t, err)
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		if folder != root {
			want = append(want, names...)
		} else if slices.Sort(want); !slices.Equal(names, want) {
			t.Errorf("the image serves %q instead of %q", names, want)
		}
	}
	sources := testkit.ReadText(t, root+"/licenses/SOURCES.txt")
	for _, name := range []string{"ipxe", "memtest86+"} {
		if !regexp.MustCompile(`\n    ` + regexp.QuoteMeta(name) + ` \d\S+\n`).MatchString(sources) {
			t.Errorf("SOURCES.txt has no version of %s", name)
		}
		for _, match := range regexp.MustCompile(`/usr/share/common-licenses/([\w.-]*\w)`).
			FindAllStringSubmatch(testkit.ReadText(t, root+"/licenses/"+name+".txt"), -1) {
			licence := match[1] + ".txt"
			if match[1] == "GPL" {
				licence = "GPL-3.txt" // to which Debian links it
			}
			if _, err := os.Stat(root + "/licenses/" + licence); err != nil {
				t.Errorf("%s is under %s: %v", name, match[1], err)
			}
		}
	}
}

// serveProgram lets the iPXE in the firmware load another one of the image, which loads boot.ipxe.
// The script is what DHCP names to both; only the first has a driver of its own.
func serveProgram(program, first string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		t.Helper()
		serveBootImage(t, root)
		script := "#!ipxe\niseq ${net0/chip} virtio-net && goto rom ||\n" + first + "chain boot.ipxe\nexit\n:rom\nchain " + program + "\n"
		testkit.WriteFile(t, root+"/first.ipxe", []byte(script))
	}
}

// needMenuRig skips a test of the menu where the rig is not complete, or in a quick run.
func needMenuRig(t *testing.T) {
	t.Helper()
	t.Parallel()
	testkit.SkipIfShort(t)
	if *quick {
		t.Skip("not with -quick")
	}
	needRig(t)
}

// menu switches a machine on.
func menu(t *testing.T, m *machine, dhcp []string, serve func(*testing.T, string)) *boot {
	t.Helper()
	return newBoot(t, &chain{machine: m, loader: &loader{
		dhcp:  dhcp,
		serve: func(t *testing.T, root string, _ int) { serve(t, root) },
	}}, lan)
}

// seesMenu waits for a menu whose next step is named, and returns what stands beside that: the
// seconds that are left, such as "(10)".
func (b *boot) seesMenu(next string) (left string) {
	b.t.Helper()
	b.sees("flytftp: QEMU")
	b.sees("iPXE 1.")
	b.sees("card 52:54:00:12:34:56 (")
	b.sees("address " + guestAddr + "/255.255.255.0, gateway " + serverAddr)
	b.sees("server " + serverAddr + ", boot file ")
	b.sees(choiceNext + next)
	from := b.read
	b.sees(choiceMemtest)
	output, _ := b.console.text()
	left = strings.TrimSpace(strings.TrimSuffix(plain(output)[from:b.read], choiceMemtest))
	b.sees(choiceShell)
	b.sees(choiceReboot)
	b.sees(choiceLocal)
	return left
}

// asked counts the transfers of a file that a machine had whole.
func (b *boot) asked(name string) (n int) {
	for _, tr := range b.link.transfers() {
		if strings.TrimPrefix(tr.name, "/") == name && tr.complete() {
			n++
		}
	}
	return n
}

// Each choice of the menu in the minimal image does what it says, or says what failed and leads
// back. The iPXE is that of the firmware, which is an old one.
func TestMenuChoices(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	needRig(t)
	b := menu(t, seabios, docsDHCP(t), serveMinimal)
	if left := b.seesMenu(nextStep); left != "(10)" {
		t.Errorf("the time that is left is %q", left)
	}
	b.types("\x1b[B") // a key stops the time
	b.sees(choiceMemtest)
	from := b.read
	b.types("m")
	b.sees("Loading memtest86+x64.bin")
	if output, _ := b.console.text(); strings.Contains(plain(output)[from:b.read], "(") {
		t.Errorf("the time goes on: %q", plain(output)[from:b.read])
	}
	b.sees("memtest86+x64.bin... No such file")
	b.sees("memtest86+x64.bin was not loaded, or ended with an error.")
	b.sees(`The image "boot" of flytftp has it`)
	b.types(" ")
	b.seesMenu(nextStep)
	b.sees("Failed: memtest86+x64.bin, https://ipxe.org/2d12603b")
	b.types("s")
	b.sees("iPXE>")
	b.types("exit\r")
	b.seesMenu(nextStep)
	b.types("n")
	b.sees("next.ipxe... No such file")
	b.sees("next.ipxe was not loaded, or ended with an error.", "has it")
	b.types(" ")
	b.seesMenu(nextStep)
	b.sees("Failed: next.ipxe, https://ipxe.org/2d12603b")
	b.types("\x03") // nothing is chosen
	b.seesMenu(nextStep)
	b.types("r")
	select {
	case <-b.console.ended: // instead of a reboot
	case <-b.ctx.Done():
		t.Error("no reboot")
	}
	b.notFound("memtest86+x64.bin")
	b.notFound(nextStep)
}

// Without a key the next step starts, which a script may choose. It is tried again after it failed.
// A next step that loads boot.ipxe again comes to a menu that waits. Its way out is the local disk.
func TestMenuTimeout(t *testing.T) {
	needMenuRig(t)
	withDisk := *seabios
	const nextStep = "sub/step.ipxe"
	disk := filepath.Join(t.TempDir(), "disk")
	testkit.WriteFile(t, disk, bootSector("This is the disk."))
	withDisk.args = slices.Concat(seabios.args, []string{"-boot", "order=nc", "-drive", "if=ide,format=raw,file=" + disk})
	b := menu(t, &withDisk, bootFile("first.ipxe"), serveProgram("undionly.kpxe", "set wait 2000\nset next "+nextStep+"\n"))
	if left := b.seesMenu(nextStep); left != "(2)" {
		t.Errorf("the time that is left is %q", left)
	}
	b.sees(nextStep + " was not loaded, or ended with an error.")
	testkit.WriteFile(t, b.root+"/"+nextStep, []byte("#!ipxe\necho "+marker+"\nchain ../boot.ipxe\n"))
	b.seesMenu(nextStep)
	b.sees(marker)
	if left := b.seesMenu(nextStep); left != "" {
		t.Errorf("the time that is left is %q", left)
	}
	b.sees("This menu was here before, so it waits for a key.")
	b.types("n")
	b.sees(marker)
	b.seesMenu(nextStep)
	b.types("l")
	b.sees("This is the disk.")
	if n := b.asked(nextStep); n != 2 {
		t.Errorf("%d times %s", n, nextStep)
	}
	b.received("undionly.kpxe")
}

// An iPXE that lacks the command for menus loads the next step at once, and again after it failed.
func TestMenuWithoutMenu(t *testing.T) {
	needMenuRig(t)
	b := menu(t, seabios, docsDHCP(t), func(t *testing.T, root string) {
		serveMinimal(t, root)
		script := testkit.ReadText(t, root+"/boot.ipxe")
		testkit.WriteFile(t, root+"/boot.ipxe", []byte(strings.ReplaceAll(script, "\nmenu ", "\nnone ")))
	})
	b.sees("next.ipxe was not loaded, or ended with an error.")
	testkit.WriteFile(t, b.root+"/"+nextStep, []byte("#!ipxe\necho "+marker+"\nshell\n"))
	b.types(" ")
	b.sees(marker)
}

// bootSector is the first sector of a disk that writes a text to the screen of the BIOS.
func bootSector(text string) []byte {
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // ds = 0
		0xbe, 0x18, 0x7c, // si = the text
		0xac, 0x84, 0xc0, 0x74, 0x09, // al = *si++, and to the end if that is 0
		0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, // write al
		0xeb, 0xf2, // again
		0xf4, 0xeb, 0xfd, // halt
	}
	sector := append(append(code, text...), make([]byte, 512-len(code)-len(text))...)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// A PC with BIOS, one with UEFI, an arm64 and a RISC-V machine boot iPXE from the image, with the
// DHCP server as docs/dhcp.md has it. From the menu the PCs boot the memory test, which is for no
// others. On RISC-V, iPXE starts and stands still, with any server.
func TestMenuBootImage(t *testing.T) {
	needMenuRig(t)
	for _, c := range []struct {
		machine          *machine
		dhcp             []string
		program, memtest string
		serve            func(*testing.T, string)
	}{
		{seabios, bootFile("first.ipxe"), "undionly.kpxe", memtestBIOS, serveProgram("undionly.kpxe", "")},
		{ovmf, docsDHCP(t), "ipxe.efi", memtestEFI, serveBootImage},
		{aavmf, docsDHCP(t), "ipxe-arm64.efi", "", serveBootImage},
		{ubootRISCV, docsDHCP(t), "ipxe-riscv64.efi", "", serveBootImage},
	} {
		t.Run(c.program, func(t *testing.T) {
			t.Parallel()
			b := menu(t, c.machine, c.dhcp, c.serve)
			switch c.machine {
			case ubootRISCV:
				b.sees("Open Source Network Boot Firmware")
				b.received(c.program)
				return
			case aavmf:
				b.sees(choiceNext + nextStep)
				b.sees(choiceShell, choiceMemtest)
			default:
				b.seesMenu(nextStep)
				b.types("m")
				b.sees("Memtest86+ v")
				b.received(c.memtest)
			}
			b.received(c.program)
			b.received("boot.ipxe")
		})
	}
}

// Where every client is told to load iPXE, and option 224 names iPXE as well, the machine loads it
// once. The menu has no next step then, and waits for another choice.
func TestMenuNoLoop(t *testing.T) {
	needMenuRig(t)
	dhcp := append(bootFile("ipxe.efi"), "--dhcp-option-force=224,ipxe.efi")
	b := menu(t, ovmf, dhcp, serveBootImage)
	b.sees("No next step: ipxe.efi leads back to this menu", choiceNext)
	b.sees(choiceLocal)
	b.types("n")
	b.types("s")
	b.sees("iPXE>")
	b.types("exit\r")
	b.sees("No next step: ipxe.efi leads back to this menu", choiceNext)
	b.received("autoexec.ipxe")
	b.received("boot.ipxe")
	if n := b.asked("ipxe.efi"); n != 1 {
		t.Errorf("ipxe.efi was loaded %d times", n)
	}
}

// The menu fits into 80 columns and 25 lines of a PC's screen, as docs/boot.md shows it. -update
// writes the picture and the text.
func TestMenuScreen(t *testing.T) {
	needMenuRig(t)
	withScreen := *seabios
	socket := filepath.Join(t.TempDir(), "qmp")
	withScreen.args = slices.Concat(seabios.args, []string{"-machine", "graphics=on", "-vga", "std", "-qmp", "unix:" + socket + ",server,nowait"})
	b := menu(t, &withScreen, bootFile("first.ipxe"), serveProgram("undionly.kpxe", ""))
	monitor := dialMonitor(t, socket)
	memory := filepath.Join(t.TempDir(), "screen")
	text := ""
	for !strings.Contains(text, choiceLocal) {
		if b.ctx.Err() != nil {
			t.Fatalf("no menu in time:\n%s", text)
		}
		time.Sleep(time.Second / 5)
		monitor.do("pmemsave", map[string]any{"val": 0xb8000, "size": 80 * 25 * 2, "filename": memory})
		text = screenText(t, memory)
	}
	const page = "../../docs/boot.md"
	if *update {
		monitor.do("screendump", map[string]any{"filename": picturePath(t), "format": "png"})
		old := testkit.CodeBlocks(testkit.ReadText(t, page), "text")[0]
		testkit.WriteFile(t, page, []byte(strings.Replace(testkit.ReadText(t, page), old, text, 1)))
	}
	if want := testkit.CodeBlocks(testkit.ReadText(t, page), "text")[0]; text != want {
		t.Errorf("%s shows\n%s\nthe screen shows\n%s\n-update writes it", page, want, text)
	}
	if size := len(testkit.ReadText(t, picturePath(t))); size > 100_000 {
		t.Errorf("the picture has %d bytes", size)
	}
}

// picturePath is absolute, for QEMU.
func picturePath(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../docs/menu.png")
	testkit.Must(t, err)
	return path
}

// screenText reads the memory of a screen of 80 columns and 25 lines. It leaves out the frame of
// blanks, the seconds that are left, and what differs between packages and machines.
func screenText(t *testing.T, path string) string {
	t.Helper()
	cells := []byte(testkit.ReadText(t, path))
	var lines []string
	for row := range 25 {
		var line []byte
		for column := range 80 {
			line = append(line, cells[(row*80+column)*2])
		}
		lines = append(lines, strings.TrimRight(string(line), " \x00"))
	}
	text := strings.Trim(strings.Join(lines, "\n"), "\n") + "\n"
	text = regexp.MustCompile(` +\(\d+\)\n`).ReplaceAllString(text, "\n")
	return regexp.MustCompile(`iPXE \S+ \(`).ReplaceAllString(text, "iPXE VERSION (")
}

// monitor is a connection to QEMU's monitor.
type monitor struct {
	t       *testing.T
	conn    net.Conn
	answers *json.Decoder
}

func dialMonitor(t *testing.T, path string) *monitor {
	t.Helper()
	var conn net.Conn
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(time.Second / 10) {
		if conn, err = net.Dial("unix", path); err == nil || time.Now().After(end) {
			break
		}
	}
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	m := &monitor{t, conn, json.NewDecoder(conn)}
	testkit.Must(t, m.answers.Decode(new(any))) // the greeting
	m.do("qmp_capabilities", nil)
	return m
}

// do runs a command and waits for its answer, past reports of events.
func (m *monitor) do(command string, arguments map[string]any) {
	m.t.Helper()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	var b bytes.Buffer
	testkit.Must(m.t, json.NewEncoder(&b).Encode(request))
	_, err := m.conn.Write(b.Bytes())
	testkit.Must(m.t, err)
	for {
		var answer map[string]any
		testkit.Must(m.t, m.answers.Decode(&answer))
		if answer["error"] != nil {
			m.t.Fatalf("%s: %v", command, answer["error"])
		}
		if _, ok := answer["return"]; ok {
			return
		}
	}
}
