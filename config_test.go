package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// environment returns a getenv of KEY=VALUE pairs.
func environment(pairs ...string) func(string) string {
	return func(key string) string {
		for _, pair := range pairs {
			if name, value, _ := strings.Cut(pair, "="); name == key {
				return value
			}
		}
		return ""
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		env  []string
		want func(c *config) bool
	}{
		{"", nil, func(c *config) bool {
			return slices.Equal(c.listen, []string{":69"}) && c.root == "files" && slices.Equal(c.allow, allowList{"default"}) &&
				c.http == "" && fmt.Sprint(c.limits.Clients) == "[0.0.0.0/0 ::/0]" && c.limits.MaxBlockSize == 1468 && c.limits.MaxWindowSize == 64 && c.limits.Ahead == 24 && c.limits.MaxTransfers == 2000 && c.limits.Rate == 64 &&
				c.user.String() == "65532:65532" && c.grace == 4*time.Second && !c.healthcheck && !c.version
		}},
		{"", []string{"FLY_APP_NAME=x"}, func(c *config) bool {
			return slices.Equal(c.listen, []string{"fly-global-services:69", "?fly-local-6pn:69"})
		}},
		{"", []string{"FLY_APP_NAME=x", "FLY_TEST_MACHINE_IP=fdaa::7"}, func(c *config) bool { return slices.Equal(c.listen, []string{"[fdaa::7]:69"}) }},
		{"", []string{"FLY_APP_NAME=x", "TFTP_LISTEN=:70"}, func(c *config) bool { return slices.Equal(c.listen, []string{":70"}) }},
		{"-listen :71", []string{"TFTP_LISTEN=:70"}, func(c *config) bool { return slices.Equal(c.listen, []string{":71"}) }},
		{"-listen=:71", []string{"TFTP_LISTEN=nonsense"}, func(c *config) bool { return slices.Equal(c.listen, []string{":71"}) }},
		{"-listen ?host:69,?[::1]:7", nil, func(c *config) bool { return slices.Equal(c.listen, []string{"?host:69", "?[::1]:7"}) }},
		{"--listen=127.0.0.1:0,[::1]:7,host:9", nil, func(c *config) bool {
			return slices.Equal(c.listen, []string{"127.0.0.1:0", "[::1]:7", "host:9"})
		}},
		{"-root /srv/tftp -allow txt,none -user root", nil, func(c *config) bool {
			return c.root == "/srv/tftp" && slices.Equal(c.allow, allowList{".txt", "none"}) && c.user.String() == "root"
		}},
		{"-max-blksize 512 -max-windowsize 1 -ahead 1 -max-transfers 1 -rate 1 -grace 0s", nil, func(c *config) bool {
			return c.limits.MaxBlockSize == 512 && c.limits.MaxWindowSize == 1 && c.limits.Ahead == 1 && c.limits.MaxTransfers == 1 && c.limits.Rate == 1 && c.grace == 0
		}},
		{"", []string{"TFTP_MAX_BLKSIZE=65464", "TFTP_MAX_WINDOWSIZE=32767", "TFTP_AHEAD=1024", "TFTP_MAX_TRANSFERS=100000", "TFTP_RATE=1000000", "TFTP_GRACE=1h"},
			func(c *config) bool {
				return c.limits.MaxBlockSize == 65464 && c.limits.MaxWindowSize == 32767 && c.limits.Ahead == 1024 && c.limits.MaxTransfers == 100000 &&
					c.limits.Rate == 1000000 && c.grace == time.Hour
			}},
		{"", []string{"TFTP_ROOT=/a", "TFTP_ALLOW=*", "TFTP_USER=1:2"}, func(c *config) bool {
			return c.root == "/a" && slices.Equal(c.allow, allowList{"*"}) && c.user.String() == "1:2"
		}},
		{"", []string{"TFTP_ROOT="}, func(c *config) bool { return c.root == "files" }},
		{"-clients 192.0.2.0/24,2001:db8::/48,198.51.100.7,::1", nil, func(c *config) bool {
			return fmt.Sprint(c.limits.Clients) == "[192.0.2.0/24 2001:db8::/48 198.51.100.7/32 ::1/128]"
		}},
		{"", []string{"TFTP_CLIENTS=10.0.0.0/8, fe80::/10"}, func(c *config) bool {
			return fmt.Sprint(c.limits.Clients) == "[10.0.0.0/8 fe80::/10]"
		}},
		{"-http 127.0.0.1:9069", []string{"TFTP_HTTP=nonsense"}, func(c *config) bool { return c.http == "127.0.0.1:9069" }},
		{"-http off", []string{"TFTP_HTTP=:9069"}, func(c *config) bool { return c.http == "" }},
		{"", []string{"TFTP_HTTP=[::1]:0"}, func(c *config) bool { return c.http == "[::1]:0" }},
		{"-healthcheck -listen :70", nil, func(c *config) bool { return c.healthcheck && c.listen[0] == ":70" }},
		{"-version", []string{"TFTP_RATE=nonsense"}, func(c *config) bool { return c.version }},
	} {
		got, err := parse(strings.Fields(c.args), environment(c.env...))
		if err != nil || !c.want(got) {
			t.Errorf("%q %q: %+v, %v", c.args, c.env, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  string
		want string // in the message
	}{
		{[]string{"-nonsense"}, "", `unknown flag "-nonsense"`},
		{[]string{"-nonsense=1"}, "", `unknown flag "-nonsense=1"`},
		{[]string{"---listen=:1"}, "", `unknown flag "---listen=:1"`},
		{[]string{"-"}, "", `unknown flag "-"`},
		{[]string{"--"}, "", `unknown flag "--"`},
		{[]string{"-https", ":80"}, "", `unknown flag "-https"`},
		{[]string{"files"}, "", `unexpected argument "files"`},
		{[]string{"-version", "now"}, "", `unexpected argument "now"`},
		{[]string{""}, "", `unexpected argument ""`},
		{[]string{"-root"}, "", "flag -root needs a value"},
		{[]string{"-healthcheck=true"}, "", "flag -healthcheck takes no value"},
		{[]string{"-root", ""}, "", "-root"},
		{[]string{"-listen", "6969"}, "", "-listen"},
		{[]string{"-listen", ""}, "", "-listen"},
		{[]string{"-listen", ":tftp"}, "", "-listen"},
		{[]string{"-listen", ":65536"}, "", "-listen"},
		{[]string{"-listen", ":-1"}, "", "-listen"},
		{[]string{"-listen", "::1:69"}, "", "-listen"},
		{[]string{"-listen", ":69,?:70"}, "", "needs a host"},
		{[]string{"-listen", "?"}, "", "-listen"},
		{[]string{"-listen", "??host:69"}, "", "-listen"},
		{[]string{"-listen", ":69,"}, "", "-listen"},
		{[]string{"-http", "9069"}, "", "must be HOST:PORT or :PORT, an IPv6 address in brackets, or off"},
		{[]string{"-http", ""}, "", "-http"},
		{[]string{"-http", ":65536"}, "", "the port must be a number"},
		{[]string{"-http", ":1,:2"}, "", "-http"},
		{[]string{"-allow", ""}, "", "-allow"},
		{[]string{"-allow", "default,.v*"}, "", "begins with a dot"},
		{[]string{"-clients", ""}, "", "neither an address"},
		{[]string{"-clients", "192.0.2.0/24,"}, "", "neither an address"},
		{[]string{"-clients", "::ffff:192.0.2.1"}, "", "neither an address"},
		{[]string{"-clients", "192.0.2.0/-1"}, "", "neither an address"},
		{[]string{"-clients", "192.0.2.0/33"}, "", "neither an address"},
		{[]string{"-clients", "192.0.2/24"}, "", "neither an address"},
		{[]string{"-clients", "192.0.2.0/24/8"}, "", "neither an address"},
		{[]string{"-clients", "example.org"}, "", "neither an address"},
		{[]string{"-clients", "fe80::1%lo"}, "", "neither an address"},
		{[]string{"-clients", "::ffff:192.0.2.0/120"}, "", "neither an address"},
		{[]string{"-clients", "192.0.2.7/24"}, "", "neither an address"},
		{[]string{"-clients", "2001:db8::1/48"}, "", "neither an address"},
		{[]string{"-clients", "\x1b[2J\n"}, "", `"\x1b[2J" is neither`},
		{[]string{"-max-blksize", "511"}, "", "from 512 to 65464"},
		{[]string{"-max-blksize", "65465"}, "", "from 512 to 65464"},
		{[]string{"-max-windowsize", "0"}, "", "from 1 to 32767"},
		{[]string{"-max-windowsize", "32768"}, "", "from 1 to 32767"},
		{[]string{"-ahead", "0"}, "", "from 1 to 1024"},
		{[]string{"-ahead", "1025"}, "", "from 1 to 1024"},
		{[]string{"-max-transfers", "0"}, "", "from 1 to 100000"},
		{[]string{"-max-transfers", "99999999999999999999"}, "", "from 1 to 100000"},
		{[]string{"-rate", "1.5"}, "", "from 1 to 1000000"},
		{[]string{"-rate", ""}, "", "from 1 to 1000000"},
		{[]string{"-grace", "4"}, "", "from 0s to 1h"},
		{[]string{"-grace", "-1s"}, "", "from 0s to 1h"},
		{[]string{"-grace", "61m"}, "", "from 0s to 1h"},
		{[]string{"-user", "nobody"}, "", "-user"},
		{nil, "TFTP_LISTEN=6969", "TFTP_LISTEN"},
		{nil, "TFTP_HTTP=on", "TFTP_HTTP"},
		{nil, "TFTP_ALLOW=.", "TFTP_ALLOW"},
		{nil, "TFTP_CLIENTS=10.0.0.1/8", "TFTP_CLIENTS"},
		{nil, "TFTP_MAX_BLKSIZE=511", "TFTP_MAX_BLKSIZE"},
		{nil, "TFTP_MAX_WINDOWSIZE=0", "TFTP_MAX_WINDOWSIZE"},
		{nil, "TFTP_AHEAD=0", "TFTP_AHEAD"},
		{nil, "TFTP_MAX_TRANSFERS=0", "TFTP_MAX_TRANSFERS"},
		{nil, "TFTP_RATE=0", "TFTP_RATE"},
		{nil, "TFTP_GRACE=x", "TFTP_GRACE"},
		{nil, "TFTP_USER=nobody", "TFTP_USER"},
	} {
		_, err := parse(c.args, environment(c.env))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q %q: %v; want %q", c.args, c.env, err, c.want)
		}
	}
	for _, help := range []string{"-h", "--help", "-help"} {
		if _, err := parse([]string{"-rate", "5", help}, environment()); err != errHelp {
			t.Errorf("%s: %v", help, err)
		}
	}
}

func TestUsage(t *testing.T) {
	text := usage()
	for _, o := range options(new(config), environment()) {
		for _, want := range []string{"-" + o.name, o.variable, o.values, o.defaultText(), o.meaning} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in:\n%s", want, text)
			}
		}
	}
	for _, entry := range bootFiles {
		if !strings.Contains(text, " "+entry) {
			t.Errorf("no %s in:\n%s", entry, text)
		}
	}
	for _, line := range strings.Split(text, "\n") {
		if len(line) > 100 {
			t.Errorf("a long line: %s", line)
		}
	}
}

// flyConfig returns the values of fly.toml, and what the program makes of its variables.
func flyConfig(t *testing.T, args ...string) (map[string]string, *config) {
	t.Helper()
	values := testkit.ReadTOML(t, "fly.toml")
	env := []string{"FLY_APP_NAME=flytftp"}
	for key, value := range values {
		if name, ok := strings.CutPrefix(key, "env."); ok {
			env = append(env, name+"="+value)
		}
	}
	c, err := parse(args, environment(env...))
	testkit.Must(t, err)
	return values, c
}

// fly.toml says what the program is, and what Fly.io needs to know of it.
func TestFlyConfig(t *testing.T) {
	values, c := flyConfig(t)
	table := options(new(config), environment())
	for key := range values {
		if name, ok := strings.CutPrefix(key, "env."); ok && !slices.ContainsFunc(table, func(o option) bool { return o.variable == name }) {
			t.Errorf("no option has the variable %s", name)
		}
	}
	for key, want := range map[string]string{
		"kill_signal":                   "SIGINT",
		"services.protocol":             "udp",
		"services.auto_stop_machines":   "off",
		"services.auto_start_machines":  "false",
		"services.min_machines_running": "1",
		"restart.policy":                "always",
		"checks.health.type":            "http",
		"checks.health.method":          "get",
		"checks.health.path":            "/healthz",
		"metrics.path":                  "/metrics",
	} {
		if values[key] != want {
			t.Errorf("%s is %q, want %q", key, values[key], want)
		}
	}
	for _, addr := range c.listen {
		_, port, err := net.SplitHostPort(addr)
		if err != nil || values["services.internal_port"] != port || values["services.ports.port"] != port {
			t.Errorf("listens at %s, fly.toml has the ports %s inside and %s outside", addr, values["services.internal_port"], values["services.ports.port"])
		}
	}
	for key := range values {
		if strings.HasPrefix(key, "services.ports.") && key != "services.ports.port" {
			t.Errorf("UDP takes no %s", key)
		}
	}
	// Fly.io asks from outside of the machine, over IPv4.
	host, port, err := net.SplitHostPort(c.http)
	if err != nil || host != "0.0.0.0" || values["metrics.port"] != port || values["checks.health.port"] != port || port == values["services.internal_port"] {
		t.Errorf("-http is %q, fly.toml has the ports %s for metrics and %s for health", c.http, values["metrics.port"], values["checks.health.port"])
	}
	// Half a minute, of which a disk that hangs may take 2 s (docs/architecture.md).
	kill, err := time.ParseDuration(values["kill_timeout"])
	if err != nil || kill < 25*time.Second || kill > 35*time.Second || c.grace+2*time.Second >= kill || c.grace < kill-5*time.Second {
		t.Errorf("killed after %v, %v, transfers have %v", kill, err, c.grace)
	}
	requireText(t, "docs/fly.md", fmt.Sprintf("`kill_timeout`, %.0f s, to end", kill.Seconds()), fmt.Sprintf("the %.0f s of `TFTP_GRACE`", c.grace.Seconds()))
}

// The check of a deploy runs the program in a machine of the same image, with the same variables.
func TestFlyMachineCheck(t *testing.T) {
	values, _ := flyConfig(t)
	command := strings.Trim(values["services.machine_checks.command"], `["]`)
	c, err := parse([]string{command}, environment("FLY_APP_NAME=flytftp", "FLY_TEST_MACHINE_IP=fdaa:0:1::2"))
	if err != nil || !c.healthcheck || !slices.Equal(c.listen, []string{"[fdaa:0:1::2]:69"}) {
		t.Errorf("%q asks %q, %v", command, c.listen, err)
	}
}

// The example of -clients can be meant, and lets the check of a deploy through.
func TestFlyClients(t *testing.T) {
	_, example, found := strings.Cut(testkit.ReadText(t, "fly.toml"), "# TFTP_CLIENTS = \"")
	example, _, _ = strings.Cut(example, "\"")
	c, err := parse([]string{"-clients", example}, environment())
	if !found || err != nil {
		t.Fatalf("%q: %v", example, err)
	}
	private := netip.MustParseAddr("fdaa:0:1::2")
	if !slices.ContainsFunc(c.limits.Clients, func(p netip.Prefix) bool { return p.Contains(private) }) {
		t.Errorf("%q leaves out Fly.io's private network", example)
	}
}
