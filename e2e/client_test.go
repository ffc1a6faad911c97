package e2e

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// defaultBlockSize is the blksize, in bytes, of a transfer without options (RFC 1350 section 2).
const defaultBlockSize = 512

// The ERRORs that docs/protocol.md promises, as they are on the wire.
const (
	notFound       = "\x00\x05\x00\x01File not found\x00"
	readOnly       = "\x00\x05\x00\x02Access violation\x00"
	illegal        = "\x00\x05\x00\x04Illegal TFTP operation\x00"
	serverBusy     = "\x00\x05\x00\x00Server busy\x00"
	serverStopping = "\x00\x05\x00\x00Server stopping\x00"
	readFailed     = "\x00\x05\x00\x00Read failed\x00"
)

// rrq returns an RRQ. Names and values of options take turns.
func rrq(name, mode string, options ...string) string {
	request := "\x00\x01" + name + "\x00" + mode + "\x00"
	for _, option := range options {
		request += option + "\x00"
	}
	return request
}

func wrq(name string) string { return "\x00\x02" + name + "\x00octet\x00" }

func data(block uint16, content []byte) string {
	return string(binary.BigEndian.AppendUint16([]byte{0, 3}, block)) + string(content)
}

func ack(block uint16) string {
	return string(binary.BigEndian.AppendUint16([]byte{0, 4}, block))
}

// client is a TFTP client that takes one step at a time.
type client struct {
	t    *testing.T
	conn net.Conn
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	testkit.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{t, conn}
}

// ask sends a datagram, again every second, until one comes back.
func (c *client) ask(datagram string) string {
	c.t.Helper()
	b := make([]byte, 65536)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c.conn.Write([]byte(datagram))
		c.conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.conn.Read(b); err == nil {
			return string(b[:n])
		}
	}
	c.t.Fatalf("no answer to %q", datagram)
	return ""
}

// fetch reads a file in lock-step, from its first answer on. It calls during with the number of
// blocks before each ACK, and ends with the last block or with an ERROR, which it returns.
func (c *client) fetch(request string, during func(blocks int)) (content []byte, refusal string) {
	c.t.Helper()
	answer := c.ask(request)
	for blocks := 1; ; {
		switch {
		case strings.HasPrefix(answer, "\x00\x05"):
			return content, answer
		case strings.HasPrefix(answer, data(uint16(blocks), nil)):
			content = append(content, answer[4:]...)
			if during != nil {
				during(blocks)
			}
			if len(answer) < 4+defaultBlockSize {
				c.conn.Write([]byte(ack(uint16(blocks))))
				return content, ""
			}
			blocks++
		}
		answer = c.ask(ack(uint16(blocks - 1)))
	}
}

// fetches fails the test unless a new client gets the whole file in octet mode.
func fetches(t *testing.T, addr, name, want string) {
	t.Helper()
	content, refusal := dial(t, addr).fetch(rrq(name, "octet"), nil)
	if string(content) != want || refusal != "" {
		t.Errorf("%s of %s: %d bytes %.99q, ERROR %q", name, addr, len(content), content, refusal)
	}
}

// step is a datagram that a client sends, and those that it gets. After a step without answers,
// anything that comes shows as a wrong answer to the next.
type step struct {
	send    string
	answers []string
}

func says(send string, answers ...string) step { return step{send, answers} }

// quickest is the shortest time after which the server repeats something, as docs/protocol.md
// promises.
const quickest = 100 * time.Millisecond

// plays sends each datagram once and compares every answer. A last request shows that nothing else
// was under way. On a slow machine the server's timer may repeat an answer: that is no fault.
func (c *client) plays(what string, steps ...step) {
	c.t.Helper()
	steps = append(steps, says(rrq("absent.txt", "octet"), notFound))
	asked := map[string]time.Time{} // when the step began that a datagram first answered
	b := make([]byte, 65536)
	for i, s := range steps {
		began := time.Now()
		c.conn.Write([]byte(s.send))
		for j := 0; j < len(s.answers); {
			c.conn.SetReadDeadline(time.Now().Add(patience))
			n, err := c.conn.Read(b)
			if err != nil {
				c.t.Fatalf("%s: step %d, %q: no answer %d: %v", what, i+1, s.send, j+1, err)
			}
			got := string(b[:n])
			first, again := asked[got]
			if got == s.answers[j] {
				asked[got] = began
				j++
			} else if !again || time.Since(first) < quickest {
				c.t.Fatalf("%s: step %d, %q: answer %d is %.99q, want %.99q",
					what, i+1, s.send, j+1, got, s.answers[j])
			}
		}
	}
}

// hurries goes through the steps of a transfer, one answer each, and does not wait for what comes
// after the last. It sends nothing again but the ACK of what came again.
func (c *client) hurries(steps []step) {
	c.t.Helper()
	b := make([]byte, 65536)
	c.conn.Write([]byte(steps[0].send))
	for at := 0; len(steps[at].answers) > 0; {
		c.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := c.conn.Read(b)
		if err != nil {
			c.t.Fatalf("%q: %v", steps[at].send, err)
		}
		for i, s := range steps[:at+1] {
			if string(b[:n]) == s.answers[0] {
				c.conn.Write([]byte(steps[i+1].send))
				at = max(at, i+1)
				break
			}
		}
	}
}
