package e2e

import (
	"net"
	"testing"

	"flytftp/internal/testkit"
)

// dialIn is dial from a namespace, and from an address of it if from is not empty.
func dialIn(t *testing.T, n *testkit.Namespace, from, addr string) *client {
	t.Helper()
	var dialer net.Dialer
	if from != "" {
		dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	var conn net.Conn
	testkit.Must(t, n.Do(func() (err error) {
		conn, err = dialer.Dial("udp", addr)
		return err
	}))
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn}
}
