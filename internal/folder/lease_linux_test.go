package folder

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// leased takes a write lease on a file, as Samba does. It returns a channel that is closed when
// another wants to open the file, and what gives the lease back.
func leased(t *testing.T, path string) (wanted <-chan os.Signal, release func()) {
	t.Helper()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGIO) // the kernel's word to the holder
	t.Cleanup(func() { signal.Stop(signals) })
	holder, err := os.OpenFile(path, os.O_RDWR, 0)
	testkit.Must(t, err)
	t.Cleanup(func() { holder.Close() })
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, syscall.F_WRLCK); err != nil {
		testkit.Skip(t, "no leases here: "+err.Error())
	}
	return signals, func() {
		_, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, syscall.F_UNLCK)
		testkit.Must(t, err)
	}
}

// A file that another program holds a lease on is opened as soon as that gives it back.
func TestLeaseIsWaitedFor(t *testing.T) {
	f, folder := open(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	wanted, release := leased(t, folder+"/a.txt")
	go func() {
		<-wanted
		release()
	}()
	if got := mustOpen(t, f, "a.txt").Size(); got != 5 {
		t.Errorf("%d bytes", got)
	}
}

// One that is not given back is busy, soon where many wait, and others are opened meanwhile.
func TestLeaseThatStays(t *testing.T) {
	testkit.SkipIfShort(t)
	f, folder := open(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	testkit.WriteFile(t, folder+"/b.txt", []byte("free"))
	leased(t, folder+"/a.txt")
	const waiting = 3 * mostWaiting
	failures := make(chan *Failure, waiting)
	for range waiting {
		go func() {
			_, failure := f.OpenFile("a.txt")
			failures <- failure
		}()
	}
	for i := range waiting {
		if failure := <-failures; failure == nil || failure.Kind != Busy || !strings.Contains(failure.Why, "lease") {
			t.Errorf("%v", failure)
		}
		if i == 0 && len(f.waiting) == 0 {
			t.Error("the others have ended, too")
		}
		mustOpen(t, f, "b.txt")
	}
}
