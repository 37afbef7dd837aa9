// Command before is a server on pebbe's Reactor, with two sockets, a timer, and a channel that ends it.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
)

var errStop = errors.New("told to stop")

func main() {
	if err := serve(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func serve(endpoint string) error {
	router, err := zmq4.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	pub, err := zmq4.NewSocket(zmq4.PUB)
	if err != nil {
		return err
	}
	if err := errors.Join(router.Bind(endpoint), pub.Bind(endpoint)); err != nil {
		return err
	}
	bound, _ := router.GetLastEndpoint()
	fmt.Println("listening on", bound)

	reactor := zmq4.NewReactor()
	reactor.AddSocket(router, zmq4.POLLIN, func(zmq4.State) error {
		request, err := router.RecvMessageBytes(0)
		if err != nil {
			return err
		}
		_, err = router.SendMessage(request) // the envelope is in it
		return err
	})
	reactor.AddChannelTime(time.Tick(time.Second), 1, func(any) error {
		_, err := pub.SendMessage("alive")
		return err
	})
	reactor.AddChannel(signals(), 1, func(any) error { return errStop })

	err = reactor.Run(100 * time.Millisecond) // how often it looks at the channels
	router.SetLinger(0)
	router.Close()
	pub.SetLinger(0)
	pub.Close()
	if err := zmq4.Term(); err != nil {
		return err
	}
	if err == errStop {
		return nil
	}
	return err
}

// signals makes the channel of the type that AddChannel takes.
func signals() <-chan any {
	in, out := make(chan os.Signal, 1), make(chan any, 1)
	signal.Notify(in, os.Interrupt, syscall.SIGTERM)
	go func() { out <- <-in }()
	return out
}
