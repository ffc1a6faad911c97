package main

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flytftp/singleport"
)

func TestResolve(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, c := range [][3]string{
		{":69", "", "69"}, {"127.0.0.1:69", "127.0.0.1", "69"}, {"[::1]:7", "::1", "7"},
		{"[fe80::1%lo]:7", "fe80::1%lo", "7"}, {"localhost:0", "127.0.0.1", "0"},
	} {
		host, port, err := resolve(ctx, c[0])
		if host != c[1] || port != c[2] || err != nil {
			t.Errorf("%s: %s %s %v", c[0], host, port, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 3*resolvePace/2)
	defer cancel()
	// No name of the DNS, so nobody is asked.
	if _, _, err := resolve(short, "no..name:69"); err == nil || !strings.Contains(err.Error(), "no..name:69") {
		t.Error(err)
	}
}

func TestReportSendBuffer(t *testing.T) {
	for room, want := range map[int]string{
		0:                         "",
		212_992:                   "send buffer size=212992 wanted=4194304 why=\"net.core.wmem_max is small\"\n",
		singleport.BufferSize:     "",
		2 * singleport.BufferSize: "",
	} {
		var out bytes.Buffer
		j := newJournal(&out)
		reportSendBuffer(j, room)
		j.close()
		if out.String() != want {
			t.Errorf("%d: %q", room, out.String())
		}
	}
}

func TestPreferIPv4(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if got := preferIPv4([]netip.Addr{v6, netip.AddrFrom16(v4.As16())}); got != v4 {
		t.Error(got)
	}
	if got := preferIPv4([]netip.Addr{v6}); got != v6 {
		t.Error(got)
	}
}
