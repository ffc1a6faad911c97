package singleport

import (
	"testing"
)

func TestDbg(t *testing.T) {
	m := clientOf(once, 16)
	p := away(20*msec, gbit)
	p.acks = 2
	p.echo = 3 * msec
	dbgOn = true
	r := m.run(t, content(400_000), generous, p, 1)
	dbgOn = false
	t.Logf("%v", r)
}
