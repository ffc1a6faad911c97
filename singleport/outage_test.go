package singleport

import (
	"fmt"
	"testing"
	"time"
)

// A path that is interrupted for a while, one way or both, costs a client that time and little
// more: no client is left waiting for the server while that waits for the client. Some say nothing
// to copies of what they have, and start their timer again with each.
func TestOutage(t *testing.T) {
	clients := []model{
		{name: "tftp-hpa", requests: seconds(5.0007), quiet: seconds(5.0007), deaf: true, restarts: true},
		{name: "curl", blockSize: 512, tsize: true, timeout: 6, requests: seconds(6.0007), quiet: seconds(6.0007), deaf: true, restarts: true},
		{name: "atftp", blockSize: 512, requests: seconds(5.0007), quiet: seconds(5.0007), strange: mute, restarts: true},
		{name: "atftp, window 8", blockSize: 512, windowSize: 8, requests: seconds(5.0007), quiet: seconds(5.0007), strange: each, restarts: true},
		{name: "busybox, timer restarted", blockSize: 512, requests: seconds(0.1003), quiet: seconds(2.0009), strange: mute, deaf: true, restarts: true},
		modelNamed("iPXE"), modelNamed("GRUB"), modelNamed("PXELINUX"), modelNamed("busybox"), modelNamed("U-Boot"), modelNamed("EDK2"), oldUBoot,
	}
	lengths := []time.Duration{300 * time.Millisecond, time.Second, 4 * time.Second}
	if testing.Short() {
		lengths = lengths[1:2]
	}
	for _, m := range clients {
		var patience time.Duration
		for i := range tries {
			patience += m.quiet[min(i, len(m.quiet)-1)]
		}
		for _, length := range lengths {
			if length > patience/3 {
				continue // it gives up by itself
			}
			for _, ways := range []string{"ACKs", "both ways"} {
				for _, p := range []path{away(20*msec, 2*mbit), away(msec, 100*mbit)} {
					t.Run(fmt.Sprintf("%s, %s for %v, %d Mbit", m.name, ways, length, p.rate/mbit), func(t *testing.T) {
						t.Parallel()
						file := content(400 * m.size())
						whole := m.run(t, file, generous, p, 1)
						interrupted := m.run(t, file, generous, p, 1, func(n *rig) {
							var begins time.Time
							n.lose = func(toServer bool, count int, data []byte) bool {
								if begins.IsZero() {
									begins = time.Now().Add(whole.took / 2)
								}
								since := time.Since(begins)
								return 0 <= since && since < length && (toServer || ways == "both ways")
							}
						})
						cost := interrupted.took - whole.took
						t.Logf("cost %v", cost.Round(msec))
						// The client's timer, its second one, and the server's while it is quiet.
						if limit := 2*length + 15*time.Second; cost > limit {
							t.Errorf("an outage of %v cost %v", length, cost)
						}
					})
				}
			}
		}
	}
}
