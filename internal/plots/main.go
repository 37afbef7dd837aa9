// Command plots measures what each way of stopping a server costs its clients, and draws it.
//
// A client sends a burst of requests to a server process and has it told to end after a tenth of the replies. As soon as that
// process is gone, its successor starts on the same port. What has no reply after two seconds of silence is lost.
//
//	cd internal/plots && go run . [-rounds 5] [-o ../../docs/lost.svg]
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

const (
	burst   = 10_000          // requests
	silence = 2 * time.Second // what has no reply after that long is lost
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) == 4 && os.Args[1] == "serve" { // so the program starts its servers
		return serve(os.Args[2], os.Args[3])
	}
	rounds := flag.Int("rounds", 5, "how often each way is tried; the plot shows the medians")
	file := flag.String("o", "../../docs/lost.svg", "where the plot goes")
	flag.Parse()
	bars, err := measure(burst, *rounds, silence)
	if err != nil {
		return err
	}
	return paint(bars, burst, *file)
}

// measure tries the ways in turn, so that a machine that becomes slower does so for all of them.
func measure(burst, rounds int, silence time.Duration) ([]bar, error) {
	lost := make(map[string][]int)
	for range rounds {
		for _, w := range ways {
			n, err := restart(w.name, burst, silence)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			lost[w.name] = append(lost[w.name], n)
		}
	}
	var bars []bar
	for _, w := range ways {
		all := lost[w.name]
		slices.Sort(all)
		fmt.Printf("%-40s lost %v of %d\n", w.says, all, burst)
		bars = append(bars, bar{w.says, all[len(all)/2]})
	}
	return bars, nil
}
