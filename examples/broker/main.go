// Command broker stands between clients and workers: a Proxy of a ROUTER and a DEALER, which deals the requests out to
// REP workers in turn. Told to end, it waits until the workers have answered all that it passed on. Workers come at any
// time; end the broker before them, since a DEALER does not know which of them is about to leave (see majordomo).
//
//	go run ./examples/broker broker [endpoint for clients [endpoint for workers]]
//	go run ./examples/broker [-work 5ms] worker [endpoint]
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	work := flag.Duration("work", 5*time.Millisecond, "what a request takes a worker")
	flag.Parse()
	var err error
	switch role := flag.Arg(0); role {
	case "broker":
		endpoints := []string{"tcp://*:5555", "tcp://*:5556"}
		copy(endpoints, flag.Args()[1:])
		err = serveBroker(endpoints[0], endpoints[1])
	case "worker":
		endpoint := "tcp://localhost:5556"
		if flag.NArg() > 1 {
			endpoint = flag.Arg(1)
		}
		err = serveWorker(endpoint, *work)
	default:
		err = fmt.Errorf("%q is no role: be the broker or a worker", role)
	}
	if err != nil {
		slog.Error("broker", "error", err)
		os.Exit(1)
	}
}

func serveBroker(forClients, forWorkers string) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	frontend, err := runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("frontend"))
	if err != nil {
		return err
	}
	backend, err := runner.NewSocket(zmq4.DEALER, zmqgrace.WithName("backend"))
	if err != nil {
		return err
	}
	if err := frontend.Bind(forClients); err != nil {
		return err
	}
	if err := backend.Bind(forWorkers); err != nil {
		return err
	}
	if err := runner.Proxy(frontend, backend); err != nil {
		return err
	}
	fmt.Println("clients at", frontend.Endpoint(), "workers at", backend.Endpoint())
	err = runner.Run(context.Background(), nil)
	slog.Info("ended", "report", runner.Report())
	return err
}

func serveWorker(broker string, work time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	rep, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	if err := rep.Connect(broker); err != nil {
		return err
	}
	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		time.Sleep(work)
		return m.Reply(m.Frames...)
	})
	slog.Info("ended", "report", runner.Report())
	return err
}
