package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// timer is a function that the loop calls now and then.
type timer struct {
	every time.Duration
	next  time.Time // zero until the loop has seen it
	call  Handler
	ctx   context.Context // for the calls
}

// Every has fn called every d on the loop goroutine, from Run, or from now on, until the drain is over: a broker's
// heartbeats keep its workers alive that long. Calls do not drift; those that a long handler made impossible are left
// out. fn's error follows a handler's policy: it is logged, [ErrStop] ends the server. In fn, as in an inline handler,
// sockets may be made, bound and closed, and [Socket.Send] never blocks. Any goroutine may call Every. d must be positive, and longer than
// fn takes: a loop that is never idle hears no silence, so that each end takes the drain limit.
func (r *Runner) Every(d time.Duration, fn func(ctx context.Context) error) {
	if d <= 0 {
		panic(fmt.Sprintf("zmqgrace: Every(%v): the interval must be positive", d))
	}
	t := &timer{every: d, call: func(ctx context.Context, _ *Message) error { return fn(ctx) }}
	l := r.loop
	l.mu.Lock()
	l.newTimers = append(l.newTimers, t)
	l.mu.Unlock()
	l.wake()
}

// fireTimers calls the timers that are due.
func (l *loop) fireTimers() {
	l.mu.Lock()
	fresh := l.newTimers
	l.newTimers = nil
	l.mu.Unlock()
	if len(fresh)+len(l.timers) == 0 {
		return
	}
	now := time.Now()
	for _, t := range fresh {
		t.next = now.Add(t.every)
		t.ctx = asCaller(l.r.base, l.r, nil)
		l.timers = append(l.timers, t)
	}
	for _, t := range l.timers {
		if now.Before(t.next) || l.told() >= closing {
			continue
		}
		// Before the call: if it ends its goroutine, the loop goes on from here in another one.
		t.next = t.next.Add(now.Sub(t.next).Truncate(t.every) + t.every)
		l.crew.seats[0].since.Store(int64(l.clock()))
		l.crew.handle(0, job{&Message{}, t.call, t.ctx})
		l.crew.leave(0)
		now = time.Now()
	}
}

// dropTimers forgets all timers.
func (l *loop) dropTimers() {
	l.mu.Lock()
	l.newTimers = nil
	l.mu.Unlock()
	l.timers = nil
}

// untilTimer is longest, or how long it is to the next timer if that is sooner.
func (l *loop) untilTimer(longest time.Duration) time.Duration {
	for _, t := range l.timers {
		if left := max(time.Until(t.next), 0); longest < 0 || left < longest {
			longest = left
		}
	}
	return longest
}

// timerFailed follows a timer's error.
func (r *Runner) timerFailed(err error) {
	if errors.Is(err, ErrStop) {
		r.stop(err)
	} else if err != nil {
		r.loop.warner.warn(r.opts.logger, "a timer failed", "error", err)
	}
}
