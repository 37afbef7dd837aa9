package main

import (
	"context"
	"errors"
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

// The ways to stop.
var ways = []struct{ name, says string }{
	{"drop", "linger 0, close at once"},
	{"linger", "linger 2 s, close at once"},
	{"unbind", "unbind, drain, linger, close"},
	{"runner", "the Runner"},
}

const (
	linger = 2 * time.Second
	quiet  = zmqgrace.DefaultDrainQuiet // also for the way that unbinds, which is to have the same chance
)

// serve is a server process. It prints its endpoint when it listens.
func serve(way, endpoint string) error {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1) // who started it is gone
	}()
	if way == "runner" {
		return serveRunner(endpoint)
	}
	return serveLoop(way, endpoint)
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
	// The signal has its default effect until Run has installed its own handler; the client sends it after replies.
	fmt.Println(router.Endpoint())
	return runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		work()
		return m.Reply(m.Frames...)
	})
}

// serveLoop is the usual loop, stopped in one of the usual ways.
func serveLoop(way, endpoint string) error {
	var stop atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		stop.Store(true)
	}()

	ctx, err := zmq4.NewContext()
	if err != nil {
		return err
	}
	router, err := ctx.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	// Unlimited marks: what a full queue drops is another matter than how the server stops.
	if err := errors.Join(router.SetSndhwm(0), router.SetRcvhwm(0), router.Bind(endpoint)); err != nil {
		return err
	}
	if endpoint, err = router.GetLastEndpoint(); err != nil {
		return err
	}
	fmt.Println(endpoint)

	poller := zmq4.NewPoller()
	poller.Add(router, zmq4.POLLIN)
	for !stop.Load() {
		if _, err := answer(poller, router, time.Second); err != nil {
			return err
		}
	}
	if way == "unbind" {
		if err := router.Unbind(endpoint); err != nil {
			return err
		}
		for more := true; more; {
			if more, err = answer(poller, router, quiet); err != nil {
				return err
			}
		}
	}
	wait := linger
	if way == "drop" {
		wait = 0
	}
	if err := errors.Join(router.SetLinger(wait), router.Close()); err != nil {
		return err
	}
	return ctx.Term()
}

// answer answers one request, if there is one in time.
func answer(poller *zmq4.Poller, router *zmq4.Socket, timeout time.Duration) (answered bool, err error) {
	ready, err := poller.Poll(timeout)
	if err != nil || len(ready) == 0 {
		return false, err
	}
	message, err := router.RecvMessageBytes(0)
	if err != nil {
		return false, err
	}
	work()
	_, err = router.SendMessage(message)
	return err == nil, err
}
