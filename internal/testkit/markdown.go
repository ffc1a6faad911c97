package testkit

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// ReadText returns a file as text.
func ReadText(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	Must(t, err)
	return string(b)
}

// Flat returns a text on one line, because a line may break anywhere.
func Flat(text string) string { return strings.Join(strings.Fields(text), " ") }

// ReadSection returns the text of a Markdown file below a heading such as "## Options", up to the
// next heading of level two or deeper.
func ReadSection(t testing.TB, path, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(ReadText(t, path), "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", path, heading)
	}
	return regexp.MustCompile(`\n##+ `).Split(after, 2)[0]
}

// TableRows returns the cells of the tables in a text, without the heads.
func TableRows(text string) (rows [][]string) {
	head := true
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "|") {
			head = true
			continue
		}
		if !head {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
		if strings.HasPrefix(line, "|---") {
			head = false
		}
	}
	return rows
}

// CodeSpans returns the texts between single backquotes.
func CodeSpans(text string) (spans []string) {
	for _, match := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		spans = append(spans, match[1])
	}
	return spans
}

// CodeBlocks returns the fenced blocks of a language.
func CodeBlocks(text, language string) (blocks []string) {
	for _, match := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, match[1])
	}
	return blocks
}
