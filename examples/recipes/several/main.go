// Command several has two Runners in one process: one takes requests in, the other does the work. They end one after the
// other, so that what the first has taken is done.
//
//	go run ./several [front endpoint] [endpoint between the two]
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	front, between := "tcp://*:5555", "ipc:///tmp/several.sock"
	if len(os.Args) > 2 {
		front, between = os.Args[1], os.Args[2]
	}
	if err := serve(front, between); err != nil {
		slog.Error("several", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint, between string) error {
	// The graces add up to what the process has.
	front, err := zmqgrace.New(zmqgrace.WithGrace(15 * time.Second))
	if err != nil {
		return err
	}
	back, err := zmqgrace.New(zmqgrace.WithGrace(10*time.Second), zmqgrace.WithSignals()) // it ends when the front has
	if err != nil {
		return err
	}
	take, err := connect(front, endpoint, between)
	if err != nil {
		return err
	}
	pull, err := back.NewSocket(zmq4.PULL)
	if err != nil {
		return err
	}
	if err := pull.Bind(between); err != nil {
		return err
	}

	ended := make(chan error, 1)
	go func() {
		ended <- back.Run(context.Background(), work)
		front.Shutdown(context.Background()) // if it ended by itself, the front is of no use
	}()
	err = front.Run(context.Background(), take)
	if errors.Is(err, zmqgrace.ErrForced) {
		back.Close() // whoever is impatient with the one is with both
	}
	back.Shutdown(context.Background())
	err = errors.Join(err, <-ended)
	slog.Info("ended", "front", front.Report(), "back", back.Report())
	return err
}

// connect makes the front's sockets, and the handler between them.
func connect(front *zmqgrace.Runner, endpoint, between string) (zmqgrace.Handler, error) {
	pull, err := front.NewSocket(zmq4.PULL)
	if err != nil {
		return nil, err
	}
	push, err := front.NewSocket(zmq4.PUSH)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(pull.Bind(endpoint), push.Connect(between)); err != nil {
		return nil, err
	}
	fmt.Println("listening on", pull.Endpoint())
	return func(ctx context.Context, m *zmqgrace.Message) error { return push.Send(ctx, m.Frames...) }, nil
}

func work(ctx context.Context, m *zmqgrace.Message) error {
	fmt.Printf("done: %s\n", m.Frames[0])
	return nil
}
