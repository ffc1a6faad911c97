package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

// "Try it" shows the lines that the program writes, but for what differs from run to run.
func TestReadmeTryIt(t *testing.T) {
	section := testkit.ReadSection(t, "../README.md", "## Try it")
	if !strings.Contains(section, "curl tftp://127.0.0.1:6969/boot.ipxe") {
		t.Fatal("README.md does not fetch boot.ipxe")
	}
	cmd := command(t.Context(), nil, "-listen", "127.0.0.1:0")
	cmd.Dir = ".."
	d := startCommand(t, cmd)
	fetches(t, d.addr, "boot.ipxe", testkit.ReadText(t, "../files/boot.ipxe"))
	d.waitFor("sent ")
	mask := func(text string) string {
		return regexp.MustCompile(`\b(listen|client|bytes|duration)=\S+`).ReplaceAllString(text, "$1=?")
	}
	want := strings.Split(strings.TrimSpace(mask(testkit.CodeBlocks(section, "text")[0])), "\n")
	got := strings.Split(mask(d.logged()), "\n")
	if got = got[max(len(got)-len(want), 0):]; !slices.Equal(got, want) {
		t.Errorf("README.md shows\n%s\nthe program writes\n%s",
			strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}
