package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"flytftp/sandbox"
	"flytftp/singleport"
)

// config is what the command line and the environment ask for.
type config struct {
	listen      []string // HOST:PORT each, with the mark optional where it may be absent
	http        string   // HOST:PORT, empty for none
	root        string
	allow       allowList
	limits      singleport.Config
	user        sandbox.User
	grace       time.Duration
	healthcheck bool
	version     bool
}

// Defaults and bounds of the options that singleport does not name.
const (
	defaultListen = ":69" // IANA's port for TFTP, on IPv4 and IPv6
	noHTTP        = "off"
	defaultRoot   = "files"
	defaultUser   = "65532:65532" // "nonroot" of distroless images
	defaultGrace  = "4s"          // Fly.io kills after 5 s
	maxGrace      = time.Hour
	maxTransfers  = 100_000
	everyone      = "0.0.0.0/0,::/0"
)

// flyListen is what :69 is elsewhere, all addresses of a Fly machine: answers to the internet must
// leave from the first, and the second is its address in the private network.
const flyListen = "fly-global-services:69,?fly-local-6pn:69"

// option is one flag, with all that -h, the environment and the README say about it.
type option struct {
	name     string
	variable string // of the environment; empty where there is none
	initial  string // the default
	shown    string // how help names the default, where that is not its text
	values   string // what may be set
	meaning  string
	set      func(string) error // nil for a switch
	on       *bool              // what a switch sets
}

// options returns the table of options, which write to c. getenv tells whether this is a Fly
// machine.
func options(c *config, getenv func(string) string) []option {
	listen := defaultListen
	if getenv("FLY_APP_NAME") != "" {
		listen = flyListen
	}
	// In a machine that Fly.io starts to test another, -healthcheck asks that one.
	if tested := getenv("FLY_TEST_MACHINE_IP"); tested != "" {
		listen = net.JoinHostPort(tested, "69")
	}
	return []option{
		{name: "listen", variable: "TFTP_LISTEN", initial: listen, shown: defaultListen + ", on Fly.io " + flyListen, values: "HOST:PORT,...",
			meaning: "UDP addresses; :PORT is IPv4 and IPv6, 0 picks one, ?HOST:PORT may be absent", set: c.setListen},
		{name: "http", variable: "TFTP_HTTP", initial: noHTTP, values: "HOST:PORT",
			meaning: "TCP address of /healthz, /readyz and /metrics; never a public one", set: c.setHTTP},
		{name: "root", variable: "TFTP_ROOT", initial: defaultRoot, values: "a folder",
			meaning: "folder of the files that are served", set: c.setRoot},
		{name: "allow", variable: "TFTP_ALLOW", initial: "default", values: "a list",
			meaning: "names that may be read: default (boot files), extensions, none, patterns, *", set: c.setAllow},
		{name: "clients", variable: "TFTP_CLIENTS", initial: everyone, values: "CIDR,...",
			meaning: "networks and addresses that are answered; others get silence", set: c.setClients},
		number("max-blksize", "TFTP_MAX_BLKSIZE", singleport.DefaultMaxBlockSize, singleport.DefaultBlockSize, singleport.MaxBlockSize,
			"largest blksize granted, in bytes", &c.limits.MaxBlockSize),
		number("max-windowsize", "TFTP_MAX_WINDOWSIZE", singleport.DefaultMaxWindowSize, 1, singleport.MaxWindowSize,
			"largest windowsize granted, in blocks", &c.limits.MaxWindowSize),
		number("ahead", "TFTP_AHEAD", singleport.DefaultAhead, 1, singleport.MaxAhead,
			"blocks in flight ahead of their ACK; 1 is RFC 1350 and 7440 to the letter", &c.limits.Ahead),
		number("max-transfers", "TFTP_MAX_TRANSFERS", singleport.DefaultMaxTransfers, 1, maxTransfers,
			"transfers at a time; above it requests get ERROR 0", &c.limits.MaxTransfers),
		number("rate", "TFTP_RATE", singleport.DefaultRate, 1, singleport.MaxRate,
			"requests a second from one /24 of IPv4 or /56 of IPv6", &c.limits.Rate),
		{name: "user", variable: "TFTP_USER", initial: defaultUser, values: "UID:GID or root",
			meaning: "who to become after the bind when started as root", set: c.setUser},
		{name: "grace", variable: "TFTP_GRACE", initial: defaultGrace, values: "0s to " + hours(maxGrace),
			meaning: "how long a stop waits for running transfers", set: c.setGrace},
		{name: "healthcheck", meaning: "ask the server at -listen, exit 0 if it answers, else 1", on: &c.healthcheck},
		{name: "version", meaning: "print the version and exit", on: &c.version},
	}
}

func number(name, variable string, initial, lowest, highest int, meaning string, target *int) option {
	values := fmt.Sprintf("%d to %d", lowest, highest)
	return option{name: name, variable: variable, initial: strconv.Itoa(initial), values: values, meaning: meaning,
		set: func(value string) error {
			n, err := strconv.Atoi(value)
			if err != nil || n < lowest || n > highest {
				return errors.New("must be a number from " + values)
			}
			*target = n
			return nil
		}}
}

func hours(d time.Duration) string { return strconv.Itoa(int(d.Hours())) + "h" }

func (c *config) setListen(value string) error {
	c.listen = strings.Split(value, ",")
	for i, addr := range c.listen {
		addr = strings.TrimSpace(addr)
		place, mayBeAbsent := strings.CutPrefix(addr, optional)
		if err := checkAddr(place, ", several with commas"); err != nil {
			return err
		}
		if mayBeAbsent && (place[0] == ':' || strings.HasPrefix(place, optional)) {
			return errors.New("? needs a host")
		}
		c.listen[i] = addr
	}
	return nil
}

func (c *config) setHTTP(value string) error {
	if c.http = ""; value == noHTTP {
		return nil
	}
	c.http = value
	return checkAddr(value, ", or "+noHTTP)
}

// checkAddr returns an error, to which more is added, unless addr has the form HOST:PORT.
func checkAddr(addr, more string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("must be HOST:PORT or :PORT, an IPv6 address in brackets" + more)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return errors.New("the port must be a number from 0 to 65535")
	}
	return nil
}

func (c *config) setRoot(value string) error {
	if value == "" {
		return errors.New("must be a folder")
	}
	c.root = value
	return nil
}

func (c *config) setAllow(value string) (err error) {
	c.allow, err = parseAllow(value)
	return err
}

func (c *config) setClients(value string) error {
	c.limits.Clients = nil
	for _, entry := range strings.Split(value, ",") {
		entry = strings.TrimSpace(entry)
		address, length, hasLength := strings.Cut(entry, "/")
		addr, err := netip.ParseAddr(address)
		bits := addr.BitLen()
		if hasLength && err == nil {
			bits, err = strconv.Atoi(length)
		}
		network, failed := addr.Prefix(bits)
		if err != nil || failed != nil || network.Addr() != addr || addr.Is4In6() {
			return fmt.Errorf("%+q is neither an address nor a network such as 192.0.2.0/24 or 2001:db8::/48", entry)
		}
		c.limits.Clients = append(c.limits.Clients, network)
	}
	return nil
}

func (c *config) setUser(value string) (err error) {
	c.user, err = sandbox.ParseUser(value)
	return err
}

func (c *config) setGrace(value string) (err error) {
	c.grace, err = time.ParseDuration(value)
	if err != nil || c.grace < 0 || c.grace > maxGrace {
		return errors.New("must be a duration from 0s to " + hours(maxGrace) + ", such as 4s")
	}
	return nil
}

// errHelp is parse's error for -h.
var errHelp = errors.New("help")

// parse reads the command line, and takes from the environment what the command line leaves out. An
// empty variable counts as not set, because compose files cannot unset one.
func parse(args []string, getenv func(string) string) (*config, error) {
	c := new(config)
	table := options(c, getenv)
	for _, o := range table {
		if o.on == nil {
			if err := o.set(o.initial); err != nil {
				return nil, fmt.Errorf("default of -%s: %w", o.name, err)
			}
		}
	}
	given, err := parseFlags(args, table)
	if err != nil || c.version {
		return c, err
	}
	for _, o := range table {
		if value := getenv(o.variable); value != "" && !given[o.name] {
			if err := o.set(value); err != nil {
				return nil, fmt.Errorf("value %+q of the variable %s: %w", value, o.variable, err)
			}
		}
	}
	return c, nil
}

// parseFlags sets what args give and returns the names that it met. It takes the forms of package
// flag, -name value and -name=value with one dash or two, for a tenth of its size.
func parseFlags(args []string, table []option) (given map[string]bool, err error) {
	given = map[string]bool{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") {
			return nil, fmt.Errorf("unexpected argument %+q", arg)
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if name == "h" || name == "help" {
			return nil, errHelp
		}
		o := find(table, name)
		if o == nil {
			return nil, fmt.Errorf("unknown flag %+q", arg)
		}
		given[name] = true
		if o.on != nil {
			if hasValue {
				return nil, fmt.Errorf("flag -%s takes no value", name)
			}
			*o.on = true
			continue
		}
		if !hasValue {
			if len(args) == 0 {
				return nil, fmt.Errorf("flag -%s needs a value", name)
			}
			value, args = args[0], args[1:]
		}
		if err := o.set(value); err != nil {
			return nil, fmt.Errorf("value %+q of the flag -%s: %w", value, name, err)
		}
	}
	return given, nil
}

func find(table []option, name string) *option {
	for i := range table {
		if table[i].name == name {
			return &table[i]
		}
	}
	return nil
}

// usage returns what -h prints.
func usage() string {
	var b strings.Builder
	b.WriteString(`flytftp serves the files of a folder over TFTP: read-only, on one UDP port, for network boot.

Usage: flytftp [flags]

A flag wins over its environment variable.

`)
	for _, o := range options(new(config), func(string) string { return "" }) {
		fmt.Fprintf(&b, "  -%s", o.name)
		if o.variable != "" {
			fmt.Fprintf(&b, "  %s", o.values)
		}
		fmt.Fprintf(&b, "\n        %s\n", o.meaning)
		if o.variable != "" {
			fmt.Fprintf(&b, "        %s, default %s\n", o.variable, o.defaultText())
		}
	}
	b.WriteString("\n-allow default stands for these extensions and patterns of names:\n")
	line := ""
	for _, entry := range bootFiles {
		if len(line)+len(entry) > 76 {
			fmt.Fprintf(&b, " %s\n", line)
			line = ""
		}
		line += " " + entry
	}
	fmt.Fprintf(&b, " %s\n", line)
	return b.String()
}

func (o option) defaultText() string {
	if o.shown != "" {
		return o.shown
	}
	return o.initial
}
