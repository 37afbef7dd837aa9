package zmqgrace

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/pebbe/zmq4"
)

const (
	owedPeers = 1024        // that are owed an answer at once, before old requests are given up
	owedTime  = time.Minute // from which a request is old, or the drain limit, if that is longer
)

// link is what a proxied socket does instead of calling a handler.
type link struct {
	to    *Socket
	owed  map[string]*owedPeer // ROUTER before a DEALER: requests that have no answer yet, by routing id
	total int                  // of owed
	crowd int                  // so many peers are owed something when the old ones are looked for next
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
// their answers, but not for requests older than the drain limit, nor for those of a client that an answer has found gone. Those count as
// failed, or, if they grew too old in the drain, as abandoned, which is an error. Where more than a thousand clients wait
// for an answer, requests that are older than a minute and than the drain limit are given up while running, too.
// From the drain limit on nothing more is taken from the frontend ([WithLate] can answer it). One that is asked over inproc by another socket of
// the Runner is open as long as anything taken elsewhere is unanswered, so that brokers in a row end together; if it has clients from outside, too,
// for a second at most. An XPUB behind a proxy
// waits for a slow subscriber for a second before it drops. Whoever closes one of the two sockets must close the other, too: it would go on taking what
// it can't pass on.
func (r *Runner) Proxy(frontend, backend *Socket) error {
	fail := func(err error) error { return fmt.Errorf("zmqgrace: proxy: %w", err) }
	if frontend == nil || backend == nil || frontend.r != r || backend.r != r || frontend == backend {
		return fail(errors.New("it takes two sockets of this Runner"))
	}
	r.setup.Lock()
	defer r.setup.Unlock()
	if r.isUsed() {
		return fail(errors.New("it must be registered before Run"))
	}
	switch [2]zmq4.Type{frontend.typ, backend.typ} {
	case [2]zmq4.Type{zmq4.ROUTER, zmq4.DEALER}, [2]zmq4.Type{zmq4.XSUB, zmq4.XPUB}, [2]zmq4.Type{zmq4.PULL, zmq4.PUSH}:
	default:
		return fail(fmt.Errorf("%v and %v do not make a pair: take ROUTER and DEALER, XSUB and XPUB, or PULL and PUSH", frontend.typ, backend.typ))
	}
	for _, s := range []*Socket{frontend, backend} {
		if s.link != nil || s.handler != nil || s.late != nil && s == backend { // Late would get the answers
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

// forward passes on what a proxied socket has to read: at most that many messages. Where nothing waits for the other side
// they do not come to Go at all.
func (s *Socket) forward(most int) (done int, err error) {
	if s.inbox.dry {
		s.inbox.dry = false
		return 0, eagain
	}
	k, now := s.link, time.Now()
	if !s.handle.Valid() {
		frames, err := receivePortable(s.raw, s.typ)
		if err != nil {
			return 0, err
		}
		var c chunk
		for i, f := range frames {
			c.add(f, i == len(frames)-1)
		}
		s.received(1)
		s.relay(&c, now)
		s.touch()
		return 1, nil
	}
	if isGone(s.raw) {
		return 0, zmq4.ErrorSocketClosed
	}
	batch := s.r.loop.batch
	atOnce := k.to.takesAtOnce()
	if atOnce {
		done, err = batch.Forward(s.handle, k.to.handle, swallows(k.to.typ), k.tracks(), most)
		s.received(done)
		k.to.tookAtOnce(done, !k.front)
	} else {
		_, err = batch.Receive(s.handle, k.to.roomFor(most), aloneBytes)
	}
	rest := chunk{frames: batch.Frames(), data: batch.Data()}
	if k.tracks() && done > 0 {
		s.accountAll(&rest, done, now)
	} else {
		s.settle(done, handled)
	}
	stuck := atOnce && rest.frame < len(rest.frames) // so the error says why that was not sent
	for ; rest.frame < len(rest.frames); done++ {
		s.received(1)
		s.relay(&rest, now)
	}
	s.inbox.dry = isAgain(err) && !stuck
	if done > 0 {
		s.touch()
		err = nil // if it is one that stays, it will come again
	}
	return done, err
}

// tracks reports whether the proxy counts unanswered requests.
func (k *link) tracks() bool { return k.owed != nil || k.to.link.owed != nil }

// takesAtOnce reports whether libzmq can be given messages for the socket past its outbox. Not where a peer is lost: only the
// delivery sees that it takes again.
func (s *Socket) takesAtOnce() bool {
	d := &s.delivery
	return s.handle.Valid() && !s.closed && !isGone(s.raw) && s.queued() == 0 && len(d.held) == 0 && d.patient == d.nodrop
}

// tookAtOnce counts what libzmq was given past the outbox.
func (s *Socket) tookAtOnce(n int, replies bool) {
	if n == 0 {
		return
	}
	if replies {
		s.touch()
	}
	s.count(func(c *SocketReport) { c.Sent += n })
}

// roomFor is how many messages, of so many, the outbox takes before it is full; at least one.
func (s *Socket) roomFor(most int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.typ == zmq4.ROUTER || s.outbox.limit == 0 {
		return most
	}
	return max(1, min(most, s.outbox.limit-s.outbox.size))
}

// relay puts the next of the messages that were received on the outbox of the other side.
func (s *Socket) relay(c *chunk, now time.Time) {
	k := s.link
	frames, data := c.first()
	c.frame += len(frames)
	c.at += len(data)
	id := ""
	if k.tracks() {
		id = string(bytesOf(&frames[0], data))
	}
	if !k.front {
		frames[len(frames)-1].Mark()
	}
	to := k.to
	to.mu.Lock()
	shut := to.outbox.shut
	if !shut {
		to.outbox.queue.addFrames(frames, data)
		to.added(1, s)
	}
	to.mu.Unlock()
	if shut {
		freeAll(frames)
		s.settle(1, failed)
		return
	}
	s.r.loop.notice(to)
	s.account(id, 1, now)
}

// accountAll accounts for messages that have left, whose first parts are the next in c.
func (s *Socket) accountAll(c *chunk, n int, now time.Time) {
	run := 0 // of messages with the same first part
	var last []byte
	for range n {
		id := bytesOf(&c.frames[c.frame], c.data[c.at:])
		if run > 0 && !bytes.Equal(id, last) {
			s.account(string(last), run, now)
			run = 0
		}
		if !c.frames[c.frame].Owns() {
			c.at += len(id)
		}
		last = id
		run++
		c.frame++
	}
	s.account(string(last), run, now)
}

// account notes that n messages from or to a peer were passed on.
func (s *Socket) account(id string, n int, now time.Time) {
	if s.link.owed != nil {
		s.owe(id, n, now)
		return // in flight until their answers pass
	}
	s.settle(n, handled)
	if s.link.to.link.owed != nil {
		s.link.to.answered(id, n)
	}
}

// owe opens the account of n requests of a frontend's peer.
func (s *Socket) owe(id string, n int, now time.Time) {
	k := s.link
	p := k.owed[id]
	if p == nil {
		if len(k.owed) >= max(k.crowd, owedPeers) {
			s.forgetOld(now)
			k.crowd = 2 * len(k.owed) // so that looking costs each of them little
		}
		p = &owedPeer{}
		k.owed[id] = p
	}
	p.n += n
	p.since = now
	k.total += n
}

// forgetOld gives up what was asked for long ago: clients whom nobody answers must not fill the memory, one after the other.
func (s *Socket) forgetOld(now time.Time) {
	for id, p := range s.link.owed {
		if now.Sub(p.since) > max(owedTime, s.r.opts.drainLimit) {
			s.settleOwed(id, p.n, failed)
		}
	}
}

// answered counts answers to a frontend's peer. Some peers send what nobody asked for.
func (s *Socket) answered(id string, n int) {
	if p := s.link.owed[id]; p != nil {
		s.settleOwed(id, min(n, p.n), handled)
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

// unowe forgets what a frontend's peer asked for: it is gone.
func (s *Socket) unowe(id string) {
	if s.link != nil && s.link.owed[id] != nil {
		s.settleOwed(id, s.link.owed[id].n, failed)
	}
}

// outstanding reports whether answers to this frontend's peers can still be hoped for. Requests older than limit
// are given up: whoever had them is gone. What the drain gives up the end is to blame for.
func (s *Socket) outstanding(now time.Time, limit time.Duration) bool {
	if s.link == nil || s.link.owed == nil {
		return false
	}
	for id, p := range s.link.owed {
		switch {
		case s.r.askedAt.Sub(p.since) > limit:
			s.settleOwed(id, p.n, failed)
		case now.Sub(p.since) > limit:
			s.settleOwed(id, p.n, abandoned)
		}
	}
	return s.link.total > 0
}
