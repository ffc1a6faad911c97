package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// catalogue is what a program exposes: for each metric its type, and for each of its labels the
// values that the label may have, nil if it may have any.
type catalogue map[string]metric

type metric struct {
	kind   string // counter, gauge or histogram
	labels map[string][]string
}

// platformLabels are set by whoever scrapes: Prometheus, Kubernetes or Fly.io.
var platformLabels = []string{"job", "instance", "namespace", "app", "region", "host"}

// ofPrometheus are the metrics that Prometheus itself makes.
var ofPrometheus = map[string][]string{"up": nil, "ALERTS": {"alertname", "alertstate", "severity"}}

// promqlToken is a word, a string, an operator or a bracket of PromQL. A duration is a word.
var promqlToken = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|[a-zA-Z_$][\w:$]*|[0-9.]+[a-z]*|[=!]~|[=!<>]=|\S`)

var clauses = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
var operators = []string{"and", "or", "unless", "offset", "bool"}

// check returns what a query asks for that the program does not have.
func (c catalogue) check(query string) (faults []string) {
	var (
		tokens  = promqlToken.FindAllString(query, -1)
		word    = regexp.MustCompile(`^[a-zA-Z_]`).MatchString
		asked   metric // that the braces belong to
		metrics int
	)
	at := func(i int) string {
		if i < len(tokens) {
			return tokens[i]
		}
		return ""
	}
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for i := 0; i < len(tokens); i++ {
		switch t := tokens[i]; {
		case t == "[": // a range
			for i < len(tokens) && tokens[i] != "]" {
				i++
			}
		case t == "{":
			for i++; i < len(tokens) && tokens[i] != "}"; i++ {
				if !word(tokens[i]) {
					continue
				}
				values, known := asked.labels[tokens[i]]
				if !known && !slices.Contains(platformLabels, tokens[i]) {
					fault("no label %s", tokens[i])
				}
				for _, value := range strings.Split(strings.Trim(at(i+2), `"`), "|") {
					if values != nil && !slices.Contains(values, value) {
						fault("%s is never %q", tokens[i], value)
					}
				}
			}
		case slices.Contains(clauses, t) && at(i+1) == "(":
			for i += 2; i < len(tokens) && tokens[i] != ")"; i++ {
				if word(tokens[i]) && !c.hasLabel(tokens[i]) {
					fault("no label %s", tokens[i])
				}
			}
		case !word(t) || slices.Contains(operators, t) || slices.Contains(clauses, t):
		case at(i+1) == "(" || slices.Contains(clauses, at(i+1)): // a function
		default:
			metrics++
			var known bool
			if asked, known = c.find(t); !known {
				fault("no metric %s", t)
			}
		}
	}
	if metrics == 0 {
		fault("no metric in %q", query)
	}
	return faults
}

// find returns the metric that a series belongs to: a histogram is queried by its parts.
func (c catalogue) find(series string) (metric, bool) {
	if labels, known := ofPrometheus[series]; known {
		m := metric{labels: map[string][]string{}}
		for _, label := range labels {
			m.labels[label] = nil
		}
		return m, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(series, suffix); cut && c[base].kind == "histogram" {
			return c[base], true
		}
	}
	m, known := c[series]
	return m, known && m.kind != "histogram"
}

func (c catalogue) hasLabel(label string) bool {
	for _, m := range c {
		if _, known := m.labels[label]; known {
			return true
		}
	}
	return label == "le" || slices.Contains(platformLabels, label)
}

func TestCheckQuery(t *testing.T) {
	program := catalogue{
		"a_total":   {"counter", map[string][]string{"result": {"sent", "failed"}}},
		"b_seconds": {"histogram", nil},
		"c_info":    {"gauge", map[string][]string{"version": nil}},
	}
	for query, want := range map[string]string{
		`sum by (result, region) (rate(a_total{result=~"sent|failed"}[5m])) > 0.1 and on (job) c_info{version=~"$v"}`: "",
		`histogram_quantile(0.5, sum by (le) (rate(b_seconds_bucket[$__rate_interval]))) / b_seconds_count offset 1d`: "",
		`up{job="x"} == 0`:                              "",
		`sum(a_total{result="sent"}) by (result)`:       "",
		`rate(d_total[5m])`:                             "no metric d_total",
		`a_total unless d`:                              "no metric d",
		`b_seconds`:                                     "no metric b_seconds",
		`a_total_bucket`:                                "no metric a_total_bucket",
		`a_total{reason="sent"}`:                        "no label reason",
		`c_info{result="sent"}`:                         "no label result",
		`a_total{result=~"sent|lost"}`:                  `result is never "lost"`,
		`sum by (reason) (a_total)`:                     "no label reason",
		`sum(a_total) without (reason)`:                 "no label reason",
		`a_total * on (job) group_left (colour) c_info`: "no label colour",
		`vector(1) > 0`:                                 `no metric in "vector(1) > 0"`,
		`{job="x"}`:                                     `no metric in "{job=\"x\"}"`,
	} {
		if got := strings.Join(program.check(query), "; "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}
