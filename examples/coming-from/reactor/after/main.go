// Command after is the same server.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
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
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	router, err := runner.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	pub, err := runner.NewSocket(zmq4.PUB)
	if err != nil {
		return err
	}
	if err := errors.Join(router.Bind(endpoint), pub.Bind(endpoint)); err != nil {
		return err
	}
	fmt.Println("listening on", router.Endpoint())

	router.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		return m.Reply(m.Frames...) // Reply puts the envelope in front
	})
	runner.Every(time.Second, func(ctx context.Context) error {
		return pub.Send(ctx, []byte("alive"))
	})
	err = runner.Run(context.Background(), nil)
	log.Println(runner.Report())
	return err
}
