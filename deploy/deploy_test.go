// Package deploy has no code. Its tests hold the files by which flytftp is deployed and watched
// against the program and against the tools that read them.
package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"flytftp/internal/testkit"
	"flytftp/singleport"
)

const (
	rulesFile     = "prometheus/flytftp.rules.yml"
	rulesTestFile = "prometheus/flytftp.rules.test.yml"
	configFile    = "prometheus/prometheus.yml"
	dashboardFile = "grafana/flytftp.json"
)

// program reads the metrics of the program from its source. That a running program has the same is
// tested elsewhere.
func program(t *testing.T) catalogue {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../metrics.go", nil, 0)
	testkit.Must(t, err)
	c := catalogue{}
	var results []string
	ast.Inspect(file, func(node ast.Node) bool {
		spec, is := node.(*ast.ValueSpec)
		if !is || len(spec.Values) != 1 {
			return true
		}
		switch name := spec.Names[0].Name; {
		case strings.HasPrefix(name, "metric"):
			c[text(t, spec.Values[0])] = metric{kind: "counter or gauge"}
		case name == "results":
			for _, value := range spec.Values[0].(*ast.CompositeLit).Elts {
				results = append(results, text(t, value))
			}
		}
		return true
	})
	var reasons []string
	for why := singleport.RefusedWrite; why <= singleport.RefusedHanging; why++ {
		reasons = append(reasons, why.String())
	}
	for name, m := range map[string]metric{
		"flytftp_requests_total":            {"counter", map[string][]string{"result": results}},
		"flytftp_refusals_total":            {"counter", map[string][]string{"reason": reasons}},
		"flytftp_build_info":                {"gauge", map[string][]string{"version": nil, "goversion": nil}},
		"flytftp_flight_blocks":             {"histogram", nil},
		"flytftp_transfer_duration_seconds": {"histogram", nil},
		"flytftp_round_trip_seconds":        {"histogram", nil},
	} {
		if _, known := c[name]; !known {
			t.Errorf("metrics.go does not have %s", name)
		}
		c[name] = m
	}
	if len(results) == 0 {
		t.Fatal("metrics.go has no results")
	}
	return c
}

// text returns the value of a string literal.
func text(t *testing.T, node ast.Expr) string {
	t.Helper()
	literal, is := node.(*ast.BasicLit)
	if !is {
		t.Fatalf("%T is no string literal", node)
	}
	value, err := strconv.Unquote(literal.Value)
	testkit.Must(t, err)
	return value
}

// alert is a rule. Only what the tests need is read from it.
type alert struct {
	name, expr, text string // text is the whole rule
}

// alerts reads the rules, which are written with one key a line.
func alerts(t *testing.T) (rules []alert) {
	t.Helper()
	for _, rule := range strings.Split(testkit.ReadText(t, rulesFile), "\n      - alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		expr := regexp.MustCompile(`(?s)\n {8}expr: (?:\|\n(.*?)|([^\n]*))\n {8}for: `).FindStringSubmatch(rule)
		if expr == nil {
			t.Fatalf("%s has no expr followed by for", name)
		}
		rules = append(rules, alert{name, expr[1] + expr[2], rule})
	}
	if len(rules) == 0 {
		t.Fatal("there is no alert")
	}
	return rules
}

func TestAlertsAskForWhatTheProgramHas(t *testing.T) {
	c := program(t)
	for _, a := range alerts(t) {
		for _, fault := range c.check(a.expr) {
			t.Errorf("%s: %s", a.name, fault)
		}
		for _, match := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(a.text, -1) {
			if !slices.Contains(platformLabels, match[1]) {
				t.Errorf("%s: its text has the label %s", a.name, match[1])
			}
		}
		for _, key := range []string{"for: ", "severity: ", "summary: ", "description: "} {
			if !strings.Contains(a.text, " "+key) {
				t.Errorf("%s has no %s", a.name, key)
			}
		}
	}
}

// The texts of alerts and the page name options, metrics and lines of the log.
func TestAlertsNameWhatExists(t *testing.T) {
	options := testkit.ReadSection(t, "../README.md", "## Options")
	log := testkit.ReadText(t, "../docs/log.md")
	c := program(t)
	for _, a := range alerts(t) {
		_, description, _ := strings.Cut(a.text, "description: >-\n")
		description = testkit.Flat(description)
		for _, option := range regexp.MustCompile(`[ (](-[a-z][a-z-]+)`).FindAllStringSubmatch(description, -1) {
			if !strings.Contains(options, "`"+option[1]+"`") {
				t.Errorf("%s: there is no option %s", a.name, option[1])
			}
		}
		for _, name := range regexp.MustCompile(`\bflytftp_\w+`).FindAllString(description, -1) {
			if _, known := c.find(name); !known {
				t.Errorf("%s: there is no metric %s", a.name, name)
			}
		}
		for _, quoted := range regexp.MustCompile(`"([a-z ]+)"`).FindAllStringSubmatch(description, -1) {
			if !strings.Contains(log, "`"+quoted[1]+"`") {
				t.Errorf("%s: the log has no %q", a.name, quoted[1])
			}
		}
	}
}

// The page lists the alerts.
func TestPageListsAlerts(t *testing.T) {
	rows := testkit.TableRows(testkit.ReadSection(t, "../docs/monitoring.md", "## Alerts"))
	rules := alerts(t)
	if len(rows) != len(rules) {
		t.Fatalf("the page has %d alerts, the rules have %d", len(rows), len(rules))
	}
	for i, a := range rules {
		if rows[i][0] != "`"+a.name+"`" || !strings.Contains(a.text, "\n        for: "+rows[i][2]+"\n") {
			t.Errorf("the page says %q of\n%s", rows[i], a.text)
		}
	}
}

// tool returns the path of a program that is installed, or unpacked by .ci/packages.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	cache, _ := os.UserCacheDir()
	path = filepath.Join(cache, "flytftp-bench/usr/bin", name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		testkit.Skip(t, name+" is not installed")
	}
	return path
}

func TestPromtool(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{{"check", "config", configFile}, {"check", "rules", rulesFile}, {"test", "rules", rulesTestFile}} {
		testkit.ReadText(t, args[2]) // so that a change makes `go test` run this again
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Every alert has series that make it fire, and a time at which they do not yet: the tests of the
// rules fail for each alert that never fires, and for each that does not wait.
func TestRulesAreTested(t *testing.T) {
	promtool := tool(t, "promtool")
	never := testkit.ReadText(t, rulesFile)
	for _, a := range alerts(t) {
		never = strings.Replace(never, a.expr, strings.TrimRight(a.expr, "\n")+" and vector(0) > 1\n", 1)
	}
	for change, c := range map[string]struct{ rules, fault string }{
		"never fires":   {never, `exp: {.*alertname="%s".*\n +got: nil`},
		"does not wait": {regexp.MustCompile(`(\n {8}for:) \w+\n`).ReplaceAllString(testkit.ReadText(t, rulesFile), "$1 0s\n"), `exp: nil\n +got: {.*alertname="%s"`},
	} {
		folder := t.TempDir()
		test := filepath.Join(folder, filepath.Base(rulesTestFile))
		testkit.WriteFile(t, test, []byte(testkit.ReadText(t, rulesTestFile)))
		testkit.WriteFile(t, filepath.Join(folder, filepath.Base(rulesFile)), []byte(c.rules))
		out, err := exec.Command(promtool, "test", "rules", test).CombinedOutput()
		for _, a := range alerts(t) {
			if err == nil || !regexp.MustCompile(fmt.Sprintf(c.fault, a.name)).Match(out) {
				t.Errorf("%s %s, and the tests of the rules pass: %v\n%s", a.name, change, err, out)
			}
		}
	}
}

// dashboard is what the tests need of Grafana's format.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct {
		Defaults struct {
			Unit   string
			Max    *float64
			Custom struct{ Stacking struct{ Mode string } }
		}
	}
	Targets []struct{ Expr, LegendFormat string }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	testkit.Must(t, json.Unmarshal([]byte(testkit.ReadText(t, dashboardFile)), &d))
	if len(d.Panels) == 0 {
		t.Fatal("the dashboard has no panel")
	}
	return d
}

func TestDashboard(t *testing.T) {
	c, d := program(t), readDashboard(t)
	var variables []string
	for _, variable := range d.Templating.List {
		variables = append(variables, "$"+variable.Name)
		if variable.Type == "query" {
			query := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(variable.Definition)
			if query == nil {
				t.Fatalf("the variable %s asks for %s", variable.Name, variable.Definition)
			}
			for _, fault := range append(c.check(query[1]), c.check("sum by ("+query[2]+") (up)")...) {
				t.Errorf("the variable %s: %s", variable.Name, fault)
			}
		}
	}
	for _, want := range []string{"$datasource", "$region", "$version"} {
		if !slices.Contains(variables, want) {
			t.Errorf("there is no variable %s", want)
		}
	}
	variables = append(variables, "$__rate_interval", "$__range")
	queried := ""
	taken := map[[2]int]string{}
	for i, p := range d.Panels {
		if p.ID != i+1 || p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q is not complete", p.ID, p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies over %q, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			queried += target.Expr
			for _, fault := range c.check(target.Expr) {
				t.Errorf("%s: %s", p.Title, fault)
			}
			for _, variable := range regexp.MustCompile(`\$\w+`).FindAllString(target.Expr, -1) {
				if !slices.Contains(variables, variable) {
					t.Errorf("%s: no variable %s", p.Title, variable)
				}
			}
			for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !c.hasLabel(label[1]) || !strings.Contains(target.Expr, label[1]) {
					t.Errorf("%s: the legend has %s", p.Title, label[1])
				}
			}
		}
	}
	// A metric that nobody looks at is a metric too many.
	for _, a := range alerts(t) {
		queried += a.expr
	}
	for name := range c {
		if !strings.Contains(queried, name) {
			t.Errorf("neither the dashboard nor an alert asks for %s", name)
		}
	}
}

// kustomize reads no file outside its folder, so the base has copies.
func TestKubernetesFiles(t *testing.T) {
	for _, name := range []string{"boot.ipxe", "autoexec.ipxe"} {
		served := filepath.Join("../files", name)
		if testkit.ReadText(t, filepath.Join("kubernetes/base/files", name)) != testkit.ReadText(t, served) {
			t.Errorf("deploy/kubernetes/base has another %s: cp files/%[1]s deploy/kubernetes/base/files/", name)
		}
	}
}
