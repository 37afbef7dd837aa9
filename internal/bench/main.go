// Bench measures what the library costs and what it is worth, each time beside the loops one would write without it. Every
// server is a process of its own, and all of them take short turns, again and again, since a machine's mood changes by the minute.
//
//	cd internal/bench
//	go run .                      everything, in less than ten minutes
//	go run . echo ping            some of it; go run . -h names them all
//	go run . -check               the same, and exits with 1 if a figure misses its mark
//	go run . -plot ratios.svg     draws the ratios as well (or .png)
//	go run golang.org/x/perf/cmd/benchstat@latest -col /server bench.out    reads what every turn gave
//
// It runs on Linux and wants gcc, pkg-config and the headers of libzmq: the loads and some of the servers are in C. CZMQ's zloop
// takes part where libczmq's headers are installed.
//
// Read the ratios, not the absolute figures: both sides of a ratio come from the same minutes on the same machine. Load and
// server want a core each, so with fewer than two idle ones the throughput says little. Where a figure is near its mark, close
// other programs and take more rounds.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pebbe/zmq4"
)

// A measurement is a part of the program that can be asked for by name.
type measurement struct {
	name, what string
	run        func(*bench) error
}

// measurements are in the order in which they run.
var measurements = []measurement{
	{"echo", "ROUTER echo of 32 B, 1 KiB and 64 KiB, beside all rivals", (*bench).echo},
	{"sink", "PULL sink", (*bench).sink},
	{"fanout", "PUB to 10 subscribers", (*bench).fanout},
	{"proxy", "Runner.Proxy beside zmq_proxy", (*bench).proxy},
	{"ping", "one request at a time: p50 and p99", (*bench).ping},
	{"sockets", "1 to 1,000 sockets, one of them busy", (*bench).sockets},
	{"workers", "handlers on 1 and 8 workers", (*bench).workers},
	{"memory", "allocations and garbage collection under load", (*bench).memory},
	{"life", "a whole life, from New to Done", (*bench).life},
	{"drain", "a backlog of 100,000, from SIGTERM to exit", (*bench).drain},
	{"exit", "an idle REP server, from SIGTERM to exit", (*bench).exit},
	{"idle", "wake-ups of an idle Runner", (*bench).idle},
}

// A bench is one run of this program.
type bench struct {
	rounds int           // 0: as many as each measurement thinks right
	turn   time.Duration // of load, for each server in each round
	dir    string        // of the C programs
	czmq   bool          // CZMQ is installed
	record recorder
	marks  []mark
	charts []chart
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == serveArg {
		fail(serve(os.Args[2], os.Args[3:]))
		return
	}
	b := &bench{}
	check := flag.Bool("check", false, "exit with 1 if a figure misses its mark")
	out := flag.String("o", "bench.out", "`file` for what every turn gave, to be read by benchstat")
	plot := flag.String("plot", "", "`file` for a plot of the ratios, .svg or .png")
	flag.IntVar(&b.rounds, "rounds", 0, "rounds of each measurement (0: as many as each thinks right)")
	flag.DurationVar(&b.turn, "turn", 400*time.Millisecond, "load of one turn")
	flag.Usage = usage
	flag.Parse()
	if b.rounds < 0 || b.turn < time.Millisecond || !known(flag.Args()) || !plottable(*plot) {
		usage()
		os.Exit(2)
	}
	missed, err := b.run(flag.Args(), *out, *plot)
	fail(err)
	if missed && *check {
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: bench [flags] [measurement ...]")
	for _, m := range measurements {
		fmt.Fprintf(os.Stderr, "  %-8s %s\n", m.name, m.what)
	}
	flag.PrintDefaults()
}

func known(names []string) bool {
	for _, name := range names {
		if !slices.ContainsFunc(measurements, func(m measurement) bool { return m.name == name }) {
			return false
		}
	}
	return true
}

func plottable(file string) bool {
	return file == "" || slices.Contains([]string{".svg", ".png"}, filepath.Ext(file))
}

// run measures what was asked for, all of it where nothing was, and reports whether a mark was missed.
func (b *bench) run(names []string, out, plot string) (missed bool, err error) {
	// For start and end in child.go: children die with the thread that started them, and a wait measures best on a thread
	// that has nothing else to do.
	runtime.LockOSThread()

	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return false, err
	}
	defer os.RemoveAll(b.dir)
	if err := b.compile(); err != nil {
		return false, err
	}
	if b.record, err = newRecorder(out); err != nil {
		return false, err
	}
	major, minor, patch := zmq4.Version()
	fmt.Printf("%d cores, %s %s/%s, libzmq %d.%d.%d\n",
		runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, major, minor, patch)

	begin := time.Now()
	for _, m := range measurements {
		if len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		}
		if e := m.run(b); e != nil {
			// The others are worth having all the same.
			e = fmt.Errorf("%s: %w", m.name, e)
			fmt.Fprintf(os.Stderr, "\nbench: %v\n", e)
			err = errors.Join(err, e)
		}
	}
	missed = b.printMarks()
	fmt.Printf("\nIt took %v. What every turn gave is in %s, for benchstat.\n", time.Since(begin).Round(time.Second), out)
	if plot != "" {
		err = errors.Join(err, paint(b.charts, plot))
	}
	return missed, errors.Join(err, b.record.close())
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", strings.TrimSpace(err.Error()))
		os.Exit(1)
	}
}

func title(format string, args ...any) { fmt.Printf("\n"+format+"\n\n", args...) }

// progress keeps one line of a terminal up to date.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
	}
}
