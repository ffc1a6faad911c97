package main

import (
	"os"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

func TestParseUser(t *testing.T) {
	for _, c := range []struct {
		value    string
		uid, gid uint32
		keep     bool
		failure  string
	}{
		{"root", 0, 0, true, ""},
		{"65532:65532", 65532, 65532, false, ""},
		{"1:2", 1, 2, false, ""},
		{"1000:0", 1000, 0, false, ""},
		{"4294967294:4294967294", 4294967294, 4294967294, false, ""},
		{"0:0", 0, 0, false, "must be root to keep user 0"},
		{"0:65532", 0, 0, false, "must be root to keep user 0"},
		{"000:1", 0, 0, false, "must be root to keep user 0"},
		{"", 0, 0, false, "must be UID:GID"},
		{":", 0, 0, false, "must be UID:GID"},
		{"1000", 0, 0, false, "must be UID:GID"},
		{"1000:", 0, 0, false, "must be UID:GID"},
		{":1000", 0, 0, false, "must be UID:GID"},
		{"1:2:3", 0, 0, false, "must be UID:GID"},
		{"-1:1", 0, 0, false, "must be UID:GID"},
		{"1:-1", 0, 0, false, "must be UID:GID"},
		{"+1:1", 0, 0, false, "must be UID:GID"},
		{" 1:1", 0, 0, false, "must be UID:GID"},
		{"0x1:1", 0, 0, false, "must be UID:GID"},
		{"4294967295:1", 0, 0, false, "must be UID:GID"},
		{"1:4294967295", 0, 0, false, "must be UID:GID"},
		{"4294967296:1", 0, 0, false, "must be UID:GID"},
		{"18446744073709551616:1", 0, 0, false, "must be UID:GID"},
		{"Root", 0, 0, false, "must be UID:GID"},
		{"root:root", 0, 0, false, "must be UID:GID"},
		{"nobody", 0, 0, false, "must be UID:GID"},
	} {
		uid, gid, keep, err := parseUser(c.value)
		if c.failure != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.failure) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", c.value, err)
			}
			continue
		}
		if err != nil || uint32(uid) != c.uid || uint32(gid) != c.gid || keep != c.keep {
			t.Errorf("%q: %d %d %v %v", c.value, uid, gid, keep, err)
		}
	}
}

// The program says who it is and what guards it, before it serves.
func TestReportsOfPrivileges(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	want := map[string]string{"65532:65532": "stayed user=", "root": "stayed user="}
	if os.Geteuid() == 0 {
		want["65532:65532"] = "became user=65532:65532 "
		want["root"] = "stayed user=0:0 "
	}
	for user, report := range want {
		d := start(t, folder, "-user", user)
		if content, failure := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
			t.Errorf("%s: %q %q", user, content, failure)
		}
		lines := strings.Split(d.logged(), "\n")
		if !strings.HasPrefix(lines[0], report) || !strings.HasPrefix(lines[1], "fenced landlock=") {
			t.Errorf("%s: %q", user, lines)
		}
	}
}
