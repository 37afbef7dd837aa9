package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

const (
	window = 8           // requests that wait for an answer, all the time
	rest   = time.Second // for a server that said LATE; longer than its quiet time
)

type client struct {
	runner                 *zmqgrace.Runner
	servers                []*server // in the order of their turns
	sent, answered, resent int
	open                   int           // requests that wait for an answer
	done                   chan struct{} // closed when there are none any more
}

type server struct {
	socket *zmqgrace.Socket
	open   int
	late   time.Time // when it last said so; zero once it has said OK since
}

// ask sends requests until it is told to end, and then waits for the answers.
func ask(endpoints []string) error {
	if len(endpoints) == 0 {
		endpoints = []string{"tcp://localhost:5555", "tcp://localhost:5556"}
	}
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	c := &client{runner: runner, done: make(chan struct{})}
	for _, endpoint := range endpoints {
		if err := c.connect(endpoint); err != nil {
			return err
		}
	}
	for range window {
		if err := c.next(context.Background()); err != nil {
			return err
		}
	}
	err = runner.Run(context.Background(), nil)
	fmt.Printf("%d sent, %d answered, %d resent\n", c.sent, c.answered, c.resent)
	slog.Info("ended", "report", runner.Report())
	return err
}

// connect makes one socket for one server: a socket that is connected to several does not say which one it sends to.
func (c *client) connect(endpoint string) (err error) {
	s := &server{}
	// A Goodbye that waits makes the drain wait: a DEALER does not know which answers are to come.
	s.socket, err = c.runner.NewSocket(zmq4.DEALER, zmqgrace.WithGoodbye(c.waitForAnswers))
	if err != nil {
		return err
	}
	s.socket.Handle(func(ctx context.Context, m *zmqgrace.Message) error { return c.answer(ctx, s, m.Frames) })
	c.servers = append(c.servers, s)
	return s.socket.Connect(endpoint)
}

func (c *client) waitForAnswers(ctx context.Context, _ *zmqgrace.Socket) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return errors.New("some requests are not answered")
	}
}

// answer takes an answer of s: OK or LATE, and the request.
func (c *client) answer(ctx context.Context, s *server, frames [][]byte) error {
	s.open--
	c.open--
	if string(frames[0]) == late {
		s.late = time.Now()
		c.resent++
		return c.send(ctx, frames[1:]...)
	}
	s.late = time.Time{}
	if c.answered++; c.answered == 100 || c.answered%10_000 == 0 {
		fmt.Println(c.answered, "answered")
	}
	if c.runner.Phase() < zmqgrace.Draining {
		return c.next(ctx)
	}
	if c.open == 0 {
		close(c.done)
	}
	return nil
}

// next sends a new request.
func (c *client) next(ctx context.Context) error {
	c.sent++
	return c.send(ctx, []byte("request "+strconv.Itoa(c.sent)))
}

func (c *client) send(ctx context.Context, request ...[]byte) error {
	s := c.pick()
	s.open++
	c.open++
	return s.socket.Send(ctx, request...)
}

// pick takes the servers in turn. One that was LATE is left out for a while, and then gets one request, to see how it
// is. If all were, it is the turn of the one for which that was longest ago: it may be back.
func (c *client) pick() *server {
	for i, s := range c.servers {
		if s.late.IsZero() || s.open == 0 && time.Since(s.late) > rest {
			c.servers = append(slices.Delete(c.servers, i, i+1), s)
			return s
		}
	}
	return slices.MinFunc(c.servers, func(a, b *server) int { return a.late.Compare(b.late) })
}
