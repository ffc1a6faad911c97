// Package style has no code. Its tests hold the form of the repository: its pages, its comments,
// its file map and its notices.
package style

import (
	"fmt"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"flytftp/internal/testkit"
)

const (
	top = "../.." // of the repository

	pageWidth    = 120 // columns
	commentWidth = 100 // columns, of which a tab takes 4
	readmeWords  = 1800
)

// files returns the paths below the top whose names end so.
func files(t *testing.T, suffix string) (paths []string) {
	t.Helper()
	testkit.Must(t, fs.WalkDir(os.DirFS(top), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, suffix) {
			paths = append(paths, path)
		}
		return err
	}))
	if len(paths) == 0 {
		t.Fatalf("no file ends in %s", suffix)
	}
	return paths
}

// read returns a file below the top as text.
func read(t *testing.T, path string) string {
	t.Helper()
	return testkit.ReadText(t, filepath.Join(top, path))
}

// Words of a page are counted as wc -w does.
func TestReadmeLength(t *testing.T) {
	if words := len(strings.Fields(read(t, "README.md"))); words >= readmeWords {
		t.Errorf("README.md has %d words: move some to docs, it must stay below %d", words, readmeWords)
	}
}

func TestPageWidth(t *testing.T) {
	for _, page := range files(t, ".md") {
		for _, number := range wideLines(read(t, page)) {
			t.Errorf("%s:%d is over %d columns", page, number, pageWidth)
		}
	}
}

// bareLink is a line that cannot be broken.
var bareLink = regexp.MustCompile(`^\s*(?:[-*] )?(?:<?https?://\S+|\[[^\]]*\]\(\S+\)[.,;:]?)$`)

// wideLines returns the numbers of the lines of a page that are too wide. Tables, code blocks and
// bare links may be.
func wideLines(text string) (numbers []int) {
	inCode := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "```") {
			inCode = !inCode
		}
		free := inCode || strings.HasPrefix(line, "|") || bareLink.MatchString(line)
		if !free && utf8.RuneCountInString(line) > pageWidth {
			numbers = append(numbers, i+1)
		}
	}
	return numbers
}

func TestWideLines(t *testing.T) {
	wide := strings.Repeat("ä ", pageWidth/2)
	text := strings.Join([]string{
		wide, wide + "x", // 1, 2
		"| " + wide + "|",
		"```sh", wide + "x", "```",
		"- https://example.org/" + strings.Repeat("x", pageWidth),
		"- [x](" + strings.Repeat("x", pageWidth) + ").",
		"- [x](y) " + wide, // 9
	}, "\n")
	if got := wideLines(text); !slices.Equal(got, []int{2, 9}) {
		t.Errorf("lines %d are too wide", got)
	}
}

// notYetComments are the files that the width of comments does not hold for yet.
var notYetComments []string

func TestCommentWidth(t *testing.T) {
	for _, file := range files(t, ".go") {
		if slices.ContainsFunc(notYetComments, func(pattern string) bool {
			matched, err := path.Match(pattern, file)
			testkit.Must(t, err)
			return matched
		}) {
			continue
		}
		for _, number := range wideComments(read(t, file)) {
			t.Errorf("%s:%d: a comment is over %d columns", file, number, commentWidth)
		}
	}
}

// Scripts and configuration have comments that begin with a number sign.
func TestOtherCommentWidth(t *testing.T) {
	commented := regexp.MustCompile(`^\.ci/|(^|/)Dockerfile|ignore$|\.(sh|ipxe|toml|ya?ml|service|tf)$`)
	sign := regexp.MustCompile(`(^|\s)# `)
	for _, file := range files(t, "") {
		if !commented.MatchString(file) {
			continue
		}
		for i, line := range strings.Split(read(t, file), "\n") {
			if sign.MatchString(line) && columns(line) > commentWidth {
				t.Errorf("%s:%d: a comment is over %d columns", file, i+1, commentWidth)
			}
		}
	}
}

func columns(line string) int {
	return utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
}

// wideComments returns the numbers of the lines of a Go file that a comment makes too wide.
func wideComments(source string) (numbers []int) {
	lines := strings.Split(source, "\n")
	file := token.NewFileSet().AddFile("", -1, len(source))
	var s scanner.Scanner
	s.Init(file, []byte(source), nil, scanner.ScanComments)
	for {
		at, kind, text := s.Scan()
		if kind == token.EOF {
			return numbers
		}
		if kind != token.COMMENT {
			continue
		}
		first := file.Line(at)
		for number := first; number <= first+strings.Count(text, "\n"); number++ {
			if columns(lines[number-1]) > commentWidth {
				numbers = append(numbers, number)
			}
		}
	}
}

func TestWideComments(t *testing.T) {
	long := strings.Repeat("x", commentWidth)
	source := strings.Join([]string{
		"package x",
		"// " + long[3:],
		"// " + long[2:],         // 3
		"const a = 1 // " + long, // 4
		"const b = \"// " + long + "\"",
		"\t// " + long[7:],
		"\t// " + long[6:],       // 7
		"/* a", long + "x", "*/", // 8 to 10
	}, "\n")
	if got := wideComments(source); !slices.Equal(got, []int{3, 4, 7, 9}) {
		t.Errorf("lines %d are too wide", got)
	}
}

var (
	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	codeBlock  = regexp.MustCompile("(?ms)^```.*?^```$")
	notInSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the fragments by which GitHub finds the headings of a page.
func anchors(text string) (names []string) {
	for _, match := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		names = append(names, strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-"))
	}
	return names
}

// checkLink returns an error if a link of a page leads nowhere within the repository.
func checkLink(page, target string) error {
	if strings.HasPrefix(target, "https://") {
		return nil
	}
	if strings.HasPrefix(target, "/") {
		return fmt.Errorf("the link to %s leaves the repository", target)
	}
	file, fragment, _ := strings.Cut(target, "#")
	if file == "" {
		file = path.Base(page)
	}
	file = path.Join(path.Dir(page), file)
	content, err := os.ReadFile(filepath.Join(top, file))
	if err == nil && fragment != "" && !slices.Contains(anchors(string(content)), fragment) {
		err = fmt.Errorf("%s has no heading #%s", file, fragment)
	}
	return err
}

func TestLinks(t *testing.T) {
	linked := 0
	for _, page := range files(t, ".md") {
		for _, match := range linkTarget.FindAllStringSubmatch(codeBlock.ReplaceAllString(read(t, page), ""), -1) {
			linked++
			if err := checkLink(page, match[1]); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
	if linked == 0 {
		t.Error("no page has a link")
	}
	for _, target := range []string{"absent.md", "#absent", "docs/log.md#absent", "/README.md"} {
		if checkLink("README.md", target) == nil {
			t.Errorf("a link to %s passes", target)
		}
	}
}

// A page that README does not lead to is not found.
func TestReadmeLeadsToPages(t *testing.T) {
	readme := read(t, "README.md")
	for _, page := range files(t, ".md") {
		if strings.HasPrefix(page, "docs/") && !strings.Contains(readme, "]("+page+")") {
			t.Errorf("README.md does not link %s", page)
		}
	}
}

// The map explains every Go file but the tests, once, and no other.
func TestFileMap(t *testing.T) {
	var got []string
	for _, row := range testkit.TableRows(testkit.ReadSection(t, filepath.Join(top, "docs/architecture.md"), "## Files")) {
		got = append(got, testkit.CodeSpans(row[0])...)
	}
	want := slices.DeleteFunc(files(t, ".go"), func(path string) bool { return strings.HasSuffix(path, "_test.go") })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/architecture.md has\n%q\nthe repository has\n%q", got, want)
	}
}

// Every page that tells the reader to run certain tests names tests that exist.
func TestPagesNameTests(t *testing.T) {
	command := regexp.MustCompile("go test [^\\n`]*-run '?([\\w|]+)'? (\\.[\\w/]*)")
	commands := 0
	for _, page := range files(t, ".md") {
		for _, match := range command.FindAllStringSubmatch(read(t, page), -1) {
			commands++
			source := ""
			for _, file := range files(t, "_test.go") {
				if path.Dir(file) == path.Clean(match[2]) {
					source += read(t, file)
				}
			}
			for _, name := range strings.Split(match[1], "|") {
				if !regexp.MustCompile(`(?m)^func Test\w*` + name).MatchString(source) {
					t.Errorf("%s: no test in %s is named %s", page, match[2], name)
				}
			}
		}
	}
	if commands == 0 {
		t.Error("no page names a test")
	}
}

// The checks run with the Go that the image is built with.
func TestOneGo(t *testing.T) {
	image := regexp.MustCompile(`golang:[0-9.]+-[a-z]+`)
	for _, workflow := range []string{".github/workflows/ci.yml", ".github/workflows/release.yml"} {
		used := image.FindAllString(read(t, "Dockerfile")+read(t, workflow), -1)
		if len(used) != 2 || used[0] != used[1] {
			t.Errorf("Dockerfile and %s use %q", workflow, used)
		}
	}
}
