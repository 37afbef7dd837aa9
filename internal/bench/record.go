package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
)

// A recorder writes every turn as a line of Go's benchmark format, so that benchstat can compare servers, and runs of this
// program before and after a change.
type recorder struct {
	file *os.File
	w    *bufio.Writer
}

func newRecorder(name string) (recorder, error) {
	f, err := os.Create(name)
	if err != nil {
		return recorder{}, err
	}
	r := recorder{f, bufio.NewWriter(f)}
	fmt.Fprintf(r.w, "goos: %s\ngoarch: %s\npkg: github.com/zmqgrace/zmqgrace/internal/bench\n", runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(r.w, "Unit %s better=higher\n", msgPerSec)
	return r, nil
}

func (r recorder) write(contest, server string, s sample) {
	fmt.Fprintf(r.w, "Benchmark%s/server=%s-%d\t%.0f\t%.1f %s", contest, server, runtime.NumCPU(), max(1, s[iterations]), s[nsPerOp], nsPerOp)
	for _, unit := range slices.Sorted(maps.Keys(s)) {
		if unit != iterations && unit != nsPerOp {
			fmt.Fprintf(r.w, "\t%.4f %s", s[unit], unit)
		}
	}
	fmt.Fprintln(r.w)
}

func (r recorder) close() error { return errors.Join(r.w.Flush(), r.file.Close()) }
