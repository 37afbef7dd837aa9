package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
)

const (
	burst   = 10_000                 // requests
	before  = 1_000                  // replies before the signal
	silence = 2 * time.Second        // what has no reply after that long is lost
	pause   = 500 * time.Millisecond // to make the successor idle: half of the recipe's poll timeout, its average
	probe   = burst                  // the number of one more request, for the successor
)

// A result is what a restart cost.
type result struct {
	answered      int    // of the burst
	inBurst, idle ending // of the first server, and of its successor
}

// A handover is the end of the first server and the start of its successor.
type handover struct {
	first     ending
	successor *server
	err       error
}

// restart sends a burst, restarts the server in the middle of it, and counts the replies.
func restart(ctx context.Context, kind string) (r result, err error) {
	progress := newProgress(names[kind])
	defer progress.clear()
	defer func() {
		if err != nil {
			if ctx.Err() != nil { // the servers were killed, and all else is a consequence
				err = context.Cause(ctx)
			}
			err = fmt.Errorf("%s, %s of %s requests answered: %w", names[kind], thousands(r.answered), thousands(burst), err)
		}
	}()
	first, err := startServer(ctx, kind, "tcp://127.0.0.1:*")
	if err != nil {
		return r, err
	}
	c, err := newClient(first.endpoint)
	if err != nil {
		return r, err
	}
	defer c.close()
	for n := range burst {
		if err := c.request(n); err != nil {
			return r, err
		}
	}

	handed := make(chan handover, 1)
	handOver := func() {
		h := handover{first: first.end()}
		h.successor, h.err = startServer(ctx, kind, first.endpoint)
		handed <- h
	}
	var successor *server
	stage := "the burst is sent"
	last := time.Now()
	for successor == nil || r.answered < burst && time.Since(last) < silence {
		select {
		case h := <-handed:
			if h.err != nil {
				return r, h.err
			}
			r.inBurst, successor, last = h.first, h.successor, time.Now()
			stage = "the successor serves"
		default:
		}
		got, err := c.reply(ctx)
		if err != nil {
			return r, err
		}
		if got {
			last = time.Now()
			if r.answered++; r.answered == before {
				stage = "the server is told to end"
				go handOver() // the client goes on reading
			}
		}
		progress.show("%s, %s of %s requests answered", stage, thousands(r.answered), thousands(burst))
	}

	if err := c.request(probe); err != nil {
		return r, err
	}
	for got := false; !got; {
		if got, err = c.reply(ctx); err != nil {
			return r, fmt.Errorf("the successor does not answer: %w", err)
		}
	}
	time.Sleep(pause)
	r.idle = successor.end()
	return r, nil
}

// A client is a DEALER with unlimited high-water marks: what is lost was not lost here.
type client struct {
	ctx    *zmq4.Context
	socket *zmq4.Socket
	seen   [burst + 1]bool
}

func newClient(endpoint string) (*client, error) {
	ctx, err := zmq4.NewContext()
	if err != nil {
		return nil, err
	}
	s, err := ctx.NewSocket(zmq4.DEALER)
	if err != nil {
		return nil, err
	}
	return &client{ctx: ctx, socket: s}, errors.Join(
		s.SetSndhwm(0),
		s.SetRcvhwm(0),
		s.SetLinger(0),
		s.SetRcvtimeo(50*time.Millisecond),
		s.Connect(endpoint),
	)
}

func (c *client) request(n int) error {
	_, err := c.socket.SendBytes(binary.BigEndian.AppendUint32(nil, uint32(n)), 0)
	return err
}

// reply waits a moment for a reply.
func (c *client) reply(ctx context.Context) (got bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	body, err := c.socket.RecvBytes(0)
	if errors.Is(err, zmq4.Errno(syscall.EAGAIN)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(body) != 4 || binary.BigEndian.Uint32(body) > probe {
		return false, fmt.Errorf("a reply that no request asked for: %x", body)
	}
	n := binary.BigEndian.Uint32(body)
	if c.seen[n] {
		return false, fmt.Errorf("request %d was answered twice", n)
	}
	c.seen[n] = true
	return true, nil
}

func (c *client) close() {
	c.socket.Close()
	c.ctx.Term()
}
