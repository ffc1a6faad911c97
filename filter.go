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

// Why a name is refused. The client learns none of it: it gets ERROR 2, whether the file exists or
// not.
var (
	errNameEmpty    = errors.New("the name is empty")
	errNameLong     = errors.New("the name is over 255 bytes")
	errNameEncoding = errors.New("the name is not UTF-8")
	errNameControl  = errors.New("a control character in the name")
	errNameFolder   = errors.New("the name ends in a separator")
	errNameParent   = errors.New("a .. element in the name")
	errNameHidden   = errors.New("an element of the name begins with a dot")
)

// resolveName turns the file name of an RRQ into a path within the root, or says why the name is
// refused. The path is slash-separated and satisfies fs.ValidPath. resolveName touches no file: it
// and os.Root are all that stands between a name and the disk.
func resolveName(name string, allow allowList) (string, error) {
	if len(name) > maxNameLength {
		return "", errNameLong
	}
	// Some firmware pads the name that DHCP gave it with 0xFF, the end mark of DHCP options, or
	// leaves a line end on it.
	for len(name) > 0 && isPadding(name[len(name)-1]) {
		name = name[:len(name)-1]
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
		if extension := path.Ext(resolved); extension != "" {
			return "", fmt.Errorf("the extension %s is not in -allow", extension)
		}
		return "", errors.New(`no extension, and "none" is not in -allow`)
	}
	return resolved, nil
}

// isPadding reports whether firmware may have appended b to a name. A NUL is no padding: it ends
// the name in the RRQ.
func isPadding(b byte) bool { return b == 0xFF || b != 0 && isControl(rune(b)) && b < 0x80 }

// isControl is unicode.IsControl without its tables.
func isControl(r rune) bool { return r < ' ' || 0x7F <= r && r < 0xA0 }

// isSeparator reports whether r separates the elements of a name. Windows boot programs ask for
// \Boot\BCD.
func isSeparator(r rune) bool { return r == '/' || r == '\\' }

// allowList is the set of extensions that may be read, in lower case and with their dot. "" allows
// names without an extension, "*" every name.
type allowList map[string]bool

func (a allowList) allows(resolved string) bool {
	return a["*"] || a[lower(path.Ext(resolved))]
}

// lower is strings.ToLower for ASCII. Other letters of an extension must be written as -allow has
// them.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// defaultAllow is the default of -allow: boot programs and what they load. Programs without an
// extension (vmlinuz, memdisk, wimboot) need "none". It is left out because many a secret has no
// extension either: shadow, id_rsa.
const defaultAllow = "" +
	// PC boot programs: iPXE, PXELINUX and GRUB images, Windows' startrom.n12, wdsnbp.com and
	// bootmgr.exe. pxelinux.0 and core.0 end in .0.
	".kpxe,.kkpxe,.kkkpxe,.pxe,.lkrn,.0,.n12,.com,.exe," +
	// UEFI boot programs, and those that Debian and Ubuntu signed (shimx64.efi.signed).
	".efi,.signed," +
	// What these load next: Syslinux modules, GRUB modules with their lists, fonts and languages,
	// menu pictures.
	".c32,.mod,.lst,.pf2,.mo,.png,.jpg," +
	// Their configuration and scripts: menus, kernel command lines, answer files of installers,
	// Ignition.
	".cfg,.conf,.ipxe,.txt,.md,.ign,.xml," +
	// Kernels, initial RAM disks and their compressed forms.
	".bin,.img,.vmlinuz,.initrd,.cpio,.gz,.xz,.zst,.elf,.rd," +
	// Disk images that memdisk, iPXE and UEFI boot.
	".iso,.usb,.dsk,.hd," +
	// Windows PE: image, RAM disk, boot configuration, fonts.
	".wim,.sdi,.bcd,.ttf," +
	// Boards: U-Boot images and scripts, FIT images, device trees and overlays.
	".uimg,.itb,.fit,.ub,.scr,.dtb,.dtbo," +
	// Raspberry Pi firmware and its updates, detached signatures of anything above.
	".dat,.upd,.sig"

// parseAllow reads a list of extensions as -allow takes it.
func parseAllow(list string) (allowList, error) {
	allow := allowList{}
	for _, entry := range strings.Split(list, ",") {
		entry = lower(strings.TrimSpace(entry))
		switch entry {
		case "":
			return nil, errors.New("an extension is empty")
		case "*":
			allow["*"] = true
		case "none":
			allow[""] = true
		default:
			extension := "." + strings.TrimPrefix(entry, ".")
			if path.Ext("a"+extension) != extension || strings.ContainsAny(extension, `*\ `) || len(extension) == 1 {
				return nil, fmt.Errorf("%+q is not an extension: what counts is what follows the last dot, such as .img", entry)
			}
			allow[extension] = true
		}
	}
	return allow, nil
}
