package e2e

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// A file on which another program holds a lease, as Samba does for its clients, is served as soon
// as that gives the lease back. Until then others are served, and who waits too long is told.
func TestLeaseOnTheWire(t *testing.T) {
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("leased"))
	testkit.WriteFile(t, folder+"/b.txt", []byte("free"))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGIO) // the kernel's word to the holder
	defer signal.Stop(signals)
	holder, err := os.OpenFile(folder+"/a.txt", os.O_RDWR, 0)
	testkit.Must(t, err)
	defer holder.Close()
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, syscall.F_WRLCK); err != nil {
		testkit.Skip(t, "no leases here: "+err.Error())
	}
	d := start(t, folder)
	if got := dial(t, d.addr).ask(rrq("a.txt", "octet")); got != serverBusy {
		t.Errorf("%q", got)
	}
	if line := d.waitFor(`busy file="a.txt"`); !strings.Contains(line, "lease") {
		t.Error(line)
	}
	<-signals
	waiting := dial(t, d.addr)
	waiting.conn.Write([]byte(rrq("a.txt", "octet")))
	fetches(t, d.addr, "b.txt", "free")
	_, err = unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, syscall.F_UNLCK)
	testkit.Must(t, err)
	if got := waiting.ask(rrq("a.txt", "octet")); got != data(1, []byte("leased")) {
		t.Errorf("%q", got)
	}
}
