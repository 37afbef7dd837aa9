// Package zmqgrace runs ZeroMQ servers and ends them gracefully.
//
// A [Runner] owns a ZeroMQ context and its sockets, and serves their messages to a [Handler]. On SIGINT,
// SIGTERM, a cancelled context or [Runner.Shutdown] it wakes at once, serves what is queued, sends what it
// has answered, closes with a bounded linger, terminates the context, and reports what it did: all inside
// one time budget, the grace.
//
//	runner, err := zmqgrace.New()
//	rep, err := runner.NewSocket(zmq4.REP)
//	err = rep.Bind("tcp://*:5555")
//	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
//		return m.Reply([]byte("OK"))
//	})
//
// # Phases
//
//	phase      what happens                                     what ends it
//	Idle       sockets are made, bound and connected            Run
//	Running    messages are served                              a signal, ctx, Shutdown, ErrStop
//	Announced  the same; readiness probes can tell              the ready delay
//	Draining   the same; everything stays open                  quiet; past the drain limit an empty
//	                                                            moment; the hard end
//	Closing    outboxes are flushed, then linger, close, term   Term, or the end of the grace
//	Done       Run returns
//
// A second signal, or [Runner.Close], goes from any of them to Closing with linger 0, and Run returns at once.
//
// # What it can't know
//
// Nil from [Runner.Run] means that all that was received was handled, be it with an error, and all that was answered was handed to
// the kernel. Messages on the wires are beyond anyone's knowledge: "empty" can't be known, so quiet (no
// message for a quarter of a second) stands for it, and a client that never pauses loses what is on its way
// when the sockets close.
//
// # Goroutines
//
// One goroutine, the loop, owns the sockets; timers run on it, and handlers, unless [WithWorkers] gives them
// goroutines of their own. [Message.Reply], [Socket.Send] and what says
// so may be called from any goroutine.
package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pebbe/zmq4"
)

// forcedWait is how long a forced end waits for the loop and for Term: enough where nothing hangs, and the
// addresses are free when Run returns.
const forcedWait = 50 * time.Millisecond

// A Runner serves ZeroMQ sockets and ends them gracefully. Make it with [New]; it is used once.
type Runner struct {
	opts     options
	context  *zmq4.Context
	zapGuard *zmq4.Socket // see zap.go
	loop     *loop
	engine   engine // the loop, or what a test of the phases puts in its place
	handler  Handler
	base     context.Context // of the handlers' contexts
	cancel   context.CancelCauseFunc

	routines routines
	draining chan struct{} // closed when the drain begins

	setup    sync.Mutex // held by whoever touches the sockets before Run
	making   sync.Mutex // held by whoever makes a socket, or begins Term
	signals  chan os.Signal
	signaled bool // once, so the next one forces the end
	plan     plan

	ending atomic.Bool   // the end has been asked for
	asked  chan struct{} // closed then
	forced chan struct{} // closed when it is to be at once
	fallen chan struct{} // closed when a panic is on its way up
	done   chan struct{} // closed when Run has its result
	told   chan func()   // calls of the logger and of the phase hook, which may block
	heard  chan struct{} // closed when they are over

	mu       sync.Mutex // guards what follows
	used     bool
	ran      bool // Run has served, or may have
	phase    Phase
	entered  time.Time // the phase
	phases   []PhaseReport
	sockets  []*Socket
	made     map[zmq4.Type]int // for their names
	cause    error             // what asked for the end
	askedAt  time.Time
	failure  error    // what Run returns even after a complete end
	blamed   bool     // the verdict has it
	overrun  *overrun // nil while the end is in time
	leaked   bool
	expired  bool
	unsure   bool // Term was not back: for a leak, for what lingers, or for want of time
	final    *Report
	finalErr error
}

// overrun is where the end was, and which handlers ran, when time was up or the end was forced.
type overrun struct {
	phase   Phase
	running []RunningHandler
	cut     bool // the end is not complete, whatever the accounts say
}

// engine is what the phases need of the loop and of the sockets' end.
type engine interface {
	open() error               // makes ready to run
	run()                      // serves until told to end, and closes the sockets; blocks
	beginDrain(plan)           // end when drained
	tell(stage)                // or sooner
	drained() <-chan struct{}  // it serves no more
	closed() <-chan struct{}   // the sockets are
	term() <-chan struct{}     // begins Term; closed when it is back
	lingers() time.Time        // when the last linger is over; zero if nothing lingers
	expired() bool             // Term came back later than that
	busy() bool                // the drain ended without quiet
	running() []RunningHandler // handlers that have not returned
}

// New makes a Runner. It fails with one error that names every bad option.
func New(opts ...Option) (*Runner, error) {
	o, err := buildOptions(opts)
	if err != nil {
		return nil, err
	}
	r := newRunner(o)
	if r.context = o.context; r.context == nil {
		if r.context, err = zmq4.NewContext(); err != nil {
			return nil, fmt.Errorf("zmqgrace: New: context: %w", err)
		}
	}
	r.loop = newLoop(r)
	r.engine = r.loop
	return r, nil
}

func newRunner(o options) *Runner {
	return &Runner{
		opts:     o,
		signals:  make(chan os.Signal, 2),
		draining: make(chan struct{}),
		asked:    make(chan struct{}),
		forced:   make(chan struct{}),
		fallen:   make(chan struct{}),
		done:     make(chan struct{}),
		told:     make(chan func(), 3*len(phaseNames)), // every phase comes at most once
		heard:    make(chan struct{}),
		made:     make(map[zmq4.Type]int),
	}
}

// Context returns the ZeroMQ context, for its options (I/O threads, before the first socket), for sockets to
// [Runner.Adopt], and for inproc peers of one's own. A socket made in it and never closed keeps the Runner
// from terminating it: Run says so ([ShutdownError], Leaked) instead of hanging. Sockets may not be made in it while the
// Runner ends (pebbe's NewSocket races with Term), and what such a peer has not read when the Runner terminates
// is lost to it: Term fails its next call.
func (r *Runner) Context() *zmq4.Context { return r.context }

// Run serves messages until a signal, the end of ctx, [Runner.Shutdown] or [ErrStop] asks for the end, then
// ends the server gracefully, and returns at the latest when the grace is over. h serves the sockets that
// have no handler of their own; it may be nil if all have.
//
// It returns nil after a complete end, whatever asked for it (that is in the report): all that was received
// was handled, be it with an error (the report counts those), and all that was answered was handed to the kernel. If an error asked for it (a wrapped ErrStop), it returns
// that. If the end was not complete, the error joins the cause and a [*ShutdownError]. A Runner that has run
// returns [ErrClosed].
//
// It refuses to start if a socket that can receive has no handler, or if one asks for authentication that nobody
// answers, or did not ask when it was bound. Then the Runner stays as it was: mend it and call Run again, or Close it.
//
// The first signal starts the graceful end. The second, in any phase, ends it at once as [Runner.Close] does.
// From the third on the process has its default behaviour back. Handlers for signals are installed while Run
// runs, and only then.
func (r *Runner) Run(ctx context.Context, h Handler) error {
	if err := r.begin(ctx, h); err != nil {
		return err
	}
	r.serve(ctx)
	r.announce()
	r.drain()
	r.close()
	return r.finish()
}

// begin checks that the Runner can run, and starts the loop.
func (r *Runner) begin(ctx context.Context, h Handler) error {
	if ctx == nil {
		return errors.New("zmqgrace: Run: the context is nil")
	}
	if !r.use() {
		return fmt.Errorf("zmqgrace: Run: %w: a Runner runs once", ErrClosed)
	}
	err := r.check(h)
	if err == nil {
		r.prepare(ctx, h)
		err = r.engine.open()
	}
	if err != nil {
		if !r.unuse() {
			r.retire()
		}
		return fmt.Errorf("zmqgrace: Run: %w", err)
	}
	r.mu.Lock()
	r.ran = true
	r.mu.Unlock()
	// Signals first: whoever has an answer may send one.
	if len(r.opts.signals) > 0 { // Notify without any means all
		signal.Notify(r.signals, r.opts.signals...)
	}
	go r.announcer()
	r.enter(Running)
	r.startRoutines()
	go r.engine.run()
	return nil
}

// serve lets the loop serve until something asks for the end.
func (r *Runner) serve(ctx context.Context) {
	select {
	case s := <-r.signals:
		r.signalled(s)
	case <-ctx.Done():
		r.ask(context.Cause(ctx))
	case <-r.asked:
	case <-r.fallen:
		awaitDeath()
	}
	r.plan = r.makePlan()
}

// announce keeps serving for the ready delay, while readiness probes can tell that the end is near.
func (r *Runner) announce() {
	if r.isForced() {
		return
	}
	r.enter(Announced)
	r.await(r.engine.drained(), r.plan.drainAt, r.readyDelay)
}

// drain serves what is queued until there is quiet, at the latest until the hard end.
func (r *Runner) drain() {
	if r.isForced() {
		return
	}
	r.enter(Draining)
	close(r.draining)
	r.routines.cancel(r.cause)
	r.engine.beginDrain(r.plan)
	if !r.await(r.engine.drained(), r.plan.hardEnd, r.silence) {
		r.overran(false)
		then := abandoning
		if r.isForced() {
			then = forcing
		}
		r.engine.tell(then) // before handlers learn of it, or the loop would feed them on
		r.cancel(r.cause)
	}
	if r.engine.busy() {
		r.tell(slog.LevelWarn, "no quiet came, so the drain ended at an empty moment; requests on their way are lost: tell clients with WithLate, or have them pause",
			"drain_limit", r.opts.drainLimit)
	}
}

// close has the outboxes flushed, the sockets closed and the context terminated.
func (r *Runner) close() {
	r.enter(Closing)
	r.routines.close()
	if r.awaitClosed(); r.isForced() {
		r.closeNow()
	}
}

func (r *Runner) awaitClosed() {
	closed := r.await(r.engine.closed(), r.plan.term, r.peers)
	if r.isForced() {
		return
	}
	deadline, now := r.plan.end, time.Now()
	var free time.Time // when nothing that the Runner knows keeps Term any more
	soon, lingering := forcedWait, false
	if closed {
		over := r.engine.lingers()
		if lingering = over.After(now); lingering {
			soon = termSlack / 4 // on a slow machine the lingers end late
		}
		free = latest(now, over)
		deadline = earliest(deadline, free.Add(termSlack))
	} else {
		// A handler blocks the loop. If it does so in a call to libzmq, Term ends that.
		r.overran(true)
	}
	termed := r.await(r.engine.term(), deadline, r.peers)
	forced := r.isForced()
	expired := termed && r.engine.expired()
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := closed && !termed && !forced // by a socket
	r.leaked = kept && deadline.Sub(free) >= soon
	r.unsure = kept && !r.leaked
	// Where Term is not back nobody can say that what was sent has left.
	r.expired = expired || r.unsure && (lingering || r.mayHold()) || forced && !termed
}

// mayHold reports whether a socket was closed with something that libzmq had taken and may not have sent. The caller holds the
// mutex.
func (r *Runner) mayHold() bool {
	return slices.ContainsFunc(r.sockets, func(s *Socket) bool { rep := s.report(); return rep.lingered() })
}

// closeNow is the forced end: it waits for the loop and for Term only as long as they take where nothing hangs.
func (r *Runner) closeNow() {
	r.cancel(r.cause)
	r.engine.tell(forcing)
	deadline := time.Now().Add(forcedWait)
	settle(r.engine.closed(), deadline)
	r.overran(true)
	settle(r.engine.term(), deadline)
}

// finish freezes the report, gives the signals back, and lets the phase hook see the end.
func (r *Runner) finish() error {
	r.cancel(r.cause)
	r.enter(Done)
	r.freeze()
	close(r.told)
	soon := time.Now().Add(forcedWait / 2)
	if !r.isForced() {
		r.await(r.heard, latest(r.plan.end, soon), nil)
	}
	settle(r.heard, soon)
	signal.Stop(r.signals)
	if isClosed(r.fallen) {
		awaitDeath()
	}
	err := r.judged()
	close(r.done)
	return err
}

// Shutdown asks for the graceful end, then waits until Run returns, at most until ctx ends, and returns Run's
// error, or ctx's. Any goroutine may call it, more than once. With a ctx that the Runner gave (to a handler, a timer, a Go function) it only asks.
// On a Runner that never ran it flushes, closes and terminates within the grace.
func (r *Runner) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return errors.New("zmqgrace: Shutdown: the context is nil")
	}
	r.ask(ErrShutdown)
	if r.use() {
		go r.retire()
	}
	if ownedBy(ctx, r) {
		return nil
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if !isClosed(r.done) {
			return ctx.Err()
		}
	}
	return r.finalErr
}

// Close ends the server at once, as a second signal does: linger 0 on sockets that are still open, handlers'
// contexts cancelled. It waits until Run returns, which does not wait for handlers; Run's error is [ErrForced].
// Any goroutine may call it, more than once; a handler that calls it is itself one that has not returned, so there
// [ErrStop] or Shutdown is better. After the end it does nothing. On a Runner that never ran it
// closes the sockets and terminates the context.
func (r *Runner) Close() error {
	if isClosed(r.done) {
		return nil
	}
	r.force()
	if r.use() {
		r.retire()
	}
	<-r.done
	return nil
}

// retire ends a Runner that never ran.
func (r *Runner) retire() {
	r.prepare(context.Background(), nil)
	r.plan = r.makePlan()
	r.engine.beginDrain(r.plan)
	r.engine.tell(closing)
	if err := r.engine.open(); err != nil {
		r.tell(slog.LevelWarn, "closing without a flush", "error", err)
		r.engine.tell(forcing)
	}
	if r.isForced() {
		r.engine.tell(forcing)
	}
	go r.announcer()
	go r.engine.run()
	r.close()
	r.finish()
}

// Phase returns where the Runner is. Any goroutine may call it: a readiness probe answers yes while it is [Running].
func (r *Runner) Phase() Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.phase
}

// ask asks for the graceful end. The first cause is the one that is reported.
func (r *Runner) ask(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.askLocked(cause)
}

func (r *Runner) askLocked(cause error) {
	if r.cause == nil {
		r.cause = cause
		r.askedAt = time.Now()
		r.ending.Store(true)
		close(r.asked)
		for _, s := range r.sockets {
			s.count(func(c *SocketReport) { c.droppedBefore = c.Dropped })
		}
	}
}

// stop asks for the graceful end because of err, which Run will return; a bare ErrStop is none.
func (r *Runner) stop(err error) {
	r.ask(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == nil && err != ErrStop {
		r.failure = err
	}
}

// force asks for the end at once.
func (r *Runner) force() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isForced() {
		if r.overrun == nil {
			r.overrun = &overrun{phase: r.phase}
		}
		r.overrun.cut = true
		close(r.forced) // before whoever waits for the end hears of it
	}
	r.askLocked(ErrForced)
}

func (r *Runner) isForced() bool { return isClosed(r.forced) }

// overran notes where the end is, the first time, and which handlers run, the last time that any do. The end is cut
// if there is no hope that it will be complete.
func (r *Runner) overran(cut bool) {
	running := append(r.engine.running(), r.routines.report()...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.overrun == nil {
		r.overrun = &overrun{phase: r.phase}
	}
	r.overrun.cut = r.overrun.cut || cut
	if len(running) > 0 {
		r.overrun.running = running
	}
}

// signalled does what a signal asks for.
func (r *Runner) signalled(s os.Signal) {
	if !r.signaled {
		r.signaled = true
		r.ask(&SignalError{s})
		return
	}
	signal.Stop(r.signals) // whoever is not heard now can still end the process
	r.force()
}

// await waits for event until the deadline, and reports whether it came. It ends early when the end is forced.
// Where it takes long enough to make somebody wonder, it has what logged, if there is one.
func (r *Runner) await(event <-chan struct{}, deadline time.Time, what func() string) bool {
	if !time.Now().Before(deadline) {
		return isClosed(event) // most have no ready delay: not worth a timer
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	word := time.NewTimer(firstWord)
	defer word.Stop()
	for {
		select {
		case <-event:
			return true
		case <-word.C:
			if what != nil {
				r.sayWaiting(what())
				word.Reset(nextWord)
			}
		case <-timer.C:
			return isClosed(event)
		case s := <-r.signals:
			r.signalled(s)
		case <-r.forced:
			return false
		case <-r.fallen:
			awaitDeath()
		}
	}
}

// settle waits for event until the deadline, whatever else happens.
func settle(event <-chan struct{}, deadline time.Time) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-event:
	case <-timer.C:
	}
}

// crash is what a panic on its way up does: it has the loop flush, close and terminate, for at most a second.
// Then it returns, and the process dies. Where the loop's own goroutine panics, takeOver gives it another.
func (r *Runner) crash(takeOver func()) {
	r.mu.Lock()
	if !isClosed(r.fallen) {
		close(r.fallen)
	}
	r.mu.Unlock()
	r.engine.tell(crashing)
	takeOver()
	deadline := time.Now().Add(lastWords)
	settle(r.engine.closed(), deadline)
	settle(r.engine.term(), deadline)
}

// awaitDeath blocks for ever: a panic is on its way up in another goroutine, and if Run returned, main might
// return first, and nobody would see it.
func awaitDeath() { select {} }

// makePlan divides the grace, once the end has been asked for.
func (r *Runner) makePlan() plan {
	return newPlan(r.askedAt, r.opts.grace, r.opts.readyDelay, r.opts.drainLimit, longestLinger(r.allSockets()))
}

// use reports whether nobody has run or ended the Runner yet, and takes it, when whoever touches its sockets is through.
func (r *Runner) use() bool {
	if r.isUsed() {
		return false
	}
	r.setup.Lock()
	defer r.setup.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.used
	r.used = true
	return !was
}

func (r *Runner) isUsed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

func (r *Runner) hasRun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ran
}

// unuse gives the Runner back, unless somebody waits for its end by now.
func (r *Runner) unuse() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = r.cause != nil
	return !r.used
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
