package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	bodyBytes = 32
	window    = 1000 // requests that the client keeps open
	turns     = 5    // of each server in a round: shorter than what disturbs a machine, which so hits them all alike

	minToBlocking = 0.9
	minToPoller   = 1.2
)

var (
	//go:embed testdata/client.c
	clientSource string
	//go:embed testdata/server.c
	serverSource string
)

// An echo is one of the servers that are compared, and what its rounds gave.
type echo struct {
	name, what string
	command    []string
	rate       []float64 // messages a second
	cpu        []float64 // microseconds a message, of the server's process alone
}

// measureThroughput has each server answer that many messages a round.
func measureThroughput(rounds, messages int) ([]mark, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	client, err := compile(clientSource, filepath.Join(dir, "client"))
	if err != nil {
		return nil, err
	}
	cServer, err := compile(serverSource, filepath.Join(dir, "server"))
	if err != nil {
		return nil, err
	}

	blocking := &echo{name: "blocking", what: "pebbe, RecvMessageBytes(0); can't be stopped", command: self("echo-blocking")}
	runner := &echo{name: "zmqgrace", what: "Runner", command: self("echo-zmqgrace")}
	poller := &echo{name: "poller", what: "pebbe Poller, one message a poll; the usual loop", command: self("echo-poller")}
	reactor := &echo{name: "reactor", what: "pebbe Reactor", command: self("echo-reactor")}
	inC := &echo{name: "c", what: "C, poll, then up to 256 messages", command: []string{cServer}}
	echoes := []*echo{blocking, runner, poller, reactor, inC}

	for round := range rounds {
		sums := make([]load, len(echoes))
		for turn := range turns {
			for k := range echoes {
				i := (turn + k) % len(echoes) // nobody always follows the same one
				progress("throughput: round %d of %d: %s", round+1, rounds, echoes[i].name)
				l, err := drive(client, max(1, messages/turns), echoes[i].command)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", echoes[i].name, err)
				}
				sums[i].timed += l.timed
				sums[i].seconds += l.seconds
				sums[i].served += l.served
				sums[i].busy += l.busy
			}
		}
		for i, e := range echoes {
			e.rate = append(e.rate, sums[i].timed/sums[i].seconds)
			e.cpu = append(e.cpu, sums[i].busy*1e6/sums[i].served)
		}
	}
	progress("")

	// The median of the rounds' ratios strays less than the ratio of the medians: both sides share what disturbed a round.
	ratio := func(a, b *echo) float64 {
		ratios := make([]float64, rounds)
		for i := range ratios {
			ratios[i] = a.rate[i] / b.rate[i]
		}
		return median(ratios)
	}

	title("ROUTER echo, %d-byte bodies, window %d, %d messages a round, medians of %d rounds", bodyBytes, window, messages, rounds)
	t := newTable("server", "  msg/s", "slowest", "fastest", "CPU us/msg", "to blocking", "to poller", "")
	for _, e := range echoes {
		t.row(e.name, fmt.Sprintf("%7.0f", median(e.rate)), fmt.Sprintf("%7.0f", slices.Min(e.rate)), fmt.Sprintf("%7.0f", slices.Max(e.rate)),
			fmt.Sprintf("%10.2f", median(e.cpu)), fmt.Sprintf("%11.2f", ratio(e, blocking)), fmt.Sprintf("%9.2f", ratio(e, poller)), e.what)
	}
	t.print()

	atLeast := func(limit float64, rival *echo) mark {
		r := ratio(runner, rival)
		return mark{"throughput, zmqgrace / " + rival.name, fmt.Sprintf(">= %.1f", limit), fmt.Sprintf("%.2f", r), r >= limit}
	}
	return []mark{atLeast(minToBlocking, blocking), atLeast(minToPoller, poller)}, nil
}

// compile compiles one of the C programs. They are no files of this package, or the go command would take them for cgo's.
func compile(source, program string) (string, error) {
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "libzmq").Output()
	if err != nil {
		return "", fmt.Errorf("pkg-config libzmq: %w", err)
	}
	args := append([]string{"-O2", "-Wall", "-o", program, "-x", "c", "-"}, strings.Fields(string(flags))...)
	gcc := exec.Command("gcc", args...)
	gcc.Stdin = strings.NewReader(source)
	gcc.Stderr = os.Stderr
	if err := gcc.Run(); err != nil {
		return "", fmt.Errorf("gcc: %w", err)
	}
	return program, nil
}

// A load is what one turn gave.
type load struct {
	timed, seconds float64 // messages that the client timed, and the time they took
	served, busy   float64 // all messages, those before the clock started too, and the CPU seconds of the server
}

// drive puts one server under load, and kills it: an orderly end would count as CPU time of the messages.
func drive(client string, messages int, command []string) (l load, err error) {
	server, err := start(command...)
	if err != nil {
		return l, err
	}
	cmd := exec.Command(client, server.endpoint, strconv.Itoa(messages), strconv.Itoa(window), strconv.Itoa(bodyBytes))
	cmd.Stderr = os.Stderr
	out, clientErr := cmd.Output()
	_, used, err := server.end(syscall.SIGKILL)
	if clientErr != nil {
		return l, fmt.Errorf("client: %w", clientErr)
	}
	if err != nil {
		return l, err
	}
	l.timed = float64(messages)
	l.busy = float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	if _, err := fmt.Sscan(string(out), &l.served, &l.seconds); err != nil {
		return l, fmt.Errorf("client printed %q: %w", out, err)
	}
	return l, nil
}
