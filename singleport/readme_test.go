package singleport

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"flytftp/internal/testkit"
)

// The figures that the pages promise are those of the constants.
func TestDocsFigures(t *testing.T) {
	thousands := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
	times := func(n int) string { return []string{"", "once", "twice"}[n] }
	a := newAdmission(DefaultRate, 2000)
	for page, wanted := range map[string][]string{
		"../README.md": {
			fmt.Sprintf("A forged request draws at most %d datagrams,", unconfirmedDatagrams),
		},
		"../docs/protocol.md": {
			fmt.Sprintf("acknowledged nothing gets at most %d datagrams", unconfirmedDatagrams),
			fmt.Sprintf("sent again up to %d times, or %d times if only the last ACK is missing", maxTries, lastTries),
			fmt.Sprintf("ends after %.0f s without an ACK of something new, or after %d times the `timeout`",
				progressTime.Seconds(), progressTimeouts),
			fmt.Sprintf("kept for %d times as long, or for %.0f s if that is longer",
				progressTimeouts, progressTime.Seconds()),
			fmt.Sprintf("%.0f s before the first measurement of a DATA, and %d ms more for each further block of a "+
				"window. Then it is %d ms to %.0f s instead of "+
				"at least 1 s, on a local network at least %d ms, and after a loss at least %d ms, "+
				"on a local network %d ms",
				firstTimeout.Seconds(), firstBlockTime.Milliseconds(), minTimeout.Milliseconds(), maxTimeout.Seconds(),
				minLocalTimeout.Milliseconds(), minLossyTimeout.Milliseconds(), minTimeout.Milliseconds()),
			fmt.Sprintf("After %d timeouts in a row", quietTry),
			fmt.Sprintf("is left alone for %.0f s once", quietTime.Seconds()),
			fmt.Sprintf("acknowledges something new within %.0f s, else the copy is", copyTime.Seconds()),
			fmt.Sprintf("grows to %d blocks at most, unless", lanFlight),
			"stays within " + times(longRoundTrip) + " its least",
			fmt.Sprintf("bursts: %d at first and on a local network, up to %d elsewhere", nearBurst, farBurst),
			fmt.Sprintf("remembered for %.0f minutes", takerTime.Minutes()),
			fmt.Sprintf("unconfirmed and all of them younger than %.1f s", confirmTime/1e9),
		},
		"../docs/security.md": {
			fmt.Sprintf("%s bytes a second, and %s more once",
				thousands(int(a.bytesPerSecond)), thousands(int(a.bytesPerSecond*a.burst/1e9))),
			fmt.Sprintf("A *network* is a /%d of IPv4 or a /%d of IPv6", ipv4NetworkBits, ipv6NetworkBits),
			fmt.Sprintf("%d bytes for each request of `-rate`", requestBytes),
			fmt.Sprintf("at most %d unconfirmed transfers (twice `-rate`)", a.maxHeld),
			fmt.Sprintf("draws at most %d datagrams", unconfirmedDatagrams),
			fmt.Sprintf("ends within %.0f s if the client acknowledges nothing new", progressTime.Seconds()),
			fmt.Sprintf("without a new ACK for %.0f s", stalledTime.Seconds()),
			fmt.Sprintf("run for %.0f s or more at fewer than %d bytes a second", slowTime.Seconds(), slowRate),
			fmt.Sprintf("run for %.0f s or more at fewer than %d KiB a second", hoardTime.Seconds(), hoardRate>>10),
			fmt.Sprintf("at most %d KiB of its file", (largestSegment+1023)>>10),
			fmt.Sprintf("%d KiB from %d transfers on", smallestSegment>>10, segmentMemory/smallestSegment),
			fmt.Sprintf("table of networks is %d KiB", unsafe.Sizeof(*a.table)>>10),
			fmt.Sprintf("%d clients are remembered for each socket", memorySize),
			fmt.Sprintf("at most %d MiB in flight ahead of their windows", aheadMemory>>20),
		},
		"../docs/architecture.md": {
			fmt.Sprintf("At most %d goroutines of transfers", maxWaiting),
			fmt.Sprintf("up to %d datagrams in one system call", fullBatch),
			fmt.Sprintf("%.0f s after the last transfer", stuckTime.Seconds()),
			fmt.Sprintf("flights together have %d MiB beyond", aheadMemory>>20),
			fmt.Sprintf("round trips below %d ms", lanTime.Milliseconds()),
			"was over " + times(longRoundTrip) + " the least",
			fmt.Sprintf("only %d losses in a row do", mostStrikes+1),
			fmt.Sprintf("an eighth of the round trip and %d ms or more", suspicionTime.Milliseconds()),
			fmt.Sprintf("answers none of %d copies, it minds the order after all", mostProbes),
			fmt.Sprintf("that takes %d copies, %d times in a row", mostProbesSimple, mostMuteSimple),
			fmt.Sprintf("%d at first and at most %d", nearBurst, farBurst),
			fmt.Sprintf("address for %.0f minutes", takerTime.Minutes()),
			fmt.Sprintf("holds %d clients. Another one holds the last RRQ of %d ports", memorySize, memorySize),
			fmt.Sprintf("comes %.1f s too late", sleepTime.Seconds()),
		},
		"../docs/systemd.md": {
			fmt.Sprintf("room for %d MiB that wait", BufferSize>>20),
			fmt.Sprintf("net.core.wmem_max=%d", BufferSize),
		},
		"../docs/docker.md": {
			fmt.Sprintf("net.core.wmem_max=%d", BufferSize),
		},
	} {
		text := testkit.Flat(testkit.ReadText(t, page))
		for _, want := range wanted {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q", page, want)
			}
		}
	}
}

// The table of what a forged request draws is made of the datagrams' sizes. A test of the started
// program measures them.
func TestDocsAmplification(t *testing.T) {
	const rrq, octet = "\x00\x01", "\x00octet\x00"
	var want [][]string
	for _, c := range []struct {
		label, request string
		size           int64  // of the file, bytes
		refusal        *Error // nil if the request is answered with the file
	}{
		{"with options: three OACKs", rrq + "undionly.kpxe" + octet + "blksize\x001432\x00tsize\x000\x00", 70_274, nil},
		{"with one option, shortest name: three OACKs", rrq + "a.0" + octet + "tsize\x000\x00", 1 << 32, nil},
		{"without options: three DATA of 512 bytes", rrq + "undionly.kpxe" + octet, 70_274, nil},
		{"refused name: an ERROR", rrq + "undionly.key" + octet, 0, ErrNotFound},
		{"absent file: an ERROR", rrq + "absent.kpxe" + octet, 0, ErrNotFound},
		{"WRQ: an ERROR", "\x00\x02undionly.kpxe" + octet, 0, ErrAccess},
	} {
		var answer []byte
		datagrams := 1
		if c.refusal != nil {
			answer = appendError(nil, c.refusal)
		} else {
			r, _ := parseRequest([]byte(c.request))
			_, answer = negotiate(r.options(), DefaultMaxBlockSize, DefaultMaxWindowSize, c.size)
			if answer == nil {
				answer = make([]byte, 4+DefaultBlockSize)
			}
			datagrams = unconfirmedDatagrams
		}
		sent, drawn := ipv4Headers+len(c.request), datagrams*(ipv4Headers+len(answer))
		want = append(want, []string{c.label, strconv.Itoa(sent), strconv.Itoa(drawn),
			fmt.Sprintf("%.2f", float64(drawn)/float64(sent))})
	}
	got := testkit.TableRows(testkit.ReadSection(t, "../docs/security.md", "## It is a poor weapon against others"))
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("docs/security.md has\n%q\nthe datagrams make\n%q", got, want)
	}
}
