package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// What docs/architecture.md says of a disk that hangs.
const (
	mostHanging = 64 // keep no other file from being served
	mostAtWork  = 64 // beside these
)

// threads returns how many threads the daemon has.
func (d *daemon) threads() int {
	d.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.cmd.Process.Pid))
	testkit.Must(d.t, err)
	return len(entries)
}

// A disk that never answers harms its own files alone: 64 reads, or opens, that do not return stop
// no other. A transfer that runs goes on, new ones are served, and the clients of the files that
// hang are told. Threads are bounded, and the log says once what to do. Once the disk answers, its
// files are served.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	for what, hangs := range map[string]func(operation uint32, name string) bool{
		"reads": func(operation uint32, name string) bool {
			return operation == fuseRead && strings.HasPrefix(name, "lost")
		},
		"all": func(uint32, string) bool { return true },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			root := testkit.PublicFolder(t)
			var names []string
			for i := range mostHanging {
				names = append(names, fmt.Sprintf("lost%d.img", i))
			}
			testkit.Must(t, os.Mkdir(root+"/disk", 0o755))
			f := mountFuse(t, root+"/disk", append(names, "kept.img"), testkit.Pattern(4<<20))
			testkit.WriteFile(t, root+"/kept.img", f.content)
			small := testkit.Pattern(3000)
			testkit.WriteFile(t, root+"/small.img", small)
			healthy := "disk/kept.img" // on the same disk
			if what == "all" {
				healthy = "kept.img"
			}
			d := f.start(t, root, "-grace", "1s")

			// A transfer that reads again and again while files hang.
			told, ran := make(chan struct{}), make(chan string, 1)
			go func() {
				defer close(ran)
				content, refusal := dialIn(t, f.Namespace, "127.0.0.9", d.addr).fetch(rrq(healthy, "octet"), func(int) {
					select {
					case <-told:
					case <-time.After(4 * time.Millisecond):
					}
				})
				if !bytes.Equal(content, f.content) {
					refusal += fmt.Sprintf(" after %d bytes", len(content))
				}
				ran <- refusal
			}()

			// Every file has a client, and some have many. Each asks once.
			f.hang(hangs)
			var clients []*client
			began := time.Now()
			for i := range 2 * mostHanging {
				c := dialIn(t, f.Namespace, fmt.Sprintf("127.1.%d.1", i), d.addr)
				c.conn.Write([]byte(rrq("disk/"+names[min(i, mostHanging-1)], "octet")))
				clients = append(clients, c)
			}
			d.waitFor("disk hangs operations=")
			served := func(when string) {
				began := time.Now()
				content, refusal := dialIn(t, f.Namespace, "127.0.8.1", d.addr).fetch(rrq("small.img", "octet"), nil)
				if !bytes.Equal(content, small) || refusal != "" {
					t.Errorf("%s: %d bytes, ERROR %q", when, len(content), refusal)
				}
				t.Logf("a file %s took %v", when, time.Since(began))
			}
			served("that hangs not")
			most := d.threads()
			b := make([]byte, 1000)
			for _, c := range clients {
				c.conn.SetReadDeadline(time.Now().Add(patience))
				n, err := c.conn.Read(b)
				if err != nil || string(b[:n]) != serverBusy {
					t.Errorf("a client of a file that hangs received %q, %v", b[:n], err)
				}
				most = max(most, d.threads())
			}
			t.Logf("%d clients were told within %v; %d operations hang, the process has %d threads at most",
				len(clients), time.Since(began).Round(time.Millisecond), f.waiting(), most)
			if waiting := f.waiting(); waiting < mostHanging {
				t.Errorf("%d operations hang, want %d: this shows nothing", waiting, mostHanging)
			}
			if most < mostHanging || most > mostHanging+mostAtWork+20 { // 20 are Go's
				t.Errorf("%d threads", most)
			}
			close(told)
			if refusal := <-ran; refusal != "" {
				t.Errorf("the transfer that ran: %q", refusal)
			}
			served("later")
			d.waitFor("hanging file=")
			if lines := strings.Count(d.logged(), "disk hangs "); lines != 1 {
				t.Errorf("%d lines say that the disk hangs", lines)
			}
			if lines := strings.Count(d.logged(), "\nhanging file="); lines == 0 || lines > 200 {
				t.Errorf("%d lines of files that hang", lines)
			}

			f.heal()
			d.waitFor("disk answers ")
			if strings.Contains(d.logged(), "\nfailed file=") {
				t.Error("clients that were told have a second line")
			}
			for _, name := range []string{names[0], names[mostHanging-1]} {
				content, refusal := dialIn(t, f.Namespace, "127.0.7.1", d.addr).fetch(rrq("disk/"+name, "octet"), nil)
				if !bytes.Equal(content, f.content) || refusal != "" {
					t.Errorf("%s once the disk answers: %d bytes, ERROR %q", name, len(content), refusal)
				}
			}

			// While the disk hangs again, a stop ends the program as soon as the kernel lets go.
			f.hang(func(uint32, string) bool { return true })
			dialIn(t, f.Namespace, "127.0.6.1", d.addr).conn.Write([]byte(rrq("disk/"+names[1], "octet")))
			for deadline := time.Now().Add(patience); f.waiting() == 0 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
			d.waitFor("stopped")
			f.heal()
			if status := d.waitEnd(); status != 0 {
				t.Errorf("status %d", status)
			}
		})
	}
}

// A mount that the program can read until its fences stand, as was seen of bind mounts of Docker
// Desktop, ends the start with a hint. Here the mount itself refuses the program from then on:
// before, the folder is opened four times.
func TestMountBehindTheFences(t *testing.T) {
	t.Parallel()
	root := testkit.PublicFolder(t)
	f := mountFuse(t, root, []string{"a.img"}, []byte("hello"))
	for openers, want := range map[int]string{
		0: "",
		5: "the sandbox does not fit this mount: put the files into a volume or into the image",
		3: "cannot read the folder", // to the user that it became
	} {
		f.mu.Lock()
		f.openers = openers
		f.mu.Unlock()
		if want == "" {
			d := f.start(t, root)
			if content, refusal := dialIn(t, f.Namespace, "", d.addr).fetch(rrq("a.img", "octet"), nil); string(content) != "hello" {
				t.Errorf("%q, ERROR %q", content, refusal)
			}
			continue
		}
		out, err := f.Command(program(), "-listen", "127.0.0.1:0", "-root", root).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		last := lines[len(lines)-1]
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.HasPrefix(last, "flytftp: ") || !strings.Contains(last, want) {
			t.Errorf("%d: %v: %s, want %s", openers, err, out, want)
		}
		if openers == 5 && !strings.Contains(string(out), "sandbox landlock=") {
			t.Errorf("it ended before the fences:\n%s", out)
		}
		if openers == 3 && strings.Contains(string(out), "sandbox landlock=") {
			t.Errorf("it ended behind the fences:\n%s", out)
		}
	}
}
