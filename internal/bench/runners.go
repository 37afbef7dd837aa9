package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// portableFlag has the linker make a program whose Runners use pebbe's own calls alone, as where they can't reach libzmq by
// their own.
const portableFlag = "-X github.com/zmqgrace/zmqgrace.portable=yes"

// portable is the same server in that program.
func (b *bench) portable(command []string) []string {
	return append([]string{b.program("portable")}, command[1:]...)
}

var (
	patientLoop = zmqgrace.WithPollTimeout(time.Hour)
	endlessLoop = zmqgrace.WithPollTimeout(-1)
)

// An end is a socket of a Runner that serves here, bound to any port.
type end struct {
	typ     zmq4.Type
	limited bool // with its high-water marks
	opts    []zmqgrace.SocketOption
}

// newRunner makes a Runner with these sockets, and prints where they are bound.
func newRunner(opts []zmqgrace.Option, ends ...end) (*zmqgrace.Runner, []*zmqgrace.Socket, error) {
	runner, err := zmqgrace.New(opts...)
	if err != nil {
		return nil, nil, err
	}
	if err := runner.Context().SetMaxSockets(len(ends) + 16); err != nil {
		return nil, nil, err
	}
	var socks []*zmqgrace.Socket
	var endpoints []string
	for _, e := range ends {
		sock, err := runner.NewSocket(e.typ, e.opts...)
		if err != nil {
			return nil, nil, err
		}
		if !e.limited {
			if err := unlimited(sock.Raw()); err != nil {
				return nil, nil, err
			}
		}
		if err := sock.Bind(anyPort); err != nil {
			return nil, nil, err
		}
		socks = append(socks, sock)
		endpoints = append(endpoints, sock.Endpoint())
	}
	fmt.Println(strings.Join(endpoints, " "))
	return runner, socks, nil
}

func reply(_ context.Context, m *zmqgrace.Message) error { return m.Reply(m.Frames...) }

func echoRunner(workers int) error {
	runner, _, err := newRunner([]zmqgrace.Option{zmqgrace.WithWorkers(workers)}, end{typ: zmq4.ROUTER})
	if err != nil {
		return err
	}
	tellMemory()
	return runner.Run(context.Background(), reply)
}

// repRunner serves until a SIGTERM.
func repRunner(opts ...zmqgrace.Option) error {
	runner, _, err := newRunner(opts, end{typ: zmq4.REP, limited: true})
	if err != nil {
		return err
	}
	return runner.Run(context.Background(), reply)
}

func socketsRunner(n int) error {
	ends := make([]end, n)
	for i := range ends {
		ends[i] = end{typ: zmq4.ROUTER}
	}
	runner, _, err := newRunner(nil, ends...)
	if err != nil {
		return err
	}
	return runner.Run(context.Background(), reply)
}

func sinkRunner() error {
	runner, _, err := newRunner(nil, end{typ: zmq4.PULL, limited: true})
	if err != nil {
		return err
	}
	var c counter
	return runner.Run(context.Background(), func(_ context.Context, m *zmqgrace.Message) error {
		c.see(m.Frames[0])
		return nil
	})
}

func publishRunner(messages, bytes int) error {
	runner, socks, err := newRunner(nil, end{typ: zmq4.PUB})
	if err != nil {
		return err
	}
	runner.Go(func(ctx context.Context) error {
		return publish(messages, bytes, func(body []byte) error { return socks[0].Send(ctx, body) })
	})
	return runner.Run(context.Background(), nil)
}

func proxyRunner() error { return forward(end{typ: zmq4.ROUTER}, end{typ: zmq4.DEALER}) }

func pipeRunner() error {
	return forward(end{typ: zmq4.PULL, limited: true}, end{typ: zmq4.PUSH, limited: true})
}

func forward(front, back end) error {
	runner, socks, err := newRunner(nil, front, back)
	if err != nil {
		return err
	}
	if err := runner.Proxy(socks[0], socks[1]); err != nil {
		return err
	}
	return runner.Run(context.Background(), nil)
}

// lifeRunner is a Runner that is asked to end as soon as it runs.
func lifeRunner() error {
	runner, err := zmqgrace.New(zmqgrace.WithDrainQuiet(0))
	if err != nil {
		return err
	}
	sock, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	if err := sock.Bind(anyPort); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return runner.Run(ctx, reply)
}

// drainRunner is paused until the drain begins, so that all of the backlog is still there.
func drainRunner() error {
	resume := func(_ context.Context, s *zmqgrace.Socket) error {
		s.Resume()
		return nil
	}
	runner, socks, err := newRunner([]zmqgrace.Option{zmqgrace.WithDrainQuiet(0)},
		end{typ: zmq4.PULL, opts: []zmqgrace.SocketOption{zmqgrace.WithGoodbye(resume)}})
	if err != nil {
		return err
	}
	socks[0].Pause()
	err = runner.Run(context.Background(), func(context.Context, *zmqgrace.Message) error { return nil })
	if err != nil {
		return err
	}
	rep := runner.Report()
	for _, p := range rep.Phases {
		if p.Phase == zmqgrace.Draining {
			fmt.Printf("messages %d seconds %.9f\n", rep.Sockets[0].Drained, p.Duration.Seconds())
		}
	}
	return nil
}
