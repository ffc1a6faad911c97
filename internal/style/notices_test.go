package style

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

// The notices name every module that is linked, in the version that is linked, with its licence
// word for word.
func TestNotices(t *testing.T) {
	notices := read(t, "docs/THIRD_PARTY_NOTICES.md")
	goTool := func(args ...string) string {
		cmd := exec.Command("go", args...)
		cmd.Dir = top
		// For the system that images are made for; elsewhere less is linked.
		cmd.Env = append(cmd.Environ(), "GOOS=linux", "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out))
	}
	folders := map[string]string{"the Go standard library and runtime": goTool("env", "GOROOT")}
	listed := goTool("list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} | {{.Version}} |\t{{.Dir}}{{end}}{{end}}", ".")
	for _, line := range strings.Split(listed, "\n") {
		if module, folder, found := strings.Cut(line, "\t"); found {
			folders[module] = folder
		}
	}
	if len(folders) < 2 {
		t.Fatalf("no module is linked:\n%s", listed)
	}
	for module, folder := range folders {
		if !strings.Contains(notices, "\n| "+module) {
			t.Errorf("no row | %s", module)
		}
		if licence := testkit.ReadText(t, filepath.Join(folder, "LICENSE")); !strings.Contains(notices, "```\n"+licence+"```\n") {
			t.Errorf("the licence of %s is not there as it is in %s", module, folder)
		}
	}
	for _, row := range testkit.TableRows(notices) {
		if module := row[0] + " | " + row[1] + " |"; strings.HasPrefix(row[1], "v") && folders[module] == "" {
			t.Errorf("%s %s is not linked", row[0], row[1])
		}
	}
}
