package singleport

import (
	"testing"
	"time"
)

func TestDbg(t *testing.T) {
	m := clientOf(once, 64)
	p := away(20*msec, gbit)
	p.loss = 0.01
	var worst time.Duration
	var ws uint64
	for seed := uint64(0); seed < 50; seed++ {
		r := m.run(t, content(1<<20), generous, p, seed)
		if r.took > worst {
			worst, ws = r.took, seed
		}
	}
	dbgOn = true
	r := m.run(t, content(1<<20), generous, p, ws)
	dbgOn = false
	t.Logf("%d %v", ws, r)
}
