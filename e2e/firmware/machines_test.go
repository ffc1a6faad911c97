//go:build linux

package firmware

import (
	"bufio"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// machine is an emulated computer with its firmware.
type machine struct {
	name     string
	packages []string // that the firmware is of
	emulator string
	args     []string
	flash    [2]string // the firmware and the template of its variables, where it has such
}

const (
	x86   = "qemu-system-x86_64"
	arm64 = "qemu-system-aarch64"
)

// card is a network card without a ROM: the firmware has a driver and a TFTP client of its own.
const card = "virtio-net-pci,netdev=net0,romfile=,bootindex=0"

// With one processor and little memory they boot soonest: QEMU translates every instruction.
var (
	// iPXE is in the ROM of QEMU's network cards. Without graphics all print on the serial line.
	seabios = &machine{
		name: "SeaBIOS with an iPXE ROM", packages: []string{"seabios", "ipxe-qemu"}, emulator: x86,
		args: []string{"-machine", "pc,graphics=off", "-m", "256", "-boot", "n", "-device", "virtio-net-pci,netdev=net0"},
	}
	ovmf = &machine{
		name: "OVMF", packages: []string{"ovmf"}, emulator: x86, flash: ovmfFlash,
		args: ovmfArgs,
	}
	ovmfIPv6 = &machine{
		name: "OVMF over IPv6", packages: []string{"ovmf"}, emulator: x86, flash: ovmfFlash,
		args: append([]string{"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"}, ovmfArgs...),
	}
	ovmfSecure = &machine{
		name: "OVMF with Secure Boot", packages: []string{"ovmf"}, emulator: x86,
		flash: [2]string{"OVMF/OVMF_CODE_4M.ms.fd", "OVMF/OVMF_VARS_4M.ms.fd"},
		args: append([]string{"-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
			"-global", "ICH9-LPC.disable_s3=1"}, ovmfArgs...),
	}
	ubootX86 = &machine{
		name: "U-Boot x86, e1000", packages: []string{"u-boot-qemu"}, emulator: x86,
		args: []string{"-machine", "pc", "-m", "256", "-bios", "/usr/lib/u-boot/qemu-x86/u-boot.rom", "-device", "e1000,netdev=net0,romfile="},
	}
	aavmf = &machine{
		name: "AAVMF", packages: []string{"qemu-efi-aarch64"}, emulator: arm64,
		flash: [2]string{"AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"},
		// Its network needs random numbers, which it takes from the processor alone.
		args: []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on", "-m", "256", "-device", card},
	}
	ubootARM64Virtio = &machine{
		name: "U-Boot arm64, virtio", packages: []string{"u-boot-qemu"}, emulator: arm64,
		args: append([]string{"-device", card}, ubootARM64Args...),
	}
	ubootARM64 = &machine{
		name: "U-Boot arm64, e1000", packages: []string{"u-boot-qemu"}, emulator: arm64,
		args: append([]string{"-device", "e1000,netdev=net0,romfile="}, ubootARM64Args...),
	}

	ubootARM64Args = []string{"-machine", "virt", "-cpu", "cortex-a57", "-m", "256", "-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"}

	ovmfFlash = [2]string{"OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"}
	// Its network needs random numbers; memtest86+ needs a screen.
	ovmfArgs = []string{"-machine", "q35", "-m", "512", "-vga", "std", "-device", "virtio-rng-pci", "-device", card}
)

// start switches the machine on, with its network card at the backend.
func (m *machine) start(t *testing.T, n *namespace, folder, backend string) *process {
	t.Helper()
	args := append([]string{"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-netdev", backend}, m.args...)
	if m.flash[0] != "" {
		code, variables := unpacked("/usr/share/"+m.flash[0]), filepath.Join(folder, "variables")
		copyFile(t, unpacked("/usr/share/"+m.flash[1]), variables)
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file="+variables)
	}
	return n.start(t, m.emulator, args...)
}

// unpacked is where a file of a package is that .ci/packages unpacks and does not install.
func unpacked(path string) string {
	cache, _ := os.UserCacheDir()
	return filepath.Join(cache, "flytftp-firmware", path)
}

// version is that of a Debian package, "" if it is missing.
func version(pkg string) string {
	if changelog, err := os.Open(unpacked("/usr/share/doc/" + pkg + "/changelog.Debian.gz")); err == nil {
		defer changelog.Close()
		if text, err := gzip.NewReader(changelog); err == nil {
			line, _ := bufio.NewReader(text).ReadString('\n')
			if match := regexp.MustCompile(`^\S+ \((\S+)\)`).FindStringSubmatch(line); match != nil {
				return match[1]
			}
		}
	}
	out, err := exec.Command("dpkg-query", "--show", "--showformat=${Version}", pkg).Output()
	if err != nil {
		return ""
	}
	return string(out)
}
