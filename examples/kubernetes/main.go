// Command kubernetes is a server at home in a pod: it echoes requests on port 5555, and on port 8080 it says over HTTP
// whether it is ready and alive, and has its metrics. kubernetes.yaml deploys it; docs/kubernetes.md says why the
// numbers are what they are.
//
// A request that is a duration ("2s") takes that long: try what a stuck handler does to the liveness probe.
//
//	go run . [-listen tcp://*:5555] [-http :8080]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
	"github.com/zmqgrace/zmqgrace/metrics"
)

// What kubernetes.yaml has to fit. A test compares them.
const (
	grace      = 25 * time.Second // from SIGTERM until Run returns
	readyDelay = 5 * time.Second  // of it: until everybody has seen that the pod is not ready
	heartbeat  = time.Second      // how often the loop says that it is alive
	stuckAfter = 10 * time.Second // no handler takes this long, unless it is stuck
)

var (
	listen = flag.String("listen", "tcp://*:5555", "where requests come in")
	web    = flag.String("http", ":8080", "where probes and metrics are served")
	delay  = flag.Duration("ready-delay", readyDelay, "how long to serve on after SIGTERM")
	stuck  = flag.Duration("stuck-after", stuckAfter, "how long a handler may take")
)

func main() {
	flag.Parse()
	if err := serve(); err != nil {
		slog.Error("kubernetes", "error", err)
		os.Exit(1)
	}
}

func serve() error {
	runner, err := zmqgrace.New(zmqgrace.WithGrace(grace), zmqgrace.WithReadyDelay(*delay))
	if err != nil {
		return err
	}
	router, err := runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("requests"), zmqgrace.WithLate(late))
	if err != nil {
		return err
	}
	if err := router.Bind(*listen); err != nil {
		return err
	}
	collector := metrics.New(runner)
	server, err := serveHTTP(runner, collector)
	if err != nil {
		return err
	}
	defer server.Close() // probes and metrics are answered until the very end
	fmt.Println("listening on", router.Endpoint(), "and on", "http://"+server.Addr)

	err = runner.Run(context.Background(), collector.Time(echo))
	slog.Info("ended", "report", runner.Report())
	return err
}

// serveHTTP does not use [zmqgrace.Runner.Go]: that would end it when the drain begins.
func serveHTTP(runner *zmqgrace.Runner, collector *metrics.Collector) (*http.Server, error) {
	listener, err := net.Listen("tcp", *web)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: routes(runner, collector)}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("http", "error", err) // the probes fail now, so Kubernetes ends us
		}
	}()
	return server, nil
}

func echo(ctx context.Context, m *zmqgrace.Message) error {
	if work, err := time.ParseDuration(string(m.Frames[0])); err == nil {
		time.Sleep(work)
	}
	return answer("OK", m)
}

// late says: try another pod. The client does so on a new connection, since the old one leads here for ever.
func late(ctx context.Context, m *zmqgrace.Message) error { return answer("LATE", m) }

func answer(status string, m *zmqgrace.Message) error {
	return m.Reply(append([][]byte{[]byte(status)}, m.Frames...)...)
}
