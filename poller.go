package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pebbe/zmq4"
)

const (
	turnMessages = 256                   // what one socket may handle before the next has its turn
	turnTime     = time.Millisecond      // and for how long
	quietSlice   = 25 * time.Millisecond // a stalled machine can fake no more quiet than this
	oneMoreLook  = time.Millisecond      // of quiet, for sockets that have long been quiet when the drain begins
	sortingTime  = 50 * time.Millisecond // for counting what the hard end leaves
	lastWords    = time.Second           // what a panic leaves for flush, close and term
)

// stage is what the loop has been told to do. It only ever grows.
type stage int32

const (
	serving    stage = iota // until told otherwise
	draining                // until drained
	closing                 // flush and close
	abandoning              // the same, but count first what is left
	forcing                 // close at once with linger 0
	crashing                // a panic is on its way up: flush and close within a second
)

// loop is the one goroutine that touches the sockets. Everything in it that is not atomic, or under mu,
// is that goroutine's own, and before it starts and after it has ended its owner's.
type loop struct {
	r        *Runner
	stage    atomic.Int32
	sleeping atomic.Bool             // it polls, or is about to: wake it
	current  atomic.Pointer[Message] // whose handler it is in

	mu      sync.Mutex
	news    []*Socket    // whose outboxes were written to
	doorman *zmq4.Socket // the end of an inproc PAIR through which others wake the loop
	plan    plan

	drainedC chan struct{} // closed when the loop serves no more
	closedC  chan struct{} // closed when all sockets are
	termedC  chan struct{} // closed when Term is back
	terming  atomic.Bool   // Term has begun
	termedAt time.Time     // before termedC is closed
	noQuiet  atomic.Bool   // the drain ended at an empty moment

	doorbell *zmq4.Socket // the loop's end of the PAIR
	sockets  []*Socket    // those that are open
	poller   *zmq4.Poller // of the doorbell, and then the sockets
	byRaw    map[*zmq4.Socket]*Socket
	stale    bool      // the poller must be made anew
	owing    []*Socket // that have something to deliver
	seen     stage
	drain    bool          // the drain has begun
	empty    bool          // the last poll found nothing to read
	looked   bool          // the last look at every socket found nothing to read
	waited   time.Duration // in poll, in all
	broken   error         // the context was terminated by somebody else
}

func newLoop(r *Runner) *loop {
	return &loop{
		r:        r,
		drainedC: make(chan struct{}),
		closedC:  make(chan struct{}),
		termedC:  make(chan struct{}),
		stale:    true,
	}
}

func (l *loop) drained() <-chan struct{} { return l.drainedC }
func (l *loop) closed() <-chan struct{}  { return l.closedC }
func (l *loop) busy() bool               { return l.noQuiet.Load() }

// open makes the PAIR that wakes the loop.
func (l *loop) open() error {
	endpoint := fmt.Sprintf("inproc://zmqgrace.wake.%p", l)
	var pair [2]*zmq4.Socket
	for i, attach := range []func(*zmq4.Socket, string) error{(*zmq4.Socket).Bind, (*zmq4.Socket).Connect} {
		s, err := l.r.context.NewSocket(zmq4.PAIR)
		if err == nil {
			pair[i] = s
			err = errors.Join(s.SetLinger(0), attach(s, endpoint))
		}
		if err != nil {
			for _, s := range pair {
				if s != nil {
					s.Close()
				}
			}
			return fmt.Errorf("the PAIR that wakes the loop: %w", err)
		}
	}
	l.mu.Lock()
	l.doorbell, l.doorman = pair[0], pair[1]
	l.mu.Unlock()
	return nil
}

// run is the loop's life. A handler's Goexit takes its goroutine away; then it goes on in another.
func (l *loop) run() {
	l.refresh()
	l.serve()
	if l.told() == abandoning {
		l.abandonBacklog()
	}
	close(l.drainedC)
	l.flush()
	l.closeSockets()
	close(l.closedC)
	l.terminate()
}

// tell has the loop go on to a later stage, at once.
func (l *loop) tell(s stage) {
	for {
		old := l.stage.Load()
		if stage(old) >= s || l.stage.CompareAndSwap(old, int32(s)) {
			break
		}
	}
	l.wake()
}

func (l *loop) told() stage { return stage(l.stage.Load()) }

// beginDrain has the loop end when it is drained, with the first empty moment doing from p.limit on.
func (l *loop) beginDrain(p plan) {
	l.mu.Lock()
	l.plan = p
	l.mu.Unlock()
	l.tell(draining)
}

// notice has the loop look at s's outbox. Any goroutine.
func (l *loop) notice(s *Socket) {
	if s.noticed.CompareAndSwap(false, true) {
		l.mu.Lock()
		l.news = append(l.news, s)
		l.mu.Unlock()
	}
	l.wake()
}

// wake ends the loop's sleep. Any goroutine. The flag sees to it that a sleep gets one message, so that
// the PAIR can never be full.
func (l *loop) wake() {
	if l.sleeping.CompareAndSwap(true, false) {
		l.mu.Lock()
		if l.doorman != nil {
			l.doorman.SendBytes(nil, zmq4.DONTWAIT)
		}
		l.mu.Unlock()
	}
}

// serve takes turns until the server is drained, or told to stop.
func (l *loop) serve() {
	for l.told() < closing && l.broken == nil {
		if l.told() == draining && l.isDrained() {
			return
		}
		l.deliverAll()
		for _, s := range l.poll(l.patience(), true) {
			l.turn(s)
			l.deliverAll() // before the next socket's turn: nobody waits for a reply longer than for his own
		}
	}
}

// deliverAll sends what is on the outboxes, as far as it goes.
func (l *loop) deliverAll() {
	l.mu.Lock()
	news := l.news
	l.news = nil
	l.mu.Unlock()
	for _, s := range news {
		if !s.owing {
			s.owing = true
			l.owing = append(l.owing, s)
		}
	}
	if len(l.owing) == 0 {
		return
	}
	now := time.Now()
	l.owing = slices.DeleteFunc(l.owing, func(s *Socket) bool {
		if !s.closed {
			s.deliver(now)
		}
		s.owing = !s.closed && s.delivery.pending()
		return !s.owing
	})
}

// patience is how long the next poll may take. The doorbell and the sockets end it earlier.
func (l *loop) patience() time.Duration {
	longest := l.r.opts.pollTimeout
	if l.drain {
		if time.Until(l.plan.limit) > 0 {
			longest = min(l.unquiet(), quietSlice)
		} else if l.empty {
			longest = retryTick // what is waited for does not always ring
		} else {
			return 0
		}
	}
	for _, s := range l.owing {
		if s.delivery.holding > 0 || s.delivery.nodrop {
			return retryTick
		}
	}
	return longest
}

// unquiet is how much quiet is missing yet; at least a millisecond, which is the shortest sleep of poll.
func (l *loop) unquiet() time.Duration {
	missing := time.Millisecond
	for _, s := range l.sockets {
		missing = max(missing, s.quietMissing())
	}
	return missing
}

// touch begins s's quiet time anew.
func (s *Socket) touch() { s.mark = s.r.loop.waited }

// quietMissing is how long s must still be silent to be quiet.
func (s *Socket) quietMissing() time.Duration {
	if !canReceive(s.typ) || s.typ == zmq4.REQ { // a REQ hears nothing unasked
		return 0
	}
	return s.quiet - (s.r.loop.waited - s.mark)
}

// poll waits until something happens, and returns the sockets that have something to read. What it waited
// counts as quiet, but never for more than was asked: a machine that stood still has made no quiet.
func (l *loop) poll(timeout time.Duration, receiving bool) []*Socket {
	l.refresh()
	for i, s := range l.sockets {
		var events zmq4.State
		if receiving && s.mayReceive() {
			events |= zmq4.POLLIN
		}
		if len(s.delivery.taken) > 0 && !s.awaiting && !s.delivery.nodrop {
			events |= zmq4.POLLOUT
		}
		if events != s.polledFor {
			l.poller.Update(i+1, events)
			s.polledFor = events
		}
	}
	if timeout > 0 {
		timeout = wholeMillis(timeout)
	}
	if timeout != 0 {
		// From here on others ring. What they did before must be seen now.
		l.sleeping.Store(true)
		l.mu.Lock()
		if len(l.news) > 0 || l.told() != l.seen {
			timeout = 0
		}
		l.mu.Unlock()
	}
	l.seen = l.told()
	start := time.Now()
	found, err := l.poller.Poll(timeout)
	slept := time.Since(start)
	l.sleeping.Store(false)
	if timeout > 0 {
		slept = min(slept, timeout)
	}
	if timeout != 0 {
		l.waited += slept
	}
	if err != nil {
		l.pollFailed(err)
		return nil
	}
	ready := make([]*Socket, 0, len(found))
	for _, f := range found {
		if f.Socket == l.doorbell {
			for {
				if _, err := l.doorbell.RecvBytes(zmq4.DONTWAIT); err != nil {
					break
				}
			}
		} else if f.Events&zmq4.POLLIN != 0 {
			ready = append(ready, l.byRaw[f.Socket])
		}
	}
	l.empty = len(ready) == 0
	return ready
}

// mayReceive reports whether s's messages may be taken now: not while an outbox that its handler sent to
// is full.
func (s *Socket) mayReceive() bool {
	return canReceive(s.typ) && s.pauses.Load() == 0 && s.r.handlerOf(s) != nil
}

// refresh makes the poller anew where sockets have come or gone.
func (l *loop) refresh() {
	if !l.stale {
		return
	}
	l.stale = false
	l.sockets = l.r.openSockets()
	if l.doorbell == nil {
		return // nothing will be polled
	}
	l.poller = zmq4.NewPoller()
	l.poller.Add(l.doorbell, zmq4.POLLIN)
	l.byRaw = make(map[*zmq4.Socket]*Socket)
	for _, s := range l.sockets {
		l.poller.Add(s.raw, 0)
		l.byRaw[s.raw] = s
		s.polledFor = 0
	}
}

// turn handles what s has to read: not for too long, so that the other sockets get theirs.
func (l *loop) turn(s *Socket) {
	end := time.Now().Add(turnTime)
	for range turnMessages {
		if s.closed || l.told() >= closing || !s.mayReceive() {
			return
		}
		frames, err := receive(s.raw)
		if err != nil {
			l.receiveFailed(s, err)
			return
		}
		s.touch()
		s.awaiting = false
		now := l.handle(s, frames)
		if s.typ == zmq4.REP && !s.closed {
			s.deliver(now) // it takes the next request when the reply is out
		}
		if now.After(end) {
			return
		}
	}
}

// receiveFailed tells an empty socket from a broken one.
func (l *loop) receiveFailed(s *Socket, err error) {
	switch {
	case isAgain(err), zmq4.AsErrno(err) == zmq4.EFSM: // EFSM: a REP whose reply is still on its way, an idle REQ
		s.emptied = s.emptied || l.drain
	case l.fatal(err):
	default:
		s.warn("a message could not be received", err)
	}
}

// handle has one message handled, and returns when that was over.
func (l *loop) handle(s *Socket, frames [][]byte) time.Time {
	m := &Message{Socket: s}
	m.envelope, m.Frames = splitEnvelope(s.typ, frames)
	s.count(func(c *SocketReport) { c.Received++; c.InFlight++ })
	l.settle(m, l.call(m))
	return time.Now()
}

var errNoReply = errors.New("the handler returned without a reply, an empty one was sent")

// call runs the handler, where a panic and Goexit are seen.
func (l *loop) call(m *Message) (err error) {
	m.since = time.Now()
	l.current.Store(m)
	returned := false
	defer func() {
		l.current.Store(nil)
		if !returned {
			l.escaped(m)
		}
	}()
	err = l.r.handlerOf(m.Socket)(m.Socket.ctx, m)
	returned = true
	return err
}

// settle counts a handled message by its handler's error. A REP that was given no reply gets an empty one.
func (l *loop) settle(m *Message, err error) {
	s := m.Socket
	if s.typ == zmq4.REP && m.reply.CompareAndSwap(replyOpen, replyLate) {
		s.push(outgoing{frames: [][]byte{nil}, reply: true}, nil)
		if err == nil {
			err = errNoReply
		}
	}
	stop := errors.Is(err, ErrStop)
	after := isClosed(l.r.asked)
	s.count(func(c *SocketReport) {
		c.InFlight--
		switch {
		case err != nil && !stop:
			c.Failed++
		case after:
			c.Handled++
			c.Drained++
		default:
			c.Handled++
		}
	})
	if stop {
		l.r.stop(err)
	} else if err != nil {
		s.warn("a handler failed", err)
	}
}

// warn logs what went wrong with a message, at most once a second a socket: a client must not be able to
// flood the log.
func (s *Socket) warn(what string, err error) {
	now := time.Now()
	if now.Sub(s.warned) < time.Second {
		s.silenced++
		return
	}
	s.r.opts.logger.Warn("zmqgrace: "+what, "socket", s.name, "error", err, "not_logged", s.silenced)
	s.warned, s.silenced = now, 0
}

// escaped deals with a handler that did not return. It runs on the loop goroutine, which is lost.
func (l *loop) escaped(m *Message) {
	if panicking() {
		l.tell(crashing)
		l.r.crash(func() { go l.run() })
		return // and the process dies
	}
	l.settle(m, errGoexit)
	l.r.stop(fmt.Errorf("zmqgrace: handler of socket %q: %w", m.Socket.name, errGoexit))
	go l.run()
}

var errGoexit = errors.New("it called runtime.Goexit (as testing's FailNow does), which is for goroutines of one's own")

// panicking reports whether the deferred function that calls it runs because of a panic, not of Goexit. It
// does not recover: a value that is raised again is no longer the original panic.
func panicking() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		switch {
		case strings.HasPrefix(f.Function, "runtime.gopanic"):
			return true
		case strings.HasPrefix(f.Function, "runtime.Goexit"):
			return false
		case !more:
			return true
		}
	}
}

// isDrained reports whether the drain is complete, or past its limit and at an empty moment.
func (l *loop) isDrained() bool {
	if !l.drain {
		l.drain = true
		l.empty = false
		for _, s := range l.sockets {
			s.count(func(c *SocketReport) { c.droppedAtStart = c.Dropped })
			s.mark = max(s.mark, l.waited-s.quiet+oneMoreLook)
		}
	}
	now := time.Now()
	late := !now.Before(l.plan.limit)
	if late {
		l.giveUpSenders(now)
	}
	if !l.empty {
		return false
	}
	noisy := false
	for _, s := range l.sockets {
		missing := s.quietMissing()
		noisy = noisy || s.awaiting || missing > oneMoreLook || missing > 0 && !late
		if s.queued() > 0 && s.feedsOwn() {
			return false
		}
		if late && s.delivery.pending() && now.Sub(s.delivery.moved) < peerPatience {
			return false // its peer is reading
		}
	}
	if noisy && !late {
		return false
	}
	// The last look; it sees also the sockets that are paused.
	for _, s := range l.sockets {
		if !s.waitedFor() {
			continue
		}
		if readable(s.raw) {
			return false
		}
		s.emptied = true
	}
	l.looked = true
	l.noQuiet.Store(noisy)
	return true
}

// waitedFor reports whether what s has to read must be handled before the end. A subscriber's stream has no
// end, so one empty moment will do; subscriptions at a publisher are of no use to anybody then.
func (s *Socket) waitedFor() bool {
	if s.typ == zmq4.XPUB && s.endless() {
		return false
	}
	return canReceive(s.typ) && !(s.endless() && s.emptied)
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

// feedsOwn reports whether s is connected to another socket of this Runner.
func (s *Socket) feedsOwn() bool {
	for _, e := range s.report().Endpoints {
		if !strings.HasPrefix(e, "inproc://") {
			continue
		}
		for _, other := range s.r.loop.sockets {
			if other != s && slices.Contains(other.report().Endpoints, e) {
				return true
			}
		}
	}
	return false
}

// abandonBacklog receives, for a moment, what nobody will handle any more, so that it is counted.
func (l *loop) abandonBacklog() {
	end := time.Now().Add(sortingTime)
	for _, s := range l.sockets {
		for canReceive(s.typ) && l.told() == abandoning && time.Now().Before(end) {
			if _, err := receive(s.raw); err != nil {
				break
			}
			s.count(func(c *SocketReport) { c.Received++; c.Abandoned++ })
		}
	}
}

// fatal reports whether err means that the whole context, or the socket, is gone for good, and sees to the end
// of the server.
func (l *loop) fatal(err error) bool {
	switch {
	case err == zmq4.ErrorSocketClosed: // the next poll says so too, and deals with it
		return true
	case zmq4.AsErrno(err) == zmq4.ETERM:
		l.fail(errors.New("zmqgrace: the Runner's context was terminated by somebody else"))
		return true
	}
	return false
}

// fail ends the server at once: there is nothing left to serve with.
func (l *loop) fail(err error) {
	l.broken = err
	l.r.stop(err)
}

// pollFailed finds out which socket poll means; it does not say. A server whose socket somebody else has closed
// ends gracefully, without that one.
func (l *loop) pollFailed(err error) {
	found := false
	for _, s := range l.sockets {
		if _, gone := s.raw.Context(); gone != nil && !s.closed {
			l.r.stop(fmt.Errorf("zmqgrace: socket %q was closed behind the Runner's back: use its own Close", s.name))
			s.shut()
			found = true
		}
	}
	if !found && !l.fatal(err) {
		l.fail(fmt.Errorf("zmqgrace: poll: %w", err))
	}
}

// wholeMillis rounds up to what poll and linger count in, since both cut off: pebbe makes a busy loop of a
// timeout of less than a millisecond, and a dropping socket of such a linger.
func wholeMillis(d time.Duration) time.Duration {
	if d > math.MaxInt32*time.Millisecond {
		return math.MaxInt32 * time.Millisecond // libzmq's int
	}
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}

// running returns the handlers that have not returned.
func (l *loop) running() []RunningHandler {
	m := l.current.Load()
	if m == nil {
		return nil
	}
	return []RunningHandler{{Socket: m.Socket.name, RoutingID: m.routingID(), For: time.Since(m.since)}}
}

type callerKey struct{}

// callerOf returns the socket whose handler ctx was given to, if it was one of r.
func callerOf(ctx context.Context, r *Runner) (*Socket, bool) {
	s, ok := ctx.Value(callerKey{}).(*Socket)
	return s, ok && s.r == r
}
