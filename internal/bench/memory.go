package main

import (
	"fmt"
	"syscall"
)

const (
	mallocs = "allocs/op"
	alloced = "B/op"
	gcShare = "gc-%"

	maxMallocsABatch = 2.0
	maxGCShare       = 5.0 // %
)

// memory tells what the echo servers in Go allocate, and what their garbage collectors take. With one request at a time
// every message is a batch of its own, so a malloc a message is then one a batch.
func (b *bench) memory() error {
	echo := func(name, what string, window int, command []string) *contestant {
		return &contestant{name: name, what: what, turn: func(int) (sample, error) { return b.memoryTurn(command, window) }}
	}
	c := &contest{
		name:   "Memory",
		title:  "ROUTER echo, 32 B: mallocs and bytes a message, garbage collection's share of the CPU time of Go",
		rounds: 5,
		contestants: []*contestant{
			echo("zmqgrace", fmt.Sprintf("Runner, window %d", window), window, self("echo-zmqgrace", 0)),
			echo("zmqgrace/window=1", "Runner, window 1", 1, self("echo-zmqgrace", 0)),
			echo("portable", "Runner, pebbe's calls alone", window, b.portable(self("echo-zmqgrace", 0))),
			echo("blocking", "pebbe, RecvMessageBytes(0)", window, self("echo-blocking")),
			echo("poller", "pebbe Poller", window, self("echo-poller")),
			echo("reactor", "pebbe Reactor", window, self("echo-reactor")),
			echo("go-zeromq", "github.com/go-zeromq/zmq4", window, self("echo-go-zeromq")),
		},
	}
	c.columns = []column{of("mallocs", mallocs, 1, 3), of("bytes", alloced, 1, 0), of("GC %", gcShare, 1, 2), of("msg/s", msgPerSec, 1, 0)}
	if err := b.hold(c); err != nil {
		return err
	}
	perBatch := c.find("zmqgrace/window=1").median(mallocs)
	// A malloc of the runtime itself now and then is none of ours.
	b.promise("mallocs a batch of one message", fmt.Sprintf("<= %.0f", maxMallocsABatch), fmt.Sprintf("%.2f", perBatch), perBatch < maxMallocsABatch+0.05)
	share := c.find("zmqgrace").median(gcShare)
	b.promise("garbage collection under full load", fmt.Sprintf("< %.0f %%", maxGCShare), fmt.Sprintf("%.2f %%", share), share < maxGCShare)
	return nil
}

// memoryTurn asks a server before and after the load what it has allocated; another load before that makes it warm.
func (b *bench) memoryTurn(command []string, window int) (sample, error) {
	return with(command, func(server *child) (sample, error) {
		ask := func() (sample, error) {
			if err := syscall.Kill(server.pid, syscall.SIGUSR1); err != nil {
				return nil, err
			}
			return server.measured()
		}
		load := func() (sample, error) {
			return b.load("echo", server.endpoints[0], server.pid, b.warm(), b.timed(), window, smallBody)
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		before, err := ask()
		if err != nil {
			return nil, err
		}
		s, err := load()
		if err != nil {
			return nil, err
		}
		after, err := ask()
		if err != nil {
			return nil, err
		}
		s[mallocs] = (after["mallocs"] - before["mallocs"]) / s["served"]
		s[alloced] = (after["allocated"] - before["allocated"]) / s["served"]
		s[gcShare] = 100 * (after["collecting"] - before["collecting"]) / (after["working"] - before["working"])
		delete(s, "served")
		return s, nil
	})
}
