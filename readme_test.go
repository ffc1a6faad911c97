package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"flytftp/internal/testkit"
	"flytftp/singleport"
	"flytftp/status"
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

// The page has every entry of the default, and of what the default never serves.
func TestDocsBootFiles(t *testing.T) {
	for heading, want := range map[string]allowList{"## Boot files": bootFiles, "## Secrets": secrets} {
		got := testkit.CodeSpans(testkit.ReadSection(t, "docs/names.md", heading))
		want := slices.Sorted(slices.Values(want))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("docs/names.md has %s\n%q\nthe program has\n%q", heading, got, want)
		}
	}
}

var update = flag.Bool("update", false, "write the devices of docs/names.md and the options of docs/flytftp.8 anew")

// The section about devices is made from the names that they ask for.
func TestDocsDevices(t *testing.T) {
	const page, heading = "docs/names.md", "## Devices"
	var stock []string
	for _, n := range bootNames(t) {
		if devices[n.system] == "" && !slices.Contains(stock, n.system) {
			stock = append(stock, n.system)
		}
	}
	want := "\nBy default, these systems get every name that they are known to ask for:\n\n" +
		wrap(strings.Join(stock, ", ")+".", 120) + `
For the others, this is what serves them. In two patterns, 0A and C0A8 begin the addresses of 10.0.0.0/8 and
192.168.0.0/16 in hexadecimal.

| System | It takes |
|---|---|
`
	for _, system := range slices.Sorted(maps.Keys(devices)) {
		want += fmt.Sprintf("| %s | `-allow 'default,%s'` |\n", system, devices[system])
	}
	got := testkit.ReadSection(t, page, heading)
	if *update {
		text := testkit.ReadText(t, page)
		testkit.WriteFile(t, page, []byte(strings.Replace(text, got, want, 1)))
	} else if got != want {
		t.Errorf("go test . -run DocsDevices -update must write %s anew: it needs\n%s", page, want)
	}
}

// wrap breaks a text into lines of at most so many columns.
func wrap(text string, columns int) (lines string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > columns {
			lines += line + "\n"
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return lines + line + "\n"
}

func TestDocsNames(t *testing.T) {
	text := testkit.ReadSection(t, "docs/names.md", "## Names")
	for _, row := range testkit.TableRows(text) {
		name := strings.Trim(row[0], "`")
		got, err := resolveName(name, allowList{"default"})
		if err != nil {
			got = "refused"
		}
		if want, _, _ := strings.Cut(strings.Trim(row[1], "`"), ":"); got != want {
			t.Errorf("%q becomes %q, docs/names.md says %q", name, got, want)
		}
	}
	requireText(t, "docs/names.md", fmt.Sprintf("a name over %d bytes", maxNameLength))
}

// requireText fails if a page does not say each of these; its lines may break anywhere.
func requireText(t *testing.T, page string, wanted ...string) {
	t.Helper()
	text := testkit.Flat(testkit.ReadText(t, page))
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%s does not say %q", page, want)
		}
	}
}

// The page names every ERROR that is sent, and no other.
func TestDocsErrors(t *testing.T) {
	var want []string
	source := testkit.ReadText(t, "singleport/singleport.go")
	for _, e := range regexp.MustCompile(`&Error\{(\d+), "([^"]*)"\}`).FindAllStringSubmatch(source, -1) {
		want = append(want, fmt.Sprintf("ERROR %s `%s`", e[1], e[2]))
	}
	text := testkit.Flat(testkit.ReadSection(t, "docs/protocol.md", "## Answers"))
	got := regexp.MustCompile("ERROR \\d+ `[^`]*`").FindAllString(text, -1)
	slices.Sort(got)
	slices.Sort(want)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("docs/protocol.md has\n%q\nthe server sends\n%q", got, want)
	}
}

// The page explains every word that a line of the log can begin with and every key, and no other.
func TestDocsLog(t *testing.T) {
	const page = "docs/log.md"
	column := func(heading string) (spans []string) {
		for _, row := range testkit.TableRows(testkit.ReadSection(t, page, heading)) {
			spans = append(spans, testkit.CodeSpans(row[0])...)
		}
		slices.Sort(spans)
		return spans
	}
	words, keys := column("## Events"), column("## Keys")
	literals := logLiterals(t)
	written := slices.Concat(refusedWords(t), literals.words)
	slices.Sort(written)
	if written = slices.Compact(written); !slices.Equal(words, written) {
		t.Errorf("%s has the words\n%q\nthe program writes\n%q", page, words, written)
	}
	slices.Sort(literals.keys)
	if written := slices.Compact(literals.keys); !slices.Equal(keys, written) {
		t.Errorf("%s has the keys\n%q\nthe program writes\n%q", page, keys, written)
	}
	for _, line := range strings.Split(strings.TrimSpace(testkit.CodeBlocks(testkit.ReadText(t, page), "text")[0]), "\n") {
		if begin := lineWords.FindStringSubmatch(line); begin == nil || !slices.Contains(words, begin[1]) {
			t.Errorf("%s does not explain the words of its line %s", page, line)
		}
		for _, key := range lineKeys.FindAllStringSubmatch(line, -1) {
			if !slices.Contains(keys, key[1]) {
				t.Errorf("%s does not explain the key %s of its line %s", page, key[1], line)
			}
		}
	}
	requireText(t, page,
		fmt.Sprintf("at most %d lines for one network in %.0f s, and `sent` at most %d", linesPerNetwork, sumInterval.Seconds(), sentPerNetwork),
		fmt.Sprintf("at most %d lines in %.0f s, and `sent` at most %d", linesOfAll, sumInterval.Seconds(), sentOfAll),
		fmt.Sprintf("while less than %.0f s lies between them, for up to %.0f s", searchPause.Seconds(), searchPause.Seconds()*searchPauses),
		fmt.Sprintf("Up to %d searches", maxSearches),
		fmt.Sprintf("At most %d pairs", maxSums),
		fmt.Sprintf("Fewer than %d stray datagrams", fewStrays),
		fmt.Sprintf("The first %d panics", panicStacks),
		fmt.Sprintf("At most %d KiB of lines wait", maxPending>>10))
}

var (
	lineWords = regexp.MustCompile(`^([a-z]+(?: [a-z]+)*) [a-z_-]+=`)
	lineKeys  = regexp.MustCompile(`(?:^| )([a-z][a-z_-]*)=`)
)

// refusedWords returns the words of the lines that the journal writes for each Refusal.
func refusedWords(t *testing.T) (words []string) {
	var out strings.Builder
	j := newJournal(&out)
	known := func(why singleport.Refusal) (ok bool) {
		defer func() { ok = recover() == nil }()
		return why.String() != ""
	}
	for why := singleport.Refusal(0); known(why); why++ {
		for range fewStrays {
			j.Refused(testClient, "", why)
		}
	}
	j.close()
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		words = append(words, lineWords.FindStringSubmatch(line)[1])
	}
	return words
}

// lineParts are the words that begin lines of the log, and the keys in them.
type lineParts struct{ words, keys []string }

// logLiterals returns what the string literals of the program say of its lines: those that have the
// form of a line, those that printf and refused are called with, and those that outcome and refusal
// return.
func logLiterals(t *testing.T) (parts lineParts) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	testkit.Must(t, err)
	more, err := filepath.Glob("sandbox/*.go")
	testkit.Must(t, err)
	for _, path := range append(paths, more...) {
		if strings.HasSuffix(path, "_test.go") || path == "metrics.go" { // its labels are no keys
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		testkit.Must(t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			parts.read(node)
			return true
		})
	}
	return parts
}

// read adds what a node of a syntax tree says.
func (p *lineParts) read(node ast.Node) {
	switch n := node.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(n.Value)
		if begin := lineWords.FindStringSubmatch(text); begin != nil {
			p.words = append(p.words, begin[1])
		}
		for _, key := range lineKeys.FindAllStringSubmatch(text, -1) {
			p.keys = append(p.keys, key[1])
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.SelectorExpr); ok && (f.Sel.Name == "printf" || f.Sel.Name == "refused") {
			p.begin(n.Args[0])
		}
	case *ast.FuncDecl:
		if n.Name.Name == "outcome" || n.Name.Name == "refusal" {
			ast.Inspect(n, func(node ast.Node) bool {
				if result, ok := node.(*ast.ReturnStmt); ok {
					p.begin(result.Results[len(result.Results)-1])
				}
				return true
			})
		}
	}
}

// begin adds the words in front of an expression that begins a line.
func (p *lineParts) begin(e ast.Expr) {
	if sum, ok := e.(*ast.BinaryExpr); ok {
		e = sum.X
	}
	if literal, ok := e.(*ast.BasicLit); ok {
		text, _ := strconv.Unquote(literal.Value)
		if words := regexp.MustCompile(`^[a-z]+(?: [a-z]+)*\b`).FindString(text); words != "" && !lineKeys.MatchString(text) {
			p.words = append(p.words, words)
		}
	}
}

// Numbers of the text that are the program's or a file's.
func TestDocsNumbers(t *testing.T) {
	requireText(t, "README.md",
		fmt.Sprintf("A block of %d bytes fills an Ethernet frame over IPv4.", singleport.DefaultMaxBlockSize))
	requireText(t, "docs/security.md", "it becomes "+defaultUser)
	requireText(t, "docs/docker.md", "becomes "+defaultUser)
	block := regexp.MustCompile(`TFTP_MAX_BLKSIZE = "(\d+)"`).FindStringSubmatch(testkit.ReadText(t, "fly.toml"))
	requireText(t, "docs/fly.md", "becomes "+defaultUser, fmt.Sprintf("sets `TFTP_MAX_BLKSIZE` to %s,", block[1]))
	requireText(t, "docs/protocol.md",
		fmt.Sprintf("`blksize` | Yes, %d to %d,", singleport.MinBlockSize, singleport.MaxBlockSize),
		fmt.Sprintf("`windowsize` | Yes, 1 to %d,", singleport.MaxWindowSize),
		fmt.Sprintf("`timeout` | Yes, 1 to %d,", singleport.MaxTimeout))
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
			if resolved, err := resolveName(path, allowList{"default"}); err != nil || resolved != path {
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

// pages returns the paths of what people read.
func pages(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", ".github/*.md"} {
		found, err := filepath.Glob(pattern)
		testkit.Must(t, err)
		paths = append(paths, found...)
	}
	return paths
}

// Shell commands can be read by a shell, and use flags that the program has.
func TestDocsCommands(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	ours := regexp.MustCompile(`(?m)(?:\bflytftp|go run \.) ((?:-[a-z]+( [^-\s]\S*)? ?)+)`)
	uses := 0
	for _, page := range pages(t) {
		for _, block := range testkit.CodeBlocks(testkit.ReadText(t, page), "sh") {
			cmd := exec.Command(bash, "-n")
			cmd.Stdin = strings.NewReader(block)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", page, err, out, block)
			}
			for _, match := range ours.FindAllStringSubmatch(block, -1) {
				uses++
				if _, err := parse(strings.Fields(match[1]), environment()); err != nil {
					t.Errorf("%s: %s: %v", page, match[0], err)
				}
			}
		}
	}
	if uses == 0 {
		t.Error("no page uses the program")
	}
}

// The image target boot exists and is not what is built without a target. A line of fly.toml would
// choose it.
func TestDocsBootTarget(t *testing.T) {
	stages := regexp.MustCompile(`(?m)^FROM .*$`).FindAllString(testkit.ReadText(t, "Dockerfile"), -1)
	if !slices.Contains(stages, "FROM minimal AS boot") || stages[len(stages)-1] != "FROM minimal" {
		t.Errorf("the stages of Dockerfile are %q", stages)
	}
	block := strings.TrimSpace(testkit.CodeBlocks(testkit.ReadSection(t, "docs/fly.md", "## The boot image"), "toml")[0])
	if !strings.Contains(testkit.ReadText(t, "fly.toml"), "\n# "+strings.ReplaceAll(block, "\n", "\n# ")+"\n") {
		t.Errorf("fly.toml has no comment with\n%s", block)
	}
}

// The files of the way that is not tried are at least served by default.
func TestDocsSecureBoot(t *testing.T) {
	rows := testkit.TableRows(testkit.ReadText(t, "docs/secureboot.md"))
	if len(rows) < 6 {
		t.Fatalf("the tables are %q", rows)
	}
	for _, row := range rows {
		for _, name := range testkit.CodeSpans(row[0]) {
			if _, err := resolveName(name, allowList{"default"}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestDocsDHCP(t *testing.T) {
	page := testkit.ReadText(t, "docs/dhcp.md")
	for _, block := range testkit.CodeBlocks(page, "json") {
		if err := json.Unmarshal([]byte("{"+block+"}"), new(map[string]any)); err != nil {
			t.Errorf("%v in\n%s", err, block)
		}
	}
	// Every block names the files of the table, which are served by default.
	for _, row := range testkit.TableRows(page) {
		file := strings.Trim(row[2], "`")
		if _, err := resolveName(file, allowList{"default"}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, language := range []string{"ini", "text", "json"} {
			if block := testkit.CodeBlocks(page, language)[0]; !strings.Contains(block, file) {
				t.Errorf("no %s in\n%s", file, block)
			}
		}
	}
	// README has the beginning of it.
	full := testkit.CodeBlocks(page, "ini")[0]
	short := testkit.CodeBlocks(testkit.ReadSection(t, "README.md", "## DHCP"), "ini")[0]
	for _, line := range strings.Split(strings.TrimSpace(short), "\n") {
		if !strings.Contains(full, line+"\n") {
			t.Errorf("README.md has %q, docs/dhcp.md has not", line)
		}
	}
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			testkit.Skip(t, err.Error())
		}
	}
	for _, block := range []string{full, short} {
		file := filepath.Join(t.TempDir(), "dnsmasq.conf")
		testkit.WriteFile(t, file, []byte(strings.ReplaceAll(block, "# dhcp", "dhcp")))
		if out, err := exec.Command(path, "--test", "--conf-file="+file).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// The page explains every metric as the program does, in its order, and no other.
func TestDocsMetrics(t *testing.T) {
	var out strings.Builder
	j := newJournal(&out)
	defer j.close()
	server, err := singleport.Listen([]string{"127.0.0.1:0"}, singleport.Config{})
	testkit.Must(t, err)
	page, _ := (&metrics{&j.counts, server, status.OpenProcess(), 1}).page(nil)
	var want [][]string
	families := regexp.MustCompile(`(?m)^# HELP (\w+) (.*)\n# TYPE (\w+) (\w+)$`).FindAllStringSubmatch(string(page), -1)
	for _, f := range families {
		if f[1] != f[3] {
			t.Errorf("%s and %s", f[1], f[3])
		}
		want = append(want, []string{"`" + f[1] + "`", f[4], f[2]})
	}
	var got [][]string
	for _, row := range testkit.TableRows(testkit.ReadSection(t, "docs/metrics.md", "## Metrics")) {
		if runtime.GOOS == "linux" || slices.ContainsFunc(want, func(w []string) bool { return w[0] == row[0] }) {
			got = append(got, row)
		}
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("docs/metrics.md has\n%q\nthe program has\n%q", got, want)
	}
	// Every name of the contract is written.
	source := testkit.ReadText(t, "metrics.go")
	names := regexp.MustCompile(`(?m)^\tmetric\w+ += "(\w+)"`).FindAllStringSubmatch(source, -1)
	if len(names) != len(want) && runtime.GOOS == "linux" || len(names) == 0 {
		t.Errorf("%d names, %d metrics", len(names), len(want))
	}
	// The values of the labels, and no others.
	labels := map[string][]string{"result": results[:]}
	for why := range reasons {
		labels["reason"] = append(labels["reason"], singleport.Refusal(why).String())
	}
	section := testkit.ReadSection(t, "docs/metrics.md", "## Metrics")
	for label, values := range labels {
		_, text, _ := strings.Cut(section, "The values of `"+label+"`")
		text, _, _ = strings.Cut(text, "\n\n")
		said := testkit.CodeSpans(text)
		for _, value := range values {
			if !slices.Contains(said, value) {
				t.Errorf("docs/metrics.md does not name the %s %s", label, value)
			}
			if !strings.Contains(string(page), label+`="`+value+`"}`) {
				t.Errorf("no %s %s in\n%s", label, value, page)
			}
		}
	}
	for _, result := range results {
		if word := strings.ReplaceAll(result, "_", " "); !strings.Contains(testkit.ReadSection(t, "docs/log.md", "## Events"), "| `"+word+"` |") {
			t.Errorf("docs/log.md has no event %s", word)
		}
	}
}
