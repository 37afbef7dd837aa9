// Command before is the loop that everybody writes: a REP server with a flag that it looks at once a second.
package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
)

func main() {
	if err := serve(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func serve(endpoint string) error {
	var stop atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { <-signals; stop.Store(true) }()

	rep, err := zmq4.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	rep.SetLinger(0)
	rep.SetRcvtimeo(time.Second) // to look at the flag
	if err := rep.Bind(endpoint); err != nil {
		return err
	}
	bound, _ := rep.GetLastEndpoint()
	fmt.Println("listening on", bound)

	for !stop.Load() {
		request, err := rep.RecvBytes(0)
		if zmq4.AsErrno(err) == zmq4.Errno(syscall.EAGAIN) {
			continue // nothing came
		}
		if err != nil {
			return err
		}
		if _, err := rep.SendBytes(work(request), 0); err != nil {
			return err
		}
	}
	rep.Close()
	return zmq4.Term()
}

func work(request []byte) []byte { return append([]byte("done: "), request...) }
