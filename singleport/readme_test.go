package singleport

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// The figures that README.md promises are those of the constants.
func TestReadmeFigures(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(readme)), " ") // lines may break anywhere
	thousands := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }
	a := newAdmission(DefaultRate, 2000)
	for _, want := range []string{
		fmt.Sprintf("%s bytes a second by default, and %s more once",
			thousands(int(a.bytesPerSecond)), thousands(int(a.bytesPerSecond*a.burst/1e9))),
		fmt.Sprintf("%d bytes for each request of `-rate`", requestBytes),
		fmt.Sprintf("at most %d unconfirmed transfers (twice `-rate`)", a.maxHeld),
		fmt.Sprintf("table of networks is %d KiB", unsafe.Sizeof(*a.table)>>10),
		fmt.Sprintf("draws at most %d datagrams", unconfirmedDatagrams),
		fmt.Sprintf("acknowledged nothing gets at most %d datagrams", unconfirmedDatagrams),
		fmt.Sprintf("sent again up to %d times", maxTries),
		fmt.Sprintf("ends after %.0f s without an ACK of something new", progressTime.Seconds()),
		fmt.Sprintf("gets no new ACK ends within %.0f s", progressTime.Seconds()),
		fmt.Sprintf("%.0f s before the first measurement, then %d ms to %.0f s", firstTimeout.Seconds(), minTimeout.Milliseconds(), maxTimeout.Seconds()),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("README.md does not say %q", want)
		}
	}
}
