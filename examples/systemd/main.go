// Command systemd is a server that tells systemd how it is: ready, alive, stopping, and that it needs more time to stop.
// zmqgrace.service is its unit; docs/systemd.md says how the two fit.
//
// A request that is a duration ("2s") takes that long: try what a stuck handler does to the watchdog.
//
//	go run . [endpoint]
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// grace is longer than the unit's TimeoutStopSec: only a server that is alive is given so much.
const grace = 2 * time.Minute

func main() {
	endpoint := "tcp://*:5555"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	if err := serve(endpoint); err != nil {
		slog.Error("systemd", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string) error {
	runner, err := zmqgrace.New(zmqgrace.WithGrace(grace), zmqgrace.WithPhaseHook(tellPhase))
	if err != nil {
		return err
	}
	router, err := runner.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	if err := router.Bind(endpoint); err != nil {
		return err
	}
	fmt.Println("listening on", router.Endpoint())
	if err := keepTelling(runner); err != nil {
		return err
	}
	err = runner.Run(context.Background(), echo)
	slog.Info("ended", "report", runner.Report())
	return err
}

func echo(ctx context.Context, m *zmqgrace.Message) error {
	if work, err := time.ParseDuration(string(m.Frames[0])); err == nil {
		time.Sleep(work)
	}
	return m.Reply(m.Frames...)
}
