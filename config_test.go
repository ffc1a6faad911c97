package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
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
		{"", []string{"FLY_APP_NAME=x"}, func(c *config) bool { return slices.Equal(c.listen, []string{"fly-global-services:69"}) }},
		{"", []string{"FLY_APP_NAME=x", "TFTP_LISTEN=:70"}, func(c *config) bool { return slices.Equal(c.listen, []string{":70"}) }},
		{"-listen :71", []string{"TFTP_LISTEN=:70"}, func(c *config) bool { return slices.Equal(c.listen, []string{":71"}) }},
		{"-listen=:71", []string{"TFTP_LISTEN=nonsense"}, func(c *config) bool { return slices.Equal(c.listen, []string{":71"}) }},
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
