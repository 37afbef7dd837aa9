// Command after is the same server.
package main

import (
	"context"
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
	runner, err := zmqgrace.New(zmqgrace.WithWorkers(4))
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

	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		return m.Reply(work(m.Frames[0]))
	})
	log.Println(runner.Report())
	return err
}

func work(request []byte) []byte { return append([]byte("done: "), request...) }
