// Command pipeline is one stage between producers, which PUSH to it, and consumers, which PULL from it: it sends
// every line on in upper case. Both ends are kept: when it is told to end, it handles all that the PULL socket
// holds, and then stays until the PUSH socket has handed it on, at most for the linger. While the consumers are
// slow, it takes nothing more from the producers, so that nothing is dropped in between.
//
//	go run ./examples/pipeline [endpoint for producers [endpoint for consumers]]
package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	endpoints := []string{"tcp://*:5557", "tcp://*:5558"}
	copy(endpoints, os.Args[1:])
	if err := serve(endpoints[0], endpoints[1]); err != nil {
		slog.Error("pipeline", "error", err)
		os.Exit(1)
	}
}

func serve(in, out string) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	pull, err := runner.NewSocket(zmq4.PULL, zmqgrace.WithName("in"))
	if err != nil {
		return err
	}
	push, err := runner.NewSocket(zmq4.PUSH, zmqgrace.WithName("out"))
	if err != nil {
		return err
	}
	if err := pull.Bind(in); err != nil {
		return err
	}
	if err := push.Bind(out); err != nil {
		return err
	}
	fmt.Println("taking from", pull.Endpoint(), "handing on at", push.Endpoint())

	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		for i, frame := range m.Frames {
			m.Frames[i] = bytes.ToUpper(frame)
		}
		// In a handler Send never waits: it queues the message, and a full queue pauses the PULL socket.
		return push.Send(ctx, m.Frames...)
	})
	slog.Info("ended", "report", runner.Report())
	return err
}
