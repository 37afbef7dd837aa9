package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// A servant is a worker of its own point of view. It works on a goroutine of its own, one request at a time, so that
// the loop can go on with the heartbeats meanwhile.
type servant struct {
	runner          *zmqgrace.Runner
	broker, service string
	work            time.Duration
	dealer          *zmqgrace.Socket
	missed          int  // heartbeats of the broker
	lost            bool // it is silent, or does not know this worker
	working         atomic.Bool
	requests        int
}

func serveWorker(broker, service string, beat, work time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	w := &servant{runner: runner, broker: broker, service: service, work: work}
	if err := w.connect(context.Background()); err != nil {
		return err
	}
	runner.Every(beat, w.beat)
	err = runner.Run(context.Background(), w.serve)
	fmt.Println(w.requests, "requests")
	slog.Info("ended", "report", runner.Report())
	return err
}

// connect begins a conversation with the broker.
func (w *servant) connect(ctx context.Context) (err error) {
	w.dealer, err = w.runner.NewSocket(zmq4.DEALER,
		zmqgrace.WithGoodbye(sayDisconnect),
		zmqgrace.WithSocketLinger(time.Second), // for a broker that is gone; one that is there takes it all at once
	)
	if err != nil {
		return err
	}
	if err := w.dealer.Connect(w.broker); err != nil {
		return err
	}
	w.missed, w.lost = 0, false
	return w.dealer.Send(ctx, command(ready, []byte(w.service))...)
}

// sayDisconnect is the worker's last word but for the answers that it owes.
func sayDisconnect(ctx context.Context, dealer *zmqgrace.Socket) error {
	return dealer.Send(ctx, command(disconnect)...)
}

// serve takes a command of the broker: an empty frame, "MDPW01", its name, and what belongs to it.
func (w *servant) serve(ctx context.Context, m *zmqgrace.Message) error {
	if len(m.Frames) < 3 || string(m.Frames[1]) != mdpWorker {
		return fmt.Errorf("not a command: %q", m.Frames)
	}
	w.missed = 0
	switch name := string(m.Frames[2]); {
	case name == request && len(m.Frames) >= 6:
		w.requests++
		w.working.Store(true)
		go w.answer(ctx, m)
		return zmqgrace.ErrDeferred
	case name == disconnect:
		w.lost = true
	case name != heartbeat:
		return fmt.Errorf("not a command for a worker: %q", m.Frames)
	}
	return nil
}

func (w *servant) answer(ctx context.Context, m *zmqgrace.Message) {
	defer w.working.Store(false)
	select {
	case <-time.After(w.work):
	case <-ctx.Done(): // the end can't wait any longer
		return
	}
	if err := m.Reply(command(reply, m.Frames[3:]...)...); err != nil {
		slog.Warn("not answered", "error", err)
	}
}

// beat sends a heartbeat, or begins anew where the broker is lost. One that has heard DISCONNECT says nothing more, but
// wants to hear that the worker is still there.
func (w *servant) beat(ctx context.Context) error {
	leaving := w.runner.Phase() >= zmqgrace.Draining
	w.missed++
	w.lost = w.lost || w.missed > liveness && !leaving
	switch {
	case !w.lost:
		return w.dealer.Send(ctx, command(heartbeat)...)
	case leaving || w.working.Load():
		return nil
	}
	fmt.Println("the broker is lost: connecting again")
	if err := w.dealer.Close(); err != nil {
		return err
	}
	return w.connect(ctx)
}
