package folder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flytftp/internal/testkit"
)

func TestOpen(t *testing.T) {
	folder := t.TempDir()
	testkit.WriteFile(t, folder+"/a.txt", nil)
	for path, want := range map[string]string{
		folder + "/absent":      "create it",
		folder + "/a.txt":       "is not a folder",
		folder + "/a.txt/below": "cannot read the folder",
	} {
		if f, err := Open(path); f != nil || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "-root") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// The folder is lost once its path leads elsewhere or nowhere, and not before.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		what, path string
		change     func(folder string) error
		want       string // in the error; empty if there is none
	}{
		{"nothing", "root", func(string) error { return nil }, ""},
		{"a file within", "root", func(folder string) error { return os.WriteFile(folder+"/root/a.txt", nil, 0o644) }, ""},
		{"a link within", "root", func(folder string) error { return os.Symlink("releases/42", folder+"/root/current") }, ""},
		{"moved", "root", func(folder string) error { return os.Rename(folder+"/root", folder+"/other") }, "moved or deleted"},
		{"deleted", "root", func(folder string) error { return os.RemoveAll(folder + "/root") }, "moved or deleted"},
		{"a folder above was moved", "above/root", func(folder string) error { return os.Rename(folder+"/above", folder+"/x") }, "moved or deleted"},
		{"replaced by a file", "root", func(folder string) error {
			testkit.Must(t, os.Rename(folder+"/root", folder+"/other"))
			return os.WriteFile(folder+"/root", nil, 0o644)
		}, "leads to another"},
		{"replaced", "root", func(folder string) error {
			testkit.Must(t, os.Rename(folder+"/root", folder+"/other"))
			return os.Mkdir(folder+"/root", 0o755)
		}, "leads to another"},
		{"its link was replaced", "link", func(folder string) error {
			testkit.Must(t, os.Symlink("above", folder+"/link.new"))
			return os.Rename(folder+"/link.new", folder+"/link")
		}, "leads to another"},
	} {
		top := t.TempDir()
		testkit.Must(t, os.MkdirAll(top+"/root", 0o755))
		testkit.Must(t, os.MkdirAll(top+"/above/root", 0o755))
		testkit.Must(t, os.Symlink("root", top+"/link"))
		t.Chdir(top)
		var folders []*Folder
		for _, path := range []string{c.path, filepath.Join(top, c.path), "above/../" + c.path} {
			f, err := Open(path)
			testkit.Must(t, err)
			defer f.Close()
			if err := f.Lost(); err != nil {
				t.Errorf("%s, %s: lost at once: %v", c.what, path, err)
			}
			folders = append(folders, f)
		}
		testkit.Must(t, c.change(top))
		for _, f := range folders {
			if err := f.Lost(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v, want %q", c.what, f.path, err, c.want)
			}
		}
	}
}

// Where the path may not be looked up, a folder that was deleted is noticed all the same.
func TestLostWithoutPath(t *testing.T) {
	path := t.TempDir() + "/root"
	testkit.Must(t, os.Mkdir(path, 0o755))
	f, err := Open(path)
	testkit.Must(t, err)
	defer f.Close()
	f.found = "/" + strings.Repeat("x", 5000)
	if err := f.Lost(); err != nil {
		t.Error(err)
	}
	testkit.Must(t, os.Remove(path))
	if err := f.Lost(); err == nil || !strings.Contains(err.Error(), "was deleted") {
		t.Error(err)
	}
}

// A file that could be read before the fences must be readable behind them, unless it is gone.
func TestStillReadable(t *testing.T) {
	path := t.TempDir()
	testkit.Must(t, os.Mkdir(path+"/a", 0o755))
	testkit.WriteFile(t, path+"/b.txt", []byte("hello"))
	f, err := Open(path)
	testkit.Must(t, err)
	defer f.Close()
	if err := f.StillReadable(); err != nil || f.sample != "b.txt" {
		t.Errorf("%v, sample %q", err, f.sample)
	}
	testkit.Must(t, os.Remove(path+"/b.txt"))
	if err := f.StillReadable(); err != nil {
		t.Error(err)
	}
	testkit.Must(t, os.Mkdir(path+"/b.txt", 0o755)) // as good as any other refusal
	if err := f.StillReadable(); err == nil || !strings.Contains(err.Error(), "Docker Desktop") || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	testkit.Must(t, f.Readable())
	if err := f.StillReadable(); err != nil || f.sample != "" {
		t.Errorf("without a file: %v, sample %q", err, f.sample)
	}
}
