// Command publisher publishes numbered messages from a goroutine of its own until the Runner ends: all that Send
// took is handed to the subscribers that are there, except what exceeds a slow subscriber's high-water mark.
//
//	go run ./examples/publisher [-every 100ms] [endpoint]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func main() {
	every := flag.Duration("every", 100*time.Millisecond, "time between two messages")
	flag.Parse()
	endpoint := "tcp://*:5556"
	if flag.NArg() > 0 {
		endpoint = flag.Arg(0)
	}
	if err := serve(endpoint, *every); err != nil {
		slog.Error("publisher", "error", err)
		os.Exit(1)
	}
}

func serve(endpoint string, every time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	pub, err := runner.NewSocket(zmq4.PUB)
	if err != nil {
		return err
	}
	if err := pub.Bind(endpoint); err != nil {
		return err
	}
	fmt.Println("publishing on", pub.Endpoint())

	ctx, cancel := context.WithCancel(context.Background())
	published := make(chan int)
	go func() { published <- publish(ctx, pub, every) }()
	err = runner.Run(context.Background(), nil) // a PUB socket receives nothing: no handler
	cancel()
	fmt.Println("published", <-published)
	slog.Info("ended", "report", runner.Report())
	return err
}

// publish returns how many messages the Runner took.
func publish(ctx context.Context, pub *zmqgrace.Socket, every time.Duration) (n int) {
	tick := time.Tick(every)
	for {
		select {
		case <-ctx.Done():
			return n
		case <-tick:
		}
		err := pub.Send(ctx, []byte("count"), strconv.AppendInt(nil, int64(n+1), 10))
		if errors.Is(err, zmqgrace.ErrClosed) {
			return n // the Runner has begun to flush: it takes nothing more
		}
		if err != nil {
			slog.Warn("publisher: not sent", "error", err)
			continue
		}
		n++
	}
}
