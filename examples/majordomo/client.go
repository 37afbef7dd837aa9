package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// A client sends one request after the other. One that is not answered in time it sends again, on a new socket.
type client struct {
	runner            *zmqgrace.Runner
	broker, service   string
	n                 int
	timeout           time.Duration
	req               *zmqgrace.Socket
	asked             time.Time // zero: nothing that is not answered
	answered, retries int
}

func ask(broker, service string, n int, timeout time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	c := &client{runner: runner, broker: broker, service: service, n: n, timeout: timeout}
	if err := c.request(context.Background()); err != nil {
		return err
	}
	runner.Every(max(timeout/10, time.Millisecond), c.retry)
	err = runner.Run(context.Background(), c.answer)
	fmt.Printf("%d answered, %d retries\n", c.answered, c.retries)
	slog.Info("ended", "report", runner.Report())
	return err
}

// request sends the next request, or the last one again if it was not answered.
func (c *client) request(ctx context.Context) (err error) {
	if c.req == nil {
		// A request that was given up is not worth lingering for.
		if c.req, err = c.runner.NewSocket(zmq4.REQ, zmqgrace.WithSocketLinger(0)); err != nil {
			return err
		}
		if err := c.req.Connect(c.broker); err != nil {
			return err
		}
	}
	c.asked = time.Now()
	return c.req.Send(ctx, []byte(mdpClient), []byte(c.service), []byte("request "+strconv.Itoa(c.answered)))
}

// answer takes what the broker passed on: "MDPC01", the service, and the body.
func (c *client) answer(ctx context.Context, m *zmqgrace.Message) error {
	if len(m.Frames) < 3 || string(m.Frames[0]) != mdpClient {
		return fmt.Errorf("not an answer: %q", m.Frames)
	}
	c.asked = time.Time{}
	if c.answered++; c.answered == c.n || c.runner.Phase() != zmqgrace.Running {
		return zmqgrace.ErrStop
	}
	return c.request(ctx)
}

func (c *client) retry(ctx context.Context) error {
	if c.asked.IsZero() || time.Since(c.asked) < c.timeout {
		return nil
	}
	c.retries++
	fmt.Println("no answer: asking again")
	if err := c.req.Close(); err != nil {
		return err
	}
	c.req = nil
	return c.request(ctx)
}
