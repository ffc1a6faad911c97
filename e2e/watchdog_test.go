//go:build unix

package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// A process that was stopped for longer than a loop may stand still, as a container that is paused,
// is not wedged: it goes on with its transfers.
func TestStoppedProcessIsNotWedged(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(20 * defaultBlockSize)
	testkit.WriteFile(t, folder+"/a.img", content)
	d, addr := startWithHTTP(t, folder)
	got, refusal := dial(t, d.addr).fetch(rrq("a.img", "octet"), func(blocks int) {
		if blocks == 3 {
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGSTOP))
			time.Sleep(12 * time.Second)
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGCONT))
		}
	})
	if string(got) != string(content) || refusal != "" {
		t.Errorf("%d bytes, %q", len(got), refusal)
	}
	if status, text := get(t, addr, "/healthz"); status != 200 {
		t.Errorf("%d %q", status, text)
	}
	time.Sleep(2 * time.Second) // two looks
	fetches(t, d.addr, "a.img", string(content))
	if strings.Contains(d.logged(), "wedged") {
		t.Errorf("log:\n%s", d.logged())
	}
}
