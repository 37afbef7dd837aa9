package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	idleBefore = 400 * time.Millisecond
	recipePoll = time.Second

	maxToFloor   = 1.5
	maxOverFloor = 2 // ms

	idleSettle = time.Second
	idleWatch  = 5 * time.Second
	maxWakeUps = 5
)

// measureExit takes the time from SIGTERM to the end of the process, of servers that have nothing to do.
func measureExit(runs int) ([]mark, error) {
	type server struct {
		name, what string
		spread     time.Duration // the idle time grows by this from the first run to the last
		ms         []float64
	}
	servers := []*server{
		{name: "floor", what: "waits for the signal alone, closes, terms"},
		{name: "zmqgrace", what: "Runner"},
		{name: "zmqgrace-1h", what: "Runner, WithPollTimeout(time.Hour)"},
		// It wakes up by its own clock: always signalled at the same moment, it would always need the same time.
		{name: "recipe", what: "flag, poll of 1 s, linger 0, close, term", spread: recipePoll},
	}
	for run := range runs {
		for i := range servers {
			s := servers[(run+i)%len(servers)]
			progress("exit: run %d of %d: %s", run+1, runs, s.name)
			c, err := start(self("exit-" + s.name)...)
			if err != nil {
				return nil, err
			}
			time.Sleep(idleBefore + s.spread*time.Duration(run)/time.Duration(runs))
			took, _, err := c.end(syscall.SIGTERM)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			s.ms = append(s.ms, took.Seconds()*1e3)
		}
	}
	progress("")

	title("Idle REP server, milliseconds from SIGTERM to the end of the process, %d runs", runs)
	t := newTable("server", " median", "    min", "    max", "to floor", "")
	medians := map[string]float64{}
	for _, s := range servers {
		m := median(s.ms)
		medians[s.name] = m
		t.row(s.name, fmt.Sprintf("%7.2f", m), fmt.Sprintf("%7.2f", slices.Min(s.ms)), fmt.Sprintf("%7.2f", slices.Max(s.ms)),
			fmt.Sprintf("%8.2f", m/medians["floor"]), s.what)
	}
	t.print()

	limit := max(maxToFloor*medians["floor"], medians["floor"]+maxOverFloor)
	near := func(name string) mark {
		return mark{"exit, " + name, fmt.Sprintf("<= %.2f ms", limit), fmt.Sprintf("%.2f ms", medians[name]), medians[name] <= limit}
	}
	return []mark{near("zmqgrace"), near("zmqgrace-1h")}, nil
}

// measureIdle counts how often the threads of an idle Runner without a poll timeout go to sleep again, which is how often
// something woke them up.
func measureIdle() ([]mark, error) {
	c, err := start(self("idle-zmqgrace")...)
	if err != nil {
		return nil, err
	}
	progress("idle: %v of nothing", idleSettle+idleWatch)
	time.Sleep(idleSettle)
	before, err := sleeps(c.pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(idleWatch)
	after, err := sleeps(c.pid)
	if err != nil {
		return nil, err
	}
	if _, _, err := c.end(syscall.SIGTERM); err != nil {
		return nil, err
	}
	progress("")

	wakeUps := after - before
	title("Idle Runner, WithPollTimeout(-1), all its threads: %d wake-ups in %v", wakeUps, idleWatch)
	return []mark{{
		what:     fmt.Sprintf("wake-ups in %v idle", idleWatch),
		wanted:   fmt.Sprintf("<= %d", maxWakeUps),
		measured: strconv.Itoa(wakeUps),
		met:      wakeUps <= maxWakeUps,
	}}, nil
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
