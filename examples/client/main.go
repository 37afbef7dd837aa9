// Command client asks a REP or a ROUTER, one request after the other. Where no answer comes in time it asks again on a new socket,
// as the Guide's Lazy Pirate does: so a client outlives the restart of its server. It needs pebbe's binding alone.
//
//	go run ./examples/client [-server tcp://localhost:5555] [-timeout 2s] [request ...]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
)

func main() {
	server := flag.String("server", "tcp://localhost:5555", "the endpoint to connect to")
	timeout := flag.Duration("timeout", 2*time.Second, "how long to wait for an answer before asking again")
	flag.Parse()
	requests := flag.Args()
	if len(requests) == 0 {
		requests = []string{"hello"}
	}
	c := &client{server: *server, timeout: *timeout}
	for _, request := range requests {
		answer, err := c.ask(request)
		if err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
			os.Exit(1)
		}
		fmt.Printf("%s: %s\n", request, answer)
	}
	c.close()
}

// A client asks until it has an answer.
type client struct {
	server  string
	timeout time.Duration
	req     *zmq4.Socket // nil: to be made
}

func (c *client) ask(request string) ([]byte, error) {
	for {
		answer, err := c.try(request)
		if !errors.Is(err, zmq4.Errno(syscall.EAGAIN)) {
			return answer, err
		}
		fmt.Fprintf(os.Stderr, "client: no answer within %v, asking again\n", c.timeout)
		c.close() // a REQ that waits for an answer sends nothing else
	}
}

// try sends a request and waits for its answer. With an error of EAGAIN there was none.
func (c *client) try(request string) ([]byte, error) {
	if err := c.connect(); err != nil {
		return nil, err
	}
	if _, err := c.req.Send(request, 0); err != nil {
		return nil, err
	}
	return c.req.RecvBytes(0)
}

// connect makes the socket, unless there is one. It does not wait: a server may come later.
func (c *client) connect() (err error) {
	if c.req != nil {
		return nil
	}
	if c.req, err = zmq4.NewSocket(zmq4.REQ); err != nil {
		return err
	}
	c.req.SetLinger(0) // a request that nobody took is not worth waiting for when the socket is closed
	c.req.SetRcvtimeo(c.timeout)
	if err := c.req.Connect(c.server); err != nil {
		return fmt.Errorf("connect to %q: %w", c.server, err)
	}
	return nil
}

func (c *client) close() {
	c.req.Close()
	c.req = nil
}
