package e2e

import (
	"bufio"
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

func TestStop(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.img", testkit.Pattern(5000))
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		d := start(t, folder, "-grace", "1h")
		began := time.Now()
		testkit.Must(t, d.cmd.Process.Signal(signal))
		if status := d.waitEnd(); status != 0 || time.Since(began) > 10*time.Second {
			t.Errorf("%v: status %d after %v", signal, status, time.Since(began))
		}
	}

	// A running transfer is finished, a new one is refused.
	d := start(t, folder, "-grace", "1h")
	content, failure := dial(t, d.addr).fetch(rrq("a.img", "octet"), func(blocks int) {
		if blocks == 3 {
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
			d.waitFor("stopping ")
			if answer := dial(t, d.addr).ask(rrq("a.img", "octet")); answer != serverStopping {
				t.Errorf("answer while it stops: %q", answer)
			}
		}
	})
	if len(content) != 5000 || failure != "" {
		t.Errorf("%d bytes, %q", len(content), failure)
	}
	if status := d.waitEnd(); status != 0 {
		t.Errorf("status %d", status)
	}

	// The end of the grace, and a second signal, end a transfer that does not end.
	for _, grace := range []string{"50ms", "0s", "1h"} {
		d := start(t, folder, "-grace", grace)
		c := dial(t, d.addr)
		c.ask(rrq("a.img", "octet"))
		testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
		d.waitFor("stopping ")
		if grace == "1h" {
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
		}
		if status := d.waitEnd(); status != 0 {
			t.Errorf("grace %s: status %d", grace, status)
		}
	}
}

// A log whose reader went away does not end the server.
func TestLogReaderGone(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	read, write, err := os.Pipe()
	testkit.Must(t, err)
	cmd := command(context.Background(), nil, "-listen", "127.0.0.1:0", "-root", folder)
	cmd.Stderr = write
	testkit.Must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	write.Close()
	addr := ""
	for scanner := bufio.NewScanner(read); addr == "" && scanner.Scan(); {
		if strings.HasPrefix(scanner.Text(), "serving ") {
			addr = field(scanner.Text(), "listen")
		}
	}
	read.Close()
	for range 3 {
		fetches(t, addr, "a.txt", "hello")
	}
}
