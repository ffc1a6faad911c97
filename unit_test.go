package main

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

const unit = "deploy/systemd/flytftp.service"

// The unit starts the program with options that it has, and waits for it longer than the program
// waits for its clients.
func TestUnit(t *testing.T) {
	text := testkit.ReadText(t, unit)
	value := func(key string) string {
		match := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(text)
		if match == nil {
			t.Fatalf("the unit has no %s", key)
		}
		return match[1]
	}
	name, folder, _ := strings.Cut(value("Environment"), "=")
	c, err := parse(strings.Fields(value("ExecStart"))[1:], environment(value("Environment")))
	testkit.Must(t, err)
	if c.root != folder {
		t.Errorf("the unit sets %s, and the root is %s", name, c.root)
	}
	// What the unit sets by a flag, /etc/default/flytftp could not change.
	if args := strings.Fields(value("ExecStart")); len(args) > 1 {
		t.Errorf("the unit has the flags %q", args[1:])
	}
	stop, err := time.ParseDuration(value("TimeoutStopSec") + "s")
	testkit.Must(t, err)
	if stop <= c.grace {
		t.Errorf("systemd kills after %v, but transfers have %v", stop, c.grace)
	}
	requireText(t, "docs/systemd.md", "waits "+value("TimeoutStopSec")+" s for a stop",
		"`"+name+"` is `"+folder+"`", value("EnvironmentFile")[1:])
}

// The lines of the Debian package's configuration are options once their sign is gone.
func TestDebianDefaults(t *testing.T) {
	lines := regexp.MustCompile(`(?m)^#([A-Z_]+=.+)$`).FindAllStringSubmatch(testkit.ReadText(t, "deploy/debian/flytftp.default"), -1)
	if len(lines) == 0 {
		t.Fatal("there is none")
	}
	for _, line := range lines {
		name, _, _ := strings.Cut(line[1], "=")
		known := slices.ContainsFunc(options(new(config), environment()), func(o option) bool { return o.variable == name })
		if _, err := parse(nil, environment(line[1])); err != nil || !known {
			t.Errorf("%s: %v", line[1], err)
		}
	}
}

// The exposure of the unit is not worse than the page says.
func TestUnitExposure(t *testing.T) {
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	page := testkit.Flat(testkit.ReadText(t, "docs/systemd.md"))
	said := regexp.MustCompile(`rates the exposure of the unit at (\d+\.\d)`).FindStringSubmatch(page)
	out, _ := exec.Command(path, "security", "--offline=true", "--no-pager", unit).CombinedOutput()
	rated := regexp.MustCompile(`Overall exposure level for \S+: (\d+\.\d)`).FindSubmatch(out)
	if said == nil || rated == nil {
		t.Fatalf("no rate in docs/systemd.md, or none in\n%s", out)
	}
	most, err := strconv.ParseFloat(said[1], 64)
	testkit.Must(t, err)
	rate, err := strconv.ParseFloat(string(rated[1]), 64)
	testkit.Must(t, err)
	if rate > most {
		t.Errorf("docs/systemd.md says %s, systemd says\n%s", said[1], out)
	}
}
