// Command httpserver takes jobs over HTTP and deals them to workers over ZeroMQ. When it is told to end it first
// lets the HTTP requests finish, and then sends their jobs.
//
//	go run ./httpserver [-http :8080] [-zmq tcp://*:5557]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

var (
	web  = flag.String("http", ":8080", "where jobs come in")
	jobs = flag.String("zmq", "tcp://*:5557", "where workers connect")
)

func main() {
	flag.Parse()
	if err := serve(); err != nil {
		slog.Error("httpserver", "error", err)
		os.Exit(1)
	}
}

func serve() error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	push, err := runner.NewSocket(zmq4.PUSH)
	if err != nil {
		return err
	}
	if err := push.Bind(*jobs); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *web)
	if err != nil {
		return err
	}
	fmt.Println("listening on", push.Endpoint(), "and on", "http://"+listener.Addr().String())

	server := &http.Server{Handler: accept(push)}
	runner.Go(func(ctx context.Context) error { return serveHTTP(ctx, server, listener) })
	err = runner.Run(context.Background(), nil)
	slog.Info("ended", "report", runner.Report())
	return err
}

// serveHTTP serves until ctx ends, which is when the drain begins. Then it lets the requests that it has finish, and the
// drain waits for that.
func serveHTTP(ctx context.Context, server *http.Server, listener net.Listener) error {
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		soon, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(soon)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// accept answers when the job is on the outbox. A client that goes away while that is full takes its job with it.
func accept(push *zmqgrace.Socket) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		job, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			err = push.Send(r.Context(), job)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}
