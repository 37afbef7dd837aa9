// Command oklogrun runs a Runner as an actor of oklog/run. The Runner waits for the signals.
//
//	go run ./oklogrun [endpoint]
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/oklog/run"
	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	endpoint := "tcp://*:5555"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	if err := serve(endpoint); err != nil {
		slog.Error("oklogrun", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	rep, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	if err := rep.Bind(endpoint); err != nil {
		return err
	}
	fmt.Println("listening on", rep.Endpoint())

	ctx, cancel := context.WithCancelCause(context.Background())
	var group run.Group
	group.Add(
		func() error { return runner.Run(ctx, answer) }, // until a signal comes
		func(err error) { cancel(err) },                 // or another actor ends: the cause in the report
	)
	group.Add(
		func() error { return watch(ctx, runner) },
		func(error) {}, // it heeds the same ctx
	)
	err = group.Run()
	slog.Info("ended", "report", runner.Report())
	return err
}

func answer(ctx context.Context, m *zmqgrace.Message) error { return m.Reply([]byte("OK")) }

// watch stands for whatever else the program does.
func watch(ctx context.Context, runner *zmqgrace.Runner) error {
	for tick := time.NewTicker(time.Minute); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			slog.Info("so far", "report", runner.Report())
		}
	}
}
