// Command after is the same stage.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	if err := serve(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func serve(endpoint string) error {
	runner, err := zmqgrace.New(zmqgrace.WithLinger(time.Second))
	if err != nil {
		return err
	}
	pull, err := runner.NewSocket(zmq4.PULL)
	if err != nil {
		return err
	}
	push, err := runner.NewSocket(zmq4.PUSH)
	if err != nil {
		return err
	}
	if err := errors.Join(pull.Bind(endpoint), push.Bind(endpoint)); err != nil {
		return err
	}
	fmt.Println("listening on", pull.Endpoint(), "and", push.Endpoint())

	count := 0
	pull.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		count++
		return push.Send(ctx, m.Frames...) // while nobody takes it, pull pauses, and all else goes on
	})
	runner.Every(time.Second, func(context.Context) error {
		slog.Info("so far", "jobs", count) // on the loop's goroutine, as the handler
		return nil
	})
	err = runner.Run(context.Background(), nil)
	log.Println(runner.Report())
	return err
}
