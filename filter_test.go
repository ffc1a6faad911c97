package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

func mustAllow(t testing.TB, list string) allowList {
	t.Helper()
	allow, err := parseAllow(list)
	if err != nil {
		t.Fatal(err)
	}
	return allow
}

func TestResolveName(t *testing.T) {
	errNotAllowed := func(entry string) error {
		return errors.New("not in -allow: -allow default," + entry + " would serve it")
	}
	long := strings.Repeat("a", maxNameLength-len(".txt")) + ".txt"
	for _, c := range []struct {
		name string
		want string
		err  error
	}{
		{"boot.ipxe", "boot.ipxe", nil},
		{"/boot.ipxe", "boot.ipxe", nil},
		{"///boot.ipxe", "boot.ipxe", nil},
		{"./boot.ipxe", "boot.ipxe", nil},
		{"/./a/././b.txt", "a/b.txt", nil},
		{"a//b///c.txt", "a/b/c.txt", nil},
		{`\Boot\x64\boot.wim`, "Boot/x64/boot.wim", nil},
		{`\\server\\boot.wim`, "server/boot.wim", nil},
		{"BOOTX64.EFI", "BOOTX64.EFI", nil},
		{"shimx64.efi.signed", "shimx64.efi.signed", nil},
		{"pxelinux.0", "pxelinux.0", nil},
		{"grub/x86_64-efi/command.lst", "grub/x86_64-efi/command.lst", nil},
		{"boot.ipxe\xff", "boot.ipxe", nil},
		{"boot.ipxe\xff\xff\xff", "boot.ipxe", nil},
		{"boot.ipxe\r\n", "boot.ipxe", nil},
		{"boot.ipxe\xff\x01\x7f\xff", "boot.ipxe", nil},
		{"boot.ipxe\xff\x2b\x00../x", "boot.ipxe", nil},
		{"boot.ipxe\r\n\xff\xea\x80", "boot.ipxe", nil},
		{"with space.txt", "with space.txt", nil},
		{"b\u00fccher/\u00e4.txt", "b\u00fccher/\u00e4.txt", nil},
		{"%2e%2e/a.txt", "%2e%2e/a.txt", nil},
		{"C:/a.txt", "C:/a.txt", nil},
		{"a.txt/.", "a.txt", nil},
		{"a..b.txt", "a..b.txt", nil},
		{"a/..b/../c.txt", "", errNameHidden},
		{long, long, nil},

		{"", "", errNameEmpty},
		{"\xff", "", errNameEmpty},
		{"\r\n", "", errNameEmpty},
		{".", "", errNameEmpty},
		{"./.", "", errNameEmpty},
		{"a" + long, "", errNameLong},
		{long + "\xff" + long, long, nil},
		{strings.Repeat("a", 10*maxNameLength), "", errNameLong},
		{"/", "", errNameFolder},
		{"a/", "", errNameFolder},
		{`a.txt\`, "", errNameFolder},
		{"a.txt/\xff", "", errNameFolder},
		{"..", "", errNameParent},
		{"../a.txt", "", errNameParent},
		{"/../a.txt", "", errNameParent},
		{"a/../b.txt", "", errNameParent},
		{`..\a.txt`, "", errNameParent},
		{`a\..\..\b.txt`, "", errNameParent},
		{"....//a.txt", "", errNameHidden},
		{".txt", "", errNameHidden},
		{".git/config.txt", "", errNameHidden},
		{"a/.b/c.txt", "", errNameHidden},
		{"a\x00b.txt", "", errNameControl},
		{"a.txt\x00", "", errNameControl},
		{"a\nb.txt", "", errNameControl},
		{"\x1b[2Ja.txt", "", errNameControl},
		{"a\x7fb.txt", "", errNameControl},
		{"a\u009bb.txt", "", errNameControl},
		{"\xffa.txt", "", errNameEmpty},
		{"\xeaOnboard", "", errNameEncoding},
		{"\xeaUSB", "", errNameEncoding},
		{"\xfdOn", "", errNameEncoding},
		{"loader/\x80USB", "", errNameEncoding},
		{"\x01?USB", "", errNameControl},
		{"EFI/", "", errNameFolder},
		{"a\xc3.txt", "", errNameEncoding},
		{"\xc0\xae\xc0\xae/a.txt", "", errNameEncoding},

		{"Onboard", "", errNotAllowed("none")},
		{"sub/Onboard", "", errNotAllowed("none")},
		{"a.KEY", "", errNotAllowed(".key")},
		{"a.key-2025", "", errNotAllowed(".key")},
		{"a.txt.old", "", errNotAllowed(".old")},
		{"a.", "", errNotAllowed("*.")},
		{"a.-b", "", errNotAllowed("*.*")},
		{"a.b c,d", "", errNotAllowed("*.b?c?d")},
		{"a.b c-d", "", errNotAllowed("*.b?c*")},
	} {
		got, err := resolveName(c.name, allowList{"default"})
		if got != c.want || fmt.Sprint(err) != fmt.Sprint(c.err) {
			t.Errorf("resolveName(%q) = %q, %v; want %q, %v", c.name, got, err, c.want, c.err)
		}
	}
}

func TestAllow(t *testing.T) {
	for _, c := range []struct{ list, allowed, refused string }{
		{".txt", "a.txt a.TXT a.b.txt x/a.txt a.txt-1 a.txt-1-2", "a a.md txt a.txt.md a-1.md x.txt/a a.txt-1.md"},
		{"txt, .MD", "a.txt a.md a.Md", "a a.bin"},
		{"none", "a vmlinuz a-1", "a.txt a. a.txt-1"},
		{"none,.txt", "a a.txt", "a.md"},
		{"*", "a a.txt a.anything a.", ""},
		{"default", "a.txt vmlinuz", "a.anything a"},
		{"default,none", "a.txt vmlinuz a", "a.anything"},
		{"x,default", "a.txt a.x", "a.y"},
		{".default,.none", "a.default a.none", "default none a.txt a"},
		{"vmlinuz*", "vmlinuz VMLINUZ vmlinuz-6.1.0-40 x/y/vmlinuz", "a.txt avmlinuz vmlinuz/a"},
		{"*-confg", "network-confg x/-confg", "network-confg.txt confg"},
		{"a?c", "abc ABC x/aXc a\u00e4c a?c a*c", "ac abbc a/c"},
		{"cfg????", "cfg0123", "cfg012 cfg01234 cfg0/12"},
		{"pxelinux.cfg/*", "pxelinux.cfg/default x/pxelinux.cfg/01-52 PXELINUX.CFG/a", "pxelinux.cfg a/default xpxelinux.cfg/a pxelinux.cfg/a/b"},
		{"*/root", "boot/root x/boot/root", "root boot/root/x"},
		{"/linux", "linux LINUX a/b/linux", "linux26 xlinux linux/x"},
		{"a/*/c*", "a/b/c a/b/cd x/a/b/c", "a/c a/b/b/c b/c"},
		{"*a*b*c*", "abc xaxbxcx aabbcc", "acb ab/c a/abc/x"},
		{"*.tar.gz", "a.tar.gz", "a.gz tar.gz"},
		{"?", "a x/b \u00e4", "ab"},
	} {
		allow := mustAllow(t, c.list)
		for _, name := range strings.Fields(c.allowed) {
			if _, err := resolveName(name, allow); err != nil {
				t.Errorf("-allow %s refuses %q: %v", c.list, name, err)
			}
		}
		for _, name := range strings.Fields(c.refused) {
			if _, err := resolveName(name, allow); err == nil {
				t.Errorf("-allow %s allows %q", c.list, name)
			}
		}
	}
	for _, list := range []string{
		"", " ", ",", ".txt,", ",.txt", ".", "..", "-", ".-x", ".tar.gz", `a\b`, `.a\b`, ".a b", "txt md", ".a\x01", ".\xff", "a\xff", ".a-b",
		"/", "//", "a/", "*/", "a//b*", "./*", "../*", "*/..", ".v*", "a/.b*", `pxelinux.cfg\*`, "*\x00", "*\xc3", "*\xff",
		"*" + strings.Repeat("a", maxNameLength), strings.Repeat("*", 100_000), "." + strings.Repeat("a", 100_000),
	} {
		if _, err := parseAllow(list); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("-allow %.99q is taken, or %v", list, err)
		}
	}
}

// bootName is a name that a system asks a TFTP server for.
type bootName struct{ system, name string }

func bootNames(t *testing.T) (names []bootName) {
	t.Helper()
	for line := range strings.Lines(testkit.ReadText(t, "internal/testkit/testdata/boot-names.txt")) {
		system, name, ok := strings.Cut(strings.TrimSpace(line), "|")
		if strings.HasPrefix(line, "#") || !ok {
			continue
		}
		if quoted, err := strconv.Unquote(name); err == nil {
			name = quoted
		}
		names = append(names, bootName{system, name})
	}
	return names
}

// devices are the systems that "default" does not serve, with what serves them. docs/names.md shows
// it.
var devices = map[string]string{
	"Alpha/HPPA/PowerPC":        ".chrp,/bootx,/yaboot",
	"Arista":                    ".swi,/startup-config",
	"BMC/UEFI firmware":         ".cap,.d7,.fwpkg,.hpm,.ima,.rom,.tar,image-*",
	"Cisco":                     ".py,.tar,.tcl,*-confg,*-config,conf.*",
	"Cisco AP":                  ".default",
	"HP/Aruba":                  ".swi,arubaos*",
	"Printers/UPS/others":       ".ini",
	"Solaris/illumos":           ".microroot,*.01*,*.sun4*,0a??????,/inetboot,/multiboot,/unix,/wanboot",
	"Sun/SPARC":                 "*.sun4*,c0a8????",
	"Ubiquiti/MikroTik/OpenWrt": ".chk,.trx",
	"VoIP Cisco":                ".cnf,.loads,.raw,.sb2,.sbn,.sgn,.tlv",
	"VoIP others":               ".boot,.htm,.ld,.rom,.st,.tar,.tuz,cfg????????????,mac????????????",
}

// secretNames are what people leave in a folder and never meant to serve.
var secretNames = strings.Fields(`shadow passwd etc/shadow etc/passwd id_rsa .ssh/id_rsa ssh/id_ed25519 id_rsa.pub server.pem server.key
	private/ca.key passwords.kdbx dump.sql config.bak home.tar authorized_keys root/authorized_keys sudoers etc/sudoers vmlinuz.key
	kernel-signing.pem kernel.key-2025 initrd.bak image.sql image.key linux.key onie-secrets.kdbx netbsd.tar pxelinux.cfg/shadow
	pxelinux.cfg/id_rsa pxelinux.cfg/passwd boot/x86_64/root.key memtest.pem password passwords secret.doc wallet.dat.gpg`)

// The default serves every name of the systems that boot PCs, servers and boards, and for each of
// the others there is a list without a superfluous entry.
func TestBootNames(t *testing.T) {
	refused := func(system, list string) (names []string) {
		allow := mustAllow(t, list)
		for _, n := range bootNames(t) {
			if _, err := resolveName(n.name, allow); n.system == system && err != nil {
				names = append(names, n.name)
			}
		}
		return names
	}
	systems := map[string]bool{}
	for _, n := range bootNames(t) {
		systems[n.system] = true
	}
	if len(systems) < 50 {
		t.Errorf("%d systems", len(systems))
	}
	for system := range systems {
		names := refused(system, "default")
		list, isDevice := devices[system]
		switch {
		case !isDevice && names != nil:
			t.Errorf("%s: %q are refused", system, names)
		case isDevice && names == nil:
			t.Errorf("%s: all is served by default", system)
		}
		if !isDevice {
			continue
		}
		entries := strings.Split("default,"+list, ",")
		if names := refused(system, strings.Join(entries, ",")); names != nil {
			t.Errorf("%s: %q are refused", system, names)
		}
		for i := 1; i < len(entries); i++ {
			fewer := slices.Delete(slices.Clone(entries), i, i+1)
			if refused(system, strings.Join(fewer, ",")) == nil {
				t.Errorf("%s: %s is superfluous", system, entries[i])
			}
		}
	}
	for system := range devices {
		if !systems[system] {
			t.Errorf("no names of %s", system)
		}
	}
}

// No secret is served by default, nor with the list of a device, but for its own extensions.
func TestSecrets(t *testing.T) {
	lists := map[string]string{"": "default"}
	for system, list := range devices {
		lists[system] = "default," + list
	}
	for system, list := range lists {
		allow := mustAllow(t, list)
		for _, name := range secretNames {
			if _, err := resolveName(name, allow); err == nil && !slices.Contains(allow, extension(name)) {
				t.Errorf("%s: -allow %s serves %s", system, list, name)
			}
		}
	}
}

// A log line shows the list that would serve a name, unless it is long.
func TestAllowWith(t *testing.T) {
	for list, want := range map[string]string{
		"default":                      "-allow default,none",
		"TXT, vmlinuz*":                "-allow .txt,vmlinuz*,none",
		strings.Repeat("a,", 99) + "b": "-allow ...,none",
	} {
		if got := mustAllow(t, list).with("none"); got != want {
			t.Errorf("%s: %s", list, got)
		}
	}
}

// Patterns match as they do in package path, and no pair of pattern and name takes long.
func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{
		{"vmlinuz*", "vmlinuz-6.1"}, {"*a*b", "aab"}, {"?/*", "a/b"}, {"*\u00e4?", "x\u00e4y"}, {"a/*/c*", "b/a/b/cd"}, {"**a", "a"},
		{strings.Repeat("*a", 127), strings.Repeat("a", 254) + "b"}, {"/*?*?*", "abc"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		name, err := resolveName(name, allowList{"*"})
		allow, failed := parseAllow(pattern)
		if err != nil || failed != nil || len(allow) > 1 || !strings.ContainsAny(allow[0], "?*/") || allow[0] == "*" {
			return
		}
		pattern = strings.TrimPrefix(allow[0], "/")
		elements := strings.Split(lower(name), "/")
		last := elements[max(len(elements)-1-strings.Count(pattern, "/"), 0):]
		want, err := path.Match(strings.NewReplacer("[", `\[`).Replace(pattern), strings.Join(last, "/"))
		if got := allow.allows(name); err != nil || got != want {
			t.Errorf("%q %q: %v, want %v, %v", pattern, name, got, want, err)
		}
	})
}

// However a list is written, it has a meaning or a clear error; "default" before it only adds, and
// the entry that a refusal names serves what was refused.
func FuzzAllow(f *testing.F) {
	for _, seed := range [][2]string{
		{"default,none", "a.txt"}, {".txt, MD", "a.b c"}, {"*", "a"}, {"vmlinuz*,a/?", "Onboard"}, {".tar.gz", "a.tar"}, {"x", "a.*,-,b"},
		{"x", "a. ,"}, {".default", "a.\u212a"}, {"none", "a.-"},
		{"x", "a.\u3000"}, {"x", "a.b\u00a0"}, {"\u2003", "a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, list, name string) {
		allow, err := parseAllow(list)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%q: %v", list, err)
			}
			return
		}
		again, err := parseAllow(strings.Join(allow, ","))
		if err != nil || !slices.Equal(again, allow) {
			t.Fatalf("%q becomes %q, which becomes %q, %v", list, allow, again, err)
		}
		resolved, err := resolveName(name, allow)
		boot, bootErr := resolveName(name, allowList{"default"})
		both, bothErr := resolveName(name, append(allowList{"default"}, allow...))
		if (bothErr == nil) != (err == nil || bootErr == nil) || bothErr == nil && both != max(resolved, boot) {
			t.Errorf("%q, %q: %v, %v, %v", list, name, err, bootErr, bothErr)
		}
		hint, found := strings.CutPrefix(fmt.Sprint(err), "not in -allow: -allow ")
		if !found || strings.HasPrefix(hint, "...") {
			return
		}
		wider := mustAllow(t, strings.TrimSuffix(hint, " would serve it"))
		if _, err := resolveName(name, wider); err != nil {
			t.Errorf("%q, %q: %s: %v", list, name, hint, err)
		}
	})
}

func FuzzResolveName(f *testing.F) {
	for _, name := range []string{"", "boot.ipxe", "/a/./b.txt\xff", `\..\a.txt`, "....//a.txt", "a.txt/", ".a.txt", "a\x00.txt", "vmlinuz", "\u212a.\u212apxe"} {
		f.Add(name, false)
		f.Add(name, true)
	}
	f.Fuzz(func(t *testing.T, name string, everything bool) {
		allow := allowList{"default"}
		if everything {
			allow = allowList{"*"}
		}
		resolved, err := resolveName(name, allow)
		if err != nil {
			if resolved != "" {
				t.Fatalf("%q is refused and yet is %q", name, resolved)
			}
			return
		}
		if !fs.ValidPath(resolved) || resolved == "." {
			t.Fatalf("%q became %q, no valid path", name, resolved)
		}
		if strings.HasPrefix(resolved, ".") || strings.Contains(resolved, "/.") || strings.Contains(resolved, `\`) {
			t.Fatalf("%q became %q", name, resolved)
		}
		if allow := secrets; !everything && allow.allows(resolved) {
			t.Fatalf("%q became %q, a secret", name, resolved)
		}
		again, err := resolveName(resolved, allow)
		if again != resolved || err != nil {
			t.Fatalf("%q became %q, which becomes %q, %v", name, resolved, again, err)
		}
	})
}
