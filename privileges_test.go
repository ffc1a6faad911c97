package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

// The program says who it is and what guards it, before it serves.
func TestReportsOfPrivileges(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	own := fmt.Sprintf("running as user=%d:%d ", os.Geteuid(), os.Getegid())
	want := map[string]string{"65532:65532": own, "root": own}
	if os.Geteuid() == 0 {
		want["65532:65532"] = "running as user=65532:65532 "
	}
	for user, report := range want {
		d := start(t, folder, "-user", user)
		if content, failure := dial(t, d.addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
			t.Errorf("%s: %q %q", user, content, failure)
		}
		lines := strings.Split(d.logged(), "\n")
		for i, beginning := range []string{report, "sandbox landlock=", "sandbox seccomp=", "serving "} {
			if !strings.HasPrefix(lines[i], beginning) {
				t.Errorf("%s: line %d is not %q: %q", user, i, beginning, lines)
			}
		}
	}
}
