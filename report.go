package zmqgrace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pebbe/zmq4"
)

// What a caller may branch on, with errors.Is.
var (
	// ErrStop, returned by a handler, ends the server gracefully. Bare, Run returns nil; wrapped in
	// another error, Run returns that.
	ErrStop = errors.New("zmqgrace: stop")

	// ErrDeferred, returned by a handler, says that the message will be replied to later: it stays in flight until
	// its Reply, the end of the drain waits for it, and at the hard end it counts as abandoned. Only
	// a message that can be replied to can be deferred.
	ErrDeferred = errors.New("zmqgrace: deferred")

	// ErrShutdown is the cause in the report when [Runner.Shutdown] ended the server.
	ErrShutdown = errors.New("zmqgrace: Shutdown was called")

	// ErrForced says that a second signal or [Runner.Close] cut the end short.
	ErrForced = errors.New("zmqgrace: the end was forced")

	// ErrClosed says that the Runner or the socket takes nothing more: it has flushed, or it has ended.
	ErrClosed = errors.New("zmqgrace: closed")

	// ErrFull says that a socket's outbox is full before [Runner.Run], when nothing empties it yet.
	ErrFull = errors.New("zmqgrace: the outbox is full")
)

// A SignalError is the cause in the report when a signal ended the server.
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return "zmqgrace: ended by signal: " + e.Signal.String() }

// A ShutdownError says that the end was not complete: something that the Runner had received, answered
// or been asked to send was left behind. It unwraps to Err.
type ShutdownError struct {
	Phase   Phase            // where the budget ran out, or where the loss was seen
	Sockets []SocketReport   // those that still held something
	Running []RunningHandler // handlers, timers, Go and Goodbye functions that did not return in time
	Leaked  bool             // Term still waits for a socket made in the context that the Runner never saw
	Err     error            // context.DeadlineExceeded, or ErrForced

	unsure bool // Term was not back, and Leaked may be why
}

// A RunningHandler is a handler, or other function of the user, that did not return before the end of the drain.
type RunningHandler struct {
	Socket    string        // name of the socket where its message arrived, or whose Goodbye it is; empty for a timer and a Go function
	RoutingID string        // of the peer, in hex; empty but for ROUTER
	For       time.Duration // how long it had been running

	routine bool // a Go or Goodbye function
}

// who names it.
func (h RunningHandler) who() string {
	switch {
	case h.routine && h.Socket == "":
		return "a Go function"
	case h.routine:
		return fmt.Sprintf("the Goodbye of socket %q", h.Socket)
	case h.Socket == "":
		return "a timer"
	}
	return fmt.Sprintf("a handler of socket %q", h.Socket)
}

// Error names what was left, and where.
func (e *ShutdownError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "zmqgrace: incomplete end, seen while %v: %v", e.Phase, e.Err)
	for _, h := range e.Running {
		fmt.Fprintf(&b, "; %s was still running after %v", h.who(), h.For.Round(time.Millisecond))
		if h.RoutingID != "" {
			fmt.Fprintf(&b, " (routing id %s)", h.RoutingID)
		}
	}
	for _, s := range e.Sockets {
		fmt.Fprintf(&b, "; socket %q (%v) %s", s.Name, s.Type, s.left())
	}
	if e.Leaked {
		b.WriteString("; a socket that the Runner does not know was left open in its context: close it before the end, or Adopt it")
	}
	if e.unsure {
		b.WriteString("; Term was not back, so that a socket that the Runner does not know may have been left open in its context")
	}
	return b.String()
}

func (e *ShutdownError) Unwrap() error { return e.Err }

// A Report says what a Runner did and what it had to leave. While the Runner runs it is a snapshot; it
// is frozen when Run returns. It marshals to JSON and to slog with readable values.
type Report struct {
	Phase         Phase          // where the Runner is
	Cause         error          // what ended the server: *SignalError, context.Cause, ErrShutdown, or an error; nil before
	Forced        bool           // a second signal or Close cut the end short
	Busy          bool           // no quiet came: from the drain limit on the first empty moment ended the drain
	LingerExpired bool           // a peer did not take in time what had been sent to it
	Phases        []PhaseReport  // in order
	Sockets       []SocketReport // in order of creation
}

// A PhaseReport says how long a phase lasted; the current one so far.
type PhaseReport struct {
	Phase    Phase
	Duration time.Duration
}

// A SocketReport counts the messages of one socket. At every moment
// Received = Handled + Failed + Rejected + InFlight + Abandoned, and at the end InFlight is 0.
//
// What libzmq itself drops can't be counted: PUB and XPUB drop silently at a slow subscriber's high-water
// mark, and a linger that ends does not say what it dropped. What a ROUTER's peer takes it tells in steps of half the mark.
type SocketReport struct {
	Name      string
	Type      zmq4.Type
	Endpoints []string // as bound and connected, resolved

	Received  int // messages taken from the socket
	Handled   int // whose handler returned nil or ErrStop
	Failed    int // whose handler returned another error, or no reply on REP
	Rejected  int // that went to Late
	InFlight  int // whose handler has not returned
	Abandoned int // left when the time was over: not handled, or their handler had not returned
	Drained   int // of the handled, those after the end was asked for

	Sent       int  // messages handed to libzmq
	Queued     int  // not yet
	Unroutable int  // to a ROUTER's peer that was gone
	Dropped    int  // to a ROUTER's peer that took nothing while at its high-water mark
	Unsent     int  // never taken before the end
	Backlog    bool // there was something to read when the socket was closed

	waiting       int // taken from libzmq, and nobody has begun to handle them
	linger        time.Duration
	untold        bool // it may hold what the Runner did not send
	droppedBefore int  // Dropped when the end was asked for
	lingerExpired bool // it may have held something when the longest linger was over
}

// left says what the socket still held; empty if nothing.
func (s *SocketReport) left() string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", what, n))
		}
	}
	add(s.Abandoned, "abandoned")
	if s.linger != 0 { // with a linger of 0 dropping is what the user asked for
		add(s.Unsent, "could not send")
		add(s.Dropped-s.droppedBefore, "dropped")
	}
	if s.Backlog {
		parts = append(parts, "left a backlog unread")
	}
	if s.lingerExpired {
		parts = append(parts, "may not have handed over all that was sent when its linger ended")
	}
	return strings.Join(parts, ", ")
}

// lingered reports whether the socket may have held something that its linger was for.
func (s *SocketReport) lingered() bool { return (s.Sent > 0 || s.untold) && s.linger != 0 }

// String makes the report readable in a log line: it is the JSON.
func (r Report) String() string {
	b, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// MarshalJSON writes the cause as text.
func (r Report) MarshalJSON() ([]byte, error) {
	type plain Report
	return json.Marshal(struct {
		plain
		Cause string // covers the embedded one
	}{plain(r), causeText(r.Cause)})
}

// MarshalJSON writes the duration as text.
func (p PhaseReport) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Phase    Phase
		Duration string
	}{p.Phase, p.Duration.String()})
}

// MarshalJSON writes the type by its name.
func (s SocketReport) MarshalJSON() ([]byte, error) {
	type plain SocketReport
	return json.Marshal(struct {
		Name string
		Type string // covers the embedded one
		plain
	}{s.Name, s.Type.String(), plain(s)})
}

// LogValue implements [slog.LogValuer]: a group, with one group a socket.
func (r Report) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("phase", r.Phase.String()),
		slog.String("cause", causeText(r.Cause)),
		slog.Bool("forced", r.Forced),
		slog.Bool("busy", r.Busy),
		slog.Bool("linger_expired", r.LingerExpired),
	}
	var phases []slog.Attr
	for _, p := range r.Phases {
		phases = append(phases, slog.String(p.Phase.String(), p.Duration.String()))
	}
	attrs = append(attrs, slog.Attr{Key: "phases", Value: slog.GroupValue(phases...)})
	for _, s := range r.Sockets {
		attrs = append(attrs, slog.Attr{Key: s.Name, Value: slog.GroupValue(
			slog.String("type", s.Type.String()),
			slog.Int("received", s.Received),
			slog.Int("handled", s.Handled),
			slog.Int("failed", s.Failed),
			slog.Int("rejected", s.Rejected),
			slog.Int("in_flight", s.InFlight),
			slog.Int("abandoned", s.Abandoned),
			slog.Int("drained", s.Drained),
			slog.Int("sent", s.Sent),
			slog.Int("queued", s.Queued),
			slog.Int("unroutable", s.Unroutable),
			slog.Int("dropped", s.Dropped),
			slog.Int("unsent", s.Unsent),
			slog.Bool("backlog", s.Backlog),
		)})
	}
	return slog.GroupValue(attrs...)
}

func causeText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Report says what the Runner has done: so far, or, when Run has returned, for good. Any goroutine may call it.
func (r *Runner) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.final != nil {
		rep := *r.final
		rep.Phases, rep.Sockets = slices.Clone(rep.Phases), slices.Clone(rep.Sockets)
		return rep
	}
	return r.snapshot()
}

// snapshot is the report of this moment. The caller holds the mutex.
func (r *Runner) snapshot() Report {
	rep := Report{
		Phase:         r.phase,
		Cause:         r.cause,
		Forced:        r.isForced(),
		Busy:          r.engine.busy(),
		LingerExpired: r.expired,
		Phases:        slices.Clone(r.phases),
	}
	if r.phase != Idle && r.phase != Done {
		rep.Phases = append(rep.Phases, PhaseReport{r.phase, time.Since(r.entered)})
	}
	for _, s := range r.sockets {
		rep.Sockets = append(rep.Sockets, s.report())
	}
	return rep
}

// freeze makes the report final, and judges by it.
func (r *Runner) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sockets {
		s.shutOutbox() // also where the loop is not back to do it
	}
	back := isClosed(r.engine.drained())
	rep := r.snapshot()
	verdict := &ShutdownError{Phase: Closing, Leaked: r.leaked, unsure: r.unsure, Err: context.DeadlineExceeded}
	for i := range rep.Sockets {
		s := &rep.Sockets[i]
		// A loop that is not back has handlers that did not return, messages that it will not hand to any, and outboxes that nobody
		// will send.
		if !back {
			s.Received, s.Abandoned = s.Received+s.waiting, s.Abandoned+s.waiting
		}
		s.Abandoned, s.InFlight = s.Abandoned+s.InFlight, 0
		s.Unsent, s.Queued = s.Unsent+s.Queued, 0
		s.lingerExpired = r.expired && s.lingered()
		if s.left() != "" {
			verdict.Sockets = append(verdict.Sockets, *s)
		}
	}
	r.final = &rep
	r.finalErr, r.blamed = r.failure, r.failure != nil
	if r.overrun != nil {
		verdict.Phase, verdict.Running = r.overrun.phase, r.overrun.running
	}
	cut := r.overrun != nil && r.overrun.cut
	if !cut && len(verdict.Running) == 0 && !r.leaked && !r.unsure && !r.expired && len(verdict.Sockets) == 0 {
		return
	}
	if rep.Forced {
		verdict.Err = ErrForced
	}
	r.finalErr = errors.Join(r.blame(rep.Forced), verdict)
	if r.ran || len(verdict.Sockets) > 0 || r.leaked { // not for a deferred Close of a Runner that could not be set up
		r.tell(slog.LevelError, "the end was not complete", "error", verdict)
	}
}

// judged is what Run returns. The phase hook may have failed in Done, when all else was over.
func (r *Runner) judged() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure != nil && !r.blamed { // not by errors.Is: who knows whether it can be compared
		r.finalErr = errors.Join(r.failure, r.finalErr)
	}
	return r.finalErr
}

// blame is the error that an incomplete end is joined with: what made the server end.
func (r *Runner) blame(forced bool) error {
	switch {
	case r.failure != nil:
		return r.failure
	case r.cause == ErrShutdown, r.cause == ErrStop, r.cause == ErrForced:
		return nil
	case forced && errors.Is(r.cause, context.DeadlineExceeded):
		return nil // that would read as if the grace had been exceeded
	}
	return r.cause
}
