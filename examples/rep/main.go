// Command rep is the complete safe REP server: it answers every request with OK. Ctrl-C or SIGTERM ends it at
// once, also while it waits for a request, and every request that it has is answered first.
//
//	go run ./examples/rep [endpoint]
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	endpoint := "tcp://*:5555"
	if len(os.Args) > 1 {
		endpoint = os.Args[1]
	}
	if err := serve(endpoint); err != nil {
		slog.Error("rep", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string) error {
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
		fmt.Printf("received: %s\n", m.Frames[0])
		return m.Reply([]byte("OK"))
	})
	slog.Info("ended", "report", runner.Report())
	return err
}
