package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	idleBefore = 400 * time.Millisecond
	recipePoll = time.Second
	exitRounds = 12

	maxToFloor   = 1.5
	maxOverFloor = 2 // ms

	idleSettle = time.Second
	idleWatch  = 5 * time.Second
	maxWakeUps = 5
)

// exit takes the time from SIGTERM to the end of the process, of servers that have nothing to do.
func (b *bench) exit() error {
	c := &contest{
		name:   "Exit",
		title:  "Idle REP server, ms from SIGTERM to the end of the process",
		rounds: exitRounds,
	}
	server := func(name, what string, command []string, spread time.Duration) {
		c.contestants = append(c.contestants, &contestant{name: name, what: what, turn: func(round int) (sample, error) {
			return exitTurn(command, idleBefore+spread*time.Duration(round)/time.Duration(c.rounds))
		}})
	}
	server("floor", "waits for the signal alone, closes, terms", self("exit-floor"), 0)
	server("zmqgrace", "Runner", self("exit-zmqgrace"), 0)
	server("zmqgrace-1h", "Runner, WithPollTimeout(time.Hour)", self("exit-zmqgrace-1h"), 0)
	// It wakes up by its own clock: always signalled at the same moment, it would always need the same time.
	server("recipe", "flag, poll of 1 s, linger 0, close, term", self("exit-recipe"), recipePoll)
	c.columns = []column{of("median", nsPerOp, 1e6, 2), from("min", nsPerOp, 1e6, 2), upTo("max", nsPerOp, 1e6, 2), c.to("to floor", nsPerOp, "floor")}
	if err := b.hold(c); err != nil {
		return err
	}

	ms := func(name string) float64 { return c.find(name).median(nsPerOp) / 1e6 }
	limit := max(maxToFloor*ms("floor"), ms("floor")+maxOverFloor)
	for _, name := range []string{"zmqgrace", "zmqgrace-1h"} {
		b.promise("exit, "+name, fmt.Sprintf("<= %.2f ms", limit), fmt.Sprintf("%.2f ms", ms(name)), ms(name) <= limit)
	}
	return nil
}

func exitTurn(command []string, idle time.Duration) (sample, error) {
	server, err := start(command...)
	if err != nil {
		return nil, err
	}
	defer server.close()
	time.Sleep(idle)
	took, err := server.end(syscall.SIGTERM)
	return sample{iterations: 1, nsPerOp: float64(took.Nanoseconds())}, err
}

// idle counts how often the threads of an idle Runner without a poll timeout go to sleep again, which is how often
// something woke them up.
func (b *bench) idle() error {
	c, err := start(self("idle-zmqgrace")...)
	if err != nil {
		return err
	}
	defer c.close()
	progress("idle: %v of nothing", idleSettle+idleWatch)
	time.Sleep(idleSettle)
	before, err := sleeps(c.pid)
	if err != nil {
		return err
	}
	time.Sleep(idleWatch)
	after, err := sleeps(c.pid)
	if err != nil {
		return err
	}
	if _, err := c.end(syscall.SIGTERM); err != nil {
		return err
	}
	progress("")

	wakeUps := after - before
	title("Idle Runner, WithPollTimeout(-1), all its threads: %d wake-ups in %v", wakeUps, idleWatch)
	b.promise(fmt.Sprintf("wake-ups in %v idle", idleWatch), fmt.Sprintf("<= %d", maxWakeUps), strconv.Itoa(wakeUps), wakeUps <= maxWakeUps)
	return nil
}

// sleeps sums the voluntary context switches of a process's threads.
func sleeps(pid int) (sum int, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no threads of process %d to be seen: %v", pid, err)
	}
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(status)) {
			if count, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, err := strconv.Atoi(strings.TrimSpace(count))
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
	}
	return sum, nil
}
