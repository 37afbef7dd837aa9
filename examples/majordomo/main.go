// Command majordomo is a broker, a worker and a client of the Majordomo Protocol, MDP/0.1
// (https://rfc.zeromq.org/spec/7): clients ask for a service by name, and of its workers the least recently used one
// gets the request.
//
// Nothing is lost on the way. A worker that is told to end says DISCONNECT and answers what it was sent before the
// broker heard that. A worker that dies misses its heartbeats, and another one gets its request. A broker that dies is
// missed by its workers, which say READY to the next one, and by its clients, which ask again after a while.
//
//	go run ./examples/majordomo [-beat 2.5s] broker [endpoint for clients [endpoint for workers]]
//	go run ./examples/majordomo [-beat 2.5s] [-service echo] [-work 5ms] worker [endpoint]
//	go run ./examples/majordomo [-service echo] [-n 1000] [-timeout 10s] client [endpoint]
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// The frames of MDP. Workers are given up, and so are brokers, when they have missed more than liveness heartbeats.
const (
	mdpClient = "MDPC01"
	mdpWorker = "MDPW01"

	ready      = "\x01"
	request    = "\x02"
	reply      = "\x03"
	heartbeat  = "\x04"
	disconnect = "\x05"

	liveness = 3
)

// command makes the frames of a command to or from a worker.
func command(name string, frames ...[]byte) [][]byte {
	return append([][]byte{nil, []byte(mdpWorker), []byte(name)}, frames...)
}

func main() {
	beat := flag.Duration("beat", 2500*time.Millisecond, "interval of the heartbeats, the same for broker and workers")
	service := flag.String("service", "echo", "that the worker serves and the client asks for")
	work := flag.Duration("work", 5*time.Millisecond, "what a request takes a worker")
	n := flag.Int("n", 1000, "how many requests the client sends, one after the other")
	timeout := flag.Duration("timeout", 10*time.Second, "when the client sends a request again")
	flag.Parse()
	endpoints := map[string][]string{
		"broker": {"tcp://*:5555", "tcp://*:5556"},
		"worker": {"tcp://localhost:5556"},
		"client": {"tcp://localhost:5555"},
	}[flag.Arg(0)]
	copy(endpoints, flag.Args()[min(1, flag.NArg()):])
	var err error
	switch role := flag.Arg(0); role {
	case "broker":
		err = serveBroker(endpoints[0], endpoints[1], *beat)
	case "worker":
		err = serveWorker(endpoints[0], *service, *beat, *work)
	case "client":
		err = ask(endpoints[0], *service, *n, *timeout)
	default:
		err = fmt.Errorf("%q is no role: be the broker, a worker or a client", role)
	}
	if err != nil {
		slog.Error("majordomo", "error", err)
		os.Exit(1)
	}
}
