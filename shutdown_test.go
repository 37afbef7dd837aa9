package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pebbe/zmq4"
)

// The phases, on a clock that is not real and without a socket.

// fakeEngine is a loop that drains, closes and terminates in the time that the test says. A duration of
// never is one that does not end before the loop is told to go on, or the test is over.
type fakeEngine struct {
	openErr    error
	drainTakes time.Duration // from the order to drain on
	stuckFor   time.Duration // a handler that no order gets back, but Term, if frees
	frees      bool
	closeTakes time.Duration // flush and close
	termTakes  time.Duration // from the close on
	linger     time.Duration // of the sockets, from their close on; 0: nothing lingers
	noQuiet    bool
	handlers   []RunningHandler // that run as long as it is stuck, or its drain takes for ever
	hears      func(stage)      // what it is told, before it does anything about it

	mu       sync.Mutex
	began    time.Time
	orders   []order // what it was told, in order
	stage    stage
	told     chan struct{} // closed and made anew with every order
	drainedC chan struct{}
	closedC  chan struct{}
	termC    chan struct{}
	termedC  chan struct{}
	over     chan struct{} // closed with the test
	closedAt time.Time
	termedAt time.Time
	runs     int
}

const never = 1000 * time.Hour

type order struct {
	what stage
	at   time.Duration // since the Runner was made
}

const orderTerm = stage(100) // to terminate, which is no stage of the loop

func (e *fakeEngine) open() error { return e.openErr }

func (e *fakeEngine) run() {
	e.mu.Lock()
	e.runs++
	e.mu.Unlock()
	e.waitFor(never, draining)
	if e.stuckFor > 0 {
		var free chan struct{}
		if e.frees {
			free = e.termC
		}
		timer := time.NewTimer(e.stuckFor)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-free:
		case <-e.over:
			return
		}
	} else {
		e.waitFor(e.drainTakes, closing)
	}
	close(e.drainedC)
	e.waitFor(e.closeTakes, forcing)
	e.mu.Lock()
	e.closedAt = time.Now()
	e.mu.Unlock()
	close(e.closedC)
}

// waitFor waits for a duration, at most until the engine is told s, or a later stage.
func (e *fakeEngine) waitFor(d time.Duration, s stage) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		e.mu.Lock()
		reached, told := e.stage >= s, e.told
		e.mu.Unlock()
		if reached {
			return
		}
		select {
		case <-timer.C:
			return
		case <-told:
		case <-e.over:
			return
		}
	}
}

func (e *fakeEngine) beginDrain(plan) { e.tell(draining) }

func (e *fakeEngine) tell(s stage) {
	if e.hears != nil {
		e.hears(s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.orders = append(e.orders, order{s, time.Since(e.began)})
	if s > e.stage {
		e.stage = s
		close(e.told)
		e.told = make(chan struct{})
	}
}

func (e *fakeEngine) drained() <-chan struct{} { return e.drainedC }
func (e *fakeEngine) closed() <-chan struct{}  { return e.closedC }

func (e *fakeEngine) term() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.termC:
		return e.termedC
	default:
	}
	e.orders = append(e.orders, order{orderTerm, time.Since(e.began)})
	close(e.termC)
	go func() {
		select {
		case <-e.closedC:
		case <-e.over:
			return
		}
		timer := time.NewTimer(e.termTakes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-e.over:
			return
		}
		e.mu.Lock()
		e.termedAt = time.Now()
		e.mu.Unlock()
		close(e.termedC)
	}()
	return e.termedC
}

func (e *fakeEngine) lingers() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.linger == 0 {
		return time.Time{}
	}
	return e.closedAt.Add(e.linger)
}

func (e *fakeEngine) expired() bool {
	over := e.lingers()
	return !over.IsZero() && !e.termedAt.Before(over)
}

func (e *fakeEngine) busy() bool { return e.noQuiet }

func (e *fakeEngine) running() []RunningHandler {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs == 0 || isClosed(e.drainedC) {
		return nil
	}
	return e.handlers
}

// orderAt returns when the engine was first told s.
func (e *fakeEngine) orderAt(s stage) (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range e.orders {
		if o.what == s {
			return o.at, true
		}
	}
	return 0, false
}

// staged is a Runner on a fake engine, inside a synctest bubble.
type staged struct {
	*Runner
	t      *testing.T
	engine *fakeEngine
	result chan error
	began  time.Time
	ended  time.Time
}

// newStaged makes a Runner on e, which has nothing to do but to go through its phases.
func newStaged(t *testing.T, e *fakeEngine, opts ...Option) *staged {
	t.Helper()
	o, err := buildOptions(append([]Option{WithSignals(), quietLog}, opts...))
	must(t, err)
	e.began = time.Now()
	e.told = make(chan struct{})
	e.drainedC, e.closedC = make(chan struct{}), make(chan struct{})
	e.termC, e.termedC = make(chan struct{}), make(chan struct{})
	e.over = make(chan struct{})
	t.Cleanup(func() {
		close(e.over)
		synctest.Wait()
	})
	s := &staged{Runner: newRunner(o), t: t, engine: e, result: make(chan error, 1), began: e.began}
	s.Runner.engine = e
	return s
}

// run begins to run and returns when it does.
func (s *staged) run(ctx context.Context) {
	go func() {
		err := s.Run(ctx, nil)
		s.ended = time.Now()
		s.result <- err
	}()
	synctest.Wait()
}

// returned waits for Run's end and returns how long that took since the Runner was made.
func (s *staged) returned() (time.Duration, error) {
	err := <-s.result
	return s.ended.Sub(s.began), err
}

// owns gives the Runner a socket with that linger, of which nobody will ask more than what it counts. It must run by then.
func (s *staged) owns(linger time.Duration) {
	s.mu.Lock()
	s.sockets = append(s.sockets, &Socket{r: s.Runner, linger: linger})
	s.mu.Unlock()
}

// lasted renders the phases of a report: "Running 1s, Draining 2s".
func lasted(phases []PhaseReport) string {
	var all []string
	for _, p := range phases {
		all = append(all, p.Phase.String()+" "+p.Duration.String())
	}
	return strings.Join(all, ", ")
}

func expectPhases(t *testing.T, r *Runner, want string) {
	t.Helper()
	if got := lasted(r.Report().Phases); got != want {
		t.Errorf("the phases were %s\nwant %s", got, want)
	}
}

func expectOrder(t *testing.T, e *fakeEngine, s stage, want time.Duration) {
	t.Helper()
	if at, ok := e.orderAt(s); !ok || at != want {
		t.Errorf("the loop was told stage %d at %v (%v), not at %v", s, at, ok, want)
	}
}

// slowHandler is one that has not returned.
var slowHandler = []RunningHandler{{Socket: "front", For: time.Minute}}

// incomplete fails the test unless err holds a ShutdownError, and returns that.
func incomplete(t testing.TB, err error) *ShutdownError {
	t.Helper()
	var e *ShutdownError
	if !errors.As(err, &e) {
		t.Fatalf("the error holds no ShutdownError: %v", err)
	}
	return e
}

func TestTheEndGoesThroughAllPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: 2 * time.Second, closeTakes: 3 * time.Second, termTakes: 900 * ms},
			WithReadyDelay(4*time.Second))
		if got := s.Phase(); got != Idle {
			t.Errorf("before Run the phase is %v", got)
		}
		s.run(t.Context())
		for _, step := range []struct {
			want Phase
			then time.Duration
		}{
			{Running, 10 * time.Second},
			{Announced, 4 * time.Second},
			{Draining, 2 * time.Second},
			{Closing, 3900 * ms},
		} {
			if got := s.Phase(); got != step.want {
				t.Errorf("the phase is %v, not %v", got, step.want)
			}
			time.Sleep(step.then)
			if step.want == Running {
				go s.Shutdown(t.Context())
			}
			synctest.Wait()
		}
		took, err := s.returned()
		if err != nil || took != 19900*ms || s.Phase() != Done {
			t.Errorf("Run returned %v after %v in phase %v", err, took, s.Phase())
		}
		expectPhases(t, s.Runner, "Running 10s, Announced 4s, Draining 2s, Closing 3.9s")
		expectOrder(t, s.engine, draining, 14*time.Second)
		expectOrder(t, s.engine, orderTerm, 19*time.Second)
		if _, told := s.engine.orderAt(abandoning); told {
			t.Error("a complete drain was cut short")
		}
		rep := s.Report()
		if rep.Cause != ErrShutdown || rep.Forced || rep.Busy || rep.LingerExpired {
			t.Errorf("the report is %v", rep)
		}
	})
}

func TestWhateverAsksForTheEndIsTheCause(t *testing.T) {
	asked := errors.New("the test asked")
	wrapped := fmt.Errorf("enough: %w", ErrStop)
	for _, c := range []struct {
		name  string
		ask   func(s *staged, cancel context.CancelCauseFunc)
		cause error
		want  error
	}{
		{"a cancelled context", func(_ *staged, cancel context.CancelCauseFunc) { cancel(nil) }, context.Canceled, nil},
		{"a context cancelled with a cause", func(_ *staged, cancel context.CancelCauseFunc) { cancel(asked) }, asked, nil},
		{"Shutdown", func(s *staged, _ context.CancelCauseFunc) { go s.Shutdown(s.t.Context()) }, ErrShutdown, nil},
		{"ErrStop", func(s *staged, _ context.CancelCauseFunc) { s.stop(ErrStop) }, ErrStop, nil},
		{"a wrapped ErrStop", func(s *staged, _ context.CancelCauseFunc) { s.stop(wrapped) }, wrapped, wrapped},
		{"ErrStop after a cancelled context", func(s *staged, cancel context.CancelCauseFunc) {
			cancel(asked)
			synctest.Wait()
			s.stop(wrapped)
		}, asked, wrapped},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, &fakeEngine{drainTakes: time.Second})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				s.run(ctx)
				c.ask(s, cancel)
				if _, err := s.returned(); err != c.want {
					t.Errorf("Run returned %v, not %v", err, c.want)
				}
				if cause := s.Report().Cause; cause != c.cause {
					t.Errorf("the cause is %v, not %v", cause, c.cause)
				}
			})
		})
	}
}

func TestASignalEndsTheServerAndIsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: time.Second})
		s.run(t.Context())
		s.signals <- syscall.SIGTERM
		took, err := s.returned()
		var cause *SignalError
		if err != nil || took != time.Second || !errors.As(s.Report().Cause, &cause) || cause.Signal != syscall.SIGTERM {
			t.Errorf("Run returned %v after %v, the cause is %v", err, took, s.Report().Cause)
		}
	})
}

func TestAContextThatEndedBeforeRunEndsItAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: 5 * ms})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.run(ctx)
		if took, err := s.returned(); err != nil || took != 5*ms {
			t.Errorf("Run returned %v after %v", err, took)
		}
	})
}

// The ready delay is for load balancers; a second reason to end is none to shorten it.
func TestASecondShutdownDoesNotShortenTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: time.Second}, WithReadyDelay(3*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		s.run(ctx)
		go s.Shutdown(t.Context())
		time.Sleep(time.Second)
		cancel()
		go s.Shutdown(t.Context())
		if took, err := s.returned(); err != nil || took != 4*time.Second {
			t.Errorf("Run returned %v after %v", err, took)
		}
	})
}

func TestTheHardEndCutsTheDrainAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: never, handlers: slowHandler, closeTakes: 50 * ms, termTakes: 20 * ms}, WithGrace(10*time.Second))
		s.run(t.Context())
		s.owns(time.Second)
		time.Sleep(5 * time.Second)
		go s.Shutdown(t.Context())
		took, err := s.returned()
		e := incomplete(t, err)
		if e.Phase != Draining || e.Err != context.DeadlineExceeded || e.Leaked {
			t.Errorf("the error is %v", e)
		}
		const hardEnd = 14 * time.Second
		if took != hardEnd+70*ms {
			t.Errorf("Run returned after %v", took)
		}
		expectOrder(t, s.engine, abandoning, hardEnd)
		expectPhases(t, s.Runner, "Running 5s, Announced 0s, Draining 9s, Closing 70ms")
	})
}

func TestHandlersAreCancelledWithTheCauseAtTheHardEndAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: never, handlers: slowHandler}, WithGrace(time.Second), WithLinger(0))
		type key struct{}
		asked := errors.New("the test asked")
		ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
		s.run(ctx)
		cancel(asked)
		time.Sleep(900*ms - 1)
		synctest.Wait()
		if s.base.Err() != nil {
			t.Errorf("cancelled too early: %v", context.Cause(s.base))
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if context.Cause(s.base) != asked || s.base.Value(key{}) != "value" {
			t.Errorf("at the hard end the cause is %v, the value %v", context.Cause(s.base), s.base.Value(key{}))
		}
		if _, err := s.returned(); !errors.Is(err, asked) {
			t.Errorf("an incomplete end does not name its cause: %v", err)
		}
	})
}

// A handler that heeds the end of its context must not be followed by another one.
func TestTheLoopKnowsOfTheHardEndBeforeTheHandlersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: never, handlers: slowHandler})
		told := false
		s.engine.hears = func(what stage) {
			if what == abandoning {
				told = true
				if s.base.Err() != nil {
					t.Error("the handlers were cancelled before")
				}
			}
		}
		s.run(t.Context())
		go s.Shutdown(t.Context())
		s.returned()
		if !told {
			t.Error("the loop was never told")
		}
	})
}

func TestAnEndInTimeCancelsTheHandlersContextToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{})
		s.run(t.Context())
		go s.Shutdown(t.Context())
		s.returned()
		if context.Cause(s.base) != ErrShutdown {
			t.Errorf("after Run the cause of the handlers' context is %v", context.Cause(s.base))
		}
	})
}

func TestAStuckHandlerGetsTermBeforeTheEnd(t *testing.T) {
	handlers := []RunningHandler{{Socket: "front", RoutingID: "2a", For: time.Minute}}
	for _, frees := range []bool{true, false} {
		t.Run(fmt.Sprintf("which frees it is %v", frees), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, &fakeEngine{stuckFor: never, frees: frees, handlers: handlers, closeTakes: 5 * ms, termTakes: 5 * ms}, WithGrace(4*time.Second))
				s.run(t.Context())
				s.owns(-1)
				go s.Shutdown(t.Context())
				took, err := s.returned()
				e := incomplete(t, err)
				if e.Phase != Draining || !slices.Equal(e.Running, handlers) || e.Leaked || e.Err != context.DeadlineExceeded {
					t.Errorf("the error is %v", e)
				}
				want := 4 * time.Second
				if frees {
					want = 3910 * ms
				}
				if took != want {
					t.Errorf("Run returned after %v, not %v", took, want)
				}
				expectOrder(t, s.engine, abandoning, 3*time.Second)
				expectOrder(t, s.engine, orderTerm, 3900*ms)
				if s.Report().Forced {
					t.Error("nobody forced the end")
				}
			})
		})
	}
}

// A handler that comes back between the hard end and the end of the grace was late all the same.
func TestAHandlerThatReturnsAfterTheHardEndIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{stuckFor: 3200 * ms, handlers: slowHandler}, WithGrace(4*time.Second))
		s.run(t.Context())
		s.owns(-1)
		go s.Shutdown(t.Context())
		took, err := s.returned()
		if took != 3200*ms {
			t.Errorf("Run returned after %v", took)
		}
		if got := incomplete(t, err); len(got.Running) != 1 || got.Running[0].Socket != "front" || got.Phase != Draining {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestTermThatWaitsForASocketNobodyKnowsIsALeak(t *testing.T) {
	for _, c := range []struct {
		name    string
		linger  time.Duration
		want    time.Duration
		expired bool
	}{
		{"nothing lingers", 0, time.Second, false},
		{"a linger is over first", 2 * time.Second, 3 * time.Second, false},
		{"the grace ends a moment after a linger, so that the machine may be slow", 9800 * ms, 10*time.Second - 10*ms, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, &fakeEngine{drainTakes: 10 * ms, termTakes: never, linger: c.linger}, WithGrace(10*time.Second))
				s.run(t.Context())
				go s.Shutdown(t.Context())
				took, err := s.returned()
				e := incomplete(t, err)
				if e.Leaked == c.expired || s.Report().LingerExpired != c.expired || e.Phase != Closing || e.Err != context.DeadlineExceeded {
					t.Errorf("the error is %v", e)
				}
				if took != 10*ms+c.want {
					t.Errorf("Run returned after %v, not %v", took, 10*ms+c.want)
				}
			})
		})
	}
}

func TestTermBackWhenTheLingerIsOverMeansItExpired(t *testing.T) {
	for _, c := range []struct {
		termTakes time.Duration
		expired   bool
	}{
		{2*time.Second - 1, false},
		{2 * time.Second, true},
		{2*time.Second + 5*ms, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStaged(t, &fakeEngine{linger: 2 * time.Second, termTakes: c.termTakes})
			s.run(t.Context())
			go s.Shutdown(t.Context())
			took, err := s.returned()
			if took != c.termTakes || s.Report().LingerExpired != c.expired || (err != nil) != c.expired {
				t.Errorf("Term back after %v: Run returned %v after %v, expired is %v", c.termTakes, err, took, s.Report().LingerExpired)
			}
			if c.expired && incomplete(t, err).Leaked {
				t.Errorf("that is no leak: %v", err)
			}
		})
	}
}

func TestNoQuietIsReportedAsBusyAndNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: time.Second, noQuiet: true})
		s.run(t.Context())
		go s.Shutdown(t.Context())
		if _, err := s.returned(); err != nil || !s.Report().Busy {
			t.Errorf("Run returned %v, the report is %v", err, s.Report())
		}
	})
}

// forcedAt is where in its life a Runner is forced: what holds it there, and when it has come there.
var forcedAt = []struct {
	phase  Phase
	engine func() *fakeEngine
	after  time.Duration
}{
	{Running, func() *fakeEngine { return &fakeEngine{} }, time.Second},
	{Announced, func() *fakeEngine { return &fakeEngine{} }, time.Second},
	{Draining, func() *fakeEngine { return &fakeEngine{drainTakes: never} }, 3 * time.Second},
	{Closing, func() *fakeEngine { return &fakeEngine{closeTakes: never} }, 3 * time.Second},
	{Closing, func() *fakeEngine { return &fakeEngine{termTakes: never, linger: never} }, 3 * time.Second},
}

func TestASecondSignalEndsEveryPhaseAtOnce(t *testing.T) {
	for _, c := range forcedAt {
		if c.phase == Running {
			continue // there the first signal is the first
		}
		t.Run(c.phase.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, c.engine(), WithReadyDelay(2*time.Second))
				s.run(t.Context())
				s.signals <- syscall.SIGINT
				time.Sleep(c.after)
				synctest.Wait()
				if got := s.Phase(); got != c.phase {
					t.Fatalf("the phase is %v, not %v", got, c.phase)
				}
				s.signals <- syscall.SIGINT
				took, err := s.returned()
				checkForced(t, s, err, c.phase)
				if took > c.after+100*ms {
					t.Errorf("Run returned %v after the second signal", took-c.after)
				}
				var cause *SignalError
				if !errors.As(err, &cause) || cause.Signal != syscall.SIGINT {
					t.Errorf("the error does not name the signal: %v", err)
				}
			})
		})
	}
}

func TestCloseEndsEveryPhaseAtOnce(t *testing.T) {
	for _, c := range forcedAt {
		t.Run(c.phase.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, c.engine(), WithReadyDelay(2*time.Second))
				s.run(t.Context())
				if c.phase != Running {
					go s.Shutdown(t.Context())
				}
				time.Sleep(c.after)
				synctest.Wait()
				if got := s.Phase(); got != c.phase {
					t.Fatalf("the phase is %v, not %v", got, c.phase)
				}
				must(t, s.Close())
				if s.Phase() != Done {
					t.Error("Close returned before Run had its result")
				}
				took, err := s.returned()
				checkForced(t, s, err, c.phase)
				if took > c.after+100*ms {
					t.Errorf("Run returned %v after Close", took-c.after)
				}
				must(t, s.Close())
			})
		})
	}
}

func checkForced(t *testing.T, s *staged, err error, phase Phase) {
	t.Helper()
	e := incomplete(t, err)
	if !errors.Is(err, ErrForced) || errors.Is(err, context.DeadlineExceeded) || e.Phase != phase {
		t.Errorf("the error is %v", err)
	}
	if !s.Report().Forced {
		t.Errorf("the report is %v", s.Report())
	}
	if context.Cause(s.base) == nil {
		t.Error("the handlers' context was not cancelled")
	}
	if _, told := s.engine.orderAt(forcing); !told {
		t.Error("the loop was not told")
	}
}

// A forced end where the cause is a deadline must not read as if the grace had been exceeded.
func TestAForcedEndIsNeverADeadlineExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: never})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.run(ctx)
		time.Sleep(2 * time.Second)
		must(t, s.Close())
		_, err := s.returned()
		checkForced(t, s, err, Draining)
		if s.Report().Cause != context.DeadlineExceeded {
			t.Errorf("the cause is %v", s.Report().Cause)
		}
	})
}

func TestAForcedEndDoesNotWaitForAStuckHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{stuckFor: never, handlers: slowHandler})
		s.run(t.Context())
		go s.Shutdown(t.Context())
		time.Sleep(time.Second)
		must(t, s.Close())
		took, err := s.returned()
		checkForced(t, s, err, Draining)
		if e := incomplete(t, err); len(e.Running) != 1 || took > time.Second+100*ms {
			t.Errorf("Run returned after %v: %v", took, err)
		}
	})
}

func TestAThirdSignalIsNotTheRunners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: never})
		s.run(t.Context())
		s.signals <- syscall.SIGINT
		s.signals <- syscall.SIGINT
		_, err := s.returned()
		checkForced(t, s, err, s.overrun.phase)
		s.signals <- syscall.SIGINT // nobody takes it
	})
}

func TestThePhaseHookSeesEveryPhaseInOrderHoweverSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Phase
		s := newStaged(t, &fakeEngine{drainTakes: time.Second}, WithPhaseHook(func(p Phase) {
			time.Sleep(2 * time.Second)
			seen = append(seen, p)
		}))
		s.run(t.Context())
		go s.Shutdown(t.Context())
		took, err := s.returned()
		if err != nil || took != 10*time.Second {
			t.Errorf("Run returned %v after %v", err, took)
		}
		if want := []Phase{Running, Announced, Draining, Closing, Done}; !slices.Equal(seen, want) {
			t.Errorf("the hook saw %v", seen)
		}
		// It never delays the server.
		expectPhases(t, s.Runner, "Running 0s, Announced 0s, Draining 1s, Closing 0s")
	})
}

func TestAHookThatHangsHoldsTheEndNoLongerThanTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		s := newStaged(t, &fakeEngine{drainTakes: time.Second}, WithGrace(7*time.Second), WithPhaseHook(func(p Phase) {
			if p == Done {
				<-over
			}
		}))
		s.run(t.Context())
		go s.Shutdown(t.Context())
		if took, err := s.returned(); err != nil || took != 7*time.Second {
			t.Errorf("Run returned %v after %v", err, took)
		}
	})
}

func TestAHookThatHangsHardlyHoldsAForcedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		s := newStaged(t, &fakeEngine{drainTakes: never}, WithPhaseHook(func(Phase) { <-over }))
		s.run(t.Context())
		must(t, s.Close())
		if took, err := s.returned(); !errors.Is(err, ErrForced) || took > 100*ms {
			t.Errorf("Run returned %v after %v", err, took)
		}
	})
}

func TestAHookMayAskForTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *staged
		s = newStaged(t, &fakeEngine{}, WithPhaseHook(func(p Phase) {
			if p == Running {
				go s.Shutdown(context.Background())
			}
		}))
		s.run(t.Context())
		if _, err := s.returned(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestAHookThatCallsGoexitEndsTheServerWithAnError(t *testing.T) {
	for phase := Running; phase <= Done; phase++ {
		t.Run(phase.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, &fakeEngine{drainTakes: time.Second}, WithPhaseHook(func(p Phase) {
					if p == phase {
						runtime.Goexit()
					}
				}))
				s.run(t.Context())
				if phase > Running {
					go s.Shutdown(context.Background())
				}
				took, err := s.returned()
				if !errors.Is(err, errGoexit) || took != time.Second {
					t.Errorf("Run returned %v after %v", err, took)
				}
				if again := s.Shutdown(t.Context()); again != err {
					t.Errorf("Shutdown returned %v, Run %v", again, err)
				}
			})
		})
	}
}

// Nothing lingers, and there is too little time to say that a socket was leaked.
func TestATermThatIsNotBackIsAnErrorHoweverShortTheGraceIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{termTakes: never}, WithGrace(forcedWait*4/5))
		s.run(t.Context())
		go s.Shutdown(context.Background())
		_, err := s.returned()
		if e := incomplete(t, err); e.Leaked || s.Report().LingerExpired || !strings.Contains(err.Error(), "may have been left open") {
			t.Errorf("Run returned %v, the report is %v", err, s.Report())
		}
	})
}

func TestTheBudgetIsHeldWhateverHappens(t *testing.T) {
	durations := []time.Duration{0, ms, 30 * ms, 300 * ms, 3 * time.Second, never}
	some := func(rnd *rand.Rand) time.Duration { return durations[rnd.IntN(len(durations))] }
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		e := &fakeEngine{
			drainTakes: some(rnd), closeTakes: some(rnd), termTakes: some(rnd), linger: some(rnd),
			frees: rnd.IntN(2) == 0, handlers: slowHandler,
		}
		if rnd.IntN(4) == 0 {
			e.stuckFor = some(rnd)
		}
		grace := []time.Duration{1, 5 * ms, 100 * ms, time.Second, 10 * time.Second}[rnd.IntN(5)]
		delay := time.Duration(rnd.Int64N(int64(grace)))
		hook, forced := some(rnd), rnd.IntN(3) == 0
		synctest.Test(t, func(t *testing.T) {
			over := make(chan struct{})
			defer close(over)
			s := newStaged(t, e, WithGrace(grace), WithReadyDelay(delay), WithLinger(some(rnd)%time.Hour), WithPhaseHook(func(Phase) {
				select {
				case <-over:
				case <-time.After(hook):
				}
			}))
			s.run(t.Context())
			s.owns(some(rnd))
			limit := grace + forcedWait
			if forced {
				limit = forcedWait + forcedWait/2
				must(t, s.Close())
			} else {
				go s.Shutdown(t.Context())
			}
			took, err := s.returned()
			if took > limit {
				t.Errorf("seed %d: Run returned after %v of %v: %v", seed, took, limit, err)
			}
			var e *ShutdownError
			if err != nil && !errors.As(err, &e) {
				t.Errorf("seed %d: Run returned %v", seed, err)
			}
		})
	}
}

// A budget too small for anything must not turn a complete end into an incomplete one.
func TestAnIdleServerEndsCompleteHoweverSmallItsGrace(t *testing.T) {
	for _, c := range []struct{ grace, readyDelay time.Duration }{
		{20 * ms, 0},
		{99 * ms, 0},
		{100 * ms, 0},
		{150 * ms, 0},
		{time.Second, 999 * ms},
		{10 * time.Second, 9950 * ms},
	} {
		t.Run(fmt.Sprintf("grace %v with ready delay %v", c.grace, c.readyDelay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStaged(t, &fakeEngine{drainTakes: ms, closeTakes: ms, termTakes: ms}, WithGrace(c.grace), WithReadyDelay(c.readyDelay))
				s.run(t.Context())
				go s.Shutdown(t.Context())
				if took, err := s.returned(); err != nil || took > c.grace {
					t.Errorf("Run returned after %v: %v", took, err)
				}
			})
		})
	}
}

func TestARunnerIsUsedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{})
		s.run(t.Context())
		if err := s.Run(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("a second Run while it runs returned %v", err)
		}
		go s.Shutdown(t.Context())
		if _, err := s.returned(); err != nil {
			t.Errorf("the first Run returned %v", err)
		}
		if err := s.Run(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("a second Run returned %v", err)
		}
		if s.engine.runs != 1 {
			t.Errorf("the loop ran %d times", s.engine.runs)
		}
	})
}

func TestARunThatCouldNotStartMayBeTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{openErr: errors.New("no descriptor left")})
		if err := s.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no descriptor left") {
			t.Errorf("Run returned %v", err)
		}
		var none context.Context
		if err := s.Run(none, nil); err == nil || errors.Is(err, ErrClosed) {
			t.Errorf("Run without a context returned %v", err)
		}
		if s.Phase() != Idle {
			t.Errorf("the phase is %v", s.Phase())
		}
		s.engine.openErr = nil
		s.run(t.Context())
		go s.Shutdown(t.Context())
		if _, err := s.returned(); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestShutdownIsIdempotentAndWaitsForRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: never, handlers: slowHandler}, WithGrace(10*time.Second), WithLinger(0))
		s.run(t.Context())
		results := make(chan error, 10)
		for range cap(results) {
			go func() {
				err := s.Shutdown(context.Background())
				if s.Phase() != Done {
					t.Error("Shutdown returned before Run was done")
				}
				results <- err
			}()
		}
		_, want := s.returned()
		incomplete(t, want)
		for range cap(results) {
			if err := <-results; err != want {
				t.Errorf("Shutdown returned %v, Run %v", err, want)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Shutdown(ended); err != want {
			t.Errorf("when all is over Shutdown returned %v", err)
		}
		must(t, s.Close())
	})
}

func TestShutdownWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: 5 * time.Second})
		s.run(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != context.DeadlineExceeded || time.Since(s.began) != time.Second {
			t.Errorf("Shutdown returned %v after %v", err, time.Since(s.began))
		}
		if took, err := s.returned(); err != nil || took != 5*time.Second {
			t.Errorf("Run returned %v after %v", err, took)
		}
	})
}

func TestShutdownFromAHandlerOnlyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: time.Second})
		s.run(t.Context())
		handlers := asCaller(s.base, s.Runner, nil)
		derived, cancel := context.WithTimeout(handlers, time.Hour)
		defer cancel()
		if err := s.Shutdown(derived); err != nil || time.Since(s.began) != 0 {
			t.Errorf("Shutdown returned %v after %v", err, time.Since(s.began))
		}
		// Another Runner's handler is anybody: it waits.
		other := newRunner(options{})
		others := asCaller(context.WithValue(t.Context(), ownerKey{other}, true), other, nil)
		if err := s.Shutdown(others); err != nil || time.Since(s.began) != time.Second {
			t.Errorf("Shutdown by another Runner's handler returned %v after %v", err, time.Since(s.began))
		}
		s.returned()
	})
}

func TestShutdownOfARunnerThatNeverRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Phase
		s := newStaged(t, &fakeEngine{drainTakes: never, closeTakes: time.Second, termTakes: 900 * ms},
			WithPhaseHook(func(p Phase) { seen = append(seen, p) }))
		if err := s.Shutdown(t.Context()); err != nil || time.Since(s.began) != 1900*ms {
			t.Errorf("Shutdown returned %v after %v", err, time.Since(s.began))
		}
		if err := s.Run(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Run afterwards returned %v", err)
		}
		expectPhases(t, s.Runner, "Closing 1.9s")
		if rep := s.Report(); rep.Phase != Done || rep.Cause != ErrShutdown {
			t.Errorf("the report is %v", rep)
		}
		if want := []Phase{Closing, Done}; !slices.Equal(seen, want) {
			t.Errorf("the hook saw %v", seen)
		}
		must(t, s.Close())
	})
}

func TestShutdownOfARunnerThatNeverRanIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{closeTakes: never, termTakes: never}, WithGrace(3*time.Second))
		err := s.Shutdown(t.Context())
		if e := incomplete(t, err); e.Phase != Closing || time.Since(s.began) != 3*time.Second {
			t.Errorf("Shutdown returned %v after %v", err, time.Since(s.began))
		}
	})
}

func TestCloseOfARunnerThatNeverRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{closeTakes: never})
		must(t, s.Close())
		if took := time.Since(s.began); took > 100*ms {
			t.Errorf("Close returned after %v", took)
		}
		if err := s.Run(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Run afterwards returned %v", err)
		}
		if rep := s.Report(); rep.Phase != Done || !rep.Forced {
			t.Errorf("the report is %v", rep)
		}
		if err := s.Shutdown(t.Context()); !errors.Is(err, ErrForced) {
			t.Errorf("Shutdown afterwards returned %v", err)
		}
	})
}

func TestARunnerThatNeverRanClosesWithoutALoopToWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{openErr: errors.New("no descriptor left"), closeTakes: never})
		if err := s.Shutdown(t.Context()); err != nil || time.Since(s.began) != 0 {
			t.Errorf("Shutdown returned %v after %v", err, time.Since(s.began))
		}
		expectOrder(t, s.engine, forcing, 0)
	})
}

func TestShutdownAndCloseFromManyGoroutinesAtOnce(t *testing.T) {
	for _, ran := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newStaged(t, &fakeEngine{drainTakes: never, closeTakes: never})
			if ran {
				s.run(t.Context())
			}
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					if i%2 == 0 {
						s.Shutdown(t.Context())
					} else {
						s.Close()
					}
				})
			}
			wg.Wait()
			if s.Phase() != Done {
				t.Errorf("the phase is %v", s.Phase())
			}
			if ran {
				if _, err := s.returned(); !errors.Is(err, ErrForced) {
					t.Errorf("Run returned %v", err)
				}
			}
		})
	}
}

func TestTheReportIsASnapshotUntilItIsFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: 2 * time.Second})
		if rep := s.Report(); rep.Phase != Idle || rep.Cause != nil || len(rep.Phases) != 0 {
			t.Errorf("before Run the report is %v", rep)
		}
		s.run(t.Context())
		time.Sleep(3 * time.Second)
		expectPhases(t, s.Runner, "Running 3s")
		go s.Shutdown(t.Context())
		time.Sleep(time.Second)
		expectPhases(t, s.Runner, "Running 3s, Announced 0s, Draining 1s")
		if rep := s.Report(); rep.Phase != Draining || rep.Cause != ErrShutdown {
			t.Errorf("in the drain the report is %v", rep)
		}
		s.returned()
		final := s.Report().String()
		time.Sleep(time.Hour)
		if got := s.Report().String(); got != final {
			t.Errorf("the final report changed from\n%s\nto\n%s", final, got)
		}
	})
}

// A Run that is refused gives the Runner back, unless somebody waits for its end by then.
func TestShutdownAndCloseReturnAlsoWhereRunIsRefusedMeanwhile(t *testing.T) {
	t.Parallel()
	for i := range 200 {
		r := newTestRunner(t)
		if _, err := r.NewSocket(zmq4.PULL); err != nil { // without a handler
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := r.Run(context.Background(), nil); err == nil {
				t.Error("Run was not refused")
			}
		})
		wg.Go(func() {
			if i%2 == 0 {
				must(t, r.Close())
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := r.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown returned %v", err)
			}
		})
		wg.Wait()
		if r.Phase() != Done {
			t.Fatalf("the phase is %v", r.Phase())
		}
	}
}
