// Package testkit holds what the tests of several packages share.
package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Skip skips a test whose tools are missing. Where FLYTFTP_NO_SKIP is 1, the test fails instead:
// that machine must have them all.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("FLYTFTP_NO_SKIP") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Tool returns the path of a program that is installed, or that .ci/packages unpacked beside the
// other servers.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	cache, _ := os.UserCacheDir()
	path = filepath.Join(cache, "flytftp-bench/usr/bin", name)
	if _, err := os.Stat(path); err != nil {
		Skip(t, name+" is not installed")
	}
	return path
}

// SkipIfShort skips a test that takes seconds, where `go test -short` asks for the quick ones.
func SkipIfShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
}

// WriteFile writes a file that every user can read, and creates the folders above it.
func WriteFile(t testing.TB, path string, content []byte) {
	t.Helper()
	Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	Must(t, os.WriteFile(path, content, 0o644))
}

// Pattern returns n bytes of which no two blocks are alike.
func Pattern(n int) []byte {
	b := make([]byte, n)
	state := uint32(n) + 1
	for i := range b {
		state = state*1664525 + 1013904223
		b[i] = byte(state >> 24)
	}
	return b
}

// PublicFolder returns a folder that every user can reach, unlike t.TempDir's. The end of the test
// removes it.
func PublicFolder(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "flytftp")
	Must(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	Must(t, os.Chmod(folder, 0o755))
	return folder
}
