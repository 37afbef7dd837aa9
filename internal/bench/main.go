// Bench measures what the library costs and what it is worth, each time beside the loops one would write without it. Every
// server is a process of its own, and all of them take their turns in rounds, since a machine's mood changes by the minute.
//
//	cd internal/bench
//	go run .               all three tables, in about three minutes
//	go run . -throughput   ROUTER echo: messages a second, and CPU time a message
//	go run . -exit         idle REP server: from SIGTERM to the end of the process
//	go run . -idle         idle Runner: how often the process wakes up
//	go run . -check        the same, and exits with 1 if a figure misses its mark
//
// It runs on Linux and wants gcc, pkg-config and the headers of libzmq: the load and one of the echo servers are in C.
//
// Read the ratios, not the absolute figures: both sides of a ratio come from the same minutes on the same machine. Load and
// server want a core each, so with fewer than two idle ones the throughput says little. Where a figure is near its mark, close
// other programs and take more rounds.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"

	"github.com/pebbe/zmq4"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == serveArg {
		fail(serve(os.Args[2]))
		return
	}
	throughput := flag.Bool("throughput", false, "measure the throughput")
	exit := flag.Bool("exit", false, "measure the time from SIGTERM to exit")
	idle := flag.Bool("idle", false, "measure the wake-ups of an idle Runner")
	check := flag.Bool("check", false, "exit with 1 if a figure misses its mark")
	rounds := flag.Int("rounds", 7, "rounds of the throughput")
	messages := flag.Int("messages", 500_000, "messages a round of the throughput")
	runs := flag.Int("runs", 20, "runs of the exit")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 1 || *messages < 10 || *runs < 1 {
		flag.Usage()
		os.Exit(2)
	}
	all := !*throughput && !*exit && !*idle

	// For start and end in child.go: children die with the thread that started them, and a wait measures best on a thread
	// that has nothing else to do.
	runtime.LockOSThread()

	major, minor, patch := zmq4.Version()
	fmt.Printf("%d cores, %s %s/%s, libzmq %d.%d.%d\n",
		runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, major, minor, patch)

	var marks []mark
	for _, bench := range []struct {
		wanted bool
		run    func() ([]mark, error)
	}{
		{all || *throughput, func() ([]mark, error) { return measureThroughput(*rounds, *messages) }},
		{all || *exit, func() ([]mark, error) { return measureExit(*runs) }},
		{all || *idle, measureIdle},
	} {
		if bench.wanted {
			m, err := bench.run()
			fail(err)
			marks = append(marks, m...)
		}
	}
	if missed := printMarks(marks); missed && *check {
		os.Exit(1)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A mark is a figure that the library promises.
type mark struct {
	what, wanted, measured string
	met                    bool
}

func printMarks(marks []mark) (missed bool) {
	title("What is promised")
	t := newTable("figure", "mark", "measured", "")
	for _, m := range marks {
		verdict := "ok"
		if !m.met {
			verdict, missed = "MISSED", true
		}
		t.row(m.what, m.wanted, m.measured, verdict)
	}
	t.print()
	return missed
}

type table struct{ w *tabwriter.Writer }

func newTable(head ...any) table {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)}
	t.row(head...)
	return t
}

func (t table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, c)
	}
	fmt.Fprintln(t.w)
}

func (t table) print() { fail(t.w.Flush()) }

func title(format string, args ...any) { fmt.Printf("\n"+format+"\n\n", args...) }

// progress keeps one line of a terminal up to date.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
	}
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
