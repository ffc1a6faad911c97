package main

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"testing"
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
	errExtension := errors.New("the extension")
	errNone := errors.New("no extension")
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
		{long + "\xff", "", errNameLong},
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
		{"\xffa.txt", "", errNameEncoding},
		{"a\xc3.txt", "", errNameEncoding},
		{"\xc0\xae\xc0\xae/a.txt", "", errNameEncoding},

		{"a.key", "", errExtension},
		{"a.txt.bak", "", errExtension},
		{"a.", "", errExtension},
		{"vmlinuz", "", errNone},
		{"a.txt/vmlinuz", "", errNone},
	} {
		got, err := resolveName(c.name, mustAllow(t, defaultAllow))
		if got != c.want || (err == nil) != (c.err == nil) || err != nil && !strings.HasPrefix(err.Error(), c.err.Error()) {
			t.Errorf("resolveName(%q) = %q, %v; want %q, %v", c.name, got, err, c.want, c.err)
		}
	}
}

func TestAllow(t *testing.T) {
	for _, c := range []struct {
		list, allowed, refused string
	}{
		{".txt", "a.txt a.TXT a.b.txt", "a a.md txt a.txt.md"},
		{"txt, .MD", "a.txt a.md a.Md", "a a.bin"},
		{"none", "a vmlinuz", "a.txt a."},
		{"none,.txt", "a a.txt", "a.md"},
		{"*", "a a.txt a.anything a.", ""},
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
	for _, list := range []string{"", ",", ".txt,", ".", "..", ".tar.gz", "a/b", `.a\b`, "*.txt", ".a b"} {
		if _, err := parseAllow(list); err == nil {
			t.Errorf("-allow %q is taken", list)
		}
	}
}

func FuzzResolveName(f *testing.F) {
	for _, name := range []string{"", "boot.ipxe", "/a/./b.txt\xff", `\..\a.txt`, "....//a.txt", "a.txt/", ".a.txt", "a\x00.txt", "vmlinuz", "\u212a.\u212apxe"} {
		f.Add(name, false)
		f.Add(name, true)
	}
	boot := mustAllow(f, defaultAllow)
	all := mustAllow(f, "*")
	f.Fuzz(func(t *testing.T, name string, everything bool) {
		allow := boot
		if everything {
			allow = all
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
		if !everything && !boot[lower(path.Ext(resolved))] {
			t.Fatalf("%q became %q, an extension that is not allowed", name, resolved)
		}
		again, err := resolveName(resolved, allow)
		if again != resolved || err != nil {
			t.Fatalf("%q became %q, which becomes %q, %v", name, resolved, again, err)
		}
	})
}
