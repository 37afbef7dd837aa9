// Command ownsignals does its own signal handling: SIGHUP changes the answer, SIGTERM and Ctrl-C end the server, a second
// one ends it at once.
//
//	go run ./ownsignals [endpoint]
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// generation counts the SIGHUPs: what a reloaded configuration would be.
var generation atomic.Int64

func main() {
	endpoint := "tcp://*:5555"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	if err := serve(endpoint); err != nil {
		slog.Error("ownsignals", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string) error {
	runner, err := zmqgrace.New(zmqgrace.WithSignals())
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
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGHUP, os.Interrupt, syscall.SIGTERM) // before anybody can have an answer
	go obey(signals, runner)
	fmt.Println("listening on", rep.Endpoint())

	err = runner.Run(context.Background(), answer)
	slog.Info("ended", "report", runner.Report())
	return err
}

func obey(signals <-chan os.Signal, runner *zmqgrace.Runner) {
	ending := false
	for s := range signals {
		switch {
		case s == syscall.SIGHUP:
			fmt.Println("reloaded", generation.Add(1))
		case !ending:
			ending = true
			go runner.Shutdown(context.Background()) // it waits for the end: not here
		default:
			runner.Close()
			return
		}
	}
}

func answer(ctx context.Context, m *zmqgrace.Message) error {
	if string(m.Frames[0]) == "wait" {
		<-ctx.Done() // until somebody is impatient
	}
	return m.Reply([]byte(strconv.FormatInt(generation.Load(), 10)))
}
