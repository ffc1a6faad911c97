//go:build linux

// Package firmware boots emulated machines from the server: real firmware, real boot programs, a
// network that the test makes.
package firmware

import (
	"flag"
	"fmt"
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
	quick  = flag.Bool("quick", false, "boot a few machines only")
	update = flag.Bool("update", false, "write what was measured to docs/firmware.md")
	keep   = flag.Bool("keep", false, "keep consoles, captures and logs of boots that pass, too")
)

// program is the path of the server.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "flytftp")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		// As it is shipped, without cgo: only so can the process drop its privileges.
		program = filepath.Join(folder, "flytftp")
		build := exec.Command("go", "build", "-o", program, "flytftp")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
			return 1
		}
		return m.Run()
	}())
}

// chain is a machine and what it boots.
type chain struct {
	machine *machine
	loader  *loader
	quick   bool // it boots with -quick, too
	far     bool // it also boots over a slow path that loses datagrams
}

// loader is a boot program, how the machine comes to it, and how it shows that it works.
type loader struct {
	name     string
	packages []string                                     // that its files are of
	dhcp     []string                                     // arguments of dnsmasq
	server   []string                                     // arguments of the server
	serve    func(t *testing.T, root string, bigSize int) // fills the folder that is served
	big      string                                       // the file that is measured
	check    func(b *boot)
	limit    time.Duration // of a boot, where it takes longer than others
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
	{machine: ovmfSecure, loader: shim},
	{machine: aavmf, loader: ipxeARM64},
	{machine: ubootARM64Virtio, loader: ubootFewWindows, quick: true, far: true},
	{machine: ubootARM64, loader: ubootWindows},
	{machine: ubootX86, loader: ubootWindows},
}

// setting is the path that a boot goes over and the arguments of the server.
type setting struct {
	name    string
	path    path
	server  []string
	bigSize int
}

var (
	lan = setting{name: "lan", bigSize: 5 << 20}
	// 20 ms for a round trip. The file is smaller: a lock-step transfer takes a round trip for
	// each block.
	farPath     = path{delay: 10 * time.Millisecond, loss: 0.01}
	farLockStep = setting{name: "far, lock-step", path: farPath, bigSize: 1 << 20, server: []string{"-ahead", "1"}}
	far         = setting{name: "far", path: farPath, bigSize: 1 << 20}
)

// settings returns what a chain boots over.
func (c *chain) settings(aheadKnown bool) []setting {
	switch {
	case *quick && !c.quick:
		return nil
	case *quick || !c.far:
		return []setting{lan}
	case !aheadKnown:
		return []setting{lan, far}
	}
	return []setting{lan, farLockStep, far}
}

// Each machine boots from the server in a network of its own, gets the files that it asks for
// whole, and goes on after a file that is absent and one that is empty.
func TestFirmware(t *testing.T) {
	if testing.Short() {
		t.Skip("machines take minutes to boot")
	}
	needRig(t)
	help, _ := exec.Command(program, "-h").CombinedOutput()
	aheadKnown := strings.Contains(string(help), "-ahead")

	var mu sync.Mutex
	var results []*result
	planned := 0
	passed := t.Run("boot", func(t *testing.T) {
		for _, c := range chains {
			for _, s := range c.settings(aheadKnown) {
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
	if passed && len(results) > 0 {
		checkTables(t, results, len(results) == planned && !*quick)
	}
}

// result is what a boot showed.
type result struct {
	chain     *chain
	setting   setting
	took      time.Duration // from power to the marker
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
	for _, tr := range r.transfers {
		t.Log(tr)
	}
	t.Logf("booted in %v", r.took.Round(time.Second/10))
	return r
}

// needRig skips the test where it lacks something to boot with.
func needRig(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "only root can make a network")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		testkit.Skip(t, "no tap devices: "+err.Error())
	}
	for _, tool := range []string{x86, arm64, "ip", "dnsmasq", "grub-mknetdir", "mkimage"} {
		if _, err := exec.LookPath(tool); err != nil {
			testkit.Skip(t, "not installed: "+err.Error())
		}
	}
	for _, c := range chains {
		for _, name := range append(c.machine.packages, c.loader.packages...) {
			if version(name) == "" {
				testkit.Skip(t, "the package "+name+" is missing: .ci/packages installs it")
			}
		}
	}
}
