package main

import "fmt"

const (
	minToBlocking = 3.0
	minToPolling  = 4.0
	minToC        = 0.85
	maxCPUToC     = 1.4
	minBig        = 0.97 // of each Go loop's rate: as fast, but for the noise

	smallBody = 32 // bytes, where nothing else is said
	big       = 64 << 10
	bigWindow = 64   // 4 MiB on their way
	window    = 1000 // of all others
)

// echo has a client keep a window of requests open with everybody.
func (b *bench) echo() error {
	for _, size := range []struct {
		bytes, window, rounds int
		name                  string
	}{{smallBody, window, 21, "32 B"}, {1 << 10, window, 7, "1 KiB"}, {big, bigWindow, 7, "64 KiB"}} {
		c := &contest{
			name:        fmt.Sprintf("Echo/bytes=%d", size.bytes),
			title:       fmt.Sprintf("ROUTER echo, %s, window %d", size.name, size.window),
			rounds:      size.rounds,
			contestants: b.echoes(size.window, size.bytes),
			legend:      []string{"zmq4chan: left out, no module of this name can be downloaded from the Go proxy"},
		}
		if !b.czmq {
			c.legend = append(c.legend, "zloop: left out, CZMQ is not installed (libczmq-dev)")
		}
		if size.bytes == big {
			c.legend = append(c.legend, fmt.Sprintf("What is promised allows %.0f %% for noise here.", 100-100*minBig))
		}
		c.columns = append(rates(), c.to("to blocking", msgPerSec, "blocking"), c.to("to poller", msgPerSec, "poller"), c.to("to C", msgPerSec, "c-batch"))
		if err := b.hold(c); err != nil {
			return err
		}
		b.chart(c, fmt.Sprintf("echo %s, to the blocking loop", size.name), msgPerSec, "blocking")
		if size.bytes == smallBody {
			b.atLeast(c, msgPerSec, "zmqgrace", "blocking", minToBlocking)
			b.atLeast(c, msgPerSec, "zmqgrace", "poller", minToPolling)
			b.atLeast(c, msgPerSec, "zmqgrace", "reactor", minToPolling)
			b.atLeast(c, msgPerSec, "zmqgrace", "c-batch", minToC)
			b.atMost(c, cpuPerMsg, "zmqgrace", "c-batch", maxCPUToC)
		} else if size.bytes == big {
			for _, rival := range []string{"blocking", "poller", "reactor", "go-zeromq"} {
				b.atLeast(c, msgPerSec, "zmqgrace", rival, minBig)
			}
		}
	}
	return nil
}

func (b *bench) echoes(window, bytes int) []*contestant {
	echo := func(name, what string, command []string) *contestant {
		return &contestant{name: name, what: what, turn: b.echoTurn(command, window, bytes)}
	}
	all := []*contestant{
		echo("zmqgrace", "Runner", self("echo-zmqgrace", 0)),
		echo("portable", "Runner, pebbe's calls alone", b.portable(self("echo-zmqgrace", 0))),
		echo("blocking", "pebbe, RecvMessageBytes(0); can't be stopped", self("echo-blocking")),
		echo("poller", "pebbe Poller, one message a poll; the usual loop", self("echo-poller")),
		echo("reactor", "pebbe Reactor", self("echo-reactor")),
		echo("go-zeromq", "github.com/go-zeromq/zmq4, Go without libzmq", self("echo-go-zeromq")),
		echo("c-blocking", "C, blocking", b.inC("echo-blocking")),
		echo("c-poll", "C, one message a poll", b.inC("echo-poll")),
		echo("c-batch", "C, poll, then up to 256 messages", b.inC("echo-batch", 1)),
	}
	if b.czmq {
		all = append(all, echo("zloop", "C, CZMQ's zloop", []string{b.program(zloopProgram)}))
	}
	return all
}

// echoTurn puts a server under the load of a window of requests.
func (b *bench) echoTurn(command []string, window, bytes int) func(int) (sample, error) {
	return func(int) (sample, error) {
		return with(command, func(server *child) (sample, error) {
			s, err := b.load("echo", last(server.endpoints), server.pid, b.warm(), b.timed(), window, bytes)
			delete(s, "served")
			return s, err
		})
	}
}

func last(words []string) string { return words[len(words)-1] }
