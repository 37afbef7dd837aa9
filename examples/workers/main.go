// Command workers serves slow requests on a pool of goroutines: while up to eight handlers run, the Runner's loop keeps
// the socket to itself. While all are busy it receives nothing, so that requests wait in ZeroMQ's queues. When it is
// told to end, all of them are answered first. Answers leave in the order in which the work gets done.
//
//	go run ./examples/workers [-workers 8] [-work 10ms] [endpoint]
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	workers := flag.Int("workers", 8, "handlers that run at a time; 0: one, on the loop goroutine")
	work := flag.Duration("work", 10*time.Millisecond, "what a request takes")
	flag.Parse()
	endpoint := "tcp://*:5555"
	if flag.NArg() > 0 {
		endpoint = flag.Arg(0)
	}
	if err := serve(endpoint, *workers, *work); err != nil {
		slog.Error("workers", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string, workers int, work time.Duration) error {
	runner, err := zmqgrace.New(zmqgrace.WithWorkers(workers))
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

	// Several goroutines run this at once. What they share needs a lock.
	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		select {
		case <-time.After(work):
			return m.Reply(m.Frames...)
		case <-ctx.Done(): // not at the signal: when the end can't wait for handlers any longer
			return context.Cause(ctx)
		}
	})
	slog.Info("ended", "report", runner.Report())
	return err
}
