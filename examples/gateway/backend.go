package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// serveBackend is a REP server that knows nothing of gateways.
func serveBackend(endpoint string, work time.Duration) error {
	runner, err := zmqgrace.New()
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
	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		time.Sleep(work)
		return m.Reply(m.Frames...)
	})
	slog.Info("ended", "report", runner.Report())
	return err
}
