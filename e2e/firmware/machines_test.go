//go:build linux

package firmware

import (
	"bufio"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// machine is an emulated computer with its firmware.
type machine struct {
	name     string
	packages []string // the firmware is of
	memory   int      // MiB; the less, the sooner a memory test begins
	emulator string
	args     []string
	flash    flash
}

// flash is firmware in a chip of its own, and the variables that it begins with; both are empty
// where the firmware is none of that kind.
type flash struct{ code, variables string }

const (
	x86   = "qemu-system-x86_64"
	arm64 = "qemu-system-aarch64"
	riscv = "qemu-system-riscv64"
)

// Network cards without a ROM, so that the firmware's own driver and TFTP work.
const (
	virtio = "virtio-net-pci,netdev=net0,romfile=,bootindex=0"
	e1000  = "e1000,netdev=net0,romfile="
)

// Arguments of several machines.
var (
	// OVMF's network takes random numbers from a device, and memtest86+ needs a screen.
	ovmfArgs = []string{"-machine", "q35", "-vga", "std",
		"-device", "virtio-rng-pci", "-device", virtio}
	ovmfFlash = flash{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}

	ubootARM64Args = []string{"-machine", "virt", "-cpu", "cortex-a57",
		"-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"}
)

var (
	// iPXE is in the ROM of QEMU's network cards. Without graphics all goes to the serial line.
	seabios = &machine{
		name: "SeaBIOS with an iPXE ROM", packages: []string{"seabios", "ipxe-qemu"}, emulator: x86, memory: 64,
		args: []string{"-machine", "pc,graphics=off", "-boot", "n",
			"-device", "virtio-net-pci,netdev=net0"},
	}
	ovmf = &machine{
		name: "OVMF", packages: []string{"ovmf"}, memory: 256, emulator: x86, args: ovmfArgs, flash: ovmfFlash,
	}
	ovmfIPv6 = &machine{
		name: "OVMF over IPv6", packages: []string{"ovmf"}, memory: 256, emulator: x86, flash: ovmfFlash,
		args: slices.Concat(ovmfArgs, []string{"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"}),
	}
	ovmfSecure = &machine{
		name: "OVMF with Secure Boot", packages: []string{"ovmf"}, memory: 256, emulator: x86,
		flash: flash{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
		args: slices.Concat(ovmfArgs, []string{"-machine", "smm=on", "-global", "ICH9-LPC.disable_s3=1",
			"-global", "driver=cfi.pflash01,property=secure,value=on"}),
	}
	// AAVMF's network takes random numbers from the processor alone, and this one has them.
	aavmf = &machine{
		name: "AAVMF", packages: []string{"qemu-efi-aarch64"}, memory: 256, emulator: arm64,
		args:  []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on", "-device", virtio},
		flash: flash{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
	}
	ubootARM64Virtio = &machine{
		name: "U-Boot arm64, virtio", packages: []string{"u-boot-qemu"}, memory: 256, emulator: arm64,
		args: slices.Concat(ubootARM64Args, []string{"-device", virtio}),
	}
	ubootARM64 = &machine{
		name: "U-Boot arm64, e1000", packages: []string{"u-boot-qemu"}, memory: 256, emulator: arm64,
		args: slices.Concat(ubootARM64Args, []string{"-device", e1000}),
	}
	ubootRISCV = &machine{
		name: "U-Boot RISC-V, virtio", packages: []string{"u-boot-qemu", "opensbi"}, memory: 256, emulator: riscv,
		args: []string{"-machine", "virt", "-device", "virtio-rng-pci", "-device", virtio,
			"-bios", "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.elf",
			"-kernel", "/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin"},
	}
	ubootX86 = &machine{
		name: "U-Boot x86, e1000", packages: []string{"u-boot-qemu"}, memory: 256, emulator: x86,
		args: []string{"-machine", "pc", "-device", e1000,
			"-bios", "/usr/lib/u-boot/qemu-x86/u-boot.rom"},
	}
)

// start switches the machine on, with its network card at the backend.
func (m *machine) start(t *testing.T, n *namespace, folder, backend string, memory int) *process {
	t.Helper()
	args := slices.Concat(m.args, []string{"-m", strconv.Itoa(memory), "-nodefaults", "-display", "none",
		"-no-reboot", "-serial", "stdio", "-netdev", backend})
	if m.flash.code != "" {
		variables := filepath.Join(folder, "variables")
		copyFile(t, unpacked(m.flash.variables), variables)
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+unpacked(m.flash.code),
			"-drive", "if=pflash,format=raw,file="+variables)
	}
	return n.start(t, m.emulator, args...)
}

// unpacked is where a file is that is of a package which .ci/packages unpacks and does not install.
func unpacked(path string) string {
	cache, _ := os.UserCacheDir()
	return filepath.Join(cache, "flytftp-firmware", path)
}

// version is the version of a Debian package that is unpacked or installed, empty if it is neither.
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
