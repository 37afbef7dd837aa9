// Command rolling-restart shows what a restart in the middle of a burst of requests costs: with the usual loop
// (a flag that the signal sets, a poll timeout, linger 0, close, term), and with the Runner.
//
// A real client sends the burst to a real server process, and has it told to end after the first thousand replies.
// As soon as that process is gone, its successor starts on the same port. At last the successor, idle by then, is
// told to end too. The exit code is not 0 if the Runner lost a request.
//
//	go run ./examples/rolling-restart
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const limit = 25 * time.Second // for the whole demo, whatever hangs

func main() {
	run := demo
	if len(os.Args) == 4 && os.Args[1] == "serve" { // so the demo starts its servers
		run = func() error { return serve(os.Args[2], os.Args[3]) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "rolling-restart:", err)
		os.Exit(1)
	}
}

func demo() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %v", limit))
	defer cancel() // the servers that are left are killed

	recipe, err := restart(ctx, "recipe")
	if err != nil {
		return err
	}
	runner, err := restart(ctx, "runner")
	if err != nil {
		return err
	}
	printTable(recipe, runner)
	if lost := burst - runner.answered; lost > 0 {
		return fmt.Errorf("the Runner lost %d requests", lost)
	}
	return errors.Join(recipe.inBurst.err, recipe.idle.err, runner.inBurst.err, runner.idle.err)
}
