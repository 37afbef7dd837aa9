// Command router echoes to many clients at once, REQ or DEALER. A Reply goes back to the client whose request it
// answers: the Message keeps the routing id, and the empty delimiter of a REQ, in its envelope.
//
//	go run ./examples/router [endpoint]
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
		slog.Error("router", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string) error {
	runner, err := zmqgrace.New()
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

	// Handlers run one at a time, so that the map needs no lock.
	requests := map[string]int{} // per routing id
	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		id := m.Envelope()[0]
		requests[string(id)]++
		return m.Reply(m.Frames...)
	})
	for id, n := range requests {
		fmt.Printf("client %x: %d requests\n", id, n)
	}
	slog.Info("ended", "report", runner.Report())
	return err
}
