package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// twoMachines are two servers with one address, as on Fly.io: the network of the clients sends all
// its datagrams to one of them at a time.
type twoMachines struct {
	clients  *testkit.Namespace
	machines [2]*testkit.Namespace
	servers  [2]*daemon
}

const (
	sharedAddr  = "10.9.0.69"
	clientsAddr = "10.9.0.7"
	// A transfer of movedSize bytes takes 2 s at movedRate, and is interrupted after movedAt bytes.
	movedSize = 512 << 10
	movedAt   = movedSize / 4
	movedRate = "2mbit"
)

func newTwoMachines(t *testing.T, folder string) *twoMachines {
	t.Helper()
	m := &twoMachines{clients: testkit.NewNamespace(t)}
	m.clients.IP(t, "address add "+clientsAddr+"/32 dev lo")
	for i := range m.machines {
		m.machines[i] = testkit.NewNamespace(t)
		out, in := fmt.Sprintf("machine%d", i), fmt.Sprintf("10.9.%d.", i+1)
		m.clients.IP(t,
			"link add "+out+" type veth peer name eth0 netns "+m.machines[i].Path("net"),
			"address add "+in+"1/24 dev "+out,
			"link set "+out+" up")
		m.machines[i].IP(t,
			"address add "+in+"2/24 dev eth0",
			"address add "+sharedAddr+"/32 dev lo",
			"link set eth0 up",
			"route add "+clientsAddr+"/32 via "+in+"1")
		out2, err := m.machines[i].Command("tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
			"rate", movedRate, "burst", "4kb", "latency", "500ms").CombinedOutput()
		if err != nil {
			testkit.Skip(t, fmt.Sprintf("tc: %v: %s", err, out2))
		}
		m.servers[i] = startCommand(t, m.machines[i].Command(program(), "-listen", sharedAddr+":69", "-root", folder, "-grace", "27s"))
	}
	m.route(t, 0)
	return m
}

// route has the clients' datagrams go to a machine.
func (m *twoMachines) route(t *testing.T, machine int) {
	t.Helper()
	m.clients.IP(t, fmt.Sprintf("route replace %s/32 via 10.9.%d.2 src %s", sharedAddr, machine+1, clientsAddr))
}

// awaitBytes waits until the clients have received so many bytes of a machine.
func (m *twoMachines) awaitBytes(t *testing.T, machine, count int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var table []byte
		testkit.Must(t, m.clients.Do(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/dev")
			return err
		}))
		_, line, _ := strings.Cut(string(table), fmt.Sprintf("machine%d:", machine))
		received, err := strconv.Atoi(strings.Fields(line)[0])
		testkit.Must(t, err)
		if received >= count {
			return
		}
	}
	t.Errorf("machine %d did not send %d bytes", machine, count)
}

// restless is a client that begins again when a try of it failed.
type restless struct {
	name string
	slow bool // to give up
	try  func(n *testkit.Namespace, file string) error
}

// again are the command-line clients, which a script runs until they succeed, and a boot program.
func again() (all []restless) {
	for _, c := range []struct {
		name string
		slow bool
		args []string
	}{
		// Without these options, curl waits for an hour.
		{"curl", false, []string{"curl", "-sS", "--speed-limit", "1", "--speed-time", "10", "-o", "FILE", "tftp://ADDR/NAME"}},
		{"atftp", true, atftp()},
		{"tftp-hpa", true, []string{"tftp", "-m", "binary", "HOST", "PORT", "-c", "get", "NAME", "FILE"}},
		{"busybox", false, []string{"busybox", "tftp", "-g", "-r", "NAME", "-l", "FILE", "HOST", "PORT"}},
	} {
		if _, err := exec.LookPath(c.args[0]); err == nil {
			all = append(all, restless{c.name, c.slow, func(n *testkit.Namespace, file string) error {
				out, err := n.Command(fill(c.args, sharedAddr+":69", "a.img", file)...).CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				return err
			}})
		}
	}
	return append(all, restless{"a boot program", false, func(n *testkit.Namespace, file string) error {
		var conn net.Conn
		err := n.Do(func() (err error) {
			conn, err = net.Dial("udp", sharedAddr+":69")
			return err
		})
		if err != nil {
			return err
		}
		defer conn.Close()
		content, err := bootProgram(conn, "a.img")
		return errors.Join(err, os.WriteFile(file, content, 0o644))
	}})
}

// bootProgram fetches a file in lock-step with the timer of iPXE: what got no answer is sent again
// after 0.25 s, then twice as long each time, and given up when that would be over 10 s.
func bootProgram(conn net.Conn, name string) (content []byte, err error) {
	const blockSize = 1432
	last := []byte(rrq(name, "octet", "blksize", strconv.Itoa(blockSize), "tsize", "0"))
	conn.Write(last)
	b := make([]byte, 2000)
	wait := time.Second / 4
	for next := uint16(0); ; {
		conn.SetReadDeadline(time.Now().Add(wait))
		n, err := conn.Read(b)
		switch {
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(wait) // the port is closed
			fallthrough
		case err != nil:
			if wait *= 2; wait > 10*time.Second {
				return nil, errors.New("gave up")
			}
			conn.Write(last)
			continue
		case n >= 4 && b[1] == 5:
			return nil, fmt.Errorf("ERROR %q", b[4:n])
		case n >= 2 && b[1] == 6 && next == 0:
			next = 1
		case n >= 4 && b[1] == 3 && next > 0 && binary.BigEndian.Uint16(b[2:]) == next:
			content = append(content, b[4:n]...)
			next++
		default:
			continue // a copy
		}
		wait = time.Second / 4
		last = []byte(ack(next - 1))
		conn.Write(last)
		if n > 1 && b[1] == 3 && n < 4+blockSize {
			return content, nil
		}
	}
}

// What a client sees when the machine that serves it goes: the other one, which takes its address,
// knows nothing of its transfer and is silent. Every client has the file when it begins again. A
// deploy that lets running transfers end disturbs none, nor do datagrams that go to the other
// machine for a while: an ERROR from there would end them. docs/fly.md has the times.
func TestMachineGoes(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	needRoot(t)
	needClient(t, []string{"tc"})
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(movedSize)
	testkit.WriteFile(t, folder+"/a.img", content)
	events := []struct {
		name  string
		event func(m *twoMachines)
	}{
		{"the machine is gone", func(m *twoMachines) {
			m.route(t, 1)
			m.clients.IP(t, "link set machine0 down")
		}},
		// The old machine goes on to send its block again for 30 s, and the client to wait for it.
		{"the address moves", func(m *twoMachines) { m.route(t, 1) }},
		{"a detour of 1 s", func(m *twoMachines) {
			m.route(t, 1)
			time.Sleep(time.Second)
			m.route(t, 0)
		}},
		{"a deploy", func(m *twoMachines) {
			m.servers[0].cmd.Process.Signal(syscall.SIGINT)
			if status := m.servers[0].waitEnd(); status != 0 {
				t.Errorf("status %d", status)
			}
			m.route(t, 1)
		}},
	}
	type outcome struct {
		tries        int
		noticed, all time.Duration // since the event: until the first try ended, and the last
		err          error
	}
	clients := again()
	outcomes := make([][]outcome, len(clients))
	var running sync.WaitGroup
	for i, c := range clients {
		outcomes[i] = make([]outcome, len(events))
		for j, e := range events {
			if e.name == "the address moves" && c.slow {
				continue
			}
			m := newTwoMachines(t, folder)
			running.Go(func() {
				o := &outcomes[i][j]
				file := filepath.Join(t.TempDir(), "fetched")
				happening := make(chan time.Time, 1)
				go func() {
					defer close(happening)
					m.awaitBytes(t, 0, movedAt)
					happening <- time.Now()
					e.event(m)
				}()
				var happened time.Time
				for o.tries = 1; o.tries <= 5; o.tries++ {
					os.Remove(file)
					o.err = c.try(m.clients, file)
					if o.tries == 1 {
						happened = <-happening
						o.noticed = time.Since(happened)
					}
					if o.err == nil {
						break
					}
				}
				o.all = time.Since(happened)
				<-happening // closed
				if got, err := os.ReadFile(file); o.err == nil && (err != nil || !bytes.Equal(got, content)) {
					o.err = fmt.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
	}
	running.Wait()
	documented := testkit.TableRows(testkit.ReadSection(t, "../docs/fly.md", "## When a machine goes"))
	table := "| Client |"
	for _, e := range events {
		table += " " + e.name + " |"
	}
	for i, c := range clients {
		table += "\n| " + c.name + " |"
		for j, e := range events {
			o := outcomes[i][j]
			switch {
			case o.tries > 1:
				table += fmt.Sprintf(" gave up after %.0f s, had the file after %.0f s |", o.noticed.Seconds(), o.all.Seconds())
			case o.tries == 1:
				table += fmt.Sprintf(" noticed nothing, had the file after %.0f s |", o.all.Seconds())
			default:
				table += " - |"
			}
			if o.err != nil {
				t.Errorf("%s, %s: %v", c.name, e.name, o.err)
			}
			if j < 2 && o.tries > 0 {
				row := slices.IndexFunc(documented, func(row []string) bool { return strings.HasPrefix(row[0], c.name) })
				if row < 0 {
					t.Fatalf("docs/fly.md has no row for %s", c.name)
				}
				figures := strings.Fields(documented[row][1+j]) // "13 s" or "15 to 21 s"
				most, err := strconv.ParseFloat(figures[len(figures)-2], 64)
				if err != nil || o.noticed.Seconds() > 1.5*most+5 { // for a busy machine
					t.Errorf("%s, %s: gave up after %v, docs/fly.md says %s", c.name, e.name, o.noticed, documented[row][1+j])
				}
			}
			if strings.HasPrefix(e.name, "a ") && o.tries > 1 || e.name == "the machine is gone" && o.tries == 1 {
				t.Errorf("%s, %s: %d tries", c.name, e.name, o.tries)
			}
		}
	}
	t.Logf("%d bytes at %s:\n%s", movedSize, movedRate, table)
}
