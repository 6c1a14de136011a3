//go:build unix

package main

import (
	"syscall"
	"time"
)

// cpuTime returns what the process has used of the processors, in user and kernel together. ok is false where that
// cannot be told.
func cpuTime() (used time.Duration, ok bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
