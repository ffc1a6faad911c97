package main

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// peer is a server that takes part.
type peer struct {
	name  string
	forks bool // works in child processes
	// command returns what to run to serve folder in blocks of at most blockSize, and where it will listen; a zero address is read from its output.
	command func(folder string, blockSize int) (argv []string, addr netip.AddrPort, err error)
	missing string // why it does not take part
}

// The clients that the tables have at a time at most, with room for transfers whose last ACK was lost.
const manyTransfers = "4000"

const (
	nameFlytftp       = "flytftp"
	nameBare          = "pin/tftp single-port"
	nameDnsmasqSingle = "dnsmasq single-port"
)

// peers returns every server of the comparison; flytftp and bare are paths of binaries.
func peers(flytftp, bare string) []*peer {
	all := []*peer{
		{name: nameFlytftp, command: func(folder string, _ int) ([]string, netip.AddrPort, error) {
			return []string{flytftp, "-listen", "127.0.0.1:0", "-root", folder, "-allow", "*,none", "-rate", "1000000",
				"-max-transfers", manyTransfers, "-max-blksize", "65464"}, netip.AddrPort{}, nil
		}},
		{name: nameBare, command: func(folder string, blockSize int) ([]string, netip.AddrPort, error) {
			return []string{bare, "127.0.0.1:0", folder, strconv.Itoa(blockSize)}, netip.AddrPort{}, nil
		}},
	}
	dnsmasq := installed("dnsmasq", "DNSMASQ")
	for _, single := range []bool{true, false} {
		p := &peer{name: "dnsmasq"}
		if single {
			p.name = nameDnsmasqSingle
		}
		p.command = func(folder string, _ int) ([]string, netip.AddrPort, error) {
			argv := []string{dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--enable-tftp",
				"--tftp-root=" + folder, "--tftp-max=" + manyTransfers, "--log-facility=-", "--pid-file=", "--user=root"}
			// It takes no port but 69; two addresses let both run at a time. With a bound address single-port mode
			// does not know where it answers from, so it has the wildcard address.
			if single {
				return append(argv, "--interface=lo", "--tftp-single-port"), netip.MustParseAddrPort("127.0.0.1:69"), nil
			}
			return append(argv, "--bind-interfaces", "--listen-address=127.0.0.2"), netip.MustParseAddrPort("127.0.0.2:69"), nil
		}
		switch {
		case dnsmasq == "":
			p.missing = "dnsmasq is not installed ($DNSMASQ, PATH, /usr/sbin)"
		case !namespaced():
			p.missing = "dnsmasq takes port 69 alone: run as root, for a network namespace"
		}
		all = append(all, p)
	}
	tftpd := installed("in.tftpd", "IN_TFTPD")
	hpa := &peer{name: "tftpd-hpa", forks: true, command: func(folder string, _ int) ([]string, netip.AddrPort, error) {
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
	atftp := &peer{name: "atftpd", command: func(folder string, _ int) ([]string, netip.AddrPort, error) {
		addr, err := freeAddress()
		return []string{atftpd, "--daemon", "--no-fork", "--bind-address", "127.0.0.1", "--port", strconv.Itoa(int(addr.Port())),
			"--maxthread", manyTransfers, "--logfile", "-", folder}, addr, err
	}}
	if atftpd == "" {
		atftp.missing = "atftpd is not installed ($ATFTPD, PATH, /usr/sbin, the cache that -h names)"
	}
	return append(all, hpa, atftp)
}

// cacheFolder is where a peer that cannot be installed beside another can be unpacked.
func cacheFolder() string {
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "flytftp-bench")
}

// installed returns the path of a program, "" where there is none.
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
