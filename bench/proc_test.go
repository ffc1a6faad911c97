package main

import (
	"os/exec"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

func TestChildrenCount(t *testing.T) {
	p, err := startChildren()
	if err != nil {
		t.Fatal(err)
	}
	counter := openTaskClock(p.Process.Pid)
	if counter < 0 {
		testkit.Skip(t, "no perf counters for this user")
	}
	s := &process{cmd: p, forks: true, perf: counter}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if spent, err := s.cpu(); err != nil || spent < 10*time.Millisecond {
		t.Errorf("cpu() = %v, %v", spent, err)
	}
}

// startChildren runs a shell whose child does the work.
func startChildren() (*exec.Cmd, error) {
	cmd := exec.Command("sh", "-c", "sleep 0.2; (i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done); exit 0")
	return cmd, cmd.Start()
}
