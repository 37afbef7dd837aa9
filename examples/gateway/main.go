// Command gateway answers its clients when its backends have answered it. The frontend's handler passes a request on
// and returns ErrDeferred; the backend's handler finds the request that an answer belongs to, and replies to it. Told to
// end, the gateway waits for what its backends owe. One that died owes it for ever: after the timeout the client gets
// a 504, as from a gateway on the web.
//
//	go run ./examples/gateway backend [endpoint]
//	go run ./examples/gateway [-timeout 5s] frontend [endpoint backend...]
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"
)

func main() {
	timeout := flag.Duration("timeout", 5*time.Second, "what the backend may take for an answer")
	work := flag.Duration("work", 10*time.Millisecond, "what it does take")
	flag.Parse()
	endpoints := []string{"tcp://*:5555", "tcp://localhost:5556"}
	if flag.NArg() > 1 {
		endpoints = flag.Args()[1:]
	}
	if err := serve(flag.Arg(0), endpoints, *timeout, *work); err != nil {
		slog.Error("gateway", "error", err)
		os.Exit(1)
	}
}

func serve(role string, endpoints []string, timeout, work time.Duration) error {
	switch role {
	case "frontend":
		return serveFrontend(endpoints[0], endpoints[1:], timeout)
	case "backend":
		return serveBackend(endpoints[0], work)
	}
	return fmt.Errorf("%q is no role: be the frontend or a backend", role)
}
