// Command oklogrun runs a Runner as an actor of oklog/run, beside the actor that waits for signals.
//
//	go run ./oklogrun [endpoint]
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"

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
	runner, err := zmqgrace.New(zmqgrace.WithSignals()) // the group has them
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

	var group run.Group
	group.Add(run.SignalHandler(context.Background(), os.Interrupt, syscall.SIGTERM))
	ctx, cancel := context.WithCancelCause(context.Background())
	var incomplete error // the group returns the first actor's error alone
	group.Add(func() error {
		incomplete = runner.Run(ctx, answer)
		return incomplete
	}, func(err error) {
		cancel(err) // the cause in the report
	})
	err = group.Run()
	slog.Info("ended", "report", runner.Report())
	if errors.Is(err, run.ErrSignal) {
		return incomplete
	}
	return err
}

func answer(ctx context.Context, m *zmqgrace.Message) error { return m.Reply([]byte("OK")) }
