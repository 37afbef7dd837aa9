package zmqgrace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// Many goroutines that send, Go functions, Goodbye functions, and sockets that are paused.

func init() { children["Go function that panics"] = panicInAGoFunctionAsChild }

// pour has many goroutines send each messages of three frames on s: the goroutine, the number, and a body made of both.
func pour(t testing.TB, s *Socket, goroutines, each int) *sync.WaitGroup {
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				who, number := strconv.Itoa(g), strconv.Itoa(i)
				err := s.Send(context.Background(), []byte(who), []byte(number), bytes.Repeat([]byte(who+"/"+number), 5))
				if err != nil {
					t.Errorf("goroutine %d, message %d: %v", g, i, err)
					return
				}
			}
		})
	}
	return &all
}

// drink receives what pour sends, and fails the test where one is not whole, out of its goroutine's order, or missing.
func drink(t testing.TB, s *zmq4.Socket, goroutines, each int) {
	t.Helper()
	last := make([]int, goroutines)
	for n := 0; n < goroutines*each; {
		m, err := s.RecvMessage(0)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", n, goroutines*each, err)
		}
		if len(m) == 1 {
			continue // one that awaited the subscription
		}
		if len(m) != 3 || m[2] != strings.Repeat(m[0]+"/"+m[1], 5) {
			t.Fatalf("message %d is not whole: %q", n, m)
		}
		g, err := strconv.Atoi(m[0])
		must(t, err)
		if number := strconv.Itoa(last[g]); m[1] != number {
			t.Fatalf("message %s of goroutine %d came where %s was due", m[1], g, number)
		}
		last[g]++
		n++
	}
}

func TestMessagesOfManyGoroutinesStayWholeAndInOrder(t *testing.T) {
	const goroutines, each = 64, 100
	t.Run("PUSH", func(t *testing.T) {
		r := newTestRunner(t)
		push, err := r.NewSocket(zmq4.PUSH)
		must(t, err)
		must(t, push.Raw().SetSndhwm(10)) // most of the sends have to wait
		must(t, push.Bind("tcp://127.0.0.1:*"))
		s := start(t, r, nil)
		pull := dial(t, zmq4.PULL, push.Endpoint())
		all := pour(t, push, goroutines, each)
		drink(t, pull, goroutines, each)
		all.Wait()
		if got := s.ended().Sockets[0]; got.Sent != goroutines*each {
			t.Errorf("the report is %+v", got)
		}
	})
	t.Run("PUB", func(t *testing.T) {
		r := newTestRunner(t)
		pub, err := r.NewSocket(zmq4.PUB)
		must(t, err)
		must(t, pub.Raw().SetSndhwm(2*goroutines*each)) // at its mark it would drop
		must(t, pub.Bind("tcp://127.0.0.1:*"))
		s := start(t, r, nil)
		sub := dial(t, zmq4.SUB, pub.Endpoint(), func(s *zmq4.Socket) error { return s.SetSubscribe("") })
		until(t, "the subscription is there", func() bool {
			must(t, pub.Send(context.Background(), []byte("hello")))
			_, err := sub.RecvMessage(zmq4.DONTWAIT)
			return err == nil
		})
		all := pour(t, pub, goroutines, each)
		drink(t, sub, goroutines, each)
		all.Wait()
		s.ended()
	})
}

// sendOn sends on s until that fails, and counts.
func sendOn(ctx context.Context, s *Socket, sent *atomic.Int64, body []byte) error {
	for {
		if err := s.Send(ctx, body); err != nil {
			return err
		}
		sent.Add(1)
	}
}

func TestAGoFunctionThatSendsToNobodyHoldsTheDrainForItsLimitAndASecond(t *testing.T) {
	t.Parallel()
	for _, peers := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d peers", peers), func(t *testing.T) {
			t.Parallel()
			const limit, linger = 200 * ms, 100 * ms
			r := newTestRunner(t, briefly, WithDrainLimit(limit), WithLinger(linger))
			push, err := r.NewSocket(zmq4.PUSH)
			must(t, err)
			must(t, push.Raw().SetSndhwm(5))
			must(t, push.Bind("tcp://127.0.0.1:*"))
			for range peers { // that do not read
				dial(t, zmq4.PULL, push.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvhwm(1) })
			}
			s := start(t, r, nil)
			// One heeds the context that the Runner gave it, the other one does not.
			var sent atomic.Int64
			body := make([]byte, 256<<10)
			r.Go(func(ctx context.Context) error { return sendOn(ctx, push, &sent, body) })
			r.Go(func(context.Context) error { return sendOn(context.Background(), push, &sent, body) })
			last, since := int64(0), time.Now()
			until(t, "nothing goes for a while", func() bool {
				if n := sent.Load(); n != last {
					last, since = n, time.Now()
				}
				return last > 0 && time.Since(since) > 100*ms
			})
			asked := time.Now()
			rep, err := s.end()
			took := time.Since(asked)
			if most := limit + peerPatience + linger + termSlack + 2*time.Second; took < limit || took > most {
				t.Errorf("the end took %v, at most it may take %v: %v", took, most, rep.Phases)
			}
			e := incomplete(t, err)
			if len(e.Running) != 0 || len(e.Sockets) != 1 || e.Sockets[0].Unsent != 5 || e.Phase != Closing {
				t.Errorf("the error says %+v", e)
			}
		})
	}
}

type testKey struct{}

func TestGoFunctionsRunFromRunToTheDrain(t *testing.T) {
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	type seen struct {
		phase Phase
		value any
	}
	begun, ended := make(chan seen, 3), make(chan error, 3)
	fn := func(ctx context.Context) error {
		begun <- seen{r.Phase(), ctx.Value(testKey{})}
		<-ctx.Done()
		if p := r.Phase(); p != Draining {
			t.Errorf("cancelled in phase %v", p)
		}
		ended <- context.Cause(ctx)
		return ctx.Err()
	}
	r.Go(fn)
	if len(begun) > 0 {
		t.Error("it runs before Run does")
	}
	s := &running{Runner: r, t: t, result: make(chan error, 1)}
	go func() {
		s.result <- r.Run(context.WithValue(context.Background(), testKey{}, "value"), func(context.Context, *Message) error {
			r.Go(fn)
			return nil
		})
	}()
	if got := next(t, "the first function", begun); got.phase != Running || got.value != "value" {
		t.Errorf("it began with %+v", got)
	}
	_, err := dial(t, zmq4.PUSH, pull.Endpoint()).SendMessage("work")
	must(t, err)
	next(t, "the function of a handler", begun)
	r.Go(fn)
	next(t, "the third function", begun)
	s.ended()
	for range 3 {
		if err := next(t, "the end of a function", ended); err != ErrShutdown {
			t.Errorf("the cause is %v", err)
		}
	}
}

func TestAnErrorOfAGoFunctionEndsTheServerAndRunReturnsIt(t *testing.T) {
	for _, fault := range []error{
		errors.New("the test's own"),
		context.Canceled, // nobody asked for the end yet
		fmt.Errorf("wrapped: %w", ErrClosed),
		fmt.Errorf("wrapped: %w", io.EOF),
	} {
		r := newTestRunner(t, briefly)
		router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
		fail := make(chan struct{})
		r.Go(func(context.Context) error { <-fail; return fault })
		r.Go(func(context.Context) error { return nil }) // does not end the server
		s := start(t, r, echo)
		request(t, dial(t, zmq4.REQ, router.Endpoint()), "hello")
		close(fail)
		if rep, err := s.returned(); err != fault || rep.Cause != fault || rep.Sockets[0].Handled != 1 {
			t.Errorf("after %v Run returned %v, the cause is %v", fault, err, rep.Cause)
		}
	}
}

func TestErrStopFromAGoFunctionEndsTheServer(t *testing.T) {
	for _, test := range []struct{ err, want error }{
		{ErrStop, nil},
		{fmt.Errorf("the test's own: %w", ErrStop), ErrStop},
	} {
		r := newTestRunner(t, briefly)
		r.Go(func(context.Context) error { return test.err })
		if _, err := run(t, r, nil).returned(); !errors.Is(err, test.want) {
			t.Errorf("after %v Run returned %v", test.err, err)
		}
	}
}

func TestWhatAGoFunctionReturnsBecauseOfTheEndIsNoError(t *testing.T) {
	own := errors.New("the test's own")
	cause := errors.New("what asked")
	for _, test := range []struct {
		name  string
		fails func(ctx context.Context) error
		want  error
	}{
		{"ctx.Err", func(ctx context.Context) error { return ctx.Err() }, nil},
		{"the cause", context.Cause, nil},
		{"the cause, wrapped", func(ctx context.Context) error { return fmt.Errorf("wrapped: %w", context.Cause(ctx)) }, nil},
		{"closed", func(context.Context) error { return fmt.Errorf("wrapped: %w", ErrClosed) }, nil},
		{"another error", func(context.Context) error { return own }, own},
		{"another error, joined", func(ctx context.Context) error { return errors.Join(own, io.EOF) }, own},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newTestRunner(t, briefly)
			r.Go(func(ctx context.Context) error {
				<-ctx.Done()
				return test.fails(ctx)
			})
			ctx, cancel := context.WithCancelCause(context.Background())
			result := make(chan error, 1)
			go func() { result <- r.Run(ctx, nil) }()
			until(t, "the Runner runs", func() bool { return r.Phase() == Running })
			cancel(cause)
			if err := next(t, "Run returns", result); !errors.Is(err, test.want) || test.want == nil && err != nil || r.Report().Cause != cause {
				t.Errorf("Run returned %v, the cause is %v", err, r.Report().Cause)
			}
		})
	}
}

func TestInTheReadyDelayAGoFunctionStillHasToServe(t *testing.T) {
	r := newTestRunner(t, briefly, WithReadyDelay(100*ms))
	announced := make(chan struct{})
	r.Go(func(ctx context.Context) error {
		<-announced
		if ctx.Err() != nil {
			t.Error("the context is cancelled before the drain")
		}
		return context.Canceled // of something else
	})
	s := start(t, r, nil)
	go s.Shutdown(context.Background())
	until(t, "the end is announced", func() bool { return r.Phase() == Announced })
	close(announced)
	if rep, err := s.returned(); !errors.Is(err, context.Canceled) || rep.Cause != ErrShutdown {
		t.Errorf("Run returned %v, the cause is %v", err, rep.Cause)
	}
}

func TestTheDrainWaitsForGoFunctionsAndSendsWhatTheySend(t *testing.T) {
	r := newTestRunner(t, briefly)
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	pull := dial(t, zmq4.PULL, push.Endpoint())
	r.Go(func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(100 * ms) // the last work, longer than the quiet time
		return push.Send(ctx, []byte("the last"))
	})
	s := start(t, r, nil)
	go s.ended()
	if m, err := pull.RecvMessage(0); err != nil || m[0] != "the last" {
		t.Errorf("received %q, %v", m, err)
	}
	until(t, "the end", func() bool { return r.Phase() == Done })
}

func TestAGoFunctionThatDoesNotReturnIsNamedAtTheHardEnd(t *testing.T) {
	t.Parallel()
	const grace = 500 * ms
	r := newTestRunner(t, briefly, WithGrace(grace))
	leave := make(chan struct{})
	defer close(leave)
	r.Go(func(ctx context.Context) error { <-leave; return nil })
	s := start(t, r, nil)
	asked := time.Now()
	_, err := s.end()
	took := time.Since(asked)
	e := incomplete(t, err)
	if took > grace+time.Second || len(e.Running) != 1 || e.Running[0].For < grace/2 || e.Running[0].Socket != "" || e.Phase != Draining ||
		!strings.Contains(err.Error(), "Go function was still running") {
		t.Errorf("after %v Run returned %v", took, err)
	}
}

func TestShutdownInAGoFunctionOnlyAsks(t *testing.T) {
	r := newTestRunner(t, briefly)
	r.Go(func(ctx context.Context) error { return r.Shutdown(ctx) })
	r.Go(func(ctx context.Context) error {
		<-ctx.Done()
		// Derived, and cancelled already.
		return r.Shutdown(context.WithValue(ctx, testKey{}, 1))
	})
	if rep, err := run(t, r, nil).returned(); err != nil || rep.Cause != ErrShutdown {
		t.Errorf("Run returned %v, the cause is %v", err, rep.Cause)
	}
}

func TestTheContextOfOneRunnerIsAnyOtherContextToTheNext(t *testing.T) {
	one, two := newTestRunner(t, briefly), newTestRunner(t, briefly)
	s := start(t, two, nil)
	one.Go(func(ctx context.Context) error {
		if err := two.Shutdown(ctx); err != nil {
			return err
		}
		if two.Phase() != Done {
			t.Error("Shutdown did not wait")
		}
		return ErrStop
	})
	if _, err := run(t, one, nil).returned(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	s.returned()
}

func TestAForcedEndCancelsGoFunctionsAndDoesNotWaitForThem(t *testing.T) {
	r := newTestRunner(t)
	cause := make(chan error, 1)
	leave := make(chan struct{})
	defer close(leave)
	r.Go(func(ctx context.Context) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		<-leave
		return nil
	})
	s := start(t, r, nil)
	must(t, r.Close())
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
	if err := next(t, "the cause", cause); err != ErrForced {
		t.Errorf("the cause is %v", err)
	}
}

// uncomparable is an error that == panics for, though its type looks as if it could be compared.
type uncomparable struct{ why any }

func (uncomparable) Error() string { return "uncomparable" }

func TestAnErrorThatCantBeComparedIsReturnedAsItIs(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	r.Go(func(context.Context) error { return uncomparable{[]int{1}} })
	_, err := run(t, r, nil).returned()
	if _, ok := err.(uncomparable); !ok {
		t.Errorf("Run returned %v", err)
	}
}

func TestGoexitInAGoFunctionEndsTheServerWithAnError(t *testing.T) {
	r := newTestRunner(t, briefly)
	r.Go(func(context.Context) error { runtime.Goexit(); return nil })
	if _, err := run(t, r, nil).returned(); err == nil || !strings.Contains(err.Error(), "runtime.Goexit") {
		t.Errorf("Run returned %v", err)
	}
}

// momentAfterTheDrain calls a function when the loop has ended the drain, and Run has not gone on to close.
type momentAfterTheDrain struct {
	engine
	call *func()
}

func (m momentAfterTheDrain) busy() bool {
	if call := *m.call; call != nil && isClosed(m.engine.drained()) {
		*m.call = nil
		call()
	}
	return m.engine.busy()
}

func TestAGoFunctionThatComesWhenTheDrainHasEndedIsNotRun(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	began := make(chan struct{})
	goes := func() { r.Go(func(context.Context) error { close(began); return nil }) }
	r.engine = momentAfterTheDrain{r.engine, &goes}
	bound(t, r, zmq4.PULL, "inproc://here")
	s := start(t, r, echo)
	s.ended()
	if goes != nil || isClosed(began) {
		t.Error("it was run, and nobody waited for it")
	}
}

// panicInAGoFunctionAsChild says "bound" and its endpoint, and panics when somebody wrote "panic".
func panicInAGoFunctionAsChild() {
	r, err := New()
	check(err)
	router, err := r.NewSocket(zmq4.ROUTER)
	check(err)
	check(router.Bind("tcp://127.0.0.1:*"))
	panicNow := make(chan struct{})
	r.Go(func(context.Context) error {
		<-panicNow
		goFunctionThatPanics()
		return nil
	})
	say("bound", router.Endpoint())
	check(r.Run(context.Background(), func(_ context.Context, m *Message) error {
		err := m.Reply(m.Frames...)
		if string(m.Frames[0]) == "panic" {
			close(panicNow)
		}
		return err
	}))
}

func goFunctionThatPanics() { panic("as the test asked") }

func TestAPanicInAGoFunctionFlushesTheRepliesAndKillsTheProcess(t *testing.T) {
	t.Parallel()
	p := startChild(t, "Go function that panics")
	client := dial(t, zmq4.DEALER, p.expect("bound"))
	request(t, client, "hello")
	request(t, client, "panic")
	state, stderr := p.exit()
	if state.ExitCode() != 2 || !strings.Contains(stderr, "panic: as the test asked") || !strings.Contains(stderr, "goFunctionThatPanics") {
		t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
	}
}

func TestGoAfterTheEndLogsAndDoesNothing(t *testing.T) {
	var log logLines
	r := newTestRunner(t, briefly, log.option())
	start(t, r, nil).ended()
	r.Go(func(context.Context) error { panic("after the end") })
	if log.count("WARN", "Go") != 1 {
		t.Errorf("the log says:\n%s", log.text.String())
	}
}

func TestGoFunctionsOfARunnerThatNeverRanAreNotRun(t *testing.T) {
	r := newTestRunner(t)
	r.Go(func(context.Context) error { panic("it never ran") })
	must(t, r.Shutdown(context.Background()))
}

func TestManyGoFunctionsComeAndGoWhileTheServerEnds(t *testing.T) {
	for range 10 {
		r := newTestRunner(t, briefly)
		var begun, over atomic.Int64
		var spawn func(ctx context.Context) error
		spawn = func(ctx context.Context) error {
			begun.Add(1)
			defer over.Add(1)
			if ctx.Err() == nil {
				r.Go(spawn)
				runtime.Gosched()
			}
			return ctx.Err()
		}
		for range 4 {
			r.Go(spawn)
		}
		s := start(t, r, nil)
		until(t, "some have run", func() bool { return begun.Load() > 100 })
		s.ended()
		if begun.Load() != over.Load() {
			t.Errorf("%d began and %d ended before Run returned", begun.Load(), over.Load())
		}
	}
}

func TestGoodbyeIsSaidWhenTheDrainBeginsAndTheQuietTimeAfterIt(t *testing.T) {
	const quiet = 400 * ms
	r := newTestRunner(t, WithDrainQuiet(quiet))
	broker := peer(t, zmq4.ROUTER)
	must(t, broker.Bind("tcp://127.0.0.1:*"))
	endpoint, err := broker.GetLastEndpoint()
	must(t, err)
	worker := connected(t, r, zmq4.DEALER, endpoint, WithGoodbye(func(ctx context.Context, s *Socket) error {
		if p := r.Phase(); p != Draining {
			t.Errorf("Goodbye in phase %v", p)
		}
		time.Sleep(quiet * 3 / 2) // without it the server would be drained by now
		return s.Send(ctx, []byte("no more"))
	}))
	must(t, worker.Send(context.Background(), []byte("ready")))
	s := start(t, r, func(_ context.Context, m *Message) error { return m.Reply([]byte("done")) })
	hello, err := broker.RecvMessageBytes(0)
	must(t, err)
	time.Sleep(quiet) // quiet for long
	go s.Shutdown(context.Background())
	if m, err := broker.RecvMessage(0); err != nil || m[1] != "no more" {
		t.Fatalf("the broker received %q, %v", m, err)
	}
	time.Sleep(quiet / 8) // the way to the broker, and back
	_, err = broker.SendMessage(hello[0], "the last job")
	must(t, err)
	if m, err := broker.RecvMessage(0); err != nil || m[1] != "done" {
		t.Errorf("the broker received %q, %v", m, err)
	}
	rep, err := s.returned()
	if err != nil || rep.Sockets[0].Drained != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestGoodbyesRunAtOnceAndTheirErrorsAreLogged(t *testing.T) {
	var log logLines
	r := newTestRunner(t, briefly, log.option())
	var here sync.WaitGroup
	here.Add(3)
	for i := range 3 {
		name := fmt.Sprintf("worker %d", i)
		connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1", WithName(name), WithGoodbye(func(_ context.Context, s *Socket) error {
			if s.Name() != name {
				t.Errorf("the Goodbye of %q got socket %q", name, s.Name())
			}
			here.Done()
			here.Wait() // for all of them
			return errors.New("the test's own")
		}))
	}
	start(t, r, nil).ended()
	for i := range 3 {
		if log.count("WARN", "Goodbye", fmt.Sprintf("worker %d", i), "the test's own") != 1 {
			t.Errorf("the log says:\n%s", log.text.String())
		}
	}
}

func TestAStuckGoodbyeIsCancelledAndNamedAtTheHardEnd(t *testing.T) {
	t.Parallel()
	const grace = 500 * ms
	r := newTestRunner(t, briefly, WithGrace(grace))
	cancelled, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1", WithName("worker"), WithGoodbye(func(ctx context.Context, s *Socket) error {
		<-ctx.Done()
		close(cancelled)
		<-leave
		return nil
	}))
	s := start(t, r, nil)
	asked := time.Now()
	_, err := s.end()
	took := time.Since(asked)
	if e := incomplete(t, err); took > grace+time.Second || len(e.Running) != 1 || e.Running[0].Socket != "worker" || e.Running[0].For < grace/2 {
		t.Errorf("after %v Run returned %v", took, err)
	}
	<-cancelled
}

func TestGoodbyeIsSaidForTheSocketsThatThereAreWhenTheDrainBegins(t *testing.T) {
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	said := make(chan string, 10)
	goodbye := WithGoodbye(func(_ context.Context, s *Socket) error { said <- s.Name(); return nil })
	old := connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1", WithName("old"), goodbye)
	connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1", WithName("stays"), goodbye)
	s := start(t, r, func(ctx context.Context, m *Message) error {
		_, err := r.NewSocket(zmq4.PUSH, WithName("new"), goodbye)
		must(t, errors.Join(err, old.Close(), r.Shutdown(ctx)))
		// The next that the loop does is to begin the drain.
		until(t, "the drain", func() bool { return r.loop.told() == draining })
		return nil
	})
	_, err := dial(t, zmq4.PUSH, pull.Endpoint()).SendMessage("go")
	must(t, err)
	if _, err := s.returned(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	close(said)
	names := make(map[string]int)
	for name := range said {
		names[name]++
	}
	if len(names) != 2 || names["new"] != 1 || names["stays"] != 1 {
		t.Errorf("Goodbye was said for %v", names)
	}
}

func TestAForcedEndSaysNoGoodbye(t *testing.T) {
	r := newTestRunner(t)
	connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1", WithGoodbye(func(context.Context, *Socket) error {
		t.Error("Goodbye")
		return nil
	}))
	s := start(t, r, nil)
	must(t, r.Close())
	s.returned()
}

func TestGoexitInAGoodbyeIsAnErrorAndTheDrainEnds(t *testing.T) {
	r := newTestRunner(t, briefly)
	connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1", WithGoodbye(func(context.Context, *Socket) error {
		runtime.Goexit()
		return nil
	}))
	if _, err := start(t, r, nil).end(); err == nil || !strings.Contains(err.Error(), "runtime.Goexit") {
		t.Errorf("Run returned %v", err)
	}
}

func TestPauseTakesEffectAtOnceInAHandler(t *testing.T) {
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	handled := make(chan string, 1000)
	pull.Handle(func(_ context.Context, m *Message) error {
		pull.Pause()
		handled <- string(m.Frames[0])
		return nil
	})
	// The handler of one socket resumes the other.
	s := start(t, r, func(_ context.Context, m *Message) error {
		pull.Resume()
		return m.Reply()
	})
	push, client := dial(t, zmq4.PUSH, pull.Endpoint()), dial(t, zmq4.REQ, rep.Endpoint())
	const messages = 20
	for i := range messages {
		_, err := push.SendMessage(i)
		must(t, err)
	}
	for i := range messages {
		if got := next(t, "a message", handled); got != fmt.Sprint(i) {
			t.Errorf("message %s came in place of %d", got, i)
		}
		if n := r.Report().Sockets[0].Received; n != i+1 {
			t.Fatalf("%d messages were received, it is paused after each", n)
		}
		request(t, client, "resume")
	}
	s.ended()
}

func TestPauseTakesEffectAtOnceFromAnyGoroutine(t *testing.T) {
	for _, workers := range []int{0, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			r := newTestRunner(t, WithPollTimeout(-1), WithWorkers(workers))
			pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
			round := rounds(t, r)
			s := start(t, r, func(context.Context, *Message) error { return nil })
			f := torrentTo(t, pull)
			received := func() int { return r.Report().Sockets[0].Received }
			for range 10 {
				before := received()
				until(t, "messages come", func() bool { return received() > before })
				pull.Pause()
				paused := received()
				round()
				// One may have been on its way out of the socket.
				if n := received(); n > paused+1 {
					t.Errorf("%d messages were received after Pause", n-paused)
				}
				pull.Pause() // does not count
				pull.Resume()
			}
			f.end()
			must(t, r.Close())
			s.returned()
		})
	}
}

// What was taken from libzmq with one call and waits for a handler is still to be read, though libzmq knows nothing of it any more.
func TestWhatWasTakenBeforeAPauseHoldsTheDrainToo(t *testing.T) {
	t.Parallel()
	const messages = 4
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "inproc://front")
	push, err := r.Context().NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Connect("inproc://front"))
	for range messages { // all are there at once: inproc has no wire
		tell(t, push, "work")
	}
	must(t, push.Close())
	var handled atomic.Int64
	s := start(t, r, func(context.Context, *Message) error {
		if handled.Add(1) == 1 {
			pull.Pause()
		}
		return nil
	})
	until(t, "the first message", func() bool { return handled.Load() == 1 })
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	time.Sleep(50 * ms) // longer than the quiet time
	if isClosed(r.loop.drained()) {
		t.Error("the drain has ended before the rest was handled")
	}
	pull.Resume()
	if rep := s.ended(); rep.Sockets[0].Handled != messages {
		t.Errorf("of %d messages %d were handled", messages, rep.Sockets[0].Handled)
	}
}

func TestAPausedSocketWithSomethingToReadHoldsTheDrainToItsHardEnd(t *testing.T) {
	t.Parallel()
	const grace = 600 * ms
	for _, test := range []struct {
		name             string
		messages, resume bool
	}{
		{"left", true, false},
		{"resumed", true, true},
		{"nothing to read", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly, WithGrace(grace), WithLinger(0))
			pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithName("front"))
			s := start(t, r, func(context.Context, *Message) error { return nil })
			push := dial(t, zmq4.PUSH, pull.Endpoint())
			_, err := push.SendMessage("work")
			must(t, err)
			until(t, "the first message", func() bool { return r.Report().Sockets[0].Handled == 1 })
			pull.Pause()
			if test.messages {
				readableNow := make(chan struct{}, 1000)
				r.Every(ms, func(context.Context) error {
					if readable(pull.Raw()) {
						readableNow <- struct{}{}
					}
					return nil
				})
				for range 3 {
					_, err := push.SendMessage("work")
					must(t, err)
				}
				next(t, "the messages are there", readableNow)
			}
			asked := time.Now()
			go s.Shutdown(context.Background())
			if test.resume {
				until(t, "the drain", func() bool { return r.Phase() == Draining })
				time.Sleep(50 * ms) // longer than the quiet time
				pull.Resume()
			}
			rep, err := s.returned()
			took := time.Since(asked)
			if test.messages && !test.resume {
				e := incomplete(t, err)
				if took < grace/2 || len(e.Sockets) != 1 || e.Sockets[0].Name != "front" || e.Sockets[0].Abandoned != 3 || e.Phase != Draining {
					t.Errorf("after %v Run returned %v", took, err)
				}
				return
			}
			want := 1
			if test.resume {
				want = 4
			}
			if err != nil || rep.Sockets[0].Handled != want {
				t.Errorf("after %v Run returned %v, the report is %v", took, err, rep)
			}
		})
	}
}

// blockingLog is a logger that is stuck with what has a word in it.
type blockingLog struct {
	word        string
	stuck, free chan struct{}
}

func (l blockingLog) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(l.word)) {
		close(l.stuck)
		<-l.free
	}
	return len(p), nil
}

func TestGoWithALoggerThatIsStuckDoesNotHoldTheEnd(t *testing.T) {
	t.Parallel()
	log := blockingLog{"Go:", make(chan struct{}), make(chan struct{})}
	r := newTestRunner(t, briefly, WithLogger(slog.New(slog.NewTextHandler(log, nil))))
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*", WithSocketLinger(-1))
	must(t, push.Send(t.Context(), []byte("for nobody")))
	s := start(t, r, nil)
	go s.Shutdown(context.Background())
	until(t, "Go functions come too late", func() bool {
		r.routines.mu.Lock()
		defer r.routines.mu.Unlock()
		return r.routines.over
	})
	var all sync.WaitGroup
	all.Go(func() { r.Go(func(context.Context) error { return nil }) })
	over(t, "the logger is stuck", log.stuck)
	go s.Close()
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
	close(log.free)
	all.Wait()
}

// The race detector sees to it.
func TestAGoFunctionMayReturnAtTheMomentOfAForcedEnd(t *testing.T) {
	for range 50 {
		r := newTestRunner(t)
		r.Go(func(context.Context) error { <-r.forced; return io.EOF })
		s := start(t, r, nil)
		go s.Close()
		if _, err := s.returned(); !errors.Is(err, ErrForced) {
			t.Errorf("Run returned %v", err)
		}
	}
}
