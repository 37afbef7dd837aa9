package zmqgrace

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// A Phase is where a [Runner] is in its life.
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
		close(r.heard)
		if !returned {
			r.stop(fmt.Errorf("zmqgrace: phase hook: %w", errGoexit))
		}
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
