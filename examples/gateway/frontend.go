package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// A gateway needs no lock: without WithWorkers its handlers and timers take turns on one goroutine.
type gateway struct {
	backend *zmqgrace.Socket
	timeout time.Duration
	last    uint64             // correlation id
	waiting map[uint64]request // by correlation id
}

type request struct {
	*zmqgrace.Message
	until time.Time
}

func serveFrontend(endpoint string, backends []string, timeout time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	frontend, err := runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("frontend"))
	if err != nil {
		return err
	}
	backend, err := runner.NewSocket(zmq4.DEALER, zmqgrace.WithName("backend"))
	if err != nil {
		return err
	}
	for _, b := range backends {
		if err := backend.Connect(b); err != nil {
			return err
		}
	}
	g := &gateway{backend: backend, timeout: timeout, waiting: map[uint64]request{}}
	frontend.Handle(g.pass)
	backend.Handle(g.answer)
	runner.Every(max(timeout/10, time.Millisecond), g.giveUp)
	if err := frontend.Bind(endpoint); err != nil {
		return err
	}
	fmt.Println("listening on", frontend.Endpoint())
	err = runner.Run(context.Background(), nil)
	slog.Info("ended", "report", runner.Report())
	return err
}

// pass sends a request to a backend. What is before the empty frame comes back with the answer: a REP sees to that.
func (g *gateway) pass(ctx context.Context, m *zmqgrace.Message) error {
	g.last++
	id := binary.BigEndian.AppendUint64(nil, g.last)
	if err := g.backend.Send(ctx, append([][]byte{id, nil}, m.Frames...)...); err != nil {
		return err
	}
	g.waiting[g.last] = request{m, time.Now().Add(g.timeout)}
	return zmqgrace.ErrDeferred
}

// answer replies to the request that a backend has answered.
func (g *gateway) answer(ctx context.Context, m *zmqgrace.Message) error {
	if len(m.Frames) < 3 || len(m.Frames[0]) != 8 {
		return fmt.Errorf("an answer without a correlation id: %q", m.Frames)
	}
	id := binary.BigEndian.Uint64(m.Frames[0])
	r, ok := g.waiting[id]
	if !ok {
		return nil // it had its 504
	}
	delete(g.waiting, id)
	return r.Reply(append([][]byte{[]byte("200")}, m.Frames[2:]...)...)
}

// giveUp replies to the requests that have waited for too long.
func (g *gateway) giveUp(ctx context.Context) error {
	for id, r := range g.waiting {
		if time.Now().After(r.until) {
			delete(g.waiting, id)
			if err := r.Reply([]byte("504")); err != nil {
				return err
			}
		}
	}
	return nil
}
