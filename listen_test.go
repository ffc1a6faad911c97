package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"flytftp/singleport"
)

func TestResolve(t *testing.T) {
	for _, c := range []struct{ addrs, places, skipped string }{
		{":69", "[{ 69}]", ""},
		{"127.0.0.1:69", "[{127.0.0.1 69}]", ""},
		{"[::1]:7", "[{::1 7}]", ""},
		{"[fe80::1%lo]:7", "[{fe80::1%lo 7}]", ""},
		{"192.0.2.1:69", "[{192.0.2.1 69}]", ""}, // the bind refuses it
		{"localhost:0", "[{127.0.0.1 0}]", ""},
		{"?127.0.0.1:7", "[{127.0.0.1 7}]", ""},
		{"?localhost:7,:8", "[{127.0.0.1 7} { 8}]", ""},
		{":7,?no..name:8", "[{ 7}]", "no..name:8 not in /etc/hosts\n"},
		{"?192.0.2.1:7,127.0.0.1:8,?[2001:db8::1]:9", "[{127.0.0.1 8}]",
			"192.0.2.1:7 listen udp 192.0.2.1:0: bind: cannot assign requested address\n" +
				"[2001:db8::1]:9 listen udp [2001:db8::1]:0: bind: cannot assign requested address\n"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		places, skipped, err := resolveAll(ctx, strings.Split(c.addrs, ","), time.Millisecond)
		told := ""
		for _, s := range skipped {
			told += fmt.Sprintln(s.addr, s.why)
		}
		if fmt.Sprint(places) != c.places || told != c.skipped || err != nil {
			t.Errorf("%s: %v, skipped %q, %v", c.addrs, places, told, err)
		}
	}
	for _, addrs := range []string{"no..name:69", "?127.0.0.1:7,no..name:69", "?no..name:69", "?no..name:69,?192.0.2.1:7"} {
		short, cancel := context.WithTimeout(t.Context(), 3*resolvePace/2)
		defer cancel()
		_, _, err := resolveAll(short, strings.Split(addrs, ","), time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), "no..name:69") || !strings.Contains(err.Error(), "-listen") {
			t.Errorf("%s: %v", addrs, err)
		}
	}
}

func TestLookUp(t *testing.T) {
	const table = "127.0.0.1\tlocalhost a # b\n# 10.0.0.1 a\n\nx a\n::1 localhost\r\nfe80::1%lo Link.local\n172.19.0.3 fly-global-services"
	for name, want := range map[string]string{
		"localhost": "[127.0.0.1 ::1]", "A": "[127.0.0.1]", "b": "[]", "#": "[]", "link.local": "[fe80::1%lo]",
		"fly-global-services": "[172.19.0.3]", "fly": "[]", "127.0.0.1": "[]",
	} {
		if got := fmt.Sprint(lookUp(name, table)); got != want {
			t.Errorf("%s: %s", name, got)
		}
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
