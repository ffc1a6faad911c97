package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
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

// A folder that is not the one any more that its path leads to ends the server in order, with a
// status that has the supervisor start it again. A link within the folder may lead elsewhere at any
// time.
func TestFolderLost(t *testing.T) {
	for what, change := range map[string]func(folder string) error{
		"moved":   func(folder string) error { return os.Rename(folder+"/root", folder+"/other") },
		"deleted": func(folder string) error { return os.RemoveAll(folder + "/root") },
		"replaced": func(folder string) error {
			return errors.Join(os.Rename(folder+"/root", folder+"/other"), os.Rename(folder+"/new", folder+"/root"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			testkit.SkipIfShort(t)
			top := testkit.PublicFolder(t)
			for _, path := range []string{"root/releases/41", "root/releases/42", "new"} {
				testkit.WriteFile(t, top+"/"+path+"/a.img", testkit.Pattern(len(path)*100))
			}
			testkit.Must(t, os.Symlink("releases/41", top+"/root/current"))
			d := start(t, top+"/root", "-grace", "1h")
			fetches(t, d.addr, "current/a.img", string(testkit.Pattern(1600)))
			testkit.Must(t, os.Symlink("releases/42", top+"/root/next"))
			testkit.Must(t, os.Rename(top+"/root/next", top+"/root/current"))

			// A transfer that runs is finished.
			content, failure := dial(t, d.addr).fetch(rrq("current/a.img", "octet"), func(blocks int) {
				if blocks == 1 {
					testkit.Must(t, change(top))
					d.waitFor("folder lost ")
					d.waitFor("stopping ")
				}
			})
			if !bytes.Equal(content, testkit.Pattern(1600)) || failure != "" {
				t.Errorf("%d bytes, %q", len(content), failure)
			}
			status := d.waitEnd()
			lines := strings.Split(d.logged(), "\n")
			last := lines[len(lines)-1]
			if status != 1 || !strings.HasPrefix(last, "flytftp: ") || !strings.Contains(last, top+"/root") {
				t.Errorf("status %d, %q", status, last)
			}
		})
	}
}

// A signal that means nothing leaves a line, and nothing else.
func TestIgnoredSignals(t *testing.T) {
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := start(t, folder)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP} {
		testkit.Must(t, d.cmd.Process.Signal(s))
		if line := d.waitFor("ignored "); !strings.Contains(line, `signal="`+s.String()+`"`) {
			t.Errorf("%v: %s", s, line)
		}
		fetches(t, d.addr, "a.txt", "hello")
	}
	testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
	if status := d.waitEnd(); status != 0 {
		t.Errorf("status %d", status)
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
