package main

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// contender is a server of the comparison: flytftp or one of its peers.
type contender struct {
	name  string
	forks bool // works in child processes
	asked bool // takes part only if -peers has its name
	// command returns what to run to serve folder in blocks of at most blockSize, and where it will
	// listen. If the address is zero it is read from the server's output.
	command func(folder string, blockSize int) (argv []string, addr netip.AddrPort, err error)
	missing string // why it takes no part, "" if it does
}

// manyTransfers is room for the 1,000 clients and for transfers whose last ACK was lost.
const manyTransfers = "4000"

const (
	nameFlytftp       = "flytftp"
	nameAhead1        = "flytftp-ahead1" // lock-step and windows to the letter
	nameBare          = "pin/tftp single-port"
	nameDnsmasqSingle = "dnsmasq single-port"
)

// contenders returns every server of the comparison; flytftp and bare are paths of binaries.
func contenders(flytftp, bare string) []*contender {
	ours := func(more ...string) func(string, int) ([]string, netip.AddrPort, error) {
		return func(folder string, _ int) ([]string, netip.AddrPort, error) {
			argv := []string{flytftp, "-listen", "127.0.0.1:0", "-root", folder, "-allow", "*,none",
				"-rate", "1000000", "-max-transfers", manyTransfers, "-max-blksize", "65464"}
			return append(argv, more...), netip.AddrPort{}, nil
		}
	}
	all := []*contender{
		{name: nameFlytftp, command: ours()},
		{name: nameAhead1, asked: true, command: ours("-ahead", "1")},
		{name: nameBare, command: func(folder string, blockSize int) ([]string, netip.AddrPort, error) {
			return []string{bare, "127.0.0.1:0", folder, strconv.Itoa(blockSize)}, netip.AddrPort{}, nil
		}},
	}
	all = append(all, dnsmasqs()...)
	tftpd := installed("in.tftpd", "IN_TFTPD")
	hpa := &contender{name: "tftpd-hpa", forks: true, command: func(folder string, _ int) ([]string, netip.AddrPort, error) {
		addr, err := freeAddress()
		return []string{tftpd, "-L", "-a", addr.String(), "-s", folder}, addr, err
	}}
	switch {
	case tftpd == "":
		hpa.missing = "in.tftpd is not installed ($IN_TFTPD, PATH, /usr/sbin)"
	case os.Geteuid() != 0:
		hpa.missing = "in.tftpd needs root for its chroot"
	}
	atftpd := installed("atftpd", "ATFTPD")
	atftp := &contender{name: "atftpd", command: func(folder string, _ int) ([]string, netip.AddrPort, error) {
		addr, err := freeAddress()
		return []string{atftpd, "--daemon", "--no-fork", "--bind-address", "127.0.0.1", "--port", strconv.Itoa(int(addr.Port())),
			"--maxthread", manyTransfers, "--logfile", "-", folder}, addr, err
	}}
	if atftpd == "" {
		atftp.missing = "atftpd is not installed ($ATFTPD, PATH, /usr/sbin, the cache that -h names)"
	}
	return append(all, hpa, atftp)
}

// dnsmasqs returns dnsmasq in both modes. It serves on port 69 only; with two addresses both modes
// can run at a time.
func dnsmasqs() []*contender {
	program := installed("dnsmasq", "DNSMASQ")
	dnsmasq := func(name, address string, more ...string) *contender {
		p := &contender{name: name, command: func(folder string, _ int) ([]string, netip.AddrPort, error) {
			argv := []string{program, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--enable-tftp",
				"--tftp-root=" + folder, "--tftp-max=" + manyTransfers, "--log-facility=-", "--pid-file=", "--user=root"}
			return append(argv, more...), netip.AddrPortFrom(netip.MustParseAddr(address), 69), nil
		}}
		switch {
		case program == "":
			p.missing = "dnsmasq is not installed ($DNSMASQ, PATH, /usr/sbin)"
		case !namespaced():
			p.missing = "dnsmasq takes port 69 alone: run as root, for a network namespace"
		}
		return p
	}
	return []*contender{
		// Bound to one address, single-port mode would not know which one to answer from.
		dnsmasq(nameDnsmasqSingle, "127.0.0.1", "--interface=lo", "--tftp-single-port"),
		dnsmasq("dnsmasq", "127.0.0.2", "--bind-interfaces", "--listen-address=127.0.0.2"),
	}
}

// chooseContenders returns those that -peers chooses. Some take part only under their full names.
func chooseContenders(all []*contender, words string) []*contender {
	chosen := choose(all, words, func(p *contender) string { return p.name })
	return slices.DeleteFunc(chosen, func(p *contender) bool {
		return p.asked && !slices.Contains(strings.Split(words, ","), p.name)
	})
}

// cacheFolder is where a peer can be unpacked that cannot be installed beside another.
func cacheFolder() string {
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "flytftp-bench")
}

// installed returns the path of a program, "" if it is not installed.
func installed(name, variable string) string {
	for _, path := range []string{os.Getenv(variable), name, "/usr/sbin/" + name, filepath.Join(cacheFolder(), "usr/sbin", name)} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	return ""
}

// freeAddress returns a port of loopback that nothing is bound to.
func freeAddress() (netip.AddrPort, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}
