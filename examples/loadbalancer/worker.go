package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// serveWorker is a DEALER, which can say GOODBYE at any time. The Guide's workers, which are REQ sockets and can only
// answer, are served by the broker too.
func serveWorker(broker string, work time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	dealer, err := runner.NewSocket(zmq4.DEALER, zmqgrace.WithGoodbye(func(ctx context.Context, s *zmqgrace.Socket) error {
		return s.Send(ctx, nil, []byte(goodbye))
	}))
	if err != nil {
		return err
	}
	if err := dealer.Connect(broker); err != nil {
		return err
	}
	if err := dealer.Send(context.Background(), nil, []byte(ready)); err != nil {
		return err
	}
	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		time.Sleep(work)
		return m.Reply(m.Frames...) // the empty frame, the address of the client and the one behind it go back as they came
	})
	slog.Info("ended", "report", runner.Report())
	return err
}
