// Package testdata uses what not every system has.
package testdata

import "syscall"

// Signal is not there on Windows.
var Signal = syscall.SIGUSR1
