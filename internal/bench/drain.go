package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	backlog  = 100_000
	readTime = "read-ns"
)

// drain gives a server that does not read a backlog, and then a SIGTERM.
func (b *bench) drain() error {
	server := func(name, what string, command []string) *contestant {
		return &contestant{name: name, what: what, turn: func(int) (sample, error) { return b.drainTurn(command) }}
	}
	c := &contest{
		name:   "Drain",
		title:  fmt.Sprintf("PULL with a backlog of %d messages of 32 B, ms", backlog),
		rounds: 7,
		contestants: []*contestant{
			server("zmqgrace", "Runner, WithDrainQuiet(0), paused until the signal; its drain", self("drain-zmqgrace")),
			server("portable", "Runner, pebbe's calls alone", b.portable(self("drain-zmqgrace"))),
			server("pebbe", "RecvBytes(DONTWAIT) until there is no more", self("drain-pebbe")),
			server("c", "the same in C", b.inC("backlog")),
		},
	}
	c.columns = []column{of("to exit", nsPerOp, 1e6, 1), of("reading", readTime, 1e6, 1), c.to("exit to C", nsPerOp, "c"), c.to("reading to C", readTime, "c")}
	return b.hold(c)
}

func (b *bench) drainTurn(command []string) (sample, error) {
	server, err := start(command...)
	if err != nil {
		return nil, err
	}
	defer server.close()
	_, err = b.load("fill", server.endpoints[0], backlog, smallBody)
	if err == nil {
		err = awaitBacklog(server.endpoints[0])
	}
	if err != nil {
		server.end(syscall.SIGKILL)
		return nil, err
	}
	took, err := server.end(syscall.SIGTERM)
	if err != nil {
		return nil, err
	}
	read, err := server.measured()
	if err != nil {
		return nil, err
	}
	if read[iterations] != backlog {
		return nil, fmt.Errorf("%v of %d messages were drained\n%s", read[iterations], backlog, server.logged())
	}
	return sample{iterations: 1, nsPerOp: float64(took.Nanoseconds()), readTime: read[nsPerOp] * backlog}, nil
}

// awaitBacklog waits until a server has taken from the kernel all that was sent to it. The sender is gone, so the server then
// closes the connection.
func awaitBacklog(endpoint string) error {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if open, err := connections(n); err != nil || open == 0 {
			return err
		}
	}
	return fmt.Errorf("the backlog is still in the kernel after %v", patience)
}

// connections counts those that this port has accepted and not closed, see proc_net(5).
func connections(port int) (open int, err error) {
	const established, closeWait = "01", "08"
	text, err := os.ReadFile("/proc/net/tcp")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && (f[3] == established || f[3] == closeWait) {
			open++
		}
	}
	return open, err
}
