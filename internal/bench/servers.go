package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

const (
	serveArg = "serve" // bench serve NAME is the server NAME
	anyPort  = "tcp://127.0.0.1:*"
)

// Each prints its endpoint when it is ready. The echoes serve until they are killed, the others until a SIGTERM.
var servers = map[string]func() error{
	"echo-blocking":    echoBlocking,
	"echo-poller":      echoPoller,
	"echo-reactor":     echoReactor,
	"echo-zmqgrace":    echoRunner,
	"exit-floor":       exitFloor,
	"exit-recipe":      exitRecipe,
	"exit-zmqgrace":    func() error { return exitRunner() },
	"exit-zmqgrace-1h": func() error { return exitRunner(zmqgrace.WithPollTimeout(time.Hour)) },
	"idle-zmqgrace":    func() error { return exitRunner(zmqgrace.WithPollTimeout(-1)) },
}

func serve(name string) error {
	server := servers[name]
	if server == nil {
		return fmt.Errorf("no server %q", name)
	}
	return server()
}

// self is the command that runs a server of this file.
func self(name string) []string {
	exe, err := os.Executable()
	fail(err)
	return []string{exe, serveArg, name}
}

// bind makes and binds a socket as all but the Runner use it.
func bind(t zmq4.Type) (*zmq4.Socket, error) {
	sock, err := zmq4.NewSocket(t)
	if err != nil {
		return nil, err
	}
	if t == zmq4.ROUTER {
		if err := unlimited(sock); err != nil {
			return nil, err
		}
	}
	if err := sock.Bind(anyPort); err != nil {
		return nil, err
	}
	endpoint, err := sock.GetLastEndpoint()
	fmt.Println(endpoint)
	return sock, err
}

// unlimited takes the high-water marks away: a ROUTER at its mark drops replies, and the client would wait for them.
func unlimited(sock *zmq4.Socket) error {
	if err := sock.SetSndhwm(0); err != nil {
		return err
	}
	return sock.SetRcvhwm(0)
}

func answer(sock *zmq4.Socket) error {
	frames, err := sock.RecvMessageBytes(0)
	if err != nil {
		return err
	}
	_, err = sock.SendMessage(frames)
	return err
}

// echoBlocking is as simple as a server can be. Nothing can stop it but a kill.
func echoBlocking() error {
	sock, err := bind(zmq4.ROUTER)
	for err == nil {
		err = answer(sock)
	}
	return err
}

// echoPoller is the usual loop, which comes up for air once a second.
func echoPoller() error {
	sock, err := bind(zmq4.ROUTER)
	if err != nil {
		return err
	}
	poller := zmq4.NewPoller()
	poller.Add(sock, zmq4.POLLIN)
	for {
		polled, err := poller.Poll(time.Second)
		if err != nil {
			return err
		}
		for range polled {
			if err := answer(sock); err != nil {
				return err
			}
		}
	}
}

func echoReactor() error {
	sock, err := bind(zmq4.ROUTER)
	if err != nil {
		return err
	}
	reactor := zmq4.NewReactor()
	reactor.AddSocket(sock, zmq4.POLLIN, func(zmq4.State) error { return answer(sock) })
	return reactor.Run(time.Second)
}

func echoRunner() error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	sock, err := runner.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	if err := unlimited(sock.Raw()); err != nil {
		return err
	}
	return run(runner, sock)
}

// run echoes on a socket until a signal ends the Runner.
func run(runner *zmqgrace.Runner, sock *zmqgrace.Socket) error {
	if err := sock.Bind(anyPort); err != nil {
		return err
	}
	fmt.Println(sock.Endpoint())
	return runner.Run(context.Background(), func(_ context.Context, m *zmqgrace.Message) error {
		return m.Reply(m.Frames...)
	})
}

func exitRunner(opts ...zmqgrace.Option) error {
	runner, err := zmqgrace.New(opts...)
	if err != nil {
		return err
	}
	sock, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	return run(runner, sock)
}

// exitFloor serves nothing and waits for the signal alone: a Go process with a socket can't end sooner.
func exitFloor() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	sock, err := bind(zmq4.REP)
	if err != nil {
		return err
	}
	<-signals
	return closeAndTerm(sock)
}

// exitRecipe is what the guides teach: a flag that a signal sets, and a poll with a timeout that looks at it.
func exitRecipe() error {
	var stop atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		stop.Store(true)
	}()
	sock, err := bind(zmq4.REP)
	if err != nil {
		return err
	}
	poller := zmq4.NewPoller()
	poller.Add(sock, zmq4.POLLIN)
	for !stop.Load() {
		polled, err := poller.Poll(recipePoll)
		if err != nil {
			return err
		}
		for range polled {
			if err := answer(sock); err != nil {
				return err
			}
		}
	}
	return closeAndTerm(sock)
}

func closeAndTerm(sock *zmq4.Socket) error {
	if err := sock.SetLinger(0); err != nil {
		return err
	}
	if err := sock.Close(); err != nil {
		return err
	}
	return zmq4.Term()
}
