package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

type broker struct {
	frontend, backend *zmqgrace.Socket
	workers           map[string]*worker
	free              []*worker // the least recently used one first
}

type worker struct {
	address []byte
	request *zmqgrace.Message // that it works on
	leaving bool
}

func serveBroker(forClients, forWorkers string) error {
	runner, err := zmqgrace.New()
	if err != nil {
		return err
	}
	b := &broker{workers: map[string]*worker{}}
	if b.frontend, err = runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("frontend")); err != nil {
		return err
	}
	if b.backend, err = runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("backend")); err != nil {
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
	b.frontend.Pause() // until the first worker is ready
	fmt.Println("clients at", b.frontend.Endpoint(), "workers at", b.backend.Endpoint())
	err = runner.Run(context.Background(), nil)
	slog.Info("ended", "report", runner.Report())
	return err
}

// fromClient passes a request on. There is a free worker: the frontend would be paused otherwise.
func (b *broker) fromClient(ctx context.Context, m *zmqgrace.Message) error {
	w := b.free[0]
	client := m.Envelope()[0]
	if err := b.backend.Send(ctx, append([][]byte{w.address, nil, client, nil}, m.Frames...)...); err != nil {
		return err
	}
	w.request = m
	b.setFree(b.free[1:])
	return zmqgrace.ErrDeferred
}

func (b *broker) fromWorker(ctx context.Context, m *zmqgrace.Message) error {
	address := m.Envelope()[0]
	w := b.workers[string(address)]
	said := string(m.Frames[0])
	switch {
	case len(m.Frames) == 1 && said == ready && w == nil:
		w = &worker{address: address}
		b.workers[string(address)] = w
		b.setFree(append(b.free, w))
		return nil
	case len(m.Frames) == 1 && said == goodbye && w != nil:
		w.leaving = true
		b.setFree(slices.DeleteFunc(b.free, func(other *worker) bool { return other == w }))
		if w.request == nil {
			delete(b.workers, string(address))
		}
		return nil
	case len(m.Frames) < 3 || w == nil || w.request == nil:
		return fmt.Errorf("worker %x: nobody waits for %q", address, m.Frames)
	}
	request := w.request
	w.request = nil
	if w.leaving {
		delete(b.workers, string(address))
	} else {
		b.setFree(append(b.free, w))
	}
	return request.Reply(m.Frames[2:]...)
}

// setFree pauses the frontend while no worker is free.
func (b *broker) setFree(free []*worker) {
	if b.free = free; len(free) == 0 {
		b.frontend.Pause()
	} else {
		b.frontend.Resume()
	}
}
