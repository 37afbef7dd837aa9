// Command after is the same server.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	if err := serve(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func serve(endpoint string) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	requests, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	control, err := runner.NewSocket(zmq4.PULL)
	if err != nil {
		return err
	}
	if err := errors.Join(requests.Bind(endpoint), control.Bind(endpoint)); err != nil {
		return err
	}
	fmt.Println("listening on", requests.Endpoint(), "and", control.Endpoint())

	requests.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		return m.Reply(append([]byte("done: "), m.Frames[0]...))
	})
	control.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		fmt.Printf("control: %s\n", m.Frames[0])
		return nil
	})
	err = runner.Run(context.Background(), nil)
	log.Println(runner.Report())
	return err
}
