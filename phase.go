package zmqgrace

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// A Phase is where a [Runner] is in its life.
//
// These are all the ways from one to another. Whatever is not in the table changes nothing: a second reason to end, for
// example, neither shortens the ready delay nor replaces the first as the cause.
//
//	from      | event                                | to
//	----------+--------------------------------------+----------------------------------------------------------
//	Idle      | Run                                  | Running: signals are caught, Go functions start
//	Idle      | Run is refused                       | Idle: mend it and call Run again
//	Idle      | Shutdown                             | Closing: what was sent is flushed
//	Idle      | Close                                | Closing, with linger 0
//	Running   | a signal                             | Announced: the grace begins, the cause is a SignalError
//	Running   | the end of ctx                       | Announced: the cause is the context's
//	Running   | Shutdown                             | Announced: the cause is ErrShutdown
//	Running   | ErrStop                              | Announced: the cause is the error
//	Running   | Close                                | Closing, with linger 0
//	Announced | the ready delay is over              | Draining: Goodbyes are said, Go functions cancelled
//	Announced | the loop has failed                  | Draining, which is over at once
//	Announced | a second signal                      | Closing, with linger 0
//	Announced | Close                                | Closing, with linger 0
//	Draining  | drained                              | Closing: flush, linger, close, term
//	Draining  | an empty moment past the drain limit | Closing; the report says Busy
//	Draining  | the hard end                         | Closing: handlers are cancelled, the rest is abandoned
//	Draining  | a second signal                      | Closing, with linger 0
//	Draining  | Close                                | Closing, with linger 0
//	Closing   | Term is back                         | Done: Run returns nil, if nothing was left
//	Closing   | Term is back when the linger is over | Done: LingerExpired
//	Closing   | Term is not back a second after that | Done: Leaked
//	Closing   | the loop is not back before the end  | Closing: Term begins, to free it, then Done
//	Closing   | a second signal                      | Done, at most 50 ms later
//	Closing   | Close                                | Done, at most 50 ms later
//	Done      | Run                                  | Done: ErrClosed
//	Done      | Shutdown                             | Done: what Run returned
//	Done      | Close                                | Done
//	any       | a panic                              | none: the loop has a second to flush, then the process dies
type Phase int

// The phases, in order.
const (
	Idle      Phase = iota // before Run
	Running                // serving
	Announced              // asked to end, still serving for the ready delay
	Draining               // serving what is queued, until quiet
	Closing                // flushing, lingering, terminating
	Done                   // over
)

var phaseNames = [...]string{"Idle", "Running", "Announced", "Draining", "Closing", "Done"}

func (p Phase) String() string {
	if p < 0 || int(p) >= len(phaseNames) {
		return "Phase(" + strconv.Itoa(int(p)) + ")"
	}
	return phaseNames[p]
}

// MarshalText writes the phase by its name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// announcer calls the logger and the phase hook, on a goroutine of its own: neither may hold up the end.
func (r *Runner) announcer() {
	returned := false
	defer func() {
		if !returned && panicking() {
			r.crash(func() {})
			return
		}
		if !returned {
			r.stop(fmt.Errorf("zmqgrace: phase hook: %w", errGoexit))
		}
		close(r.heard)
	}()
	for call := range r.told {
		call()
	}
	returned = true
}

// tell has the announcer log.
func (r *Runner) tell(level slog.Level, what string, attrs ...any) {
	r.told <- func() { r.opts.logger.Log(context.Background(), level, "zmqgrace: "+what, attrs...) }
}

// enter makes p the phase.
func (r *Runner) enter(p Phase) {
	now := time.Now()
	r.mu.Lock()
	if r.phase != Idle {
		r.phases = append(r.phases, PhaseReport{r.phase, now.Sub(r.entered)})
	}
	r.phase, r.entered = p, now
	cause := r.cause
	r.mu.Unlock()
	var attrs []any
	if cause != nil {
		attrs = append(attrs, "cause", cause)
	}
	r.tell(slog.LevelInfo, p.String(), attrs...)
	if r.opts.hook != nil {
		r.told <- func() { r.opts.hook(p) }
	}
}
