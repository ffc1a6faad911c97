package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flytftp/internal/testkit"
	"flytftp/singleport"
)

func TestReadmeOptionTable(t *testing.T) {
	var want [][]string
	for _, o := range options(new(config), environment()) {
		row := []string{"`-" + o.name + "`", "`" + o.variable + "`", o.defaultText(), o.values, o.meaning}
		if o.variable == "" {
			row = []string{"`-" + o.name + "`", "-", "-", "-", o.meaning}
		}
		want = append(want, row)
	}
	got := testkit.TableRows(testkit.ReadSection(t, "README.md", "## Options"))
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("README.md has\n%q\nthe program has\n%q", got, want)
	}
}

func TestReadmeExtensions(t *testing.T) {
	var got []string
	for _, span := range testkit.CodeSpans(testkit.ReadSection(t, "README.md", "### Extensions")) {
		if strings.HasPrefix(span, ".") {
			got = append(got, span)
		}
	}
	want := strings.Split(defaultAllow, ",")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("README.md has\n%q\nthe program allows\n%q", got, want)
	}
}

func TestReadmeNames(t *testing.T) {
	text := testkit.ReadSection(t, "README.md", "### Names")
	for _, row := range testkit.TableRows(text) {
		name := strings.Trim(row[0], "`")
		got, err := resolveName(name, mustAllow(t, defaultAllow))
		if err != nil {
			got = "refused"
		}
		if want, _, _ := strings.Cut(strings.Trim(row[1], "`"), ":"); got != want {
			t.Errorf("%q becomes %q, README.md says %q", name, got, want)
		}
	}
	if want := fmt.Sprintf("a name over %d bytes", maxNameLength); !strings.Contains(testkit.Flat(text), want) {
		t.Errorf("README.md does not say %q", want)
	}
}

// README.md names every ERROR that is sent, and no other.
func TestReadmeErrors(t *testing.T) {
	var want []string
	for _, e := range []*singleport.Error{singleport.ErrNotFound, singleport.ErrAccess, singleport.ErrIllegal, singleport.ErrBusy,
		singleport.ErrRead, singleport.ErrStopping} {
		want = append(want, fmt.Sprintf("ERROR %d `%s`", e.Code, e.Message))
	}
	got := regexp.MustCompile("ERROR \\d+ `[^`]*`").FindAllString(testkit.ReadSection(t, "README.md", "## Protocol"), -1)
	slices.Sort(got)
	slices.Sort(want)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("README.md has\n%q\nthe server sends\n%q", got, want)
	}
}

func TestReadmeLog(t *testing.T) {
	text := testkit.ReadSection(t, "README.md", "## The log")
	var named []string
	for _, row := range testkit.TableRows(text) {
		named = append(named, testkit.CodeSpans(row[0])...)
	}
	for _, err := range []error{nil, singleport.ErrNotFound, singleport.ErrAccess, singleport.ErrBusy, singleport.ErrTimedOut, errors.New("")} {
		if !slices.Contains(named, outcome(err)) {
			t.Errorf("README.md does not explain %q", outcome(err))
		}
	}

	// What the journal itself writes.
	var out strings.Builder
	j := newJournal(&out)
	client := netip.MustParseAddrPort("192.0.2.7:2070")
	for range fewStrays {
		for why := singleport.RefusedWrite; why <= singleport.RefusedStray; why++ {
			j.Refused(client, "", why)
		}
	}
	j.Panicked("", nil)
	j.close()
	beginning := regexp.MustCompile(`^([a-z ]+) \w+=`)
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		words := beginning.FindStringSubmatch(line)[1]
		if !slices.Contains(named, words) {
			t.Errorf("README.md does not explain %q: %s", words, line)
		}
	}
	if want := fmt.Sprintf("%d times in %.0f s", linesPerNetwork, sumInterval.Seconds()); !strings.Contains(testkit.Flat(text), want) {
		t.Errorf("README.md does not say %q", want)
	}
}

// Numbers of the text that are the program's or a file's.
func TestReadmeNumbers(t *testing.T) {
	text := testkit.Flat(testkit.ReadText(t, "README.md"))
	block := regexp.MustCompile(`TFTP_MAX_BLKSIZE = "(\d+)"`).FindStringSubmatch(testkit.ReadText(t, "fly.toml"))
	for _, want := range []string{
		fmt.Sprintf("`-max-blksize` %d fills", singleport.DefaultMaxBlockSize),
		"it becomes " + defaultUser,
		fmt.Sprintf("sets `TFTP_MAX_BLKSIZE` to %s,", block[1]),
		fmt.Sprintf("`blksize` | yes, %d to %d,", singleport.MinBlockSize, singleport.MaxBlockSize),
		fmt.Sprintf("`windowsize` | yes, 1 to %d,", singleport.MaxWindowSize),
		fmt.Sprintf("`timeout` | yes, 1 to %d:", singleport.MaxTimeout),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
}

// Every file that is served is explained, and can be fetched with the default of -allow.
func TestReadmeServedFiles(t *testing.T) {
	var got, want []string
	for _, row := range testkit.TableRows(testkit.ReadSection(t, "README.md", "## What is served")) {
		got = append(got, strings.Trim(row[0], "`"))
	}
	testkit.Must(t, fs.WalkDir(os.DirFS("files"), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			want = append(want, path)
			if resolved, err := resolveName(path, mustAllow(t, defaultAllow)); err != nil || resolved != path {
				t.Errorf("files/%s is not served: %q, %v", path, resolved, err)
			}
		}
		return err
	}))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("README.md has\n%q\nfiles/ has\n%q", got, want)
	}
}

func TestReadmeFileMap(t *testing.T) {
	var got, want []string
	for _, row := range testkit.TableRows(testkit.ReadSection(t, "README.md", "## Development")) {
		for _, path := range testkit.CodeSpans(row[0]) {
			if strings.HasSuffix(path, ".go") {
				got = append(got, path)
			}
		}
	}
	for _, folder := range []string{".", "sandbox", "singleport", "bench", "bench/*"} {
		paths, err := filepath.Glob(folder + "/*.go")
		testkit.Must(t, err)
		for _, path := range paths {
			if !strings.HasSuffix(path, "_test.go") {
				want = append(want, filepath.Clean(path))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	for _, path := range want {
		if !slices.Contains(got, path) {
			t.Errorf("README.md does not explain %s", path)
		}
	}
	for i, path := range got {
		if !slices.Contains(want, path) || i > 0 && got[i-1] == path {
			t.Errorf("README.md explains %s, which is absent or there already", path)
		}
	}
}

// Links lead somewhere within the repository.
func TestReadmeLinks(t *testing.T) {
	for _, file := range []string{"README.md", "SECURITY.md", "CHANGELOG.md"} {
		text := testkit.ReadText(t, file)
		anchors := map[string]bool{}
		for _, match := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllStringSubmatch(text, -1) {
			anchors["#"+strings.ReplaceAll(strings.ToLower(match[1]), " ", "-")] = true
		}
		for _, match := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
			target := match[1]
			switch {
			case strings.HasPrefix(target, "https://"):
			case strings.HasPrefix(target, "#"):
				if !anchors[target] {
					t.Errorf("%s has no heading for %s", file, target)
				}
			default:
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
}

func TestReadmeCommands(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	for _, block := range testkit.CodeBlocks(testkit.ReadText(t, "README.md"), "sh") {
		cmd := exec.Command(bash, "-n")
		cmd.Stdin = strings.NewReader(block)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, block)
		}
		// The flags of the program that they use are its own.
		for _, match := range regexp.MustCompile(`(?m)(?:\bflytftp|go run \.) ((?:-[a-z]+( [^-\s]\S*)? ?)+)`).FindAllStringSubmatch(block, -1) {
			if _, err := parse(strings.Fields(match[1]), environment()); err != nil {
				t.Errorf("%s: %v", match[0], err)
			}
		}
	}
}

func TestReadmeDHCP(t *testing.T) {
	section := testkit.ReadSection(t, "README.md", "## DHCP")
	for _, block := range testkit.CodeBlocks(section, "json") {
		if err := json.Unmarshal([]byte("{"+block+"}"), new(map[string]any)); err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
	}
	// Every block names the files of the table, which are served by default.
	for _, row := range testkit.TableRows(section) {
		file := strings.Trim(row[2], "`")
		if _, err := resolveName(file, mustAllow(t, defaultAllow)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, language := range []string{"ini", "text", "json"} {
			if block := testkit.CodeBlocks(section, language)[0]; !strings.Contains(block, file) {
				t.Errorf("no %s in\n%s", file, block)
			}
		}
	}
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			testkit.Skip(t, err.Error())
		}
	}
	file := filepath.Join(t.TempDir(), "dnsmasq.conf")
	testkit.WriteFile(t, file, []byte(strings.ReplaceAll(testkit.CodeBlocks(section, "ini")[0], "# dhcp", "dhcp")))
	if out, err := exec.Command(path, "--test", "--conf-file="+file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
