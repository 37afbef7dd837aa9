package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

const (
	// peerPatience is how long a peer at its high-water mark may take nothing before what it is owed is
	// dropped. It bounds what one frozen client costs the others, and the end. libzmq tells of what a peer takes in steps of half the
	// mark (pipe.cpp, compute_lwm), so with the default mark 500 messages a second are the least that is seen as something.
	peerPatience = time.Second

	// lossyTime is how long a publisher then drops for slow subscribers before it waits for them again.
	lossyTime = 10 * peerPatience

	// retryTick is how soon a send is tried again where libzmq can't tell when it will work: POLLOUT says
	// nothing on a mandatory ROUTER and on a publisher that must not drop (router.cpp, xpub.cpp).
	retryTick = time.Millisecond
)

// outbox is where handlers and other goroutines leave messages for the loop to send. The socket's mutex
// guards it.
type outbox struct {
	queue  queue         // that the loop has not taken yet
	size   int           // of the queue and of what the loop has taken and not sent
	limit  int           // the socket's SNDHWM; 0: none
	room   chan struct{} // closed when there is room again; nil when nobody waits
	paused []*Socket     // that receive nothing until there is room: their handlers sent to this full outbox
	shut   bool          // the flush has begun

	hopeless bool // the drain limit is over and nothing moves: nobody waits for room any more
}

func (o *outbox) full() bool { return o.limit > 0 && o.size >= o.limit }

// Send sends one whole message; it copies the frames. Without frames it sends one empty frame. On a
// ROUTER the first frame is the routing id of the peer and at least one more must follow: libzmq drops a
// lone one silently. On an XSUB it sends subscriptions. PULL, SUB and REP can't send. Any goroutine may call it.
//
// With the ctx of a handler, or one derived from it, it never blocks: when the outbox is full (it has as
// many messages as the socket's SNDHWM; that comes on top of libzmq's own queues) the socket where the
// handler's message came from is paused until there is room. A timer has no such socket, and a REQ is not paused by its own outbox, where
// only its answers make room: what they send that nobody takes stays in memory. With any other ctx it blocks until there
// is room, or ctx ends, which is looked at only while waiting, or, with [ErrClosed], the flush begins or the drain
// limit is over and nothing was taken for a second. Before Run it never blocks either: a full outbox is [ErrFull].
//
// So an inline handler must pass its own ctx: with another one it would wait for the loop that it holds up. And what a REP's
// handler sends to a PUSH without a peer pauses the REP in the end; send what may be lost from a timer or a goroutine.
//
// Nil says that the message is on the outbox, not that anybody has it. The drain waits for what is sent to another
// socket of the same Runner: goroutines that send there should stop when the Runner's Phase is past [Running].
func (s *Socket) Send(ctx context.Context, frames ...[]byte) error {
	if err := s.send(ctx, frames); err != nil {
		return fmt.Errorf("zmqgrace: send on socket %q: %w", s.name, err)
	}
	return nil
}

func (s *Socket) send(ctx context.Context, frames [][]byte) error {
	if ctx == nil {
		return errors.New("the context is nil")
	}
	if !canSend(s.typ) {
		if s.typ == zmq4.REP {
			return errors.New("a REP sends with Message.Reply")
		}
		return fmt.Errorf("a %v only receives", s.typ)
	}
	if s.typ == zmq4.ROUTER && len(frames) < 2 {
		return errors.New("a ROUTER needs the routing id of the peer and at least one more frame")
	}
	if source, ok := callerOf(ctx, s.r); ok {
		return s.push(frames, source, false)
	}
	large := s.copyLarge(frames)
	for {
		room, err := s.tryPush(frames, large)
		if room == nil {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			freeAll(large)
			return context.Cause(ctx)
		}
	}
}

// copyLarge is what can be done before the mutex is held. pebbe's calls send no memory of libzmq's.
func (s *Socket) copyLarge(frames [][]byte) []libzmq.Frame {
	if !s.handle.Valid() {
		return nil
	}
	return copyLarge(frames)
}

// push puts a message on the outbox however full it is; if it is full then, source is paused until there is room.
func (s *Socket) push(frames [][]byte, source *Socket, reply bool) error {
	large := s.copyLarge(frames)
	s.mu.Lock()
	shut := s.outbox.shut
	if !shut {
		s.outbox.queue.add(envelope{}, frames, large, reply)
		s.added(1, source)
	}
	s.mu.Unlock()
	if shut {
		freeAll(large)
		return ErrClosed
	}
	s.r.loop.notice(s)
	return nil
}

// added counts what was put on the outbox for source. The caller holds the mutex.
func (s *Socket) added(n int, source *Socket) {
	s.outbox.size += n
	// A ROUTER sets what a slow peer can't take aside, one peer at a time, and pauses nobody. A REQ that were paused by its own outbox would
	// not receive the answer that makes room there.
	pauses := s.typ != zmq4.ROUTER && (s.typ != zmq4.REQ || source != s)
	if s.outbox.full() && source != nil && pauses && !slices.Contains(s.outbox.paused, source) {
		source.pauses.Add(1)
		s.outbox.paused = append(s.outbox.paused, source)
	}
}

// tryPush puts a message on the outbox if there is room. Otherwise it returns a channel that is closed when it is
// worth trying again.
func (s *Socket) tryPush(frames [][]byte, large []libzmq.Frame) (room <-chan struct{}, err error) {
	idle := s.r.Phase() == Idle
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.outbox.shut && !s.outbox.full() {
		s.outbox.queue.add(envelope{}, frames, large, false)
		s.added(1, nil)
		s.r.loop.notice(s)
		return nil, nil
	}
	switch {
	case s.outbox.shut, s.outbox.hopeless:
		freeAll(large)
		return nil, ErrClosed
	case idle:
		freeAll(large)
		return nil, ErrFull
	}
	if s.outbox.room == nil {
		s.outbox.room = make(chan struct{})
	}
	return s.outbox.room, nil
}

// release lets those go on that wait for room. The caller holds the mutex.
func (s *Socket) release() {
	s.freeSenders()
	for _, source := range s.outbox.paused {
		source.pauses.Add(-1)
	}
	s.outbox.paused = nil
}

// freeSenders has the goroutines that are blocked in Send look again. The caller holds the mutex.
func (s *Socket) freeSenders() {
	if s.outbox.room != nil {
		close(s.outbox.room)
		s.outbox.room = nil
	}
}

// giveUp has the goroutines that are blocked in Send return: no room will come. Paused sockets stay paused, since
// what they hold must not be handled into an outbox that goes nowhere.
func (s *Socket) giveUp() {
	s.mu.Lock()
	s.outbox.hopeless = true
	s.freeSenders()
	s.mu.Unlock()
}

// shutOutbox refuses whatever comes from now on, and lets go who waits.
func (s *Socket) shutOutbox() {
	s.mu.Lock()
	s.outbox.shut = true
	s.release()
	s.mu.Unlock()
}

// delivery is the loop's side of an outbox: what it has taken and libzmq has not.
type delivery struct {
	taken   queue
	held    map[string]*heldPeer // ROUTER: peers at their high-water mark, by routing id
	holding int                  // messages held
	retried time.Time            // when the held were last tried
	fresh   bool                 // ZMQ_EVENTS was read in this delivery
	moved   time.Time            // when libzmq last took something, or the first message got stuck
	patient bool                 // PUB, XPUB in the flush, or behind a proxy: wait for slow subscribers
	nodrop  bool                 // so libzmq refuses rather than drops

	lossyUntil time.Time // but not now, since one took nothing for too long
}

// pending reports whether something waits for libzmq to take it.
func (d *delivery) pending() bool { return !d.taken.empty() || d.holding > 0 }

// tally is what became of messages in one delivery.
type tally struct {
	off        int // messages that are off the outbox, for whatever reason
	sent       int
	unroutable int
	dropped    int
	unsent     int
	replied    bool
}

// add counts what libzmq has taken.
func (t *tally) add(sent libzmq.Progress) {
	t.sent += sent.Messages
	t.replied = t.replied || sent.Marked > 0
}

// deliver hands to libzmq what it takes of the outbox, without blocking. Only the owner of the socket calls it. Once Term has begun it does
// nothing: see foreseeTerm.
func (s *Socket) deliver(now time.Time) {
	if s.r.loop.terming.Load() {
		return
	}
	d := &s.delivery
	if !d.pending() {
		d.moved = now // what comes now has not waited yet
	}
	s.mu.Lock()
	s.noticed.Store(false) // within the mutex: what is put there afterwards must ring again
	d.taken.takeAll(&s.outbox.queue)
	s.mu.Unlock()

	var t tally
	if s.typ == zmq4.ROUTER {
		s.route(now, &t)
	} else {
		s.sendInOrder(now, &t)
	}
	if t.sent > 0 {
		d.moved = now
	}
	if t.replied {
		s.touch()
	}
	if t.dropped > 0 {
		s.warner.warn(s.r.opts.logger, "a peer takes nothing, so what is for it is dropped", "socket", s.name, "dropped", t.dropped)
	}
	s.mu.Lock()
	s.counts.Sent += t.sent
	s.counts.Unroutable += t.unroutable
	s.counts.Dropped += t.dropped
	s.counts.Unsent += t.unsent
	s.counts.Queued = d.holding
	s.outbox.size -= t.off
	// Half-way down, so that those who wait are not woken for every single message. A REQ sends one at a time, and whoever comes right
	// then would keep out those who wait.
	if s.outbox.size <= s.outbox.limit/2 || s.typ == zmq4.REQ && !s.outbox.full() {
		s.release()
	}
	s.mu.Unlock()
}

// sendInOrder is the delivery of all types but ROUTER: what can't go holds up what is behind it.
func (s *Socket) sendInOrder(now time.Time, t *tally) {
	d := &s.delivery
	if d.patient && !d.nodrop && !now.Before(d.lossyUntil) {
		d.nodrop = s.raw.SetXpubNodrop(true) == nil
	}
	for !d.taken.empty() {
		sent, err := d.taken.send(s, s.typ == zmq4.REQ)
		t.add(sent)
		t.off += sent.Messages
		s.awaiting = s.awaiting || s.typ == zmq4.REQ && sent.Messages > 0
		if sent.Messages > 0 {
			d.moved = now
		}
		switch {
		case err == nil:
		case s.typ == zmq4.REQ && zmq4.AsErrno(err) == zmq4.EFSM:
			s.awaiting, s.refusing = true, true // unless it is relaxed, it takes its next request when it has the answer to the last
			return
		case isAgain(err):
			if !d.nodrop || now.Sub(d.moved) < peerPatience {
				return
			}
			// One subscriber has held up all the others for long enough.
			if s.raw.SetXpubNodrop(false) != nil {
				return
			}
			d.nodrop, d.lossyUntil = false, now.Add(lossyTime)
		case s.r.loop.fatal(err):
			return
		default:
			d.taken.dropFirst()
			t.off++
			t.unsent++
			s.warn("a message could not be sent", err)
		}
	}
}
