// Command errgroup runs a Runner and a goroutine of its own in an errgroup: the first error, or a signal, ends both.
//
//	go run ./errgroup [endpoint]
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
	"golang.org/x/sync/errgroup"
)

func main() {
	endpoint := "tcp://*:5555"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	if err := serve(endpoint); err != nil {
		slog.Error("errgroup", "error", err)
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

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		cancel(&zmqgrace.SignalError{Signal: <-signals})
		<-signals // somebody is impatient
		runner.Close()
	}()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return runner.Run(ctx, answer) })
	group.Go(func() error { return watch(ctx, runner) })
	err = group.Wait()
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
