package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	gozeromq "github.com/go-zeromq/zmq4"
	"github.com/pebbe/zmq4"
)

const (
	serveArg = "serve" // bench serve NAME [NUMBER ...] is the server NAME
	anyPort  = "tcp://127.0.0.1:*"
)

// Each prints its endpoints when it is ready. Those that wait for a SIGTERM say so; the others serve until they are killed.
var servers = map[string]func(args []int) error{
	"echo-blocking":    func([]int) error { return serveBlocking(zmq4.ROUTER) },
	"echo-poller":      func([]int) error { return servePoller(zmq4.ROUTER) },
	"echo-reactor":     func([]int) error { return serveReactor() },
	"echo-go-zeromq":   func([]int) error { return serveGoZeroMQ() },
	"echo-zmqgrace":    func(args []int) error { return echoRunner(args[0]) },
	"rep-blocking":     func([]int) error { return serveBlocking(zmq4.REP) },
	"rep-poller":       func([]int) error { return servePoller(zmq4.REP) },
	"rep-zmqgrace":     func([]int) error { return repRunner() },
	"sink-blocking":    func([]int) error { return sinkBlocking() },
	"sink-zmqgrace":    func([]int) error { return sinkRunner() },
	"publish-pebbe":    func(args []int) error { return publishPebbe(args[0], args[1]) },
	"publish-runner":   func(args []int) error { return publishRunner(args[0], args[1]) },
	"proxy-zmqgrace":   func([]int) error { return proxyRunner() },
	"pipe-zmqgrace":    func([]int) error { return pipeRunner() },
	"sockets-runner":   func(args []int) error { return socketsRunner(args[0]) },
	"life-pebbe":       func(args []int) error { return lives(args[0], lifePebbe) },
	"life-zmqgrace":    func(args []int) error { return lives(args[0], lifeRunner) },
	"drain-pebbe":      func([]int) error { return drainPebbe() },
	"drain-zmqgrace":   func([]int) error { return drainRunner() },
	"exit-floor":       func([]int) error { return exitFloor() },
	"exit-recipe":      func([]int) error { return exitRecipe() },
	"exit-zmqgrace":    func([]int) error { return repRunner() },
	"exit-zmqgrace-1h": func([]int) error { return repRunner(patientLoop) },
	"idle-zmqgrace":    func([]int) error { return repRunner(endlessLoop) },
}

func serve(name string, args []string) error {
	server := servers[name]
	if server == nil {
		return fmt.Errorf("no server %q", name)
	}
	numbers := make([]int, len(args))
	for i, a := range args {
		n, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		numbers[i] = n
	}
	return server(numbers)
}

// bind makes and binds a socket as all but the Runner use it.
func bind(t zmq4.Type) (*zmq4.Socket, error) {
	sock, err := zmq4.NewSocket(t)
	if err != nil {
		return nil, err
	}
	switch t {
	case zmq4.ROUTER, zmq4.PUB:
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

// unlimited takes the high-water marks away: a ROUTER and a PUB at theirs drop, and the load would wait for what was dropped.
func unlimited(sock *zmq4.Socket) error {
	return errors.Join(sock.SetSndhwm(0), sock.SetRcvhwm(0))
}

func answer(sock *zmq4.Socket) error {
	frames, err := sock.RecvMessageBytes(0)
	if err != nil {
		return err
	}
	_, err = sock.SendMessage(frames)
	return err
}

// serveBlocking is as simple as a server can be. Nothing can stop it but a kill.
func serveBlocking(t zmq4.Type) error {
	sock, err := bind(t)
	tellMemory()
	for err == nil {
		err = answer(sock)
	}
	return err
}

// servePoller is the usual loop, which comes up for air once a second.
func servePoller(t zmq4.Type) error {
	sock, err := bind(t)
	if err != nil {
		return err
	}
	tellMemory()
	return pollWhile(func() bool { return true }, sock)
}

func pollWhile(goOn func() bool, sock *zmq4.Socket) error {
	poller := zmq4.NewPoller()
	poller.Add(sock, zmq4.POLLIN)
	for goOn() {
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
	return nil
}

func serveReactor() error {
	sock, err := bind(zmq4.ROUTER)
	if err != nil {
		return err
	}
	tellMemory()
	reactor := zmq4.NewReactor()
	reactor.AddSocket(sock, zmq4.POLLIN, func(zmq4.State) error { return answer(sock) })
	return reactor.Run(time.Second)
}

func serveGoZeroMQ() error {
	sock := gozeromq.NewRouter(context.Background())
	if err := sock.Listen("tcp://127.0.0.1:0"); err != nil {
		return err
	}
	fmt.Printf("tcp://%v\n", sock.Addr())
	tellMemory()
	for {
		msg, err := sock.Recv()
		if err != nil {
			return err
		}
		if err := sock.Send(msg); err != nil {
			return err
		}
	}
}

// sinkBlocking measures what it receives, from the message "s" to the message "e".
func sinkBlocking() error {
	sock, err := bind(zmq4.PULL)
	if err != nil {
		return err
	}
	var c counter
	for {
		frame, err := sock.RecvBytes(0)
		if err != nil {
			return err
		}
		c.see(frame)
	}
}

func publishPebbe(messages, bytes int) error {
	sock, err := bind(zmq4.PUB)
	if err != nil {
		return err
	}
	return publish(messages, bytes, func(body []byte) error {
		_, err := sock.SendBytes(body, 0)
		return err
	})
}

// publish says hello until all subscribers have heard it, which a line on the standard input tells; then it publishes.
func publish(messages, bytes int, send func([]byte) error) error {
	heard := make(chan struct{})
	go func() {
		os.Stdin.Read(make([]byte, 1))
		close(heard)
	}()
	for waiting := true; waiting; {
		if err := send([]byte("h")); err != nil {
			return err
		}
		select {
		case <-heard:
			waiting = false
		case <-time.After(time.Millisecond):
		}
	}
	body := make([]byte, bytes)
	for range messages {
		if err := send(body); err != nil {
			return err
		}
	}
	select {}
}

// lives measures how long a whole life takes, after one to get warm.
func lives(n int, life func() error) error {
	fmt.Println("ready")
	if err := life(); err != nil {
		return err
	}
	w := startWatch()
	for range n {
		if err := life(); err != nil {
			return err
		}
	}
	w.print(n)
	return nil
}

func lifePebbe() error {
	ctx, err := zmq4.NewContext()
	if err != nil {
		return err
	}
	sock, err := ctx.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	return errors.Join(sock.Bind(anyPort), sock.SetLinger(0), sock.Close(), ctx.Term())
}

// drainPebbe waits for a SIGTERM, and then reads what there is.
func drainPebbe() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	sock, err := zmq4.NewSocket(zmq4.PULL)
	if err == nil {
		err = unlimited(sock)
	}
	if err == nil {
		err = sock.Bind(anyPort)
	}
	if err != nil {
		return err
	}
	endpoint, err := sock.GetLastEndpoint()
	if err != nil {
		return err
	}
	fmt.Println(endpoint)

	<-signals
	w := startWatch()
	n := 0
	for ; ; n++ {
		if _, err := sock.RecvBytes(zmq4.DONTWAIT); err != nil {
			if zmq4.AsErrno(err) == zmq4.Errno(syscall.EAGAIN) {
				break
			}
			return err
		}
	}
	w.print(n)
	return closeAndTerm(sock)
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
	if err := pollWhile(func() bool { return !stop.Load() }, sock); err != nil {
		return err
	}
	return closeAndTerm(sock)
}

func closeAndTerm(sock *zmq4.Socket) error {
	return errors.Join(sock.SetLinger(0), sock.Close(), zmq4.Term())
}
