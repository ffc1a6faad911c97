package main

import (
	"slices"
	"strings"
	"testing"
)

func TestChooseContenders(t *testing.T) {
	for words, want := range map[string]string{
		"":                       "flytftp, pin/tftp single-port, dnsmasq single-port, dnsmasq, tftpd-hpa, atftpd",
		"flytftp":                "flytftp",
		"fly":                    "flytftp",
		"flytftp,flytftp-ahead1": "flytftp, flytftp-ahead1",
		"ahead1,atftpd":          "atftpd",
	} {
		var got []string
		for _, p := range chooseContenders(contenders("flytftp", "bare"), words) {
			got = append(got, p.name)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%q chooses %q, want %q", words, got, want)
		}
	}
	for _, p := range contenders("flytftp", "bare") {
		if p.name == nameAhead1 {
			argv, _, err := p.command("folder", 1428)
			if i := slices.Index(argv, "-ahead"); err != nil || i < 0 || argv[i+1] != "1" {
				t.Errorf("%s runs %q, %v", p.name, argv, err)
			}
		}
	}
}
