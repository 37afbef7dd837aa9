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
	minReserve  = 100 * time.Millisecond // of the grace, for the end of the sockets
	termLead    = 100 * time.Millisecond // before the end of the grace Term begins, whatever the loop does
	sortingTime = 50 * time.Millisecond  // after the hard end, for counting what it leaves
	termSlack   = time.Second            // after the longest linger is over, Term must be back

	// libzmq is given this much more linger than is counted, and half of it is tolerance: Term takes a millisecond
	// or two where nothing lingers.
	lingerMargin = 10 * time.Millisecond
)

// A plan is the budget of one end.
type plan struct {
	drainAt time.Time     // the ready delay is over
	limit   time.Time     // from here on the first empty moment will do
	hardEnd time.Time     // what is not handled by now is abandoned
	sorting time.Duration // for counting it
	lingers time.Time     // the last linger is over
	term    time.Time     // Term begins, whatever the loop does
	end     time.Time     // Run returns
}

// newPlan divides the grace, counted from the moment when the end was asked for. The longest linger is what
// the end is given after the drain, as long as that leaves the drain three quarters. Where the reserve is short, so is
// what is taken off it; and however long the ready delay, there is a moment left to drain.
func newPlan(asked time.Time, grace, readyDelay, drainLimit, longestLinger time.Duration) plan {
	reserve := min(max(lingerWithin(longestLinger, grace), minReserve), grace/4)
	hardEnd := grace - reserve
	drainAt := min(readyDelay, hardEnd-hardEnd/10)
	limit := drainAt + min(drainLimit, (hardEnd-drainAt)/2)
	lead := min(termLead, reserve/2)
	return plan{
		drainAt: asked.Add(drainAt),
		limit:   asked.Add(limit),
		hardEnd: asked.Add(hardEnd),
		sorting: min(sortingTime, reserve/4),
		lingers: asked.Add(grace - lead - lead/5), // so that the last linger is over before Term begins for that reason
		term:    asked.Add(grace - lead),
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

// foreseeTerm sets the last linger of sockets whose context is being terminated, or may be at any moment: a handler had the loop for too
// long. It comes before any other call of the loop's on them: the first one that learns of Term leaves a socket with the linger that it has
// (socket_base.cpp, process_commands), and that may be all the grace. So does a call that the handler has made itself.
func (l *loop) foreseeTerm() {
	if l.told() != forcing && !l.terming.Load() {
		return
	}
	for _, s := range l.r.openSockets() {
		s.raw.SetLinger(0)
	}
}

// flush empties the outboxes, as long as each socket's linger allows. From here on they take nothing more. A socket
// that has nothing to send any more is closed at once: as long as it is open it takes in what nobody will handle.
func (l *loop) flush() {
	l.refresh()
	l.flushing = time.Now()
	suspectZAP(l.sockets)
	left := l.left(l.flushing)
	for _, s := range l.sockets {
		s.deadline = l.flushing.Add(lingerWithin(s.linger, left))
		s.shutOutbox()
		l.owe(s) // whether or not whoever wrote last has come to ring
		// While running a slow subscriber loses messages rather than hold up the others. Now all that
		// remains is owed, so libzmq shall say when one is at its high-water mark.
		s.delivery.patient = s.delivery.patient || s.publishes()
	}
	for l.told() != forcing && l.broken == nil {
		// Nobody looks at these any more, and as long as there are some, poll does not sleep.
		l.dropTimers()
		l.crew.hear()
		l.deliverAll()
		wait := l.flushTime()
		for _, s := range l.sockets {
			if !s.owing && !s.closed && !s.answersZAP() {
				l.closeSocket(s)
			}
		}
		if wait <= 0 {
			return
		}
		if tick := l.patience(); tick >= 0 {
			wait = min(wait, tick)
		}
		l.looked = false // what arrives during the wait was not there when the drain ended
		l.poll(wait, false)
	}
}

// left is what sockets that are closed now may take for their end.
func (l *loop) left(now time.Time) time.Duration {
	switch {
	case l.told() == forcing || l.broken != nil:
		return 0
	case l.told() == crashing:
		return lastWords - termLead
	case l.told() >= draining:
		return l.plan.lingers.Sub(now)
	case l.r.ending.Load():
		return l.r.makePlan().lingers.Sub(now)
	}
	return l.r.opts.grace
}

// flushTime is how long the flush may wait for the next socket whose linger is not over; 0 when there is none.
func (l *loop) flushTime() (wait time.Duration) {
	for _, s := range l.owing {
		if s.refusing {
			continue // this REQ sends nothing before its answer, which is not received any more
		}
		if left := time.Until(s.deadline); left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	return wait
}

// closeSockets closes those that are still open, each with what is left of its linger.
func (l *loop) closeSockets() {
	l.crew.dismiss()
	// Who answers for the others' peers goes last: with nobody there, libzmq would let strangers in.
	for _, last := range []bool{false, true} {
		for _, s := range l.sockets {
			if s.closed || s.answersZAP() != last {
				continue
			}
			if l.told() == forcing {
				s.deadline = time.Now()
			}
			l.closeSocket(s)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range []*zmq4.Socket{l.doorman, l.doorbell} {
		if s != nil {
			s.Close()
		}
	}
	l.doorman = nil
	if l.batch != nil { // it was opened
		l.batch.Clear()
	}
	l.r.dropZAPGuard()
}

// closeSocket closes s, and notes whether there was something to read.
func (l *loop) closeSocket(s *Socket) {
	if !l.looked && s.waitedFor() && s.readable() {
		s.count(func(c *SocketReport) { c.Backlog = true })
	}
	s.shut()
}

// shut closes the socket, with its linger until the deadline. What is still on its outbox will not be sent.
func (s *Socket) shut() {
	linger := lingerWithin(-1, time.Until(s.deadline))
	if linger > 0 {
		linger += lingerMargin
	}
	s.cutOff = linger == 0 && s.linger != 0 && s.r.loop.told() != forcing
	s.raw.SetLinger(linger)
	s.raw.Close()
	s.closed = true
	s.r.loop.stale = true
	s.shutOutbox()
	d := &s.delivery
	s.mu.Lock()
	s.counts.Unsent += s.outbox.size + d.holding
	s.counts.Queued, s.outbox.size = 0, 0
	s.outbox.queue.dropAll()
	s.mu.Unlock()
	d.taken.dropAll()
	for _, p := range d.held {
		p.queue.dropAll()
	}
	d.held, d.holding = nil, 0
	s.dropInbox(false)
}

// lingers returns when the longest linger of the sockets that may have held something is over.
func (l *loop) lingers() (over time.Time) {
	for _, s := range l.r.allSockets() {
		// A socket whose linger was over before the flush began is no reason for anything now.
		if c := s.report(); c.lingered() && s.deadline.After(over) && s.deadline.After(l.flushing) {
			over = s.deadline
		}
	}
	return over
}

// expired reports whether Term came back when the linger of a socket was over that may still have held something, or
// a socket's flush left it no linger for what was sent. Who was closed with a shorter linger than others may have dropped long before.
func (l *loop) expired() bool {
	for _, s := range l.r.allSockets() {
		over := s.deadline.After(l.flushing) && !l.termedAt.Before(s.deadline.Add(lingerMargin/2))
		if c := s.report(); c.lingered() && (over || s.cutOff && c.Sent > 0) {
			return true
		}
	}
	return false
}

// term begins Term, unless it has begun, on a goroutine of its own: nothing bounds the call. The returned
// channel is closed when it is back.
func (l *loop) term() <-chan struct{} {
	go l.terminate()
	return l.termedC
}

// terminate is Term, once: a second call would return at once and say nothing.
func (l *loop) terminate() {
	// A timer that outlasts the grace may be making a socket, and pebbe's Context is not made for both at once: makeSocket refuses then.
	l.r.making.Lock()
	first := l.terming.CompareAndSwap(false, true)
	l.r.making.Unlock()
	if first {
		l.r.context.Term()
		l.termedAt = time.Now()
		close(l.termedC)
	}
}
