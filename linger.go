package zmqgrace

import (
	"time"

	"github.com/pebbe/zmq4"
)

// What ends a ZeroMQ program wrongly, and what is done about it here.
//
//	trap                                              | answer
//	--------------------------------------------------+----------------------------------------------------
//	libzmq's linger is -1: Term blocks for ever       | finite at creation, the final one right before Close;
//	                                                  | after Close it is ENOTSOCK, after Term began ETERM
//	SetLinger cuts to ms: 0.9 ms drops, -1.5 ms is    | lingerWithin: never negative, rounded up
//	for ever (and so is a budget just overrun)        |
//	Unbind kills accepted connections with what they  | nothing is unbound, disconnected or unsubscribed on
//	hold (stream_listener_base.cpp)                   | the way out
//	Close destroys all that was not read              | drain first
//	without Term nothing waits for the linger         | Term after the last Close
//	Term has no timeout; a second one never calls C   | once, on its own goroutine, the wait for it bounded
//	a blocking call in a handler holds the loop       | Term begins before the grace is over: the call gets ETERM
//	the lingers of all sockets run in parallel        | the longest counts, not the sum
//	nobody says what a linger dropped                 | time tells: Term back before the longest linger is over
//	                                                  | means that all was handed over
const (
	minReserve = 100 * time.Millisecond // of the grace, for the end of the sockets
	termLead   = 100 * time.Millisecond // before the end of the grace Term begins, whatever the loop does
	termSlack  = time.Second            // after the longest linger is over, Term must be back
)

// A plan is the budget of one end, as moments.
type plan struct {
	drainAt time.Time // the ready delay is over
	limit   time.Time // from here on the first empty moment will do
	hardEnd time.Time // what is not handled by now is abandoned
	end     time.Time // Run returns
}

// newPlan divides the grace, counted from the moment when the end was asked for. The longest linger is what
// the end is given after the drain, as long as that leaves the drain three quarters.
func newPlan(asked time.Time, grace, readyDelay, drainLimit, longestLinger time.Duration) plan {
	reserve := min(max(lingerWithin(longestLinger, grace), minReserve), grace/4)
	hardEnd := grace - reserve
	drainAt := min(readyDelay, hardEnd)
	limit := drainAt + min(drainLimit, (hardEnd-drainAt)/2)
	return plan{
		drainAt: asked.Add(drainAt),
		limit:   asked.Add(limit),
		hardEnd: asked.Add(hardEnd),
		end:     asked.Add(grace),
	}
}

// lingerWithin is the linger for SetLinger: the wanted one (-1: all there is) within what is left of a budget.
func lingerWithin(wanted, left time.Duration) time.Duration {
	if wanted < 0 || wanted > left {
		wanted = left
	}
	if wanted <= 0 {
		return 0
	}
	return wholeMillis(wanted)
}

// longestLinger is what the slowest of the sockets may take; -1 is longer than any.
func longestLinger(sockets []*Socket) (longest time.Duration) {
	for _, s := range sockets {
		if s.linger < 0 {
			return -1
		}
		longest = max(longest, s.linger)
	}
	return longest
}

// flush empties the outboxes, as long as each socket's linger allows. From here on they take nothing more.
func (l *loop) flush() {
	l.refresh()
	now := time.Now()
	left := l.left(now)
	for _, s := range l.sockets {
		s.deadline = now.Add(lingerWithin(s.linger, left))
		s.shutOutbox()
		if s.typ == zmq4.PUB || s.typ == zmq4.XPUB {
			// While running a slow subscriber loses messages rather than hold up the others. Now all that
			// remains is owed, so libzmq shall say when one is at its high-water mark.
			s.delivery.patient = true
		}
	}
	for l.told() != forcing && l.broken == nil {
		l.deliverAll()
		wait := l.flushTime()
		if wait <= 0 {
			return
		}
		l.looked = false // what arrives during the wait was not there when the drain ended
		l.poll(min(wait, l.patience()), false)
	}
}

// left is what the sockets may take in all for their end: the grace, less what Term and the way back take.
func (l *loop) left(now time.Time) time.Duration {
	switch l.told() {
	case forcing:
		return 0
	case crashing:
		return lastWords - termLead
	}
	return l.plan.end.Sub(now) - termLead
}

// flushTime is how long the flush may wait for the next socket whose linger is not over; 0 when there is none.
func (l *loop) flushTime() (wait time.Duration) {
	for _, s := range l.owing {
		if s.awaiting {
			continue // a REQ sends nothing before its answer, which is not received any more
		}
		if left := time.Until(s.deadline); left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	return wait
}

// closeSockets closes all of them, each with what is left of its linger.
func (l *loop) closeSockets() {
	l.crew.dismiss()
	if !l.looked {
		for _, s := range l.sockets {
			if s.waitedFor() && readable(s.raw) {
				s.count(func(c *SocketReport) { c.Backlog = true })
			}
		}
	}
	if l.told() == forcing {
		now := time.Now()
		for _, s := range l.sockets {
			s.deadline = now
		}
	}
	for _, s := range l.sockets {
		s.shut()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range []*zmq4.Socket{l.doorman, l.doorbell} {
		if s != nil {
			s.Close()
		}
	}
	l.doorman = nil
}

// shut closes the socket, with its linger until the deadline. What is still on its outbox will not be sent.
func (s *Socket) shut() {
	s.raw.SetLinger(lingerWithin(-1, time.Until(s.deadline)))
	s.raw.Close()
	s.closed = true
	s.r.loop.stale = true
	d := &s.delivery
	s.mu.Lock()
	s.outbox.shut = true
	s.release()
	s.counts.Unsent += s.outbox.size + d.holding
	s.counts.Queued, s.outbox.size = 0, 0
	s.outbox.queue = nil
	s.mu.Unlock()
	d.taken, d.held, d.holding = nil, nil, 0
}

// lingers returns when the longest linger of the sockets that may have held something is over.
func (l *loop) lingers() (over time.Time) {
	for _, s := range l.r.allSockets() {
		if c := s.report(); c.lingered() && s.deadline.After(over) {
			over = s.deadline
		}
	}
	return over
}

// expired reports whether Term came back when the longest linger was over: then something was still lingering.
func (l *loop) expired() bool {
	over := l.lingers()
	return !over.IsZero() && !l.termedAt.Before(over)
}

// term begins Term, unless it has begun, on a goroutine of its own: nothing bounds the call. The returned
// channel is closed when it is back.
func (l *loop) term() <-chan struct{} {
	go l.terminate()
	return l.termedC
}

// terminate is Term, once: a second call would return at once and say nothing.
func (l *loop) terminate() {
	if l.terming.CompareAndSwap(false, true) {
		l.r.context.Term()
		l.termedAt = time.Now()
		close(l.termedC)
	}
}
