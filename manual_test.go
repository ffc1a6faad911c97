package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

const manual = "docs/flytftp.8"

// The lists of the manual are made from the program's own tables.
func TestManual(t *testing.T) {
	got := testkit.ReadText(t, manual)
	want := replaceBetween(t, got, ".Bl -tag -width Ds\n", ".El\n", manualOptions())
	want = replaceBetween(t, want, ".Bd -filled -offset indent\n", ".Ed\n", manualBootFiles())
	if *update {
		testkit.WriteFile(t, manual, []byte(want))
	} else if got != want {
		t.Errorf("go test . -run Manual -update must write %s anew: it needs\n%s", manual, want)
	}
}

// replaceBetween replaces what stands between the first begin and the end after it.
func replaceBetween(t *testing.T, text, begin, end, content string) string {
	t.Helper()
	before, rest, found := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no %q or no %q", manual, begin, end)
	}
	return before + begin + content + end + after
}

// manualOptions returns the items of the list of options in mdoc.
func manualOptions() string {
	var b strings.Builder
	for _, o := range options(new(config), environment()) {
		fmt.Fprintf(&b, ".It Fl %s", roff(o.name))
		value, limits := strings.TrimPrefix(o.values, "a "), ""
		if strings.Contains(o.values, " to ") {
			value, limits = "value", roff(o.values)+", "
		}
		if o.variable != "" {
			fmt.Fprintf(&b, " Ar %s", strings.ReplaceAll(roff(value), " ", "\\ "))
		}
		fmt.Fprintf(&b, "\n%s", wrap(roff(strings.ToUpper(o.meaning[:1])+o.meaning[1:])+".", 80))
		if o.variable != "" {
			fmt.Fprintf(&b, ".Ev %s :\n%sdefault %s.\n", o.variable, limits, roff(o.defaultText()))
		}
	}
	return b.String()
}

// manualBootFiles returns the entries of -allow default.
func manualBootFiles() string {
	var entries []string
	for _, entry := range bootFiles {
		entries = append(entries, roff(entry))
	}
	return wrap(strings.Join(entries, " "), 80)
}

// roff escapes what troff would take for its own. A line that begins with a point is a macro.
func roff(text string) string {
	text = strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(text)
	if strings.HasPrefix(text, ".") {
		text = "\\&" + text
	}
	return text
}

func TestManualLint(t *testing.T) {
	path, err := exec.LookPath("mandoc")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	// Where a database of manuals is, mandoc also says which pages of "See also" are not installed.
	out, _ := exec.Command(path, "-Tlint", manual).CombinedOutput()
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, manual+":") {
			t.Error(line)
		}
	}
	// What a reader sees has each variable and each name.
	page, err := exec.Command(path, "-Tascii", manual).Output()
	testkit.Must(t, err)
	text := testkit.Flat(strings.NewReplacer("_\b", "").Replace(string(page)))
	for _, o := range options(new(config), environment()) {
		if !strings.Contains(text, o.variable) {
			t.Errorf("the page does not show %s", o.variable)
		}
	}
	for _, entry := range bootFiles {
		if !slices.Contains(strings.Fields(text), entry) {
			t.Errorf("the page does not show %s", entry)
		}
	}
}
