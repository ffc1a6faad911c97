package main

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// maxNameLength, in bytes, bounds a file name as the client sends it. A DHCP option holds no longer
// boot file name (RFC 2132 section 9.5).
const maxNameLength = 255

// Why a name is refused. The client learns none of it: it is answered as if there were no such
// file.
var (
	errNameEmpty    = errors.New("the name is empty")
	errNameLong     = errors.New("the name is over 255 bytes")
	errNameEncoding = errors.New("the name is not UTF-8")
	errNameControl  = errors.New("a control character in the name")
	errNameFolder   = errors.New("the name ends in a separator")
	errNameParent   = errors.New("a .. element in the name")
	errNameHidden   = errors.New("an element of the name begins with a dot")
)

// resolveName turns the file name of an RRQ into a path within the folder, or says why the name is
// refused. The path is slash-separated and satisfies fs.ValidPath. resolveName touches no file: it
// and os.Root are all that stands between a name and the disk.
func resolveName(name string, allow allowList) (string, error) {
	// Some firmware passes on what follows the name in its DHCP packet: 0xFF is the end mark of
	// DHCP options. Other leaves a line end on the name.
	name, _, _ = strings.Cut(name, "\xff")
	for len(name) > 0 && isPadding(name[len(name)-1]) {
		name = name[:len(name)-1]
	}
	if len(name) > maxNameLength {
		return "", errNameLong
	}
	if name == "" {
		return "", errNameEmpty
	}
	if !utf8.ValidString(name) {
		return "", errNameEncoding
	}
	if strings.ContainsFunc(name, isControl) {
		return "", errNameControl
	}
	if isSeparator(rune(name[len(name)-1])) {
		return "", errNameFolder
	}
	var elements []string
	for _, element := range strings.FieldsFunc(name, isSeparator) {
		switch {
		case element == ".":
		case element == "..":
			return "", errNameParent
		case element[0] == '.':
			return "", errNameHidden
		default:
			elements = append(elements, element)
		}
	}
	if len(elements) == 0 {
		return "", errNameEmpty
	}
	resolved := strings.Join(elements, "/")
	if !allow.allows(resolved) {
		return "", fmt.Errorf("not in -allow: %s would serve it", allow.with(entryFor(resolved)))
	}
	return resolved, nil
}

// isPadding reports whether firmware may have appended b to a name. A NUL is no padding: it ends
// the name in the RRQ.
func isPadding(b byte) bool { return 0 < b && b < 0x80 && isControl(rune(b)) }

// isControl is unicode.IsControl without its tables.
func isControl(r rune) bool { return r < ' ' || 0x7F <= r && r < 0xA0 }

// isSeparator reports whether r separates the elements of a name. Windows boot programs ask for
// \Boot\BCD.
func isSeparator(r rune) bool { return r == '/' || r == '\\' }

// allowList says which names may be read. An entry is in lower case and one of: an extension with
// its dot, "none" for names without one, a pattern, "default" for the names of boot files, or "*".
type allowList []string

func (a allowList) allows(resolved string) bool {
	name := lower(resolved)
	for _, entry := range a {
		if matchesEntry(entry, name) {
			return true
		}
	}
	return false
}

func matchesEntry(entry, name string) bool {
	switch {
	case entry == "*":
		return true
	case entry == "none":
		return extension(name) == ""
	case entry == "default":
		return bootFiles.allows(name) && !secrets.allows(name)
	case entry[0] == '.':
		return extension(name) == entry
	}
	return matchesEnd(entry, name)
}

// extension returns the last dot of a name with what follows it up to a hyphen: grub.cfg-C0000201
// has the extension .cfg.
func extension(name string) string {
	extension, _, _ := strings.Cut(path.Ext(name), "-")
	return extension
}

// matchesEnd reports whether a pattern matches the last elements of a name, as many as it has
// itself. In a pattern, * stands for any characters but a slash, ? for one.
func matchesEnd(pattern, name string) bool {
	pattern = strings.TrimPrefix(pattern, "/")
	start := len(name) + 1
	for range strings.Count(pattern, "/") + 1 {
		if start <= 0 {
			return false
		}
		start = strings.LastIndexByte(name[:start-1], '/') + 1
	}
	return matches(pattern, name[start:])
}

// matches takes at most as many steps as the product of the lengths: of the stars before a
// mismatch, only the last needs to stand for more.
func matches(pattern, name string) bool {
	afterStar, taken := 0, 0 // where to go on after a mismatch, once there was a star
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			p++
			afterStar, taken = p, n
		case p < len(pattern) && pattern[p] == '?' && name[n] != '/':
			p++
			for n++; n < len(name) && !utf8.RuneStart(name[n]); {
				n++
			}
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case afterStar > 0 && name[taken] != '/':
			taken++
			p, n = afterStar, taken
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// lower is strings.ToLower for ASCII. Other letters must be written as -allow has them.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// parseAllow reads a list as -allow takes it.
func parseAllow(list string) (allowList, error) {
	var allow allowList
	for _, entry := range strings.Split(list, ",") {
		// Other spaces of Unicode can be part of a name.
		entry = lower(strings.Trim(entry, " \t\r\n"))
		switch {
		case entry == "":
			return nil, errors.New("an entry is empty")
		case entry == "default", entry == "none", entry == "*":
		case strings.ContainsAny(entry, "*?/"):
			name, err := resolveName(entry, allowList{"*"})
			if err == nil && name != strings.TrimPrefix(entry, "/") {
				err = errors.New("its elements are separated by one slash each")
			}
			if err != nil {
				return nil, fmt.Errorf("%+q is no pattern of a name: %w", entry, err)
			}
		default:
			entry = "." + strings.TrimPrefix(entry, ".")
			if !isExtension(entry) {
				return nil, fmt.Errorf("%+q is not an extension: that is what follows the last dot, up to a hyphen; more takes a pattern, such as *.tar.gz", entry)
			}
		}
		allow = append(allow, entry)
	}
	return allow, nil
}

func isExtension(entry string) bool {
	name, _ := resolveName("a"+entry, allowList{"*"})
	return name == "a"+entry && len(entry) > 1 && extension(entry) == entry && !strings.ContainsAny(entry, ` ,*?\`)
}

// mostShown, in bytes, bounds the list that a line of the log repeats.
const mostShown = 200

// with returns the list with one more entry, as one gives it to the program.
func (a allowList) with(entry string) string {
	list := strings.Join(a, ",")
	if len(list) > mostShown {
		list = "..."
	}
	return "-allow " + list + "," + entry
}

// entryFor returns the entry that allows names like this one.
func entryFor(resolved string) string {
	name := lower(resolved)
	entry := extension(name)
	switch {
	case entry == "":
		return "none"
	case isExtension(entry):
		return entry
	}
	// A comma would end the entry, and spaces around it do not count.
	pattern := []byte("*" + entry)
	for i, c := range pattern {
		if c == ',' || c == ' ' {
			pattern[i] = '?'
		}
	}
	if entry != path.Ext(name) {
		pattern = append(pattern, '*')
	}
	return string(pattern)
}

// bootFiles are the names that "default" allows: what boots a machine, and what that loads, in the
// trees of stock distributions. Programs without an extension have patterns, because many a secret
// has no extension either.
var bootFiles = allowList(strings.Split(""+
	// PC boot programs: iPXE, PXELINUX and GRUB images, Windows' startrom.n12, wdsnbp.com and
	// bootmgr.exe. pxelinux.0 and core.0 end in .0.
	".kpxe,.kkpxe,.kkkpxe,.pxe,.lkrn,.0,.n12,.com,.exe,pxelinux.0*,pxeboot*,pxegrub*,/nbgrub,stage?,"+
	// UEFI boot programs, those that Debian and Ubuntu signed (shimx64.efi.signed), unified kernel
	// images, shim's list of boot entries.
	".efi,.signed,.stub,boot*.csv,"+
	// What these load next: Syslinux, GRUB and FreeBSD modules with their lists, fonts and
	// languages, menu pictures and screens.
	".c32,.e32,.e64,.mod,.lst,.pf2,.mo,.gmo,.png,.jpg,.tga,.svg,.lss,.msg,/memdisk,/wimboot,"+
	// Their configuration and scripts: menus, kernel command lines, answer files of installers,
	// Ignition.
	".cfg,.conf,.ipxe,.txt,.md,.ign,.xml,.info,pxelinux.cfg/*,/grubenv,/menu.php,/boot.php,/readme,"+
	// Kernels, initial RAM disks and their compressed forms.
	".bin,.img,.vmlinuz,.initrd,.cpio,.gz,.xz,.zst,.lzma,.bz2,.lz4,.lzo,.elf,.rd,"+
	"*vmlinu*,*kernel*,*initr*,*image,?image*,??image*,fitimage*,/linux,linux??,*-linux,modloop*,/gentoo,"+
	// Root file systems.
	".squashfs,.sfs,.erofs,.rpm,/squashfs,boot/*/root,boot/*/common,boot/*/rescue,"+
	// The BSDs.
	".lua,.4th,.ko,.kmod,.hints,.help,.dir,.fnt,.rc,boot/loader*,/bsd,bsd.*,netbsd*,/random.seed,/auto_install,/auto_upgrade,"+
	// Disk images that memdisk, iPXE and UEFI boot, memory tests.
	".iso,.usb,.dsk,.hd,.imz,memtest*,mt86*,"+
	// Windows PE: image, RAM disk, boot configuration, fonts, languages, signatures.
	".wim,.sdi,.bcd,.ttf,.mui,.dll,.sif,.stl,.p7b,.var,/bcd,bcd.log*,/bootmgr,/boot.ini,/hiberfil.sys,freeldr.*,"+
	// VMware ESXi.
	".tgz,*.b0?,*.g0?,*.i0?,*.t0?,*.v??,"+
	// Boards, switches and mainframes: U-Boot, its images and scripts, FIT images, device trees,
	// ONIE.
	".uimg,.itb,.fit,.ub,.scr,.dtb,.dtbo,.imx,.kwb,/mlo,/spl,/boot-dtb,onie-*,.ins,"+
	// Raspberry Pi firmware and its updates, signatures and sums of anything above.
	".dat,.upd,.sig,.sha256,.sha512", ","))

// secrets are never among the boot files, whatever pattern they match.
var secrets = allowList(strings.Split(".pem,.key,.kdbx,.sql,.bak,.tar,id_*,authorized_keys*,/shadow,/passwd,/sudoers", ","))
