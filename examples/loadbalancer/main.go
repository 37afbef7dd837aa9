// Command loadbalancer is the Guide's load-balancing broker: a worker says READY, and each request goes to the worker
// that has been free for longest. While none is free, the frontend is paused, so that requests wait in ZeroMQ's queues
// and not in the broker. A worker that is told to end says GOODBYE, and answers what it was sent before that was heard.
//
//	go run ./examples/loadbalancer broker [endpoint for clients [endpoint for workers]]
//	go run ./examples/loadbalancer [-work 5ms] worker [endpoint]
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// What a worker says in a message of one frame. An answer has more: the address of the client, an empty frame, a body.
const (
	ready   = "\x01"
	goodbye = "\x02"
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
		slog.Error("loadbalancer", "error", err)
		os.Exit(1)
	}
}
