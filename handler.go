package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pebbe/zmq4"
)

// crew is who runs handlers: the loop goroutine, or workers. It counts what is in flight.
type crew struct {
	loop     *loop
	size     int          // workers; 0: handlers run inline
	jobs     chan job     // for the workers
	busy     int          // workers that have a message; the loop's own
	seats    []seat       // of the loop goroutine first, then of the workers
	deferred atomic.Int64 // messages whose handler will be followed by a Reply

	mu    sync.Mutex // guards what the loop is to hear of
	done  int        // messages that workers are through with
	moved []*Socket  // whose quiet begins anew
}

// job is a message, and who handles it. A call of a timer is one too; its message has no socket, and serves to tell it from others.
type job struct {
	message *Message
	handler Handler
	ctx     context.Context
}

// seat is where a handler runs, for others to see.
type seat struct {
	inside atomic.Pointer[Message] // that is being handled
	since  atomic.Int64            // the loop's clock
}

func newCrew(l *loop, size int) *crew {
	return &crew{loop: l, size: size, jobs: make(chan job, size), seats: make([]seat, size+1)}
}

// hire starts the workers.
func (c *crew) hire() {
	for i := range c.size {
		go c.work(i + 1)
	}
}

// dismiss lets the workers go home that are not stuck.
func (c *crew) dismiss() { close(c.jobs) }

func (c *crew) work(place int) {
	for j := range c.jobs {
		c.seats[place].since.Store(int64(c.loop.clock()))
		c.handle(place, j)
		c.leave(place)
		c.hand(j.message.Socket)
	}
}

// room is how many messages can be handed to the crew now, of so many.
func (c *crew) room(most int) int {
	if c.size == 0 {
		return most
	}
	return min(most, c.size-c.busy)
}

// assign has a worker handle a message.
func (c *crew) assign(j job) {
	c.busy++
	c.jobs <- j // there is room: a worker is idle
}

// hand tells the loop that a worker is through with a message of s.
func (c *crew) hand(s *Socket) {
	c.mu.Lock()
	c.done++
	c.mu.Unlock()
	c.stir(s)
}

// stir tells the loop that something happened elsewhere that begins s's quiet anew.
func (c *crew) stir(s *Socket) {
	c.mu.Lock()
	c.moved = append(c.moved, s)
	c.mu.Unlock()
	c.loop.wake()
}

// hear is the loop's side of hand and stir.
func (c *crew) hear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy -= c.done
	c.done = 0
	for _, s := range c.moved {
		s.touch()
	}
	c.moved = c.moved[:0]
}

// news reports whether the loop has something to hear.
func (c *crew) news() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.moved) > 0
}

// inFlight reports whether a message is with a worker, or waits for its deferred reply.
func (c *crew) inFlight() bool { return c.busy > 0 || c.deferred.Load() > 0 }

// handle has one message handled at the given place.
func (c *crew) handle(place int, j job) { c.settle(place, j.message, c.call(place, j)) }

// call runs the handler, where a panic and Goexit are seen.
func (c *crew) call(place int, j job) (err error) {
	c.seats[place].inside.Store(j.message)
	returned := false
	defer func() {
		if !returned {
			c.escaped(place, j.message)
		}
	}()
	err = j.handler(j.ctx, j.message)
	returned = true
	return err
}

// leave says that no handler runs at the given place any more.
func (c *crew) leave(place int) { c.seats[place].inside.Store(nil) }

// settle counts a message that was handled at the given place by its handler's error. A deferred one stays in flight until its
// Reply. A REP that was given no reply gets an empty one.
func (c *crew) settle(place int, m *Message, err error) {
	s := m.Socket
	if s == nil { // a timer
		c.loop.r.timerFailed(err)
		return
	}
	says := err
	if errors.Is(err, ErrDeferred) && canReply(s.typ) {
		c.deferred.Add(1) // first, since the Reply may come at any moment
		if m.turnReply(replyDeferred) {
			c.note(place, s, open)
			c.stopOn(says)
			return
		}
		c.deferred.Add(-1)
		err = nil // it was there before the handler returned
	}
	if s.typ == zmq4.REP && m.turnReply(replyLate) {
		s.push(nil, nil, true)
		if err == nil {
			err = errNoReply
		}
	}
	c.note(place, s, m.fate(err))
	if !c.stopOn(says) && err != nil {
		s.warn("a handler failed", err)
	}
}

// stopOn ends the server if a handler's error says so, and reports whether it does.
func (c *crew) stopOn(err error) bool {
	stop := errors.Is(err, ErrStop)
	if stop {
		c.loop.r.stop(err)
	}
	return stop
}

// note counts a message that was handled at the given place.
func (c *crew) note(place int, s *Socket, as fate) {
	if place == 0 {
		s.noteEnd(as)
	} else {
		s.settle(1, as)
	}
}

// fate is what becomes of a message by its handler's error.
func (m *Message) fate(err error) fate {
	switch {
	case m.late:
		return rejected
	case err != nil && !errors.Is(err, ErrStop):
		return failed
	}
	return handled
}

// replied closes the account of a deferred message, when its reply is on the outbox, or finds its socket closed.
// After the drain it stays open: the message was abandoned.
func (c *crew) replied(m *Message, err error) {
	if err == nil || c.loop.told() < closing {
		m.Socket.settle(1, m.fate(err))
	}
	c.deferred.Add(-1)
	c.loop.wake()
}

var (
	errNoReply = errors.New("the handler returned without a reply, an empty one was sent")
	errGoexit  = errors.New("it called runtime.Goexit (as testing's FailNow does), which is for goroutines of one's own")
)

// escaped deals with a handler that did not return. It runs on the handler's goroutine, which is lost.
func (c *crew) escaped(place int, m *Message) {
	l := c.loop
	inline := place == 0
	if panicking() {
		c.leave(place)
		l.r.crash(func() {
			if inline {
				go l.run()
			}
		})
		return // and the process dies
	}
	name := "a timer"
	if m.Socket != nil {
		name = fmt.Sprintf("handler of socket %q", m.Socket.name)
		c.settle(place, m, errGoexit)
	}
	c.leave(place)
	l.r.stop(fmt.Errorf("zmqgrace: %s: %w", name, errGoexit))
	if inline {
		go l.run()
	} else {
		c.hand(m.Socket)
		go c.work(place)
	}
}

// running returns the handlers that have not returned.
func (c *crew) running() (running []RunningHandler) {
	now := int64(c.loop.clock())
	for i := range c.seats {
		since := c.seats[i].since.Load()
		if m := c.seats[i].inside.Load(); m != nil {
			h := RunningHandler{RoutingID: m.routingID(), For: time.Duration(now - since)}
			if m.Socket != nil {
				h.Socket = m.Socket.name
			}
			running = append(running, h)
		}
	}
	slices.SortFunc(running, func(a, b RunningHandler) int { return int(b.For - a.For) })
	return running
}

// warner logs what goes wrong again and again, each kind of it at most once a second: a client must not be able to flood the
// log. Any goroutine.
type warner struct {
	mu    sync.Mutex
	kinds map[string]*warned
}

type warned struct {
	last     time.Time
	silenced int // since then
}

func (w *warner) warn(log *slog.Logger, what string, attrs ...any) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	kind := w.kinds[what]
	if kind == nil {
		if w.kinds == nil {
			w.kinds = make(map[string]*warned)
		}
		kind = &warned{}
		w.kinds[what] = kind
	}
	if now.Sub(kind.last) < time.Second {
		kind.silenced++
		return
	}
	log.Warn("zmqgrace: "+what, append(attrs, "not_logged", kind.silenced)...)
	kind.last, kind.silenced = now, 0
}

func (s *Socket) warn(what string, err error) {
	s.warner.warn(s.r.opts.logger, what, "socket", s.name, "error", err)
}

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

// What a Runner puts into the contexts that it gives.
type (
	callerKey struct{ r *Runner } // *Socket whose message is handled, nil in a timer: handlers, timers and Late
	ownerKey  struct{ r *Runner } // true: these, Go functions and Goodbye
)

// asCaller makes base the context of code on r's loop or a worker, which must never wait for the loop.
func asCaller(base context.Context, r *Runner, s *Socket) context.Context {
	return context.WithValue(base, callerKey{r}, s)
}

// callerOf reports whether ctx was given to code on r's loop or workers, and which socket it handles.
func callerOf(ctx context.Context, r *Runner) (*Socket, bool) {
	s, ok := ctx.Value(callerKey{r}).(*Socket)
	return s, ok
}

// ownedBy reports whether r gave ctx, or one that it is derived from, to anybody. Where one Runner runs in a function of another, both
// did.
func ownedBy(ctx context.Context, r *Runner) bool { return ctx.Value(ownerKey{r}) != nil }
