//go:build linux

package firmware

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// The files that most boots fetch, and what the console shows when they have, or instead.
const (
	bigName    = "big.img"
	emptyName  = "empty.img"
	absentName = "absent.img"
	marker     = "This machine has booted."
	failure    = "This machine has not booted."
)

// usualLimit bounds a boot that takes a quarter of a minute on a machine without other work.
const usualLimit = 5 * time.Minute

// boot is a machine that is switched on in a network of its own.
type boot struct {
	t       *testing.T
	ctx     context.Context // ends with the time that the boot has
	setting setting
	root    string // what is served
	link    *link
	server  *process
	dhcp    *process
	console *process
	read    int // how far the console is read
	began   time.Time
}

// newBoot switches on the machine of a chain.
func newBoot(t *testing.T, c *chain, s setting) *boot {
	t.Helper()
	end := time.Now().Add(max(usualLimit, c.loader.limit))
	if d, ok := t.Deadline(); ok && d.Before(end) {
		end = d.Add(-10 * time.Second) // which is for the console and the capture
	}
	ctx, cancel := context.WithDeadline(t.Context(), end)
	t.Cleanup(cancel)
	b := &boot{t: t, ctx: ctx, setting: s, root: testkit.PublicFolder(t)}
	c.loader.serve(t, b.root, s.bigSize)

	folder, err := os.MkdirTemp("", "flytftp-firmware-")
	testkit.Must(t, err)
	t.Cleanup(func() { b.putAway(folder) })
	n := newNamespace(t)
	var backend string
	b.link, backend = newLink(t, folder, n.openTap(t), s.path)
	b.server = n.startServer(t, b.root, s.server...)
	b.dhcp = n.startDHCP(t, folder, c.loader.dhcp...)
	b.began = time.Now()
	b.console = c.machine.start(t, n, folder, backend, max(c.machine.memory, c.loader.memory))
	return b
}

// putAway removes the folder of a boot that passed. To that of one that failed it adds the console
// and the logs.
func (b *boot) putAway(folder string) {
	if !b.t.Failed() && !*keep {
		os.RemoveAll(folder)
		return
	}
	b.t.Logf("console, capture.pcap and logs are in %s", folder)
	for name, p := range map[string]*process{"console": b.console, "server": b.server, "dhcp": b.dhcp} {
		if p == nil {
			continue // it was not started
		}
		text, _ := p.text()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			b.t.Log(err)
		}
		if b.t.Failed() && p != b.dhcp {
			b.t.Logf("%s:\n%s", name, lastLines(plain(text), 15))
		}
	}
}

// sees waits until the console shows the text, and fails the test if it shows another one first.
func (b *boot) sees(text string, others ...string) {
	b.t.Helper()
	found, end, err := b.console.await(b.ctx, b.read, append([]string{text}, others...)...)
	testkit.Must(b.t, err)
	if found != text {
		b.t.Fatalf("the console shows %q before %q", found, text)
	}
	b.read = end
}

// types sends keys to the console.
func (b *boot) types(keys string) {
	b.t.Helper()
	_, err := b.console.stdin.Write([]byte(keys))
	testkit.Must(b.t, err)
}

// receivedCommon fails the test unless the machine got the answers that most boots ask for.
func (b *boot) receivedCommon() {
	b.t.Helper()
	b.received(bigName)
	b.received(emptyName)
	b.notFound(absentName)
}

// received fails the test unless the machine has the file as it is served.
func (b *boot) received(name string) {
	b.t.Helper()
	want, err := os.ReadFile(filepath.Join(b.root, name))
	testkit.Must(b.t, err)
	switch last := b.last(name); {
	case last == nil:
		b.t.Errorf("nobody asked for %s", name)
	case !last.complete():
		b.t.Errorf("not received: %v", last)
	case !bytes.Equal(last.content, want):
		b.t.Errorf("not as it is served: %v", last)
	}
}

// notFound fails the test unless the machine heard that the file is absent.
func (b *boot) notFound(name string) {
	b.t.Helper()
	switch last := b.last(name); {
	case last == nil:
		b.t.Errorf("nobody asked for %s", name)
	case last.failure != "1 File not found":
		b.t.Errorf("want ERROR 1: %v", last)
	}
}

// last returns the last transfer of a file, nil if there was none.
func (b *boot) last(name string) (last *transfer) {
	for _, tr := range b.link.transfers() {
		if strings.TrimPrefix(tr.name, "/") == name {
			last = tr
		}
	}
	return last
}

// serveCommon writes the files that most boots fetch.
func serveCommon(t *testing.T, root string, bigSize int) {
	t.Helper()
	testkit.WriteFile(t, root+"/"+bigName, testkit.Pattern(bigSize))
	testkit.WriteFile(t, root+"/"+emptyName, nil)
}

// bootFile has the DHCP server tell every machine to load a file.
func bootFile(name string) []string { return []string{"--dhcp-boot=" + name + ",," + serverAddr} }

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	testkit.WriteFile(t, to, []byte(testkit.ReadText(t, from)))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
