//go:build linux

// Package firmware boots emulated machines from the server: real firmware and real boot programs,
// in networks that the tests make.
package firmware

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

var (
	quick  = flag.Bool("quick", false, "boot a few machines, and not over a slow path")
	keep   = flag.Bool("keep", false, "keep consoles, captures and logs of boots that pass, too")
	update = flag.Bool("update", false, "write the tables of docs/firmware.md")
	files  = flag.String("files", "", "the `folder` that the image target boot serves; usually one like it is made")
)

// program is the path of the server.
var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

// buildAndRun builds the server, runs the tests and returns the exit status.
func buildAndRun(m *testing.M) int {
	folder, err := os.MkdirTemp("", "flytftp")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	program = filepath.Join(folder, "flytftp")
	build := exec.Command("go", "build", "-o", program, "flytftp")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		return 1
	}
	return m.Run()
}

// chain is a machine and what it boots.
type chain struct {
	machine *machine
	loader  *loader
	quick   bool // it boots with -quick, too
	far     bool // it boots over a slow path, too
}

// loader is a boot program, how a machine comes to it, and how it shows that it works.
type loader struct {
	name     string
	packages []string // its files are of
	dhcp     []string // arguments of dnsmasq
	serve    func(t *testing.T, root string, bigSize int)
	check    func(b *boot)
	big      string        // the file that is measured, bigName unless named
	memory   int           // MiB, where it takes more than the machine has
	limit    time.Duration // of a boot, where it takes longer than usualLimit
}

var chains = []*chain{
	{machine: seabios, loader: ipxeROM, quick: true, far: true},
	{machine: seabios, loader: undionly},
	{machine: seabios, loader: grubPC, far: true},
	{machine: seabios, loader: pxelinux, quick: true, far: true},
	{machine: seabios, loader: lpxelinux},
	{machine: seabios, loader: installerPXELINUX},
	{machine: ovmf, loader: ipxeEFI, quick: true, far: true},
	{machine: ovmf, loader: snponly},
	{machine: ovmf, loader: grubEFI},
	{machine: ovmf, loader: syslinuxEFI},
	{machine: ovmf, loader: installerGRUB},
	{machine: ovmfIPv6, loader: ipxeIPv6},
	{machine: ovmfIPv6, loader: snponlyIPv6},
	{machine: ovmfSecure, loader: shim},
	{machine: aavmf, loader: ipxeARM64},
	{machine: ubootARM64Virtio, loader: ubootFewWindows, quick: true, far: true},
	{machine: ubootARM64, loader: ubootWindows},
	{machine: ubootX86, loader: ubootWindows},
}

// setting is what a boot goes over, and how the server is started for it.
type setting struct {
	name    string
	path    path
	server  []string
	bigSize int // bytes
}

// 20 ms for a round trip, and one datagram of a hundred is lost each way.
var farPath = path{delay: 10 * time.Millisecond, loss: 0.01}

// The file is smaller over the slow path: in lock-step each block takes a round trip.
var (
	lan         = setting{name: "lan", bigSize: 5 << 20}
	far         = setting{name: "far", path: farPath, bigSize: 1 << 20}
	farLockStep = setting{name: "far-lock-step", path: farPath, bigSize: 1 << 20, server: []string{"-ahead", "1"}}
)

func (c *chain) settings() []setting {
	switch {
	case *quick && !c.quick:
		return nil
	case *quick || !c.far:
		return []setting{lan}
	}
	return []setting{lan, far, farLockStep}
}

// Each machine boots from the server, has each file whole that it asks for, and goes on after a
// file that is empty and one that is absent.
func TestFirmware(t *testing.T) {
	testkit.SkipIfShort(t)
	needRig(t)
	readSourceFolders()
	var mu sync.Mutex
	var results []*result
	planned := 0
	passed := t.Run("boot", func(t *testing.T) {
		for _, c := range chains {
			for _, s := range c.settings() {
				planned++
				t.Run(s.name+"/"+c.machine.name+"/"+c.loader.name, func(t *testing.T) {
					t.Parallel()
					r := bootOnce(t, c, s)
					mu.Lock()
					defer mu.Unlock()
					results = append(results, r)
				})
			}
		}
	})
	if passed {
		checkTables(t, results, len(results) == planned && !*quick)
	}
}

// result is what a boot showed.
type result struct {
	chain     *chain
	setting   setting
	took      time.Duration // from power to the last thing that the console had to show
	transfers []*transfer
}

// bootOnce boots a chain and looks at what it shows.
func bootOnce(t *testing.T, c *chain, s setting) *result {
	t.Helper()
	b := newBoot(t, c, s)
	c.loader.check(b)
	r := &result{chain: c, setting: s, took: time.Since(b.began), transfers: b.link.transfers()}
	select {
	case <-b.server.ended:
		t.Error("the server ended")
	default:
	}
	if s.path.loss > 0 && b.link.lost.Load() == 0 {
		t.Error("the path lost nothing")
	}
	for _, tr := range r.transfers {
		t.Log(tr)
	}
	t.Logf("booted in %v", r.took.Round(time.Second/10))
	return r
}

// needRig skips the test where something is missing that it boots with.
func needRig(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "only root can make a network")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testkit.Skip(t, "no tap: "+err.Error())
	}
	for _, tool := range []string{x86, arm64, riscv, "ip", "dnsmasq", "grub-mknetdir", "mkimage"} {
		if _, err := exec.LookPath(tool); err != nil {
			testkit.Skip(t, err.Error()+", .ci/packages installs it")
		}
	}
	for _, c := range chains {
		for _, name := range append(c.machine.packages, c.loader.packages...) {
			if version(name) == "" {
				testkit.Skip(t, "the package "+name+" is missing, .ci/packages brings it")
			}
		}
	}
}

// readSourceFolders makes the test run again after a change of the server: `go test` repeats its
// last result until something changes that the test has read itself.
func readSourceFolders() {
	filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != "../.." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return nil
	})
}
