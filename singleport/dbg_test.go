package singleport

import (
	"testing"
	"time"
)

func TestDbg(t *testing.T) {
	m := model{name: "w", blockSize: 1428, windowSize: 8, strange: once, requests: seconds(1.0), quiet: seconds(5), deaf: true}
	p := away(20*time.Millisecond, 512_000)
	p.queue = 500 * time.Millisecond
	dbgOn = true
	r := m.run(t, content(1<<20), generous, p, 1)
	dbgOn = false
	t.Logf("%v", r)
}
