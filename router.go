package zmqgrace

import "time"

// peerMemory is how many bytes are held for one ROUTER's peer at its high-water mark.
const peerMemory = 64 << 20

// heldPeer is a peer of a ROUTER at its high-water mark, and what it is owed.
type heldPeer struct {
	queue []outgoing
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
	for _, out := range d.taken {
		id := out.frames[0]
		p := d.held[string(id)]
		if p != nil && !p.lost {
			t.off++
		} else {
			err := s.offer(out, t)
			if s.r.loop.broken != nil {
				break // nothing goes any more: what is left is unsent
			}
			t.off++
			switch {
			case err == nil:
				delete(d.held, string(id)) // it takes again
				continue
			case isAgain(err) && p != nil:
				t.dropped++
				continue
			case isAgain(err):
				p = &heldPeer{since: now}
				if d.held == nil {
					d.held = make(map[string]*heldPeer)
				}
				d.held[string(id)] = p
			default:
				t.unroutable++
				delete(d.held, string(id))
				s.unowe(string(id))
				continue
			}
		}
		p.queue = append(p.queue, out)
		p.bytes += out.bytes()
		d.holding++
		if p.bytes > peerMemory {
			t.dropped += d.forget(p)
			p.lost, p.since = true, now
		}
	}
	d.drop(t.off)
}

// retry sends to a held peer what it takes by now.
func (s *Socket) retry(id string, p *heldPeer, now time.Time, t *tally) {
	d := &s.delivery
	for len(p.queue) > 0 {
		err := s.offer(p.queue[0], t)
		if isAgain(err) {
			if now.Sub(p.since) >= peerPatience {
				t.dropped += d.forget(p)
				p.lost = true
			}
			return
		}
		if s.r.loop.broken != nil {
			return
		}
		if err != nil {
			t.unroutable += d.forget(p)
			s.unowe(id)
			break
		}
		p.bytes -= p.queue[0].bytes()
		p.queue[0] = outgoing{}
		p.queue = p.queue[1:]
		p.since = now
		d.holding--
	}
	// A lost peer is remembered for a while, since finding it out again costs another second of holding.
	if !p.lost || now.Sub(p.since) > 10*peerPatience {
		delete(d.held, id)
	}
}

// offer tries to send one message. A plain send looks for news of the peers only once in a while
// (socket_base.cpp, process_commands); reading ZMQ_EVENTS always does, so a peer that has read meanwhile is
// not taken for a full one.
func (s *Socket) offer(out outgoing, t *tally) error {
	err := send(s.raw, s.typ, out.frames)
	if isAgain(err) && !s.delivery.fresh {
		s.delivery.fresh = true // once a delivery will do
		if _, err = s.raw.GetEvents(); err == nil {
			err = send(s.raw, s.typ, out.frames)
		}
	}
	if err == nil {
		t.sent++
		t.replied = t.replied || out.reply
	} else {
		s.r.loop.fatal(err)
	}
	return err
}

// forget gives up what a peer is owed, and returns how many messages that was.
func (d *delivery) forget(p *heldPeer) int {
	n := len(p.queue)
	d.holding -= n
	p.queue, p.bytes = nil, 0
	return n
}

func (o outgoing) bytes() (n int) {
	for _, f := range o.frames {
		n += len(f)
	}
	return n
}
