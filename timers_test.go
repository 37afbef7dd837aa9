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
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

func init() { children["timer that panics"] = panicInATimerAsChild }

// logLines keeps what is logged, for whoever wants to read it.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) option() Option { return WithLogger(slog.New(slog.NewTextHandler(l, nil))) }

// count is how many lines have all of the words.
func (l *logLines) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

func TestATimerKeepsItsTimesAndLeavesOutWhatIsOver(t *testing.T) {
	for _, test := range []struct {
		late, next time.Duration // from when it was due
		calls      int
	}{
		{-ms, 0, 0},
		{0, 10 * ms, 1},
		{4 * ms, 10 * ms, 1},
		{9 * ms, 10 * ms, 1},
		{11 * ms, 20 * ms, 1},
		{95 * ms, 100 * ms, 1},
		{time.Hour + ms, time.Hour + 10*ms, 1},
	} {
		r := newTestRunner(t)
		r.prepare(context.Background(), nil)
		calls := 0
		r.Every(10*ms, func(context.Context) error { calls++; return nil })
		r.loop.fireTimers() // sees it for the first time
		due := time.Now().Add(-test.late)
		r.loop.timers[0].next = due
		r.loop.fireTimers()
		r.loop.fireTimers()
		next := r.loop.timers[0].next
		if took := time.Since(due) - test.late; took > ms {
			continue // the machine stood still meanwhile
		}
		if calls != test.calls || next.Sub(due) != test.next {
			t.Errorf("%v late: %d calls, the next one %v after that was due, not %d and %v", test.late, calls, next.Sub(due), test.calls, test.next)
		}
	}
}

// On a loaded machine calls are late, and some are left out; but most keep step with some other.
func TestATimerDoesNotDrift(t *testing.T) {
	t.Parallel()
	const interval, work, calls = 20 * ms, 6 * ms, 20
	r := newTestRunner(t, briefly)
	all := make(chan time.Time, calls)
	n := 0
	r.Every(interval, func(context.Context) error {
		if n++; n <= calls {
			all <- time.Now()
		}
		time.Sleep(work) // with drift, each call would be so much later than its time than the one before
		return nil
	})
	s := start(t, r, nil)
	var times []time.Time
	for range calls {
		times = append(times, next(t, "a call", all))
	}
	best := 0
	for _, origin := range times {
		inStep := 0
		for _, at := range times {
			if (at.Sub(origin)%interval+interval)%interval < 8*ms {
				inStep++
			}
		}
		best = max(best, inStep)
	}
	// With drift it would be two fifths.
	if best < calls*3/5 || times[calls-1].Sub(times[0]) < (calls-2)*interval {
		t.Errorf("of %d calls every %v %d were in step: %v", calls, interval, best, times)
	}
	s.ended()
}

func TestThereIsNoBurstOfCallsAfterALongHandler(t *testing.T) {
	const interval = 10 * ms
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	calls := make(chan time.Time, 1000)
	r.Every(interval, func(context.Context) error { calls <- time.Now(); return nil })
	s := start(t, r, func(context.Context, *Message) error {
		time.Sleep(20 * interval) // the long handler
		for len(calls) > 0 {
			<-calls
		}
		return nil
	})
	_, err := dial(t, zmq4.PUSH, pull.Endpoint()).SendMessage("work")
	must(t, err)
	until(t, "the message is handled", func() bool { return r.Report().Sockets[0].Handled == 1 })
	// One that is late, one at its time, one more: a burst would have all three at once.
	first, _, third := next(t, "a call", calls), next(t, "a call", calls), next(t, "a call", calls)
	if took := third.Sub(first); took < interval/2 {
		t.Errorf("three calls in %v after the long handler", took)
	}
	s.ended()
}

func TestTimersGoOnInTheDrainAndNoLonger(t *testing.T) {
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	deferred := make(chan *Message, 1)
	phases := make(chan Phase, 10_000)
	r.Every(ms, func(context.Context) error { phases <- r.Phase(); return nil })
	s := start(t, r, func(_ context.Context, m *Message) error {
		deferred <- m
		return ErrDeferred
	})
	client := dial(t, zmq4.REQ, router.Endpoint())
	_, err := client.SendMessage("hello")
	must(t, err)
	m := next(t, "the message", deferred)
	go s.Shutdown(context.Background())
	for n := 0; n < 10; {
		if next(t, "a call", phases) == Draining {
			n++
		}
	}
	must(t, m.Reply([]byte("hello")))
	if _, err := s.returned(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	close(phases) // a call from now on panics
	for p := range phases {
		if p > Closing { // it may have begun right before
			t.Errorf("a call in phase %v", p)
		}
	}
	r.Every(ms, func(context.Context) error { panic("called after the end") })
}

func TestATimersErrorIsLoggedAndTheServerGoesOn(t *testing.T) {
	var log logLines
	r := newTestRunner(t, briefly, log.option())
	calls := make(chan struct{}, 10_000)
	r.Every(ms, func(context.Context) error {
		calls <- struct{}{}
		return errors.New("the test's own")
	})
	s := start(t, r, nil)
	for range 20 {
		next(t, "a call", calls)
	}
	s.ended()
	if n := log.count("a timer failed", "the test's own"); n == 0 || n > 5 {
		t.Errorf("%d lines were logged for 20 errors; it is one a second", n)
	}
}

func TestErrStopFromATimerEndsTheServer(t *testing.T) {
	for _, test := range []struct{ err, want error }{
		{ErrStop, nil},
		{fmt.Errorf("the test's own: %w", ErrStop), ErrStop},
	} {
		r := newTestRunner(t, briefly)
		r.Every(ms, func(context.Context) error { return test.err })
		rep, err := run(t, r, nil).returned()
		if err != test.want && !errors.Is(err, test.want) || rep.Cause != test.err {
			t.Errorf("after %v Run returned %v, the cause is %v", test.err, err, rep.Cause)
		}
	}
}

func TestGoexitInATimerEndsTheServerAndTheBacklogIsServed(t *testing.T) {
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	var leave atomic.Bool
	r.Every(ms, func(context.Context) error {
		if leave.Load() {
			runtime.Goexit()
		}
		return nil
	})
	s := start(t, r, echo)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	request(t, client, "before")
	leave.Store(true)
	request(t, client, "meanwhile")
	report, err := s.returned()
	if err == nil || !strings.Contains(err.Error(), "a timer") || !strings.Contains(err.Error(), "runtime.Goexit") || report.Sockets[0].Handled != 2 {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

// panicInATimerAsChild says "bound" and its endpoint, answers, and panics when somebody wrote "panic".
func panicInATimerAsChild() {
	r, err := New()
	check(err)
	router, err := r.NewSocket(zmq4.ROUTER)
	check(err)
	check(router.Bind("tcp://127.0.0.1:*"))
	armed := false
	r.Every(ms, func(context.Context) error {
		if armed {
			timerThatPanics()
		}
		return nil
	})
	say("bound", router.Endpoint())
	check(r.Run(context.Background(), func(_ context.Context, m *Message) error {
		armed = string(m.Frames[0]) == "panic"
		return m.Reply(m.Frames...)
	}))
}

func timerThatPanics() { panic("as the test asked") }

func TestAPanicInATimerFlushesTheRepliesAndKillsTheProcess(t *testing.T) {
	t.Parallel()
	p := startChild(t, "timer that panics")
	client := dial(t, zmq4.DEALER, p.expect("bound"))
	request(t, client, "hello")
	request(t, client, "panic")
	state, stderr := p.exit()
	if state.ExitCode() != 2 || !strings.Contains(stderr, "panic: as the test asked") || !strings.Contains(stderr, "timerThatPanics") {
		t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
	}
}

func TestEveryRefusesAnIntervalThatIsNotPositive(t *testing.T) {
	for _, d := range []time.Duration{0, -ms} {
		func() {
			defer func() {
				if got := recover(); got == nil || !strings.Contains(fmt.Sprint(got), d.String()) {
					t.Errorf("Every(%v) panicked with %v", d, got)
				}
			}()
			newTestRunner(t).Every(d, func(context.Context) error { return nil })
		}()
	}
}

func TestTimersMayBeAddedFromAnywhere(t *testing.T) {
	for _, workers := range []int{0, 2} {
		r := newTestRunner(t, briefly, WithPollTimeout(-1), WithWorkers(workers))
		pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
		var calls [4]chan struct{}
		for i := range calls {
			calls[i] = make(chan struct{}, 10_000)
		}
		call := func(i int) func(context.Context) error {
			return func(context.Context) error { calls[i] <- struct{}{}; return nil }
		}
		var once sync.Once
		r.Every(ms, func(ctx context.Context) error { // before Run
			once.Do(func() { r.Every(ms, call(1)) })
			return call(0)(ctx)
		})
		s := start(t, r, func(context.Context, *Message) error {
			r.Every(ms, call(2))
			return nil
		})
		_, err := dial(t, zmq4.PUSH, pull.Endpoint()).SendMessage("work")
		must(t, err)
		r.Every(ms, call(3))
		for i, c := range calls {
			for range 3 {
				next(t, fmt.Sprintf("a call of timer %d", i), c)
			}
		}
		s.ended()
	}
}

func TestATimerMayMakeAndCloseSocketsAlsoBesideWorkers(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(2))
	endpoints := make(chan string, 1000)
	var socket *Socket
	r.Every(2*ms, func(context.Context) error {
		if socket != nil {
			if socket.report().Handled == 0 {
				return nil // not yet used
			}
			if err := socket.Close(); err != nil {
				return err
			}
		}
		var err error
		if socket, err = r.NewSocket(zmq4.ROUTER); err != nil {
			return err
		}
		if err := socket.Bind("tcp://127.0.0.1:*"); err != nil {
			return err
		}
		endpoints <- socket.Endpoint()
		return nil
	})
	s := start(t, r, echo)
	const rounds = 20
	for range rounds {
		request(t, dial(t, zmq4.REQ, next(t, "the next socket", endpoints)), "hello")
	}
	if rep := s.ended(); len(rep.Sockets) < rounds {
		t.Errorf("there were %d sockets", len(rep.Sockets))
	}
}

func TestATimerOnlyAsksForShutdown(t *testing.T) {
	r := newTestRunner(t, briefly)
	r.Every(ms, func(ctx context.Context) error { return r.Shutdown(ctx) })
	if rep, err := run(t, r, nil).returned(); err != nil || rep.Cause != ErrShutdown {
		t.Errorf("Run returned %v, the cause is %v", err, rep.Cause)
	}
}

func TestAStuckTimerIsNamedAtTheEndOfTheGrace(t *testing.T) {
	t.Parallel()
	const grace = 500 * ms
	r := newTestRunner(t, briefly, WithGrace(grace), WithLinger(0))
	began, leave := make(chan struct{}, 1), make(chan struct{})
	defer close(leave)
	r.Every(ms, func(context.Context) error {
		began <- struct{}{}
		<-leave
		return nil
	})
	s := start(t, r, nil)
	next(t, "the call", began)
	asked := time.Now()
	_, err := s.end()
	if took := time.Since(asked); took > grace+time.Second {
		t.Errorf("Run returned after %v, the grace is %v", took, grace)
	}
	if e := incomplete(t, err); len(e.Running) != 1 || e.Running[0].Socket != "" || e.Running[0].For < grace/2 || !strings.Contains(err.Error(), "a timer") {
		t.Errorf("the error says %v", err)
	}
}

// torrent keeps a PULL from ever having nothing to read.
type torrent struct {
	over atomic.Bool
	all  sync.WaitGroup
}

func torrentTo(t testing.TB, s *Socket) *torrent {
	f := new(torrent)
	push := peer(t, zmq4.PUSH)
	must(t, errors.Join(push.SetSndhwm(1000), push.SetSndtimeo(10*ms), push.Connect(s.Endpoint())))
	t.Cleanup(f.end)
	f.all.Go(func() {
		for !f.over.Load() {
			push.SendMessage("flood") // EAGAIN is what it is about
		}
	})
	return f
}

func (f *torrent) end() {
	f.over.Store(true)
	f.all.Wait()
}

func TestAFloodedSocketDoesNotHoldBackAnother(t *testing.T) {
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	var handled int // only the loop writes and reads it
	pull.Handle(func(context.Context, *Message) error { handled++; return nil })
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	// A request is in the queue while the handler of another socket waits for it; then the flood has its turns.
	const rounds = 50
	gate := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	entered, sent := make(chan struct{}, 1), make(chan struct{})
	var before int
	gate.Handle(func(context.Context, *Message) error {
		entered <- struct{}{}
		<-sent
		until(t, "the request is there", func() bool { return readable(rep.Raw()) })
		before = handled
		return nil
	})
	overtaken := make(chan int, rounds)
	rep.Handle(func(_ context.Context, m *Message) error {
		overtaken <- handled - before
		return m.Reply(m.Frames...)
	})
	s := start(t, r, nil)
	f := torrentTo(t, pull)
	opener, client := dial(t, zmq4.PUSH, gate.Endpoint()), dial(t, zmq4.REQ, rep.Endpoint())
	for range rounds {
		_, err := opener.SendMessage("open")
		must(t, err)
		next(t, "the gate", entered)
		_, err = client.SendMessage("hello")
		must(t, err)
		sent <- struct{}{}
		if _, err := client.RecvMessage(0); err != nil {
			t.Fatal(err)
		}
		// The loop polls when the flood has had what was left of its turn; then it may have another one first.
		if n := next(t, "the request is handled", overtaken); n > 2*turnMessages {
			t.Errorf("%d messages of the flood overtook the request; a turn is %d", n, turnMessages)
		}
	}
	f.end()
	s.ended()
}

// underLoad has a timer of 10 ms run for a while beside a flood whose handler works for the given time, and
// returns how late the calls were, sorted.
func underLoad(t testing.TB, work time.Duration, calls int) []time.Duration {
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	var late []time.Duration
	var due time.Time
	enough := make(chan struct{})
	r.Every(10*ms, func(context.Context) error {
		now := time.Now()
		if !due.IsZero() && len(late) < calls {
			if late = append(late, now.Sub(due)); len(late) == calls {
				close(enough)
			}
		}
		due = r.loop.timers[0].next // on the loop
		return nil
	})
	s := start(t, r, func(context.Context, *Message) error {
		for start := time.Now(); time.Since(start) < work; {
		}
		return nil
	})
	f := torrentTo(t, pull)
	<-enough
	f.end()
	must(t, r.Close()) // rather than serve all that the wires hold
	s.returned()
	slices.Sort(late)
	return late
}

func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

func TestATimerIsHardlyLateUnderFullLoad(t *testing.T) {
	const work = ms
	late := underLoad(t, work, 50)
	t.Logf("with handlers of %v calls were late by %v at the median, %v at p90, %v at most", work, percentile(late, 50), percentile(late, 90), late[len(late)-1])
	if median := percentile(late, 50); median > turnTime+work+5*ms {
		t.Errorf("calls were %v late at the median", median)
	}
}

func BenchmarkTimerUnderFullLoad(b *testing.B) {
	for _, work := range []time.Duration{0, ms / 10, ms, 5 * ms} {
		b.Run(fmt.Sprintf("handlers of %v", work), func(b *testing.B) {
			for range b.N {
				late := underLoad(b, work, 300)
				for _, p := range []int{50, 90, 99, 100} {
					b.ReportMetric(float64(percentile(late, p).Microseconds()), fmt.Sprintf("us-late-p%d", p))
				}
				var histogram strings.Builder
				for bound := 250 * time.Microsecond; ; bound *= 2 {
					n, _ := slices.BinarySearch(late, bound)
					fmt.Fprintf(&histogram, "\n%10v %4d %s", bound, n, strings.Repeat("#", n*60/len(late)))
					if n == len(late) {
						break
					}
				}
				b.Logf("calls at most so late:%s", histogram.String())
			}
		})
	}
}

// The end of the grace does not wait for it: Term begins while it makes sockets.
func TestATimerThatMakesSocketsWithoutAnEndIsToldWhenTheGraceIsOver(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithGrace(300*ms))
	inside, refused := make(chan struct{}), make(chan error, 1)
	r.Every(ms, func(context.Context) error {
		close(inside)
		for {
			s, err := r.NewSocket(zmq4.PUSH)
			if errors.Is(err, zmq4.Errno(syscall.EMFILE)) {
				continue // libzmq reaps closed sockets behind the loop's back, and here later than they are made
			}
			if err != nil {
				refused <- err
				return nil
			}
			must(t, s.Close())
		}
	})
	s := start(t, r, nil)
	over(t, "it makes sockets", inside)
	_, err := s.end()
	incomplete(t, err)
	if err := next(t, "NewSocket refuses", refused); !errors.Is(err, ErrClosed) && !errors.Is(err, zmq4.ETERM) {
		t.Errorf("NewSocket returned %v", err)
	}
}
