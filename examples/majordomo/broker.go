package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

type broker struct {
	frontend, backend *zmqgrace.Socket
	services          map[string]*service
	workers           map[string]*worker // by address
}

type service struct {
	name     string
	requests []*zmqgrace.Message // that no worker has, the oldest first
	free     []*worker           // the least recently used one first
}

type worker struct {
	address []byte
	service *service
	request *zmqgrace.Message // that it works on
	leaving bool              // it said DISCONNECT: it is sent nothing more, and may still answer
	missed  int               // heartbeats
}

func serveBroker(forClients, forWorkers string, beat time.Duration) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	b := &broker{services: map[string]*service{}, workers: map[string]*worker{}}
	if b.frontend, err = runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("frontend")); err != nil {
		return err
	}
	// Heartbeats never make quiet, and nothing depends on it here: the end waits for the requests that are deferred.
	b.backend, err = runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("backend"), zmqgrace.WithSocketQuiet(0))
	if err != nil {
		return err
	}
	if err := b.frontend.Bind(forClients); err != nil {
		return err
	}
	if err := b.backend.Bind(forWorkers); err != nil {
		return err
	}
	b.frontend.Handle(b.fromClient)
	b.backend.Handle(b.fromWorker)
	runner.Every(beat, b.beat)
	fmt.Println("clients at", b.frontend.Endpoint(), "workers at", b.backend.Endpoint())
	err = runner.Run(context.Background(), nil)
	slog.Info("ended", "report", runner.Report())
	return err
}

// fromClient takes a request: "MDPC01", the service, and the body.
func (b *broker) fromClient(ctx context.Context, m *zmqgrace.Message) error {
	if len(m.Frames) < 3 || string(m.Frames[0]) != mdpClient {
		return fmt.Errorf("client %x: not a request: %q", m.Envelope()[0], m.Frames)
	}
	s := b.service(string(m.Frames[1]))
	s.requests = append(s.requests, m)
	if err := b.dispatch(ctx, s); err != nil {
		return err
	}
	return zmqgrace.ErrDeferred
}

// fromWorker takes a command: "MDPW01", its name, and what belongs to it.
func (b *broker) fromWorker(ctx context.Context, m *zmqgrace.Message) error {
	address := m.Envelope()[0]
	w := b.workers[string(address)]
	if len(m.Frames) < 2 || string(m.Frames[0]) != mdpWorker {
		return fmt.Errorf("worker %x: not a command: %q", address, m.Frames)
	}
	if w != nil {
		w.missed = 0
	}
	name, frames := string(m.Frames[1]), m.Frames[2:]
	switch {
	case name == ready && w == nil && len(frames) == 1:
		w = &worker{address: address, service: b.service(string(frames[0]))}
		b.workers[string(address)] = w
		fmt.Printf("worker %x: ready for %s\n", address, w.service.name)
		return b.free(ctx, w)
	case name == heartbeat && w != nil:
		return nil
	case name == disconnect:
		if w != nil {
			w.leaving = true
			w.service.remove(w)
			fmt.Printf("worker %x: leaves\n", address)
		}
		return nil
	case name == reply && w != nil && len(frames) >= 3 && w.worksFor(frames[0]):
		answered := w.request
		w.request = nil
		if err := answered.Reply(append([][]byte{[]byte(mdpClient), []byte(w.service.name)}, frames[2:]...)...); err != nil {
			return err
		}
		return b.free(ctx, w)
	}
	// It was given up, or it knew another broker at this endpoint: it must begin anew.
	if w != nil {
		b.giveUp(w)
	}
	return b.backend.Send(ctx, append([][]byte{address}, command(disconnect)...)...)
}

// free has w take the next request, unless it is leaving.
func (b *broker) free(ctx context.Context, w *worker) error {
	if w.leaving {
		return nil
	}
	w.service.free = append(w.service.free, w)
	return b.dispatch(ctx, w.service)
}

// dispatch sends requests to workers, as long as there are both.
func (b *broker) dispatch(ctx context.Context, s *service) error {
	for len(s.requests) > 0 && len(s.free) > 0 {
		w, m := s.free[0], s.requests[0]
		s.free, s.requests = s.free[1:], s.requests[1:]
		w.request = m
		frames := append(command(request, m.Envelope()[0], nil), m.Frames[2:]...)
		if err := b.backend.Send(ctx, append([][]byte{w.address}, frames...)...); err != nil {
			return err
		}
	}
	return nil
}

// beat sends the heartbeats, and gives up the workers whose own are missing. It counts beats, not time: a machine that
// stood still has not heard of anybody.
func (b *broker) beat(ctx context.Context) error {
	for _, w := range b.workers {
		if w.missed++; w.missed > liveness {
			b.giveUp(w)
		} else if !w.leaving {
			if err := b.backend.Send(ctx, append([][]byte{w.address}, command(heartbeat)...)...); err != nil {
				return err
			}
		}
	}
	for _, s := range b.services {
		if err := b.dispatch(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// giveUp forgets a worker. What it has not answered is the next that another one gets.
func (b *broker) giveUp(w *worker) {
	delete(b.workers, string(w.address))
	w.service.remove(w)
	if w.request != nil {
		w.service.requests = slices.Insert(w.service.requests, 0, w.request)
		fmt.Printf("worker %x: silent, another one gets its request\n", w.address)
	} else if !w.leaving {
		fmt.Printf("worker %x: silent\n", w.address)
	}
}

func (w *worker) worksFor(client []byte) bool {
	return w.request != nil && bytes.Equal(client, w.request.Envelope()[0])
}

func (b *broker) service(name string) *service {
	s := b.services[name]
	if s == nil {
		s = &service{name: name}
		b.services[name] = s
	}
	return s
}

func (s *service) remove(w *worker) {
	s.free = slices.DeleteFunc(s.free, func(other *worker) bool { return other == w })
}
