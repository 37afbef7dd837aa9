// Command before has a ROUTER's messages come on a channel, from which four goroutines take them.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/pebbe/zmq4"
	"github.com/thinkdoggie/zmq4chan"
)

func main() {
	if err := serve(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func serve(endpoint string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	router, err := zmq4.NewSocket(zmq4.ROUTER)
	if err != nil {
		return err
	}
	if err := router.Bind(endpoint); err != nil {
		return err
	}
	bound, _ := router.GetLastEndpoint()
	fmt.Println("listening on", bound)

	adapter := zmq4chan.NewChanAdapter(router, 100, 100)
	adapter.Start(ctx)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return // what is in the channels is lost
				case request, ok := <-adapter.RxChan():
					if !ok {
						return
					}
					last := len(request) - 1 // behind the envelope
					request[last] = work(request[last])
					adapter.TxChan() <- request
				}
			}
		})
	}
	workers.Wait()
	adapter.Close()
	router.SetLinger(0)
	router.Close()
	return zmq4.Term()
}

func work(request []byte) []byte { return append([]byte("done: "), request...) }
