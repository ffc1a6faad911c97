package main

import (
	"os"
	"strings"
	"testing"
)

// The tests run their own program again, as the benchmark does.
func TestMain(m *testing.M) {
	runArguments()
	os.Exit(m.Run())
}

func TestChoose(t *testing.T) {
	all := []string{"dnsmasq single-port", "dnsmasq", "window4-1", "window4-16"}
	for words, want := range map[string]string{
		"":                   "dnsmasq single-port dnsmasq window4-1 window4-16",
		"dnsmasq":            "dnsmasq",
		"dns":                "dnsmasq single-port dnsmasq",
		"window4-1":          "window4-1",
		"window4":            "window4-1 window4-16",
		"window4-1,single":   "dnsmasq single-port window4-1",
		"nothing":            "",
		"window4-1,window4-": "window4-1 window4-16",
	} {
		got := choose(all, words, func(s string) string { return s })
		if strings.Join(got, " ") != want {
			t.Errorf("%q chooses %q, want %q", words, got, want)
		}
	}
}
