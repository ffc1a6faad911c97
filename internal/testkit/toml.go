package testkit

import (
	"regexp"
	"strings"
	"testing"
)

var (
	tomlHeader = regexp.MustCompile(`^\[([a-z_.]+)\]$|^\[\[([a-z_.]+)\]\]$`)
	tomlEntry  = regexp.MustCompile(`^([A-Za-z_]+) = ("[^"\\]*"|\d+|true|false|\["[^"\\]*"\])(?: +#.*)?$`)
)

// ReadTOML returns the values of a TOML file by table and key, such as services.ports.port, as they
// are written but for quotes. It takes as much of the language as the files here use: strings
// without escapes, numbers, lists of one string, and each table once.
func ReadTOML(t testing.TB, path string) map[string]string {
	t.Helper()
	values, tables, table := map[string]string{}, map[string]bool{}, ""
	for i, line := range strings.Split(ReadText(t, path), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if header := tomlHeader.FindStringSubmatch(line); header != nil {
			table = header[1] + header[2] + "."
			if tables[table] {
				t.Errorf("%s:%d: %s comes twice", path, i+1, line)
			}
			tables[table] = true
			continue
		}
		entry := tomlEntry.FindStringSubmatch(line)
		if entry == nil {
			t.Errorf("%s:%d: not as the files here are written: %s", path, i+1, line)
			continue
		}
		key := table + entry[1]
		if _, twice := values[key]; twice {
			t.Errorf("%s:%d: %s comes twice", path, i+1, key)
		}
		values[key] = strings.Trim(entry[2], `"`)
	}
	return values
}
