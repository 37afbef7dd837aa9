package zmqgrace

import "time"

// peerMemory is how many bytes are held for one ROUTER's peer at its high-water mark.
const peerMemory = 64 << 20

// heldPeer is a peer of a ROUTER at its high-water mark, and what it is owed.
type heldPeer struct {
	queue queue
	bytes int
	since time.Time // when it last took something
	lost  bool      // it took nothing for too long: what comes for it is dropped until it takes again
}

// route is the delivery of a ROUTER: what one peer can't take is held for it, and the others overtake it.
// ROUTER_MANDATORY tells such a peer (EAGAIN) from one that is gone (EHOSTUNREACH).
func (s *Socket) route(now time.Time, t *tally) {
	d := &s.delivery
	d.fresh = false
	if len(d.held) > 0 && now.Sub(d.retried) >= retryTick {
		d.retried = now
		for id, p := range d.held {
			s.retry(id, p, now, t)
		}
	}
	for !d.taken.empty() {
		some := len(d.held) > 0 // of it may be for those who can't take it, so one at a time
		var id string
		if some {
			id = string(d.taken.firstPart())
			if p := d.held[id]; p != nil && !p.lost {
				s.hold(p, now, t)
				continue
			}
		}
		sent, err := s.offer(&d.taken, some, t)
		t.off += sent
		switch {
		case err != nil && s.r.loop.fatal(err):
			return // nothing goes any more: what is left is unsent
		case err != nil:
			s.refused(err, now, t)
		case some:
			delete(d.held, id) // it takes again
		}
	}
}

// refused deals with the first message, which libzmq did not take.
func (s *Socket) refused(err error, now time.Time, t *tally) {
	d := &s.delivery
	id := string(d.taken.firstPart())
	p := d.held[id]
	switch {
	case !isAgain(err):
		d.taken.dropFirst()
		t.off++
		t.unroutable++
		delete(d.held, id)
		s.unowe(id)
	case p != nil: // lost
		d.taken.dropFirst()
		t.off++
		t.dropped++
	default:
		p = &heldPeer{since: now}
		if d.held == nil {
			d.held = make(map[string]*heldPeer)
		}
		d.held[id] = p
		s.hold(p, now, t)
	}
}

// hold sets the first message aside for its peer.
func (s *Socket) hold(p *heldPeer, now time.Time, t *tally) {
	d := &s.delivery
	p.bytes += d.taken.firstSize()
	d.taken.moveFirst(&p.queue)
	d.holding++
	t.off++
	if p.bytes > peerMemory {
		t.dropped += d.forget(p)
		p.lost, p.since = true, now
	}
}

// retry sends to a held peer what it takes by now.
func (s *Socket) retry(id string, p *heldPeer, now time.Time, t *tally) {
	d := &s.delivery
	for !p.queue.empty() {
		size := p.queue.firstSize()
		_, err := s.offer(&p.queue, true, t)
		if isAgain(err) {
			if now.Sub(p.since) >= peerPatience {
				t.dropped += d.forget(p)
				p.lost = true
			}
			return
		}
		if err != nil && s.r.loop.fatal(err) {
			return
		}
		if err != nil {
			t.unroutable += d.forget(p)
			s.unowe(id)
			break
		}
		p.bytes -= size
		p.since = now
		d.holding--
	}
	// A lost peer is remembered for a while, since finding it out again costs another second of holding.
	if !p.lost || now.Sub(p.since) > 10*peerPatience {
		delete(d.held, id)
	}
}

// offer tries to send: one message, or as many as go, and returns how many went. A plain send looks for news of the peers only once in
// a while (socket_base.cpp, process_commands); reading ZMQ_EVENTS always does, so a peer that has read meanwhile is
// not taken for a full one.
func (s *Socket) offer(q *queue, one bool, t *tally) (messages int, err error) {
	sent, err := q.send(s, one)
	messages = sent.Messages
	t.add(sent)
	if isAgain(err) && !s.delivery.fresh {
		s.delivery.fresh = true // once a delivery will do
		if _, err = s.raw.GetEvents(); err == nil {
			sent, err = q.send(s, one)
			messages += sent.Messages
			t.add(sent)
		}
	}
	return messages, err
}

// forget gives up what a peer is owed, and returns how many messages that was.
func (d *delivery) forget(p *heldPeer) int {
	n := p.queue.messages
	d.holding -= n
	p.queue.dropAll()
	p.bytes = 0
	return n
}
