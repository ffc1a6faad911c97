package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

// flyMachine is a network with the addresses and the hosts file of a machine of Fly.io.
type flyMachine struct {
	*testkit.Namespace
	hosts string // the file that is its /etc/hosts
}

// The addresses of a flyMachine, and the hosts files before and after they are known.
const (
	globalServices = "172.19.0.2"
	local6PN       = "fdaa:0:18:a7b:7d:f:1234:2"
	hostsBefore    = "127.0.0.1 localhost\n"
	hostsPublic    = hostsBefore + globalServices + " fly-global-services\n"
	hostsBoth      = hostsPublic + local6PN + " 1234.vm.example.internal fly-local-6pn\n"
)

func newFlyMachine(t *testing.T, hosts string) *flyMachine {
	t.Helper()
	needRoot(t)
	m := &flyMachine{testkit.NewNamespace(t), testkit.PublicFolder(t) + "/hosts"}
	m.IP(t, "address add "+globalServices+"/30 dev lo", "address add "+local6PN+"/112 dev lo nodad")
	testkit.WriteFile(t, m.hosts, []byte(hosts))
	testkit.Must(t, m.Do(func() error { return unix.Mount(m.hosts, "/etc/hosts", "", unix.MS_BIND, "") }))
	return m
}

// env returns the variables that a machine has, with those of fly.toml.
func (m *flyMachine) env(t *testing.T) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "FLY_APP_NAME=flytftp"}
	for key, value := range testkit.ReadTOML(t, "../fly.toml") {
		if name, ok := strings.CutPrefix(key, "env."); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// start starts the program as Fly.io does: as root, without flags.
func (m *flyMachine) start(t *testing.T, folder string) *daemon {
	t.Helper()
	cmd := m.Command(program())
	cmd.Env = append(m.env(t), "TFTP_ROOT="+folder)
	return startCommand(t, cmd)
}

// checkHTTP fetches what fly.toml has Fly.io ask for, from an address of the machine that is not
// loopback.
func (m *flyMachine) checkHTTP(t *testing.T) {
	t.Helper()
	values := testkit.ReadTOML(t, "../fly.toml")
	for page, want := range map[string]string{"checks.health": "ok", "metrics": "flytftp_requests_total{"} {
		client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
				err = m.Do(func() (err error) {
					conn, err = net.Dial("tcp", net.JoinHostPort(globalServices, values[page+".port"]))
					return err
				})
				return conn, err
			}}}
		response, err := client.Get("http://machine" + values[page+".path"])
		testkit.Must(t, err)
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v, %.300q; want %q", page, response.Status, err, body, want)
		}
	}
}

// With the variables of fly.toml, the server listens for the internet and for the private network.
// A machine in the test network of a deploy reaches it there.
func TestFlyMachine(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	m := newFlyMachine(t, hostsBoth)
	d := m.start(t, folder)
	if want := []string{globalServices + ":69", "[" + local6PN + "]:69"}; fmt.Sprint(d.addrs) != fmt.Sprint(want) {
		t.Fatalf("listens at %s, want %s", d.addrs, want)
	}
	for _, addr := range d.addrs {
		if content, refusal := dialIn(t, m.Namespace, "", addr).fetch(rrq("a.txt", "octet"), nil); string(content) != "hello" {
			t.Errorf("%s: %q, ERROR %q", addr, content, refusal)
		}
	}
	m.checkHTTP(t)
	for _, env := range []string{"", "FLY_TEST_MACHINE_IP=" + local6PN} {
		cmd := m.Command(program(), "-healthcheck")
		cmd.Env = append(m.env(t), env)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("-healthcheck %s: %v: %s", env, err, out)
		}
	}
	testkit.Must(t, d.cmd.Process.Signal(os.Interrupt))
	if status := d.waitEnd(); status != 0 {
		t.Errorf("status %d", status)
	}
	cmd := m.Command(program(), "-healthcheck")
	cmd.Env = append(m.env(t), "FLY_TEST_MACHINE_IP="+local6PN)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), local6PN) {
		t.Errorf("-healthcheck of a machine that is not served: %v: %s", err, out)
	}
}

// Without a private network the server serves the internet, and says so once. A name that comes
// late is waited for.
func TestFlyMachineWithoutPrivateNetwork(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	m := newFlyMachine(t, hostsPublic)
	d := m.start(t, folder)
	if len(d.addrs) != 1 || d.addr != globalServices+":69" {
		t.Errorf("listens at %s", d.addrs)
	}
	const line = `skipped listen="fly-local-6pn:69" why="not in /etc/hosts"`
	if strings.Count(d.logged(), line+"\n") != 1 {
		t.Errorf("no line %s", line)
	}
	cmd := m.Command(program(), "-healthcheck")
	cmd.Env = m.env(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("-healthcheck: %v: %s", err, out)
	}

	late := newFlyMachine(t, hostsBefore)
	go func() {
		time.Sleep(time.Second) // of the 5 s that a start waits
		os.WriteFile(late.hosts, []byte(hostsBoth), 0o644)
	}()
	if d := late.start(t, folder); len(d.addrs) != 2 {
		t.Errorf("listens at %s", d.addrs)
	}
}

// An address with ? may be absent, but not all of them.
func TestAbsentAddresses(t *testing.T) {
	testkit.SkipIfShort(t)
	t.Parallel()
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d := start(t, folder, "-listen", "?192.0.2.1:0,127.0.0.1:0,?no..name:0,?[::1]:0,?[2001:db8::1]:0")
	for _, line := range []string{
		`skipped listen="192.0.2.1:0" why="listen udp 192.0.2.1:0: bind: cannot assign requested address"`,
		`skipped listen="no..name:0" why="not in /etc/hosts"`,
		`skipped listen="[2001:db8::1]:0" why="listen udp [2001:db8::1]:0: bind: cannot assign requested address"`,
	} {
		if !strings.Contains(d.logged(), line+"\n") {
			t.Errorf("no line %s in\n%s", line, d.logged())
		}
	}
	for _, addr := range d.addrs {
		fetches(t, addr, "a.txt", "hello")
	}
	health := "?192.0.2.1:69,?no..name:7," + d.addr
	if _, stderr, status := output(t, nil, "-healthcheck", "-listen", health); status != 0 {
		t.Error(stderr)
	}
	fails(t, []string{"-root", folder, "-listen", "?192.0.2.1:0,?no..name:0"}, "", 1, "no address of -listen is there", "192.0.2.1")
	fails(t, []string{"-healthcheck", "-listen", "?192.0.2.1:69"}, "", 1, "no address of -listen is there", "192.0.2.1")
	fails(t, []string{"-listen", "?:69"}, "", 2, "-listen", "needs a host")
	// What is there and taken is an error, whether it may be absent or not.
	fails(t, []string{"-root", folder, "-listen", "127.0.0.1:0,?" + d.addr}, "", 1, d.addr, "in use")
}
