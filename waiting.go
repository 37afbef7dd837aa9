package zmqgrace

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/pebbe/zmq4"
)

const (
	firstWord = 300 * time.Millisecond // most ends are over by then, those that wait for the default quiet among them
	nextWord  = 5 * time.Second
)

// sayWaiting logs what the end waits for, for whoever sits at the terminal. It must not wait itself: where the logger
// blocks, nobody reads it.
func (r *Runner) sayWaiting(what string) {
	attrs := []any{
		"for", what,
		"at_most", max(time.Until(r.plan.end), 0).Round(100 * time.Millisecond),
		"forced_by", r.forcedBy(),
	}
	if len(r.told) == 0 { // there is room for every phase, and not for more than that
		r.tell(slog.LevelInfo, "the end waits", attrs...)
	}
}

// forcedBy is what would force the end now.
func (r *Runner) forcedBy() string {
	switch {
	case len(r.opts.signals) == 0:
		return "Close"
	case r.signaled:
		return "a second signal"
	}
	return "two signals" // the first one is what asked already
}

func (r *Runner) readyDelay() string { return "the ready delay" }

// silence is what the drain waits for if nothing is under way.
func (r *Runner) silence() string {
	quiet := "silence"
	for _, s := range r.Report().Sockets {
		if n := s.Drained + s.Rejected; n > 0 {
			quiet += fmt.Sprintf("; socket %q has had %d since the end was asked for", s.Name, n)
		}
	}
	return r.underWay(quiet)
}

// peers is what Closing waits for if nothing else is under way.
func (r *Runner) peers() string { return r.underWay("peers to take what was sent") }

// underWay is what has begun and is not over, otherwise what it is given; of several of a kind, the one that runs longest.
func (r *Runner) underWay(otherwise string) string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, s := range r.Report().Sockets {
		if s.InFlight > 0 {
			add("%d in flight on socket %q", s.InFlight, s.Name)
		}
		if s.Type == zmq4.REQ && s.Sent > s.Received {
			add("an answer to socket %q", s.Name)
		}
		if s.Queued > 0 {
			add("peers to take %d from socket %q", s.Queued, s.Name)
		}
	}
	var named []string
	for _, h := range append(r.engine.running(), r.routines.report()...) {
		if who := h.who(); !slices.Contains(named, who) {
			named = append(named, who)
			add("%s, for %v", who, h.For.Round(time.Millisecond))
		}
	}
	if len(all) == 0 {
		return otherwise
	}
	return strings.Join(all, "; ")
}
