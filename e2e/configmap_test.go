package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"flytftp/internal/testkit"
)

// Kubernetes mounts a ConfigMap so (AtomicWriter in the kubelet): each file is a link through
// ..data, which is a link to a folder with the time in its name. An update renames a new ..data
// over the old one and then removes the old folder.
func TestConfigMap(t *testing.T) {
	mount := testkit.PublicFolder(t)
	older, newer := testkit.Pattern(100_000), testkit.Pattern(90_000)
	move := func(folder string, content []byte) {
		t.Helper()
		testkit.WriteFile(t, filepath.Join(mount, folder, "boot.ipxe"), content)
		testkit.Must(t, os.Symlink(folder, filepath.Join(mount, "..data_tmp")))
		testkit.Must(t, os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")))
	}
	const oldFolder, newFolder = "..2026_01_01_00_00_00.1", "..2026_01_02_00_00_00.2"
	move(oldFolder, older)
	testkit.Must(t, os.Symlink("..data/boot.ipxe", filepath.Join(mount, "boot.ipxe")))

	d := start(t, mount)
	fetches(t, d.addr, "boot.ipxe", string(older))
	content, refusal := dial(t, d.addr).fetch(rrq("boot.ipxe", "octet"), func(blocks int) {
		if blocks == 10 {
			move(newFolder, newer)
			testkit.Must(t, os.RemoveAll(filepath.Join(mount, oldFolder)))
		}
	})
	if string(content) != string(older) {
		t.Errorf("a transfer during the update got %d bytes and %q", len(content), refusal)
	}
	fetches(t, d.addr, "boot.ipxe", string(newer))
	for _, name := range []string{"..data/boot.ipxe", newFolder + "/boot.ipxe"} {
		if _, refusal := dial(t, d.addr).fetch(rrq(name, "octet"), nil); refusal == "" {
			t.Errorf("%s is served", name)
		}
	}
}
