package sandbox

import (
	"strings"
	"testing"
)

func TestParseUser(t *testing.T) {
	for _, c := range []struct {
		value    string
		uid, gid uint32
		failure  string
	}{
		{"root", 0, 0, ""},
		{"65532:65532", 65532, 65532, ""},
		{"1:2", 1, 2, ""},
		{"1000:0", 1000, 0, ""},
		{"4294967294:4294967294", 4294967294, 4294967294, ""},
		{"0:0", 0, 0, "must be root to keep user 0"},
		{"0:65532", 0, 0, "must be root to keep user 0"},
		{"000:1", 0, 0, "must be root to keep user 0"},
		{"", 0, 0, "must be UID:GID"},
		{":", 0, 0, "must be UID:GID"},
		{"1000", 0, 0, "must be UID:GID"},
		{"1000:", 0, 0, "must be UID:GID"},
		{":1000", 0, 0, "must be UID:GID"},
		{"1:2:3", 0, 0, "must be UID:GID"},
		{"-1:1", 0, 0, "must be UID:GID"},
		{"1:-1", 0, 0, "must be UID:GID"},
		{"+1:1", 0, 0, "must be UID:GID"},
		{" 1:1", 0, 0, "must be UID:GID"},
		{"0x1:1", 0, 0, "must be UID:GID"},
		{"4294967295:1", 0, 0, "must be UID:GID"},
		{"1:4294967295", 0, 0, "must be UID:GID"},
		{"4294967296:1", 0, 0, "must be UID:GID"},
		{"18446744073709551616:1", 0, 0, "must be UID:GID"},
		{"Root", 0, 0, "must be UID:GID"},
		{"root:root", 0, 0, "must be UID:GID"},
		{"nobody", 0, 0, "must be UID:GID"},
	} {
		user, err := ParseUser(c.value)
		if c.failure != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.failure) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", c.value, err)
			}
			continue
		}
		if want := (User{c.uid, c.gid}); err != nil || user != want || user.String() != c.value {
			t.Errorf("%q: %d %d %q %v", c.value, user.uid, user.gid, user, err)
		}
	}
}
