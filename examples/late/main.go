// Command late is a server that can be restarted under clients that never pause, and such a client. A server that is
// told to end answers what it has, and to what still comes it says LATE: try another server. The client sends such a
// request to another server, and keeps its socket to the first one, since there may be more answers on their way.
// It tries a server that was LATE again after a second: that gives the server the quiet that it needs to end.
//
//	go run ./examples/late server [endpoint]
//	go run ./examples/late client [endpoint...]
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// What a server says in front of the request that it sends back.
const (
	ok   = "OK"
	late = "LATE"
)

func main() {
	flag.Parse()
	var err error
	switch role := flag.Arg(0); role {
	case "server":
		err = serve(flag.Args()[1:])
	case "client":
		err = ask(flag.Args()[1:])
	default:
		err = fmt.Errorf("%q is no role: be a server or a client", role)
	}
	if err != nil {
		slog.Error("late", "error", err)
		os.Exit(1)
	}
}

func serve(endpoints []string) error {
	endpoint := "tcp://*:5555"
	if len(endpoints) > 0 {
		endpoint = endpoints[0]
	}
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	router, err := runner.NewSocket(zmq4.ROUTER, zmqgrace.WithLate(answer(late)))
	if err != nil {
		return err
	}
	if err := router.Bind(endpoint); err != nil {
		return err
	}
	fmt.Println("listening on", router.Endpoint())
	err = runner.Run(context.Background(), answer(ok))
	slog.Info("ended", "report", runner.Report())
	return err
}

func answer(status string) zmqgrace.Handler {
	return func(ctx context.Context, m *zmqgrace.Message) error {
		return m.Reply(append([][]byte{[]byte(status)}, m.Frames...)...)
	}
}
