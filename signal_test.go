package zmqgrace

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// What asks for the end, and what asks twice.

func init() {
	children["unstarted"] = waitUnstartedAsChild
	if signal.Ignored(syscall.SIGINT) {
		// A test run in the background of a shell without job control; its children would inherit that. A signal
		// that is caught here has its default effect in them.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGINT)
	}
}

// waitUnstartedAsChild has made all for a server, and does not run it.
func waitUnstartedAsChild() {
	r, err := New()
	check(err)
	s, err := r.NewSocket(zmq4.REP)
	check(err)
	check(s.Bind("tcp://127.0.0.1:*"))
	say("made")
	time.Sleep(patience)
}

// diedOf holds the process to a death of s's default effect.
func (p *process) diedOf(s syscall.Signal) {
	p.t.Helper()
	state, stderr := p.exit()
	if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != s {
		p.t.Errorf("the process ended with %v, want death of %v; its standard error:\n%s", state, s, stderr)
	}
}

// A lastingEnd is a way into a phase of the end that does not end by itself.
type lastingEnd struct {
	name    string
	service service
	request string // what brings the server into the predicament
	word    string // what it says then
	frozen  bool   // the request comes from a client that never reads
	phase   Phase
}

var lastingEnds = []lastingEnd{
	{name: "Announced", phase: Announced,
		service: service{Grace: time.Minute, ReadyDelay: 30 * time.Second}},
	{name: "Draining, never quiet", phase: Draining,
		service: service{Grace: time.Minute, Quiet: 30 * time.Second, Limit: 30 * time.Second}},
	{name: "Draining, stuck in a handler", phase: Draining, request: "sleep a minute", word: "sleeping"},
	{name: "Draining, stuck in a raw send", phase: Draining, request: "block in a raw send", word: "blocking"},
	{name: "Closing, lingering", phase: Closing, request: "send megabytes", word: "flooded", frozen: true,
		service: service{Grace: time.Minute, Linger: -1}},
	{name: "Closing, flushing", phase: Closing, request: "send thousands", word: "flooded", frozen: true,
		service: service{Grace: time.Minute, Linger: -1}},
	{name: "Closing, a leaked socket", phase: Closing, request: "leak a socket", word: "leaking"},
}

// begin starts a server and brings it into the predicament. The client lives as long as the test.
func (e lastingEnd) begin(t *testing.T) *server {
	t.Helper()
	e.service.Stay = true
	s := startServer(t, e.service)
	switch {
	case e.request == "":
	case e.frozen:
		startFrozenClient(t, s.endpoint, e.request)
		s.expect(e.word)
	default:
		_, err := dial(t, zmq4.DEALER, s.endpoint).Send(e.request, 0)
		must(t, err)
		s.expect(e.word)
	}
	return s
}

// forcedEnd holds an end that began at the given moment to what a forced one promises.
func (s *server) forcedEnd(began time.Time, phase Phase) outcome {
	s.t.Helper()
	o := s.returned()
	took := time.Since(began)
	s.t.Logf("Run returned after %v: %s", took.Round(100*time.Microsecond), o.Error)
	if took > time.Second { // 100 ms is the promise, on a machine that has nothing else to do
		s.t.Errorf("a forced end took %v", took)
	}
	if !o.Forced || o.Deadline || o.Shutdown == nil || o.Shutdown.Phase != phase.String() {
		s.t.Errorf("the error is %q (forced %v, deadline exceeded %v, %+v), want ErrForced in phase %v",
			o.Error, o.Forced, o.Deadline, o.Shutdown, phase)
	}
	return o
}

func TestASecondSignalEndsRunAtOnceAndTheThirdTheProcess(t *testing.T) {
	for _, end := range lastingEnds {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			s := end.begin(t)
			s.signal(syscall.SIGINT)
			s.reach(end.phase)
			second := time.Now()
			s.signal(syscall.SIGINT)
			o := s.forcedEnd(second, end.phase)
			if o.Signal != int(syscall.SIGINT) {
				t.Errorf("the cause is %q, want SIGINT", o.Cause)
			}
			if end.frozen && o.Shutdown != nil && o.Shutdown.Leaked {
				t.Errorf("what lingers is taken for a leak: %s", o.Error)
			}
			s.signal(syscall.SIGINT)
			s.diedOf(syscall.SIGINT)
		})
	}
}

func TestCloseDoesWithoutASignalWhatTheSecondDoes(t *testing.T) {
	t.Parallel()
	s := startServer(t, service{Quiet: 10 * time.Second, Limit: 10 * time.Second, Stay: true})
	client := dial(t, zmq4.DEALER, s.endpoint)
	request(t, client, "hello")
	s.signal(syscall.SIGTERM)
	s.reach(Draining)
	asked := time.Now()
	_, err := client.Send("close", 0)
	must(t, err)
	s.forcedEnd(asked, Draining)
	s.signal(syscall.SIGINT)
	s.diedOf(syscall.SIGINT)
}

// The third comes while Run ends at once: from a handler that sees its context cancelled, or from the phase hook.
func TestASignalDuringAForcedEndHasItsDefaultEffect(t *testing.T) {
	ends := append([]lastingEnd{
		{name: "Draining, in a handler", phase: Draining, request: "signal when cancelled", word: "waiting"},
	}, lastingEnds...)
	for _, end := range ends {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			if end.word != "waiting" {
				end.service.HookInt = "Done"
			}
			s := end.begin(t)
			s.signal(syscall.SIGINT)
			s.reach(end.phase)
			s.signal(syscall.SIGINT)
			s.diesAtTheThird()
		})
	}
}

// diesAtTheThird holds the process to death by the SIGINT that it sends itself.
func (s *server) diesAtTheThird() {
	s.t.Helper()
	for line := range s.lines {
		if line == "survived" {
			s.t.Error("the third signal did not end the process")
		}
	}
	s.diedOf(syscall.SIGINT)
}

func TestSignalsHaveTheirDefaultEffectBeforeAndAfterRun(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			before := startChild(t, "unstarted")
			before.expect("made")
			before.signal(sig)
			before.diedOf(sig)

			after := startServer(t, service{Stay: true})
			after.signal(sig)
			if o := after.returned(); o.Error != "" || o.Signal != int(sig) {
				t.Errorf("Run returned %q, the cause is %q", o.Error, o.Cause)
			}
			after.signal(sig)
			after.diedOf(sig)
		})
	}
}

func TestAForcedEndLeavesNothingLingering(t *testing.T) {
	t.Run("Draining", func(t *testing.T) {
		t.Parallel()
		forceWhatLingers(t, Draining, patience)
	})
	t.Run("Closing", func(t *testing.T) {
		t.Parallel()
		forceWhatLingers(t, Closing, 0)
	})
}

// quickLoop has gone as far as it may before whoever tells it something goes on.
type quickLoop struct{ engine }

func (q quickLoop) tell(s stage) {
	q.engine.tell(s)
	if s >= closing {
		<-q.engine.closed()
	}
}

// forceWhatLingers forces the end of a Runner in a phase, whose PUSH has sent what nobody takes; in Closing it owes more than that.
func forceWhatLingers(t *testing.T, phase Phase, quiet time.Duration) {
	t.Helper()
	log := newPhaseLog()
	r := newTestRunner(t, WithPhaseHook(log.hook), WithLinger(-1), WithGrace(time.Hour), WithDrainQuiet(quiet), WithDrainLimit(patience))
	bound(t, r, zmq4.PULL, "inproc://here") // has the quiet time
	r.engine = quickLoop{r.engine}
	push := marked(t, r, zmq4.PUSH, 1)
	must(t, push.Connect("ipc://"+filepath.Join(t.TempDir(), "nobody")))
	s := start(t, r, echo)
	must(t, push.Send(t.Context(), []byte("libzmq takes this one")))
	until(t, "it does", func() bool { return push.report().Sent == 1 })
	if phase == Closing {
		must(t, push.Send(t.Context(), []byte("and not this one")))
	}
	go r.Shutdown(context.Background())
	log.await(t, phase)
	must(t, r.Close())
	over(t, "Term", r.loop.termedC)
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
}

// Term does not wait for a handler, and the sockets keep the linger that they have when they learn of it.
func TestAHandlerThatOutlastsAForcedEndLeavesNothingLingering(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*Socket) error{
		"it returns":        func(*Socket) error { return nil },
		"it closes its own": (*Socket).Close,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outlastAForcedEnd(t, then)
		})
	}
}

func outlastAForcedEnd(t *testing.T, then func(*Socket) error) {
	r := newTestRunner(t, WithLinger(-1), WithGrace(time.Hour))
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	dealer := marked(t, r, zmq4.DEALER, 1)
	must(t, dealer.Connect("ipc://"+filepath.Join(t.TempDir(), "nobody")))
	last := bound(t, r, zmq4.PULL, "inproc://last") // Term tells it after the others
	inside := make(chan struct{})
	s := start(t, r, func(ctx context.Context, _ *Message) error {
		err := dealer.Send(ctx, []byte("and not this one"))
		close(inside)
		until(t, "Term has begun", func() bool { _, err := last.Raw().GetEvents(); return err != nil })
		return errors.Join(err, then(dealer))
	})
	must(t, dealer.Send(t.Context(), []byte("libzmq takes this one")))
	until(t, "it does", func() bool { return dealer.report().Sent == 1 })
	source := dial(t, zmq4.PUSH, pull.Endpoint())
	tell(t, source, "hold the loop")
	over(t, "a handler has the loop", inside)
	tell(t, source, "a backlog")
	must(t, r.Close())
	over(t, "Term", r.loop.termedC)
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
}

// A deferred Close is ordinary code, and a socket under a handler is not its.
func TestASocketIsNotTakenFromAHandlerThatOutlastsRun(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	inside, release, own := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	s := start(t, r, func(context.Context, *Message) error {
		close(inside)
		<-release
		_, err := pull.Raw().GetRcvhwm() // refused once it is closed, not by Term
		own <- err
		return nil
	})
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "hold the loop")
	over(t, "a handler has the loop", inside)
	must(t, r.Close())
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
	if err := pull.Bind("tcp://127.0.0.1:*"); !errors.Is(err, ErrClosed) {
		t.Errorf("Bind returned %v", err)
	}
	must(t, pull.Close())
	close(release)
	if err := next(t, "the handler looks at its socket", own); err != nil && !errors.Is(zmq4.AsErrno(err), zmq4.ETERM) {
		t.Errorf("the handler's socket says %v", err)
	}
	over(t, "Term", r.loop.termedC)
}

func TestWithSignalsWithoutAnyInstallsNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t, service{Deaf: true})
	request(t, dial(t, zmq4.DEALER, s.endpoint), "hello")
	s.signal(syscall.SIGINT)
	s.diedOf(syscall.SIGINT)
}

// phaseLog is a phase hook that notes what it is called with.
type phaseLog struct {
	mu     sync.Mutex
	phases []Phase
	seen   chan Phase
}

func newPhaseLog() *phaseLog { return &phaseLog{seen: make(chan Phase, len(phaseNames))} }

func (l *phaseLog) hook(p Phase) {
	l.mu.Lock()
	l.phases = append(l.phases, p)
	l.mu.Unlock()
	l.seen <- p
}

// await waits for phase p.
func (l *phaseLog) await(t testing.TB, p Phase) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case got := <-l.seen:
			if got == p {
				return
			}
		case <-timeout:
			t.Fatalf("phase %v did not come within %v", p, patience)
		}
	}
}

func (l *phaseLog) check(t testing.TB, want ...Phase) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.phases, want) {
		t.Errorf("the phases were %v, want %v", l.phases, want)
	}
}

func TestThePhaseHookSeesEveryPhaseInOrder(t *testing.T) {
	t.Parallel()
	log := newPhaseLog()
	r := newTestRunner(t, WithPhaseHook(log.hook), WithDrainQuiet(time.Millisecond))
	bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	if r.Phase() != Idle {
		t.Errorf("before Run the phase is %v", r.Phase())
	}
	s := run(t, r, echo)
	log.await(t, Running)
	report, err := s.end()
	must(t, err)
	log.check(t, Running, Announced, Draining, Closing, Done) // Run has waited for the hook
	if r.Phase() != Done {
		t.Errorf("after Run the phase is %v", r.Phase())
	}
	var reported []Phase
	for _, p := range report.Phases {
		reported = append(reported, p.Phase)
	}
	if !slices.Equal(reported, []Phase{Running, Announced, Draining, Closing}) {
		t.Errorf("the report has the phases %v", reported)
	}
}

func TestAForcedEndSkipsPhases(t *testing.T) {
	t.Parallel()
	log := newPhaseLog()
	r := newTestRunner(t, WithPhaseHook(log.hook))
	bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := run(t, r, echo)
	log.await(t, Running)
	asked := time.Now()
	must(t, r.Close())
	report, err := s.returned()
	t.Logf("Run returned after %v", time.Since(asked).Round(100*time.Microsecond))
	if !errors.Is(err, ErrForced) || errors.Is(err, context.DeadlineExceeded) || !report.Forced || report.Cause != ErrForced {
		t.Errorf("Run returned %v, the cause is %v", err, report.Cause)
	}
	log.check(t, Running, Closing, Done)
}

func TestCloseEndsRunAtOnceInEveryPhase(t *testing.T) {
	for _, test := range []struct {
		phase Phase
		opts  []Option
	}{
		{Announced, []Option{WithReadyDelay(20 * time.Second)}},
		{Draining, []Option{WithDrainQuiet(20 * time.Second), WithDrainLimit(20 * time.Second)}},
	} {
		t.Run(test.phase.String(), func(t *testing.T) {
			t.Parallel()
			log := newPhaseLog()
			r := newTestRunner(t, append(test.opts, WithPhaseHook(log.hook))...)
			rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
			s := run(t, r, echo)
			client := dial(t, zmq4.REQ, rep.Endpoint())
			request(t, client, "hello")
			go s.Shutdown(context.Background())
			log.await(t, test.phase)
			request(t, client, "hello") // it still serves
			asked := time.Now()
			must(t, r.Close())
			took := time.Since(asked)
			_, err := s.returned()
			t.Logf("Close returned after %v", took.Round(100*time.Microsecond))
			if took > time.Second {
				t.Errorf("Close took %v", took)
			}
			var incomplete *ShutdownError
			if !errors.As(err, &incomplete) || !errors.Is(err, ErrForced) || errors.Is(err, context.DeadlineExceeded) || incomplete.Phase != test.phase {
				t.Errorf("Run returned %v, want ErrForced in phase %v", err, test.phase)
			}
			must(t, r.Close()) // again does nothing
		})
	}
}

func TestShutdownReturnsWhatRunReturns(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(10*time.Millisecond))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	broken := errors.New("the disk is full")
	handling, resume := make(chan struct{}), make(chan struct{})
	s := run(t, r, func(_ context.Context, m *Message) error {
		close(handling)
		<-resume
		m.Reply(m.Frames...)
		return errors.Join(broken, ErrStop)
	})
	_, err := dial(t, zmq4.REQ, rep.Endpoint()).Send("hello", 0)
	must(t, err)
	<-handling

	// While a handler runs Run does not return: a Shutdown waits no longer than its context.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Shutdown(ctx); err != context.Canceled {
		t.Errorf("Shutdown returned %v, want its context's end", err)
	}
	results := make(chan error, 3)
	for range cap(results) {
		go func() { results <- r.Shutdown(context.Background()) }()
	}
	close(resume)
	report, err := s.returned()
	if !errors.Is(err, broken) || report.Cause != ErrShutdown {
		t.Errorf("Run returned %v, the cause is %v", err, report.Cause)
	}
	for range cap(results) {
		if got := <-results; got != err {
			t.Errorf("Shutdown returned %v, Run %v", got, err)
		}
	}
	if got := r.Shutdown(context.Background()); got != err {
		t.Errorf("afterwards Shutdown returned %v, Run %v", got, err)
	}
	if got := r.Run(context.Background(), echo); !errors.Is(got, ErrClosed) {
		t.Errorf("a second Run returned %v", got)
	}
}

func TestShutdownInAHandlerOnlyAsks(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(10*time.Millisecond))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := run(t, r, func(ctx context.Context, m *Message) error {
		derived, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := r.Shutdown(derived); err != nil {
			t.Errorf("Shutdown returned %v", err)
		}
		if r.Phase() == Done || ctx.Err() != nil {
			t.Errorf("Shutdown waited: phase %v, the handler's context %v", r.Phase(), ctx.Err())
		}
		return m.Reply(m.Frames...)
	})
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "the last wish")
	report, err := s.returned()
	if err != nil || report.Cause != ErrShutdown || report.Sockets[0].Drained != 1 {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

func TestTheEndOfRunsContextIsTheCause(t *testing.T) {
	t.Parallel()
	type key struct{}
	full := errors.New("the disk is full")
	ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), key{}, "value"))
	r := newTestRunner(t, WithDrainQuiet(10*time.Millisecond))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	result := make(chan error, 1)
	go func() {
		result <- r.Run(ctx, func(ctx context.Context, m *Message) error {
			if ctx.Value(key{}) != "value" {
				t.Error("the handler's context has not the values of Run's")
			}
			cancel(full)
			if err := ctx.Err(); err != nil {
				t.Errorf("the handler's context ended with Run's: %v", err)
			}
			return m.Reply(m.Frames...)
		})
	}()
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "hello")
	err := <-result
	report := r.Report()
	checkAccounts(t, report)
	if err != nil || report.Cause != full {
		t.Errorf("Run returned %v, the cause is %v, want the cause of its context's end", err, report.Cause)
	}
}

// Its contexts are derived from the other's.
func TestShutdownInATimerOfARunnerWithinARunnerOnlyAsks(t *testing.T) {
	t.Parallel()
	outer, inner := newTestRunner(t, briefly), newTestRunner(t, briefly)
	outer.Go(func(ctx context.Context) error { return inner.Run(ctx, nil) })
	returned := make(chan error, 100)
	inner.Every(ms, func(ctx context.Context) error { returned <- outer.Shutdown(ctx); return ErrStop })
	s := run(t, outer, nil)
	must(t, next(t, "Shutdown returns", returned))
	if rep, err := s.returned(); err != nil {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}
