package singleport

import "fmt"

var dbgOn = false

func dbg(now int64, f string, a ...any) {
	if dbgOn {
		fmt.Printf("%9.3fms ", float64(now)/1e6)
		fmt.Printf(f+"\n", a...)
	}
}
