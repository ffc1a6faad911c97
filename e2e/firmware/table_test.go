//go:build linux

package firmware

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// page has the tables of what booted, each below a heading of its own. -update writes them.
const (
	page            = "../../docs/firmware.md"
	lanHeading      = "## Booted"
	farHeading      = "## Booted over a slow path"
	versionsHeading = "## Versions"
)

// The first columns of a row say what was asked for and are compared. The others were measured.
const (
	lanComparedColumns = 4
	farComparedColumns = 3
)

// checkTables holds the tables of the page against what booted, or writes them.
func checkTables(t *testing.T, results []*result, complete bool) {
	t.Helper()
	lanRows, farRows := lanTable(results), farTable(results)
	if *update {
		if !complete {
			t.Fatal("-update takes all boots")
		}
		writeTables(t, lanRows, farRows)
	}
	compareRows(t, lanHeading, lanRows, lanComparedColumns, complete)
	compareRows(t, farHeading, farRows, farComparedColumns, complete)
}

func compareRows(t *testing.T, heading string, rows [][]string, columns int, complete bool) {
	t.Helper()
	written := testkit.TableRows(testkit.ReadSection(t, page, heading))
	for _, row := range rows {
		if !slices.ContainsFunc(written, func(w []string) bool { return slices.Equal(w[:columns], row[:columns]) }) {
			t.Errorf("%s, %q has no row that begins with %q: -update writes it", page, heading, row[:columns])
		}
	}
	if complete && len(written) != len(rows) {
		t.Errorf("%s, %q has %d rows instead of %d: -update writes them", page, heading, len(written), len(rows))
	}
}

// find returns the result of a chain in a setting, nil if there is none.
func find(results []*result, c *chain, s setting) *result {
	i := slices.IndexFunc(results, func(r *result) bool { return r.chain == c && r.setting.name == s.name })
	if i < 0 {
		return nil
	}
	return results[i]
}

// measured returns the transfers of the file that is measured.
func (r *result) measured() (transfers []*transfer) {
	name := bigName
	if r.chain.loader.big != "" {
		name = r.chain.loader.big
	}
	for _, tr := range r.transfers {
		if strings.TrimPrefix(tr.name, "/") == name && tr.complete() {
			transfers = append(transfers, tr)
		}
	}
	return transfers
}

// firstAsked is how the firmware asked for its first file, once for each way it tried.
func (r *result) firstAsked() string {
	var asked []string
	for _, tr := range r.transfers {
		if options := code(tr.options); tr.name == r.transfers[0].name && !slices.Contains(asked, options) {
			asked = append(asked, options)
		}
	}
	return strings.Join(asked, ", ")
}

func lanTable(results []*result) (rows [][]string) {
	for _, c := range chains {
		r := find(results, c, lan)
		if r == nil {
			continue
		}
		for _, tr := range r.measured() {
			size := float64(len(tr.content)) / 1e6
			rows = append(rows, []string{c.machine.name, c.loader.name, r.firstAsked(), code(tr.options),
				decimal(size), decimal(tr.took().Seconds()), decimal(size / tr.took().Seconds()), whole(r.took)})
		}
	}
	return rows
}

// farTable has a row for each transfer that was measured with and without -ahead 1.
func farTable(results []*result) (rows [][]string) {
	for _, c := range chains {
		slow, r := find(results, c, farLockStep), find(results, c, far)
		if slow == nil || r == nil {
			continue
		}
		before := slow.measured()
		for i, tr := range r.measured() {
			rows = append(rows, []string{c.machine.name, c.loader.name, code(tr.options),
				decimal(before[i].took().Seconds()), decimal(tr.took().Seconds()), whole(slow.took), whole(r.took)})
		}
	}
	return rows
}

func code(options string) string { return "`" + options + "`" }

func decimal(n float64) string { return fmt.Sprintf("%.1f", n) }

func whole(d time.Duration) string { return fmt.Sprintf("%.0f", d.Seconds()) }

// writeTables replaces the sections that are tables.
func writeTables(t *testing.T, lanRows, farRows [][]string) {
	t.Helper()
	text := testkit.ReadText(t, page)
	date := fmt.Sprintf("Written by the tests on %s, with QEMU %s on %d processors, without KVM.\n\n",
		time.Now().Format(time.DateOnly), version("qemu-system-x86"), runtime.NumCPU())
	for heading, section := range map[string]string{
		lanHeading: table(lanRows, "Machine", "Boots", "First asks with", "Asks for a file with",
			"MB", "s", "MB/s", "Booted after s"),
		farHeading: table(farRows, "Machine", "Boots", "Asks for 1 MiB with",
			"`-ahead 1`, s", "Default, s", "`-ahead 1`, booted after s", "Default, booted after s"),
		versionsHeading: table(versionRows(), "Debian package", "Version"),
	} {
		text = replaceSection(t, text, heading, date+section)
	}
	testkit.Must(t, os.WriteFile(page, []byte(text), 0o644))
}

func versionRows() (rows [][]string) {
	var names []string
	for _, c := range chains {
		names = append(append(names, c.machine.packages...), c.loader.packages...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		rows = append(rows, []string{code(name), version(name)})
	}
	return rows
}

func table(rows [][]string, head ...string) string {
	lines := []string{"| " + strings.Join(head, " | ") + " |", "|" + strings.Repeat("---|", len(head))}
	for _, row := range rows {
		lines = append(lines, "| "+strings.Join(row, " | ")+" |")
	}
	return strings.Join(lines, "\n") + "\n"
}

// replaceSection replaces all between a heading and the next.
func replaceSection(t *testing.T, text, heading, section string) string {
	t.Helper()
	before, after, found := strings.Cut(text, "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", page, heading)
	}
	rest := ""
	if next := regexp.MustCompile(`\n##+ `).FindStringIndex(after); next != nil {
		rest = after[next[0]:]
	}
	return before + "\n" + heading + "\n\n" + section + rest
}
