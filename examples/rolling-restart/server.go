package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// serve is the server process. It prints its endpoint and, at the end, the Runner's report.
func serve(kind, endpoint string) error {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1) // the demo is gone, however it ended
	}()
	if kind == "recipe" {
		return serveRecipe(endpoint)
	}
	return serveRunner(endpoint)
}

// work is what a request costs. It spins, because a sleep that short takes much longer.
func work() {
	for end := time.Now().Add(30 * time.Microsecond); time.Now().Before(end); {
	}
}

func serveRunner(endpoint string) error {
	warnings := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	runner, err := zmqgrace.New(zmqgrace.WithLogger(warnings))
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
	fmt.Println(router.Endpoint())

	runErr := runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		work()
		return m.Reply(m.Frames...)
	})
	if err := json.NewEncoder(os.Stdout).Encode(runner.Report()); err != nil {
		return err
	}
	return runErr
}

// serveRecipe is the usual loop: safe from hanging, and it throws away what it has not read.
func serveRecipe(endpoint string) error {
	ctx, err := zmq4.NewContext()
	if err != nil {
		return err
	}
	router, err := ctx.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	if err := router.SetLinger(0); err != nil {
		return err
	}
	if err := router.Bind(endpoint); err != nil {
		return err
	}
	resolved, err := router.GetLastEndpoint()
	if err != nil {
		return err
	}

	var stop atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		stop.Store(true)
	}()
	fmt.Println(resolved)

	poller := zmq4.NewPoller()
	poller.Add(router, zmq4.POLLIN)
	for !stop.Load() {
		ready, err := poller.Poll(time.Second)
		if err != nil {
			return err
		}
		if len(ready) == 0 {
			continue
		}
		message, err := router.RecvMessageBytes(0)
		if err != nil {
			return err
		}
		work()
		if _, err := router.SendMessage(message); err != nil {
			return err
		}
	}
	if err := router.Close(); err != nil {
		return err
	}
	return ctx.Term()
}
