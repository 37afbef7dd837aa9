package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// routines are the goroutines of the user's that Run waits for: Go and Goodbye functions.
type routines struct {
	mu      sync.Mutex
	waiting []func(ctx context.Context) error // for Run
	running []*routine
	ctx     context.Context // for Go functions; nil before Run
	cancel  context.CancelCauseFunc
	over    bool // the drain is over: nothing starts any more
}

type routine struct {
	socket string // whose Goodbye it is
	since  time.Time
}

// Go runs fn on a goroutine of its own, from Run, or from now on. Its ctx is cancelled when the drain begins, and the
// drain waits for it to return. An error ends the server gracefully, and Run returns it; once the drain has begun,
// [context.Canceled], the cause of the end and [ErrClosed] count as nil. A panic ends the process as one in a handler does.
// Any goroutine may call Go; once the drain is over, it logs and does nothing.
func (r *Runner) Go(fn func(ctx context.Context) error) {
	if !r.start(fn) { // no mutex is held that the end needs: a logger may block
		r.opts.logger.Warn("zmqgrace: Go: the Runner has ended, so the function is not run")
	}
}

// start has fn run, now or from Run on, and reports whether it is not too late for that.
func (r *Runner) start(fn func(ctx context.Context) error) bool {
	g := &r.routines
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.over:
		return false
	case g.ctx == nil:
		g.waiting = append(g.waiting, fn)
	default:
		r.spawn("", g.ctx, fn)
	}
	return true
}

// startRoutines runs what waited for Run.
func (r *Runner) startRoutines() {
	g := &r.routines
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ctx, g.cancel = context.WithCancelCause(r.base)
	for _, fn := range g.waiting {
		r.spawn("", g.ctx, fn)
	}
	g.waiting = nil
}

// spawn runs fn on its goroutine. The caller holds the routines' mutex.
func (r *Runner) spawn(socket string, ctx context.Context, fn func(ctx context.Context) error) {
	g := &r.routines
	it := &routine{socket: socket, since: time.Now()}
	g.running = append(g.running, it)
	go func() {
		returned := false
		var err error
		defer func() {
			if !returned {
				if panicking() {
					r.crash(func() {})
					return
				}
				err = fmt.Errorf("zmqgrace: Go or Goodbye function: %w", errGoexit)
			}
			if err != nil && !r.expected(err) {
				r.stop(err)
			}
			g.mu.Lock()
			g.running = slices.DeleteFunc(g.running, func(other *routine) bool { return other == it })
			g.mu.Unlock()
			r.loop.wake()
		}()
		err = fn(ctx)
		returned = true
	}()
}

// expected reports whether err is what a Go function may return because the server ends.
func (r *Runner) expected(err error) bool {
	if !isClosed(r.draining) && !r.isForced() {
		return false
	}
	r.mu.Lock() // where the end is forced, the cause may be on its way
	cause := r.cause
	r.mu.Unlock()
	return errors.Is(err, context.Canceled) || errors.Is(err, cause) || errors.Is(err, ErrClosed)
}

// busy reports whether some have not returned.
func (g *routines) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.running) > 0
}

// close has nothing more started.
func (g *routines) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
}

// closeIf is close, if none runs and the condition holds then; it reports whether it does.
func (g *routines) closeIf(condition func() bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = g.over || len(g.running) == 0 && condition()
	return g.over
}

func (g *routines) report() (running []RunningHandler) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, it := range g.running {
		running = append(running, RunningHandler{Socket: it.socket, For: time.Since(it.since), routine: true})
	}
	return running
}

// sayGoodbye runs the socket's Goodbye, whose return begins its quiet anew.
func (s *Socket) sayGoodbye() {
	if s.goodbye == nil {
		return
	}
	g := &s.r.routines
	g.mu.Lock()
	defer g.mu.Unlock()
	s.r.spawn(s.name, s.r.base, func(ctx context.Context) error {
		defer s.r.loop.crew.stir(s)
		if err := s.goodbye(ctx, s); err != nil {
			s.warn("Goodbye failed", err)
		}
		return nil
	})
}
