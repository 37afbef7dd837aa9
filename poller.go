package zmqgrace

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

const (
	turnMessages = 256                   // what one socket may handle before the next has its turn
	turnTime     = time.Millisecond      // and for how long
	yieldTime    = 5 * time.Millisecond  // after which the loop lets other goroutines run; see yield
	busyTurn     = 16                    // messages of a turn after which there may well be more
	maxStride    = 4                     // messages between two looks at the clock, so how many slow ones may follow fast ones in a turn
	quietSlice   = 25 * time.Millisecond // a stalled machine can fake no more quiet than this
	oneMoreLook  = time.Millisecond      // of quiet, for sockets that have long been quiet when the drain begins
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
	sleeping atomic.Bool // it polls, or is about to: wake it
	crew     *crew

	mu        sync.Mutex
	news      []*Socket // whose outboxes were written to
	oldNews   []*Socket
	newTimers []*timer
	roused    bool         // look at everything again
	doorman   *zmq4.Socket // the end of an inproc PAIR through which others wake the loop
	plan      plan

	drainedC chan struct{} // closed when the loop serves no more
	closedC  chan struct{} // closed when all sockets are
	termedC  chan struct{} // closed when Term is back
	terming  atomic.Bool   // Term has begun
	termedAt time.Time     // before termedC is closed
	noQuiet  atomic.Bool   // the drain ended at an empty moment

	doorbell  *zmq4.Socket  // the loop's end of the PAIR
	sockets   []*Socket     // those that are open
	poller    poller        // of the doorbell, and then the sockets
	ready     []*Socket     // that the last poll found
	fed       int           // the place of the socket whose message a worker got last
	pollAgain time.Duration // when the clock says so
	yieldNext time.Duration // likewise
	batch     *libzmq.Batch
	began     time.Time // when the clock stood at nothing
	stale     bool      // the poller must be made anew
	owing     []*Socket // that have something to deliver
	seen      stage
	timers    []*timer
	warner    warner
	drain     bool          // the drain has begun
	late      bool          // and is past its limit
	later     bool          // and for so long that nobody's own peers count any more
	empty     bool          // the last poll found nothing to read
	looked    bool          // the last look at every socket found nothing to read
	noStreams bool          // subscribers take nothing more from outside
	waited    time.Duration // in poll, in all
	broken    error         // the context was terminated
	flushing  time.Time     // when the flush began
}

func newLoop(r *Runner) *loop {
	l := &loop{
		r:        r,
		drainedC: make(chan struct{}),
		closedC:  make(chan struct{}),
		termedC:  make(chan struct{}),
		began:    time.Now(),
		stale:    true,
		fed:      -1,
	}
	l.crew = newCrew(l, r.opts.workers)
	return l
}

// clock is the time since the Runner was made: cheaper to read than the time of day.
func (l *loop) clock() time.Duration { return time.Since(l.began) }

func (l *loop) running() []RunningHandler { return l.crew.running() }
func (l *loop) drained() <-chan struct{}  { return l.drainedC }
func (l *loop) closed() <-chan struct{}   { return l.closedC }
func (l *loop) busy() bool                { return l.noQuiet.Load() }

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
	l.batch = libzmq.NewBatch(batchBytes)
	l.crew.hire()
	return nil
}

// run is the loop's life. A handler's Goexit takes its goroutine away; then it goes on in another.
func (l *loop) run() {
	l.refresh()
	l.serve()
	l.foreseeTerm()
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
	if !s.noticed.Load() && s.noticed.CompareAndSwap(false, true) {
		l.mu.Lock()
		l.news = append(l.news, s)
		l.mu.Unlock()
	}
	l.wake()
}

// rouse has the loop look at everything again. Any goroutine.
func (l *loop) rouse() {
	l.mu.Lock()
	l.roused = true
	l.mu.Unlock()
	l.wake()
}

// hasNews reports whether others have done something that the loop has not looked at.
func (l *loop) hasNews() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.news) > 0 || len(l.newTimers) > 0 || l.roused || l.crew.news()
}

// wake ends the loop's sleep. Any goroutine. The flag sees to it that a sleep gets one message, so that
// the PAIR can never be full.
func (l *loop) wake() {
	if l.sleeping.Load() && l.sleeping.CompareAndSwap(true, false) {
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
		l.workOff()
		for _, s := range l.look() {
			l.turn(s)
			l.workOff() // before the next socket's turn: nobody waits for a reply longer than for his own
		}
	}
}

// look returns the sockets that have something to read. Those that have just had a lot may well have more: they are tried without
// a poll, which costs as much as some messages, as long as nobody else waits for longer than their turn.
func (l *loop) look() []*Socket {
	l.ready = slices.DeleteFunc(l.ready, func(s *Socket) bool { return s.closed || s.lastTurn < busyTurn || s.turnLeft == 0 })
	if len(l.ready) > 0 && !l.drain && !l.stale && l.clock() < l.pollAgain {
		return l.ready
	}
	return l.poll(l.patience(), true)
}

// workOff sees to all that is not a message: timers, what workers are through with, outboxes.
func (l *loop) workOff() {
	l.fireTimers()
	l.crew.hear()
	l.deliverAll()
}

// deliverAll sends what is on the outboxes, as far as it goes.
func (l *loop) deliverAll() {
	l.mu.Lock()
	news := l.news
	l.news, l.oldNews, l.roused = l.oldNews[:0], news, false // used in turn, so that they need no new memory
	l.mu.Unlock()
	for _, s := range news {
		l.owe(s)
	}
	clear(news)
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

// owe has s delivered.
func (l *loop) owe(s *Socket) {
	if !s.owing {
		s.owing = true
		l.owing = append(l.owing, s)
	}
}

// patience is how long the next poll may take. The doorbell and the sockets end it earlier.
func (l *loop) patience() time.Duration {
	longest := l.r.opts.pollTimeout
	if l.drain {
		if !l.late {
			longest = min(l.unquiet(), quietSlice)
		} else if l.empty {
			longest = retryTick // what is waited for does not always ring
		} else {
			return 0
		}
	}
	for _, s := range l.owing {
		if s.delivery.holding > 0 || s.publishes() {
			longest = min(longest, retryTick)
			if longest < 0 {
				longest = retryTick
			}
			break
		}
	}
	return l.untilTimer(longest)
}

// publishes reports whether libzmq always calls s writable: a publisher is, also where it is told to refuse rather than drop.
func (s *Socket) publishes() bool { return s.typ == zmq4.PUB || s.typ == zmq4.XPUB }

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
		if !s.delivery.taken.empty() && !s.publishes() {
			events |= zmq4.POLLOUT
		}
		if events != s.polledFor {
			l.poller.want(i+1, events)
			s.polledFor = events
		}
		if events&zmq4.POLLIN != 0 && len(s.inbox.messages) > 0 {
			timeout = 0
		}
	}
	if timeout > 0 {
		timeout = wholeMillis(timeout)
	}
	if timeout != 0 {
		// From here on others ring. What they did before must be seen now.
		l.sleeping.Store(true)
		if l.hasNews() || l.told() != l.seen {
			timeout = 0
		}
	}
	l.seen = l.told()
	start := time.Now()
	err := l.poller.poll(timeout)
	slept := time.Since(start)
	l.sleeping.Store(false)
	if timeout > 0 {
		// A poll of a millisecond takes half a millisecond more, which adds up: a slice is as much as may be faked.
		slept = min(slept, max(timeout, quietSlice))
	}
	if timeout != 0 {
		l.waited += slept
	}
	if err != nil {
		l.pollFailed(err)
		return nil
	}
	if l.poller.found(0) != 0 {
		for {
			if _, err := l.doorbell.RecvBytes(zmq4.DONTWAIT); err != nil {
				break
			}
		}
	}
	l.ready, l.empty = l.ready[:0], true
	now := l.clock()
	l.pollAgain = now + turnTime
	l.yield(now)
	// Whose turn is first may take all the idle workers, so it is the next one's after the last who got one.
	for i := range l.sockets {
		place := (l.fed + 1 + i) % len(l.sockets)
		s := l.sockets[place]
		if s.polledFor&zmq4.POLLIN != 0 && (len(s.inbox.messages) > 0 || l.poller.found(place+1)&zmq4.POLLIN != 0) {
			l.ready = append(l.ready, s)
			s.turnLeft = turnMessages
			s.place = place
			l.empty = l.empty && !s.waitedFor()
		}
	}
	return l.ready
}

// yield lets other goroutines run, before Go's monitor sees to it: that takes the processor from a goroutine after 10 ms, and once it has
// had to, it looks every 20 us for some time (runtime/proc.go, sysmon), which cost a broker 5 % of its throughput.
func (l *loop) yield(now time.Duration) {
	if now >= l.yieldNext {
		runtime.Gosched()
		l.yieldNext = now + yieldTime
	}
}

// mayReceive reports whether s's messages may be taken now: not while it is paused, an outbox that its handler sent
// to is full, nobody is there to handle them, or its stream is over.
func (s *Socket) mayReceive() bool {
	if !canReceive(s.typ) || s.paused() || s.r.loop.noStreams && s.emptied && s.subscribes() && !s.hearsOwn() {
		return false
	}
	if s.link != nil && !s.rejecting() {
		return !s.shutFront()
	}
	return s.r.loop.crew.room(1) > 0 && (s.r.handlerOf(s) != nil || s.rejecting())
}

// paused reports whether it is, by Pause or by an outbox that its handler filled.
func (s *Socket) paused() bool { return s.pauses.Load() != 0 || s.asleep.Load() }

// refresh makes the poller anew where sockets have come or gone.
func (l *loop) refresh() {
	if !l.stale {
		return
	}
	l.stale = false
	l.sockets = l.r.openSockets()
	findOwnPeers(l.sockets)
	if l.doorbell == nil {
		return // nothing will be polled
	}
	l.poller = newPoller(l.doorbell, l.sockets)
	for _, s := range l.sockets {
		s.polledFor = 0
	}
}

// turn handles what s has to read: not for too long, so that the other sockets get theirs.
func (l *loop) turn(s *Socket) {
	l.takeTurn(s)
	// Not deferred: where a handler ends its goroutine, another one has the loop by then.
	s.noteEnds()
	l.crew.leave(0)
	if len(l.sockets) == 1 {
		s.turnLeft = turnMessages // nobody waits
	}
}

func (l *loop) takeTurn(s *Socket) {
	watch := l.startWatch()
	s.inbox.dry = false // that was some time ago
	s.lastTurn = 0
	for s.turnLeft > 0 && !s.closed && l.told() < closing && s.mayReceive() {
		if s.link != nil && !s.rejecting() {
			done, err := s.forward(s.turnLeft)
			if err != nil {
				l.receiveFailed(s, err)
				return
			}
			s.counted(done)
			if watch.over(done) {
				return
			}
			continue
		}
		if s.lastTurn > 0 {
			l.deliverAll() // a REP has no next request before its reply is out; others had many bytes, on which their peers can work
		}
		if err := s.fill(l.crew.room(s.turnLeft)); err != nil {
			l.receiveFailed(s, err)
			return
		}
		s.touch()
		s.awaiting, s.refusing = false, false
		if l.crew.size == 0 {
			if l.handleInline(s, &watch) {
				return
			}
		} else {
			l.handOut(s)
		}
	}
}

// counted counts n messages of the turn.
func (s *Socket) counted(n int) {
	s.turnLeft -= n
	s.lastTurn += n
}

// job makes a message one, for the socket's handler or for Late.
func (s *Socket) job(m *Message) job {
	if s.rejecting() {
		m.late = true
		return job{m, s.late, s.ctx}
	}
	return job{m, s.r.handlerOf(s), s.ctx}
}

// handOut gives what is in the inbox to the workers.
func (l *loop) handOut(s *Socket) {
	for len(s.inbox.messages) > 0 && l.crew.room(1) > 0 && !s.paused() {
		m := s.inbox.next()
		s.mu.Lock()
		s.counts.Received++
		s.batch.messages = s.inbox.messages
		s.mu.Unlock()
		s.counted(1)
		l.fed = s.place
		l.crew.assign(s.job(m))
	}
}

// handleInline has what is in the inbox handled here and now, and reports whether the turn is over. It is crew.call for a batch.
func (l *loop) handleInline(s *Socket, watch *watch) (over bool) {
	c := l.crew
	seat := &c.seats[0]
	plain := s.typ != zmq4.REP
	var j job
	returned := true
	defer func() {
		if !returned {
			c.escaped(0, j.message)
		}
	}()
	for len(s.inbox.messages) > 0 && s.turnLeft > 0 && !s.paused() {
		j = s.job(s.inbox.next())
		s.begun++
		s.counted(1)
		seat.inside.Store(j.message)
		returned = false
		err := j.handler(j.ctx, j.message)
		returned = true
		if err != nil || !plain || j.message.late || l.r.ending.Load() {
			c.settle(0, j.message, err)
		} // otherwise it goes without saying: see report
		if watch.over(1) || s.closed || l.told() >= closing {
			return true
		}
	}
	return false
}

// watch tells when a turn is over. It does not look at the clock after every message: that costs half as much as handling a
// small one. The faster they are, the more of them go by between two looks.
type watch struct {
	loop   *loop
	end    time.Duration
	last   time.Duration
	stride int // messages from one look to the next
	unseen int // since the last
}

func (l *loop) startWatch() watch {
	now := l.clock()
	l.crew.seats[0].since.Store(int64(now))
	return watch{loop: l, last: now, end: now + turnTime, stride: 1}
}

// over reports, when so many more messages were handled, whether the turn is.
func (w *watch) over(messages int) bool {
	if w.unseen += messages; w.unseen < w.stride {
		return false
	}
	w.unseen = 0
	now := w.loop.clock()
	if now-w.last < turnTime/100 {
		w.stride = min(2*w.stride, maxStride)
	} else {
		w.stride = 1
		w.loop.crew.seats[0].since.Store(int64(now)) // a millisecond more or less is no matter otherwise
	}
	w.last = now
	return now > w.end
}

// receiveFailed tells an empty socket from a broken one.
func (l *loop) receiveFailed(s *Socket, err error) {
	switch {
	case isAgain(err):
		s.emptied = s.emptied || l.drain
	case zmq4.AsErrno(err) == zmq4.EFSM: // a REP whose reply is still on its way: more may wait behind it; an idle REQ
	case l.fatal(err):
	default:
		s.warn("a message could not be received", err)
	}
}

// fatal reports whether err means that the whole context, or the socket, is gone for good, and sees to the end
// of the server.
func (l *loop) fatal(err error) bool {
	switch {
	case err == zmq4.ErrorSocketClosed: // the next poll says so too, and deals with it
		return true
	case zmq4.AsErrno(err) == zmq4.ETERM && l.terming.Load():
		l.broken = err // the end of the grace has come
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
