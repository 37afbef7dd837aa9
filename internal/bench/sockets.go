package main

import (
	"fmt"
	"syscall"
)

const maxIdleToC = 2.0 // CPU a message, with 1,000 sockets

// sockets has one busy socket among idle ones. Each is bound, and takes two file descriptors.
func (b *bench) sockets() error {
	c := &contest{
		name:   "Sockets",
		title:  "ROUTER echo, 32 B, window 1000, on the last of so many sockets",
		rounds: 7,
	}
	counts := []int{1, 10, 100, 1000}
	for _, n := range counts {
		if files := openFiles(); uint64(2*n+64) > files {
			c.legend = append(c.legend, fmt.Sprintf("%d sockets: left out, this process may have %d files open (ulimit -n)", n, files))
			continue
		}
		c.contestants = append(c.contestants,
			&contestant{name: fmt.Sprintf("zmqgrace/sockets=%d", n), what: "Runner", turn: b.echoTurn(self("sockets-runner", n), window, smallBody)},
			&contestant{name: fmt.Sprintf("c/sockets=%d", n), what: "C, zmq_poll, then up to 256 messages", turn: b.echoTurn(b.inC("echo-batch", n), window, smallBody)})
	}
	c.columns = append(rates(), c.to("rate to C", msgPerSec, "c"), c.to("CPU to C", cpuPerMsg, "c"))
	if err := b.hold(c); err != nil {
		return err
	}
	if len(c.legend) == 0 {
		b.atMost(c, cpuPerMsg, "zmqgrace/sockets=1000", "c/sockets=1000", maxIdleToC)
	}
	return nil
}

// openFiles is how many files a server may have open: both in Go and in C they take all that the hard limit allows.
func openFiles() uint64 {
	var limit syscall.Rlimit
	fail(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	return limit.Max
}
