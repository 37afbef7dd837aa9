package zmqgrace

import (
	"errors"
	"fmt"
	"time"

	"github.com/pebbe/zmq4"
)

// link is what a proxied socket does instead of calling a handler.
type link struct {
	to    *Socket
	owed  map[string]*owedPeer // ROUTER before a DEALER: requests that have no answer yet, by routing id
	total int                  // of owed
	front bool
}

type owedPeer struct {
	n     int
	since time.Time // the last request
}

// Proxy has the Runner forward messages between two of its sockets, both ways, as zmq_proxy does: a ROUTER and a
// DEALER, an XSUB and an XPUB, or a PULL and a PUSH, in this order. Call it before Run; the sockets need no handler.
//
// Between ROUTER and DEALER unanswered requests are counted by routing id: they are in flight, and the drain waits for
// their answers, but not for those of clients that are gone, nor for requests older than the drain limit; both count as
// failed. From the drain limit on nothing more is taken from the frontend ([WithLate] can answer it). An XPUB behind a proxy
// waits for a slow subscriber for a second before it drops.
func (r *Runner) Proxy(frontend, backend *Socket) error {
	fail := func(err error) error { return fmt.Errorf("zmqgrace: proxy: %w", err) }
	if frontend == nil || backend == nil || frontend.r != r || backend.r != r || frontend == backend {
		return fail(errors.New("it takes two sockets of this Runner"))
	}
	if r.isUsed() {
		return fail(errors.New("it must be registered before Run"))
	}
	switch [2]zmq4.Type{frontend.typ, backend.typ} {
	case [2]zmq4.Type{zmq4.ROUTER, zmq4.DEALER}, [2]zmq4.Type{zmq4.XSUB, zmq4.XPUB}, [2]zmq4.Type{zmq4.PULL, zmq4.PUSH}:
	default:
		return fail(fmt.Errorf("%v and %v do not make a pair: take ROUTER and DEALER, XSUB and XPUB, or PULL and PUSH", frontend.typ, backend.typ))
	}
	for _, s := range []*Socket{frontend, backend} {
		if s.link != nil || s.handler != nil {
			return fail(fmt.Errorf("socket %q has a proxy or a handler already", s.name))
		}
		if s.closed {
			return fail(fmt.Errorf("socket %q: %w", s.name, ErrClosed))
		}
	}
	frontend.link = &link{to: backend, front: true}
	backend.link = &link{to: frontend}
	if frontend.typ == zmq4.ROUTER {
		frontend.link.owed = make(map[string]*owedPeer)
	}
	backend.delivery.patient = backend.typ == zmq4.XPUB
	return nil
}

// forward passes on a message that a proxied socket received.
func (s *Socket) forward(frames [][]byte) {
	k := s.link
	if err := k.to.push(outgoing{frames: frames, reply: !k.front}, s); err != nil {
		s.settle(1, failed)
		return
	}
	if k.owed != nil {
		k.owe(string(frames[0]))
		return // in flight until its answer passes
	}
	s.settle(1, handled)
	if back := k.to.link; back.owed != nil {
		k.to.answered(string(frames[0]))
	}
}

func (k *link) owe(id string) {
	p := k.owed[id]
	if p == nil {
		p = &owedPeer{}
		k.owed[id] = p
	}
	p.n++
	p.since = time.Now()
	k.total++
}

// answered counts an answer to a frontend's peer. Some peers send what nobody asked for.
func (s *Socket) answered(id string) {
	if s.link.owed[id] != nil {
		s.settleOwed(id, 1, handled)
	}
}

// settleOwed closes the account of n requests of a peer.
func (s *Socket) settleOwed(id string, n int, as fate) {
	k := s.link
	p := k.owed[id]
	if p.n -= n; p.n == 0 {
		delete(k.owed, id)
	}
	k.total -= n
	s.settle(n, as)
}

// unowe forgets what a frontend's peer asked for: it is gone, or it has waited too long.
func (s *Socket) unowe(id string) {
	if s.link == nil || s.link.owed[id] == nil {
		return
	}
	s.settleOwed(id, s.link.owed[id].n, failed)
}

// outstanding reports whether answers to this frontend's peers can still be hoped for. Requests older than limit
// are given up: whoever had them is gone.
func (s *Socket) outstanding(now time.Time, limit time.Duration) bool {
	if s.link == nil || s.link.owed == nil {
		return false
	}
	for id, p := range s.link.owed {
		if now.Sub(p.since) > limit {
			s.unowe(id)
		}
	}
	return s.link.total > 0
}
