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

// The files that most boots ask for, and what the console shows at the end of one, or instead.
const (
	bigName    = "big.img"
	emptyName  = "empty.img"
	absentName = "absent.img"
	marker     = "This machine has booted."
	failure    = "This machine has not booted."
)

// usualLimit bounds a boot that takes a quarter of a minute where nothing else runs.
const usualLimit = 5 * time.Minute

// boot is one machine that is switched on in a network of its own.
type boot struct {
	t       *testing.T
	ctx     context.Context // ends with the time that the boot has
	setting setting
	root    string // what is served
	link    *link
	server  *process
	dhcp    *process
	console *process
	read    int // how much of the console is read, in bytes
	began   time.Time
}

// newBoot switches on the machine of a chain.
func newBoot(t *testing.T, c *chain, s setting) *boot {
	t.Helper()
	limit := usualLimit
	if c.loader.limit > 0 {
		limit = c.loader.limit
	}
	end := time.Now().Add(limit)
	if d, ok := t.Deadline(); ok && d.Before(end) {
		end = d.Add(-10 * time.Second) // for the console and the capture
	}
	ctx, cancel := context.WithDeadline(t.Context(), end)
	t.Cleanup(cancel)
	b := &boot{t: t, ctx: ctx, setting: s, root: testkit.PublicFolder(t)}
	c.loader.serve(t, b.root, s.bigSize)

	folder, err := os.MkdirTemp("", "flytftp-firmware-")
	testkit.Must(t, err)
	t.Cleanup(func() { b.putAway(folder) })
	n := newNamespace(t)
	var card string
	b.link, card = newLink(t, folder, n.openTap(t), s.path)
	b.server = n.startServer(t, b.root, append(s.server, c.loader.server...)...)
	b.dhcp = n.startDHCP(t, folder, c.loader.dhcp...)
	b.began = time.Now()
	b.console = c.machine.start(t, n, folder, card)
	return b
}

// putAway removes the folder of the boot unless the test failed. Then it puts the console and the
// logs beside the capture.
func (b *boot) putAway(folder string) {
	if !b.t.Failed() && !*keep {
		os.RemoveAll(folder)
		return
	}
	b.t.Logf("console, capture.pcap and logs: %s", folder)
	for name, p := range map[string]*process{"console": b.console, "server": b.server, "dhcp": b.dhcp} {
		if p == nil {
			continue
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

// sees waits until the console shows the text, and fails the test if one of the others is there
// first.
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

// notFound fails the test unless the server said that the file is absent.
func (b *boot) notFound(name string) {
	b.t.Helper()
	switch last := b.last(name); {
	case last == nil:
		b.t.Errorf("nobody asked for %s", name)
	case last.failure != "1 File not found":
		b.t.Errorf("found: %v", last)
	}
}

// received fails the test unless the file reached the machine as it is.
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
		b.t.Errorf("%s: other content than the file has", name)
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

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	testkit.Must(t, err)
	testkit.WriteFile(t, to, b)
}

// serveCommon writes the files that most boots ask for.
func serveCommon(t *testing.T, root string, bigSize int) {
	t.Helper()
	testkit.WriteFile(t, root+"/"+bigName, testkit.Pattern(bigSize))
	testkit.WriteFile(t, root+"/"+emptyName, nil)
}

// bootFile is what the DHCP server tells every machine to load.
func bootFile(name string) []string { return []string{"--dhcp-boot=" + name + ",," + serverAddr} }
