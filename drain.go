package zmqgrace

import (
	"slices"
	"strings"
	"time"

	"github.com/pebbe/zmq4"
)

// isDrained reports whether the drain is complete, or past its limit and at an empty moment.
func (l *loop) isDrained() bool {
	l.refresh() // those that were made or closed right before are not among the sockets yet, or still are
	if !l.drain {
		l.drain = true
		for _, s := range l.sockets {
			if !s.endless() {
				s.mark = max(s.mark, l.waited-s.quiet+oneMoreLook)
			}
			s.sayGoodbye()
		}
	}
	now := time.Now()
	l.late = !now.Before(l.plan.limit)
	l.later = !now.Before(l.plan.limit.Add(min(peerPatience, l.plan.hardEnd.Sub(l.plan.limit)/2)))
	late := l.late
	if late {
		l.giveUpSenders(now)
	}
	for _, s := range l.sockets {
		s.seeEmpty()
	}
	if !l.empty || l.crew.inFlight() || l.r.routines.busy() || l.hasNews() { // in this order: who ends leaves news first
		return false
	}
	noisy, untold := false, false
	for _, s := range l.sockets {
		missing := s.quietMissing()
		noisy = noisy || s.awaitsAnswer() || missing > oneMoreLook || missing > 0 && !late || s.shutFront() && s.readable()
		untold = untold || missing > oneMoreLook && now.Before(l.lateEnd(s))
		if s.queued() > 0 && s.ownPeer || s.outstanding(now, l.r.opts.drainLimit) {
			return false
		}
		// A ROUTER's held messages hold up nobody: the flush is soon enough for them.
		if late && s.typ != zmq4.ROUTER && s.delivery.pending() && now.Sub(s.delivery.moved) < peerPatience {
			return false // its peer is reading
		}
	}
	if noisy && !late || untold {
		return false
	}
	// The last look; it sees also the sockets that are paused.
	for _, s := range l.sockets {
		events, err := s.raw.GetEvents()
		if err != nil {
			return false // it is no empty one; the next poll says so too, and deals with it
		}
		if !s.waitedFor() {
			continue
		}
		if len(s.inbox.messages) > 0 || events&zmq4.POLLIN != 0 {
			return false
		}
		s.emptied = true
	}
	if l.ownStreamGoesOn() {
		return false
	}
	if !l.r.routines.closeIf(func() bool { return !l.hasNews() }) {
		return false // one has just begun, or has begun and ended
	}
	l.looked = true
	l.noQuiet.Store(noisy)
	return true
}

// waitedFor reports whether what s has to read must be handled before the end. A subscriber's stream has no
// end, so one empty moment will do; subscriptions at a publisher are of no use to anybody then.
func (s *Socket) waitedFor() bool {
	if s.typ == zmq4.XPUB && s.endless() || s.shutFront() {
		return false
	}
	return canReceive(s.typ) && !(s.endless() && s.emptied && !(s.r.loop.noStreams && s.hearsOwn()))
}

// awaitsAnswer reports whether s is a REQ with an open request, whoever sent that. libzmq tells by the error of a receive.
func (s *Socket) awaitsAnswer() bool {
	if s.typ == zmq4.REQ && !s.awaiting && !s.closed && len(s.inbox.messages) == 0 {
		err := s.receive(1)
		s.awaiting = err == nil || isAgain(err) // otherwise EFSM
	}
	return s.awaiting
}

// lateEnd is until when s insists on quiet past the drain limit: what its Late says takes a moment to reach everybody,
// and clients that heed it do pause then.
func (l *loop) lateEnd(s *Socket) time.Time {
	if s.late == nil {
		return l.plan.limit
	}
	most := l.plan.hardEnd.Sub(l.plan.limit) / 2
	return l.plan.limit.Add(min(peerPatience+min(s.quiet, most), most))
}

// seeEmpty notes an empty moment where Late begins with it. A REP with an open request has nothing to read, whatever
// waits behind that.
func (s *Socket) seeEmpty() {
	if s.late == nil || s.emptied || s.readable() {
		return
	}
	if c := s.report(); s.typ != zmq4.REP || c.InFlight+c.Queued == 0 {
		s.emptied = true
	}
}

// rejecting reports whether what s receives goes to Late: the backlog of the drain is served, or its limit over.
func (s *Socket) rejecting() bool {
	l := s.r.loop
	return s.late != nil && l.drain && (s.emptied || l.late)
}

// ownStreamGoesOn reports whether a subscriber has something to read that came through another socket of this Runner. That is to be handled,
// since the Runner may have received it itself; and from then on subscribers take nothing from outside, which would have no end.
func (l *loop) ownStreamGoesOn() bool {
	goesOn := slices.ContainsFunc(l.sockets, func(s *Socket) bool { return s.hearsOwn() && s.readable() })
	l.noStreams = l.noStreams || goesOn
	return goesOn
}

// hearsOwn reports whether s hears another socket of this Runner. Where it hears others, too, these may have it hear something all the time, so
// the drain limit is the end of that.
func (s *Socket) hearsOwn() bool {
	return s.subscribes() && s.ownPeer && !(s.outside && s.r.loop.late)
}

// subscribes reports whether s hears a stream that has no end.
func (s *Socket) subscribes() bool { return (s.typ == zmq4.SUB || s.typ == zmq4.XSUB) && s.endless() }

// shutFront reports whether s is the frontend of a proxy that takes nothing more, so that what it has taken can
// come to an end. What another socket of this Runner asks there may be part of that; but clients from outside, who come in there as well, must
// not keep it open for ever.
func (s *Socket) shutFront() bool {
	l := s.r.loop
	if !l.late || s.late != nil || s.link == nil || !s.link.front || s.link.owed == nil {
		return false
	}
	return !s.ownPeer || s.outside && l.later || !l.owesBeside(s)
}

// owesBeside reports whether the Runner has taken something by another socket that it has not answered yet.
func (l *loop) owesBeside(s *Socket) bool {
	return l.crew.inFlight() || slices.ContainsFunc(l.sockets, func(other *Socket) bool {
		return other != s && (other.awaiting || other.link != nil && other.link.total > 0)
	})
}

// giveUpSenders ends the waiting of goroutines in Send on sockets whose peers take nothing, once the drain is
// past its limit: the drain waits for what they are part of.
func (l *loop) giveUpSenders(now time.Time) {
	for _, s := range l.owing {
		if now.Sub(s.delivery.moved) >= peerPatience {
			s.giveUp()
		}
	}
}

// noteEndpoint notes where s may have peers.
func (s *Socket) noteEndpoint(endpoint string, binds, connects bool) {
	if !strings.HasPrefix(endpoint, "inproc://") {
		s.outside = true
		return
	}
	if binds {
		s.binds = append(s.binds, endpoint)
	}
	if connects {
		s.connects = append(s.connects, endpoint)
	}
	s.r.loop.stale = true
}

// findOwnPeers finds out which of the sockets have another one at the other end of an inproc endpoint.
func findOwnPeers(sockets []*Socket) {
	binds, connects := make(map[string]int), make(map[string]int)
	count := func(s *Socket, n int) {
		for _, e := range s.binds {
			binds[e] += n
		}
		for _, e := range s.connects {
			connects[e] += n
		}
	}
	for _, s := range sockets {
		count(s, 1)
	}
	for _, s := range sockets {
		count(s, -1) // it is no peer of itself
		s.ownPeer = slices.ContainsFunc(s.binds, func(e string) bool { return connects[e] > 0 }) ||
			slices.ContainsFunc(s.connects, func(e string) bool { return binds[e] > 0 })
		count(s, 1)
	}
}

// abandonBacklog receives, for a moment, what nobody will handle any more, so that it is counted.
func (l *loop) abandonBacklog() {
	end := time.Now().Add(l.plan.sorting)
	for _, s := range l.sockets {
		if s.shutFront() && s.readable() {
			l.noQuiet.Store(true) // its clients did not pause, and nobody promised to take that
		}
		for s.waitedFor() && l.told() == abandoning && time.Now().Before(end) {
			if len(s.inbox.messages) == 0 && s.receive(turnMessages) != nil {
				break
			}
			s.dropInbox(true)
		}
	}
	// Handlers that heed their cancelled context can still reply.
	for l.crew.hear(); l.crew.busy > 0 && l.told() == abandoning && time.Now().Before(end); l.crew.hear() {
		l.poll(max(time.Until(end), 0), false) // less than 0 would be for ever
	}
}
