package zmqgrace

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// Handlers on workers, replies that come later, sockets that come and go while the server runs.

var full = flag.Bool("full", false, "run the load tests at their full size")

// sized is the size of a load test: a fraction unless -full is given.
func sized(all int) int {
	switch {
	case *full:
		return all
	case testing.Short():
		return all / 20
	}
	return all / 5
}

func init() { children["worker that panics"] = panicOnAWorkerAsChild }

// dials connects n clients in one context, which is what many of them need.
func dials(t testing.TB, n int, typ zmq4.Type, endpoint string) []*zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	must(t, err)
	clients := make([]*zmq4.Socket, n)
	for i := range clients {
		s, err := ctx.NewSocket(typ)
		must(t, err)
		must(t, errors.Join(s.SetLinger(0), s.SetSndhwm(0), s.SetRcvhwm(0), s.SetRcvtimeo(patience), s.SetSndtimeo(patience), s.Connect(endpoint)))
		clients[i] = s
	}
	t.Cleanup(func() {
		for _, s := range clients {
			s.Close()
		}
		ctx.Term()
	})
	return clients
}

// rounds returns a function that waits until the loop of r has looked at all that there is now.
func rounds(t testing.TB, r *Runner) func() {
	ticks := make(chan struct{}, 100_000)
	r.Every(2*ms, func(context.Context) error { ticks <- struct{}{}; return nil })
	return func() {
		t.Helper()
		for len(ticks) > 0 {
			<-ticks
		}
		for range 3 {
			next(t, "a round of the loop", ticks)
		}
	}
}

// burst has every client send each requests and wait for as many answers. It calls answered for every answer, on the
// client's goroutine, and returns when all are there.
func burst(t testing.TB, clients []*zmq4.Socket, each int, answered func()) {
	t.Helper()
	var all sync.WaitGroup
	for c, s := range clients {
		all.Go(func() {
			for i := range each {
				if _, err := s.SendMessage(fmt.Sprintf("%d.%d", c, i)); err != nil {
					t.Errorf("client %d: %v", c, err)
					return
				}
			}
			seen := make(map[string]bool)
			for range each {
				answer, err := s.RecvMessage(0)
				if err != nil || len(answer) != 1 || seen[answer[0]] || !strings.HasPrefix(answer[0], fmt.Sprintf("%d.", c)) {
					t.Errorf("client %d: answer %d of %d is %q, %v", c, len(seen)+1, each, answer, err)
					return
				}
				seen[answer[0]] = true
				answered()
			}
		})
	}
	all.Wait()
}

// rateWith is how many requests of 10 ms a second n workers handle, until the count says enough, and the report of a
// Shutdown at that moment.
func rateWith(t *testing.T, workers, requests, enough int) (float64, Report) {
	r := newTestRunner(t, briefly, WithWorkers(workers))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	s := start(t, r, func(_ context.Context, m *Message) error {
		time.Sleep(10 * ms) // the work
		return m.Reply(m.Frames...)
	})
	const clients = 20
	var count atomic.Int64
	var first time.Time
	rate := make(chan float64, 1)
	ended := make(chan Report, 1)
	go func() {
		perSecond := <-rate
		rep, err := s.end()
		if err != nil {
			t.Errorf("%d workers: Run returned %v", workers, err)
		}
		rate <- perSecond
		ended <- rep
	}()
	burst(t, dials(t, clients, zmq4.DEALER, router.Endpoint()), requests/clients, func() {
		switch n := count.Add(1); n {
		case 1:
			first = time.Now()
		case int64(enough):
			rate <- float64(enough-1) / time.Since(first).Seconds()
		}
	})
	return next(t, "the rate", rate), next(t, "the report", ended)
}

func TestWorkersHandleAtOnceAndAnswerAllTheyReceived(t *testing.T) {
	one, _ := rateWith(t, 1, 40, 30)
	requests := 20 * sized(250) // as many for each client
	eight, rep := rateWith(t, 8, requests, requests/2)
	router := rep.Sockets[0]
	t.Logf("%.0f requests/s with one worker, %.0f with eight: %.1f times as many; %d of %d drained", one, eight, eight/one, router.Drained, requests)
	if eight < 2.5*one { // on a machine with much else to do; else it is seven and a half
		t.Errorf("eight workers do only %.1f times as much as one", eight/one)
	}
	if router.Received != requests || router.Handled != requests || router.Sent != requests || router.Drained == 0 {
		t.Errorf("of %d requests the report says %v", requests, rep)
	}
}

func TestNothingIsReceivedWhileAllWorkersAreBusy(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(2))
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	round := rounds(t, r)
	began, leave := make(chan struct{}, 100), make(chan struct{})
	pull.Handle(func(context.Context, *Message) error {
		began <- struct{}{}
		<-leave
		return nil
	})
	s := start(t, r, echo)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	request(t, client, "before") // it is connected
	push := dial(t, zmq4.PUSH, pull.Endpoint())
	for range 10 {
		_, err := push.SendMessage("work")
		must(t, err)
	}
	next(t, "the first worker is busy", began)
	next(t, "the second worker is busy", began)
	_, err := client.SendMessage("meanwhile")
	must(t, err)
	for range 5 { // it has come by now, and is not taken
		round()
	}
	if got := r.Report(); got.Sockets[0].Received != 2 || got.Sockets[1].Received != 1 {
		t.Errorf("with all workers busy %d and %d messages were received, not 2 and 1", got.Sockets[0].Received, got.Sockets[1].Received)
	}
	close(leave)
	if answer, err := client.RecvMessage(0); err != nil || answer[0] != "meanwhile" {
		t.Errorf("the answer is %q, %v", answer, err)
	}
	if got := s.ended(); got.Sockets[0].Handled != 10 {
		t.Errorf("the report is %v", got)
	}
}

func TestRepKeepsLockstepWithWorkers(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(4))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	var inside, most atomic.Int32
	s := start(t, r, func(_ context.Context, m *Message) error {
		defer inside.Add(-1)
		if n := inside.Add(1); n > most.Load() {
			most.Store(n)
		}
		runtime.Gosched()
		if len(m.Frames[0])%2 == 0 {
			return nil // it gets an empty reply
		}
		return m.Reply(m.Frames...)
	})
	clients := dials(t, 4, zmq4.REQ, rep.Endpoint())
	var all sync.WaitGroup
	for c, client := range clients {
		all.Go(func() {
			for i := range 50 {
				body := fmt.Sprint(c, "/", i)
				want := body
				if len(body)%2 == 0 {
					want = ""
				}
				if got := request(t, client, body); len(got) != 1 || got[0] != want {
					t.Errorf("the answer to %q is %q", body, got)
				}
			}
		})
	}
	all.Wait()
	if most.Load() != 1 {
		t.Errorf("%d requests of one REP were handled at once", most.Load())
	}
	if got := s.ended().Sockets[0]; got.Received != 200 || got.Sent != 200 || got.Handled+got.Failed != 200 {
		t.Errorf("the report is %+v", got)
	}
}

func TestAHandlerStuckOnAWorkerIsNamedAtTheEndOfTheGrace(t *testing.T) {
	t.Parallel()
	const grace = time.Second
	r := newTestRunner(t, briefly, WithWorkers(2), WithGrace(grace), WithLinger(0))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"))
	began, leave := make(chan struct{}, 1), make(chan struct{})
	defer close(leave)
	s := start(t, r, func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) == "stick" {
			began <- struct{}{}
			<-leave
		}
		return m.Reply(m.Frames...)
	})
	client := dial(t, zmq4.DEALER, router.Endpoint(), func(s *zmq4.Socket) error { return s.SetIdentity("sticky") })
	_, err := client.SendMessage("stick")
	must(t, err)
	next(t, "the handler is called", began)
	stuck := time.Now()
	for range 10 {
		request(t, client, "the other worker answers")
	}
	asked := time.Now()
	rep, err := s.end()
	took := time.Since(asked)
	e := incomplete(t, err)
	if took < grace/2 || took > grace+time.Second {
		t.Errorf("Run returned after %v, the grace is %v", took, grace)
	}
	if len(e.Running) != 1 || e.Running[0].Socket != "front" || e.Running[0].RoutingID != hex.EncodeToString([]byte("sticky")) ||
		e.Running[0].For < grace/2 || e.Running[0].For > time.Since(stuck)+ms || e.Phase != Draining || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error says %+v", e)
	}
	for _, word := range []string{`"front"`, hex.EncodeToString([]byte("sticky")), "still running after"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %s: %v", word, err)
		}
	}
	if got := rep.Sockets[0]; got.Abandoned != 1 || got.Handled != 10 {
		t.Errorf("the report is %+v", got)
	}
}

func TestAHandlerOnAWorkerThatHeedsItsContextCanStillReply(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithWorkers(2), WithGrace(2*time.Second))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	began := make(chan struct{}, 1)
	s := start(t, r, func(ctx context.Context, m *Message) error {
		began <- struct{}{}
		<-ctx.Done()
		return m.Reply([]byte(context.Cause(ctx).Error()))
	})
	client := dial(t, zmq4.DEALER, router.Endpoint())
	_, err := client.SendMessage("wait")
	must(t, err)
	next(t, "the handler is called", began)
	rep, err := s.end()
	if e := incomplete(t, err); len(e.Running) != 1 || len(e.Sockets) != 0 {
		t.Errorf("the error says %+v", e)
	}
	if answer, err := client.RecvMessage(0); err != nil || answer[0] != ErrShutdown.Error() {
		t.Errorf("the answer is %q, %v", answer, err)
	}
	if got := rep.Sockets[0]; got.Handled != 1 || got.Sent != 1 {
		t.Errorf("the report is %+v", got)
	}
}

func TestGoexitOnAWorkerEndsTheServerAndTheOthersGoOn(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(2))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"))
	// Both workers go away, and the backlog is more than one of them can be busy with.
	s := start(t, r, func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) == "leave" {
			runtime.Goexit()
		}
		return m.Reply(m.Frames...)
	})
	client := dial(t, zmq4.DEALER, router.Endpoint())
	for _, body := range []string{"leave", "leave", "a", "b", "c", "d"} {
		_, err := client.SendMessage(body)
		must(t, err)
	}
	for range 4 {
		if _, err := client.RecvMessage(0); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := s.returned()
	if err == nil || !strings.Contains(err.Error(), "runtime.Goexit") || !strings.Contains(err.Error(), `"front"`) {
		t.Errorf("Run returned %v", err)
	}
	if got := rep.Sockets[0]; got.Failed != 2 || got.Handled != 4 || rep.Cause == nil {
		t.Errorf("the report is %v", rep)
	}
}

func TestGoexitOnAWorkerLeavesARepThatAnswers(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(1))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) == "leave" {
			runtime.Goexit()
		}
		return m.Reply(m.Frames...)
	})
	if got := request(t, dial(t, zmq4.REQ, rep.Endpoint()), "leave"); len(got) != 1 || got[0] != "" {
		t.Errorf("the answer is %q", got)
	}
	if report, err := s.returned(); err == nil || report.Sockets[0].Failed != 1 || report.Sockets[0].Sent != 1 {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

func TestASlowConsumerSlowsTheStageDown(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{0, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			t.Parallel()
			const mark, messages = 20, 1500
			r := newTestRunner(t, WithDrainQuiet(300*ms), WithWorkers(workers))
			pull, err := r.NewSocket(zmq4.PULL)
			must(t, err)
			must(t, pull.Raw().SetRcvhwm(mark))
			must(t, pull.Bind("tcp://127.0.0.1:*"))
			push, err := r.NewSocket(zmq4.PUSH)
			must(t, err)
			must(t, push.Raw().SetSndhwm(mark))
			must(t, push.Bind("tcp://127.0.0.1:*"))
			var most atomic.Int64
			s := start(t, r, func(ctx context.Context, m *Message) error {
				err := push.Send(ctx, m.Frames...)
				for queued := int64(push.queued()); ; {
					if was := most.Load(); queued <= was || most.CompareAndSwap(was, queued) {
						return err
					}
				}
			})
			producer := dial(t, zmq4.PUSH, pull.Endpoint())
			consumer := dial(t, zmq4.PULL, push.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvhwm(mark) })
			filler := make([]byte, 32<<10) // that is 48 MB, more than the kernel takes
			go func() {
				for i := range messages {
					if _, err := producer.SendMessage(i, filler); err != nil {
						t.Errorf("produce: %v", err)
						return
					}
				}
			}()
			until(t, "the stage has been full", func() bool { return most.Load() >= mark })
			seen := make([]bool, messages)
			for n := range messages {
				m, err := consumer.RecvMessage(0)
				if err != nil {
					t.Fatalf("after %d messages: %v", n, err)
				}
				i, err := strconv.Atoi(m[0])
				must(t, err)
				if seen[i] || workers == 0 && i != n {
					t.Fatalf("message %d came in place %d, before: %v", i, n, seen[i])
				}
				seen[i] = true
				if n == messages/3 {
					go s.Shutdown(context.Background())
				}
				if n%2 == 0 {
					time.Sleep(ms / 2) // the slow consumer
				}
			}
			rep, err := s.returned()
			if err != nil || rep.Sockets[0].Handled != messages || rep.Sockets[1].Sent != messages || rep.Sockets[0].Drained == 0 {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
			// Each handler sends one, and the stage pauses when the outbox is full; those on workers are on their way then.
			if bound := mark + max(workers, 1) - 1; most.Load() > int64(bound) || most.Load() < mark {
				t.Errorf("at most %d messages were queued; the high-water mark of %d and %d workers allow %d", most.Load(), mark, workers, bound)
			}
		})
	}
}

func TestADeadMetricsPushHoldsUpNobodyElse(t *testing.T) {
	r := newTestRunner(t, briefly, WithLinger(0))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	metrics, err := r.NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, metrics.Raw().SetSndhwm(10))
	must(t, metrics.Connect("tcp://127.0.0.1:1")) // nobody listens there
	beats := make(chan struct{}, 10_000)
	r.Every(ms, func(ctx context.Context) error {
		beats <- struct{}{}
		return metrics.Send(ctx, []byte("tick"))
	})
	r.Go(func(ctx context.Context) error {
		for {
			if err := metrics.Send(ctx, []byte("tock")); err != nil {
				return err
			}
		}
	})
	s := start(t, r, echo)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	until(t, "the outbox is full", func() bool { return metrics.queued() >= 10 })
	for range 50 {
		next(t, "the timer goes on", beats)
		request(t, client, "hello")
	}
	got := s.ended()
	// libzmq has room for ten.
	if got.Sockets[0].Handled != 50 || got.Sockets[1].Sent > 10 || got.Sockets[1].Unsent < 50 {
		t.Errorf("the report is %v", got)
	}
}

// panicOnAWorkerAsChild says "bound" and its endpoint; it answers all but "panic".
func panicOnAWorkerAsChild() {
	r, err := New(WithWorkers(2))
	check(err)
	router, err := r.NewSocket(zmq4.ROUTER)
	check(err)
	check(router.Bind("tcp://127.0.0.1:*"))
	say("bound", router.Endpoint())
	check(r.Run(context.Background(), func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) == "panic" {
			workerThatPanics()
		}
		return m.Reply(m.Frames...)
	}))
}

func workerThatPanics() { panic("as the test asked") }

func TestAPanicOnAWorkerFlushesTheRepliesAndKillsTheProcess(t *testing.T) {
	t.Parallel()
	p := startChild(t, "worker that panics")
	client := dial(t, zmq4.DEALER, p.expect("bound"))
	request(t, client, "hello")
	for range 100 {
		_, err := client.SendMessage("hello")
		must(t, err)
	}
	_, err := client.SendMessage("panic")
	must(t, err)
	for i := range 99 { // the last may have been with the other worker
		if _, err := client.RecvMessage(0); err != nil {
			t.Fatalf("answer %d: %v", i+2, err)
		}
	}
	state, stderr := p.exit()
	if state.ExitCode() != 2 || !strings.Contains(stderr, "panic: as the test asked") || !strings.Contains(stderr, "workerThatPanics") {
		t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
	}
}

// gateway answers what comes in on front with what behind a backend says: a message waits there under a number.
type gateway struct {
	front, back *Socket
	mu          sync.Mutex
	last        int
	waiting     map[string]*Message
}

func newGateway(t testing.TB, r *Runner) *gateway {
	t.Helper()
	g := &gateway{
		front:   bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front")),
		back:    bound(t, r, zmq4.DEALER, "tcp://127.0.0.1:*", WithName("back")),
		waiting: make(map[string]*Message),
	}
	g.front.Handle(func(ctx context.Context, m *Message) error {
		g.mu.Lock()
		g.last++
		key := fmt.Sprint(g.last)
		g.waiting[key] = m
		g.mu.Unlock()
		if err := g.back.Send(ctx, append([][]byte{[]byte(key), nil}, m.Frames...)...); err != nil {
			return err
		}
		return ErrDeferred
	})
	g.back.Handle(func(_ context.Context, m *Message) error {
		g.mu.Lock()
		key := string(m.Frames[0])
		first := g.waiting[key]
		delete(g.waiting, key)
		g.mu.Unlock()
		if first == nil {
			return fmt.Errorf("nobody waits for %q", key)
		}
		return first.Reply(m.Frames[2:]...)
	})
	return g
}

// serveEcho has n REP services answer what comes from endpoint, each request after work, until the test is over.
func serveEcho(t testing.TB, n int, endpoint string, work time.Duration) {
	t.Helper()
	ctx, err := zmq4.NewContext()
	must(t, err)
	var all sync.WaitGroup
	for range n {
		s, err := ctx.NewSocket(zmq4.REP)
		must(t, err)
		must(t, errors.Join(s.SetLinger(0), s.SetSndhwm(0), s.SetRcvhwm(0), s.Connect(endpoint)))
		all.Go(func() {
			defer s.Close()
			for {
				m, err := s.RecvMessageBytes(0)
				if err != nil {
					return // ETERM
				}
				time.Sleep(work)
				if _, err := s.SendMessage(m); err != nil {
					return
				}
			}
		})
	}
	t.Cleanup(func() {
		ctx.Term()
		all.Wait()
	})
}

func TestAGatewayWithDeferredRepliesLosesNothing(t *testing.T) {
	for _, workers := range []int{0, 4} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			r := newTestRunner(t, WithDrainQuiet(100*ms), WithWorkers(workers))
			g := newGateway(t, r)
			serveEcho(t, 3, g.back.Endpoint(), ms)
			s := start(t, r, nil)
			const clients, each = 10, 60
			var count atomic.Int64
			burst(t, dials(t, clients, zmq4.DEALER, g.front.Endpoint()), each, func() {
				if count.Add(1) == clients*each/3 {
					go s.Shutdown(context.Background())
				}
			})
			rep, err := s.returned()
			front, back := rep.Sockets[0], rep.Sockets[1]
			if err != nil || front.Handled != clients*each || front.Sent != clients*each || back.Handled != clients*each {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
			if front.Drained == 0 || front.Drained != back.Drained {
				t.Errorf("drained are %d in front and %d at the back", front.Drained, back.Drained)
			}
		})
	}
}

func TestAMessageWhoseDeferredReplyNeverComesIsAbandonedAtTheHardEnd(t *testing.T) {
	t.Parallel()
	for _, typ := range []zmq4.Type{zmq4.ROUTER, zmq4.REP} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			const grace = 500 * ms
			r := newTestRunner(t, briefly, WithGrace(grace))
			socket := bound(t, r, typ, "tcp://127.0.0.1:*", WithName("front"))
			deferred := make(chan *Message, 1)
			s := start(t, r, func(_ context.Context, m *Message) error {
				deferred <- m
				return ErrDeferred
			})
			client := dial(t, zmq4.REQ, socket.Endpoint())
			_, err := client.SendMessage("hello")
			must(t, err)
			m := next(t, "the message", deferred)
			asked := time.Now()
			rep, err := s.end()
			if took := time.Since(asked); took < grace/2 || took > grace+time.Second {
				t.Errorf("Run returned after %v, the grace is %v", took, grace)
			}
			e := incomplete(t, err)
			if len(e.Sockets) != 1 || e.Sockets[0].Name != "front" || e.Sockets[0].Abandoned != 1 || len(e.Running) != 0 || e.Phase != Draining {
				t.Errorf("the error says %+v", e)
			}
			if err := m.Reply([]byte("too late")); !errors.Is(err, ErrClosed) {
				t.Errorf("a Reply after the end returned %v", err)
			}
			if got := rep.Sockets[0]; got.Abandoned != 1 || got.Sent != 0 {
				t.Errorf("the report is %+v", got)
			}
		})
	}
}

// Nobody has the reply, so the message is no less abandoned than without it.
func TestAMessageWhoseDeferredReplyComesAfterTheFlushIsAbandoned(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithGrace(600*ms))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"))
	raw, err := r.Context().NewSocket(zmq4.PAIR) // the end waits for it
	must(t, err)
	deferred := make(chan *Message, 1)
	s := start(t, r, func(_ context.Context, m *Message) error { deferred <- m; return ErrDeferred })
	tell(t, dial(t, zmq4.REQ, router.Endpoint()), "?")
	m := next(t, "the request", deferred)
	go s.Shutdown(context.Background())
	over(t, "the sockets are closed", r.loop.closedC)
	if err := m.Reply([]byte("too late")); !errors.Is(err, ErrClosed) {
		t.Errorf("Reply returned %v", err)
	}
	must(t, raw.Close())
	rep, err := s.returned()
	if e := incomplete(t, err); len(e.Sockets) != 1 || rep.Sockets[0].Abandoned != 1 || rep.Sockets[0].Failed != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestTheDrainWaitsForADeferredReplyFromAnyGoroutine(t *testing.T) {
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	deferred := make(chan *Message, 1)
	s := start(t, r, func(_ context.Context, m *Message) error {
		deferred <- m
		return fmt.Errorf("wrapped: %w", ErrDeferred)
	})
	client := dial(t, zmq4.REQ, router.Endpoint())
	_, err := client.SendMessage("hello")
	must(t, err)
	m := next(t, "the message", deferred)
	if got := r.Report().Sockets[0]; got.InFlight != 1 || got.Handled != 0 {
		t.Errorf("before the reply the report is %+v", got)
	}
	go s.Shutdown(context.Background())
	until(t, "the drain has begun", func() bool { return r.Phase() == Draining })
	select {
	case err := <-s.result:
		t.Fatalf("the drain did not wait, Run returned %v", err)
	case <-time.After(200 * ms): // ten times the quiet time
	}
	must(t, m.Reply([]byte("at last")))
	if answer, err := client.RecvMessage(0); err != nil || answer[0] != "at last" {
		t.Errorf("the answer is %q, %v", answer, err)
	}
	rep, err := s.returned()
	if got := rep.Sockets[0]; err != nil || got.Handled != 1 || got.Drained != 1 || got.Sent != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestOnlyOneOfManyRepliesToADeferredMessageIsSent(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(2))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	const rivals, rounds = 8, 50
	var replied, refused atomic.Int64
	var all sync.WaitGroup
	s := start(t, r, func(_ context.Context, m *Message) error {
		for range rivals {
			all.Go(func() {
				if m.Reply([]byte("mine")) == nil {
					replied.Add(1)
				} else {
					refused.Add(1)
				}
			})
		}
		return ErrDeferred
	})
	client := dial(t, zmq4.DEALER, router.Endpoint())
	for range rounds {
		request(t, client, "who?")
	}
	all.Wait()
	if replied.Load() != rounds || refused.Load() != rounds*(rivals-1) {
		t.Errorf("%d replies were sent and %d refused, of %d to each of %d messages", replied.Load(), refused.Load(), rivals, rounds)
	}
	if got := s.ended().Sockets[0]; got.Handled != rounds || got.Sent != rounds {
		t.Errorf("the report is %+v", got)
	}
}

func TestADeferredRepIsInLockstep(t *testing.T) {
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	deferred := make(chan *Message, 10)
	s := start(t, r, func(_ context.Context, m *Message) error {
		deferred <- m
		return ErrDeferred
	})
	clients := dials(t, 3, zmq4.REQ, rep.Endpoint())
	for i, c := range clients {
		_, err := c.SendMessage(fmt.Sprint(i))
		must(t, err)
	}
	for range clients {
		m := next(t, "the message", deferred)
		if len(deferred) > 0 {
			t.Error("a second request came before the reply to the first")
		}
		must(t, m.Reply(m.Frames...))
	}
	for i, c := range clients {
		if answer, err := c.RecvMessage(0); err != nil || answer[0] != fmt.Sprint(i) {
			t.Errorf("the answer to %d is %q, %v", i, answer, err)
		}
	}
	if got := s.ended().Sockets[0]; got.Handled != 3 || got.Failed != 0 || got.Sent != 3 {
		t.Errorf("the report is %+v", got)
	}
}

func TestErrDeferredWhereNothingCanBeRepliedToIsAnError(t *testing.T) {
	r := newTestRunner(t, briefly)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	handled := make(chan struct{}, 1)
	s := start(t, r, func(context.Context, *Message) error {
		handled <- struct{}{}
		return ErrDeferred
	})
	_, err := dial(t, zmq4.PUSH, pull.Endpoint()).SendMessage("work")
	must(t, err)
	next(t, "the message", handled)
	if got := s.ended().Sockets[0]; got.Failed != 1 || got.Handled != 0 {
		t.Errorf("the report is %+v", got)
	}
}

func TestASocketThatIsReadyMayBeClosedInAHandlerOfAnother(t *testing.T) {
	r := newTestRunner(t, briefly)
	first := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	var ready [3]*Socket
	for i := range ready {
		ready[i] = bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	}
	handled := make(chan int, 100)
	for i, s := range ready {
		s.Handle(func(context.Context, *Message) error {
			handled <- i
			// The first of them closes the next one; the last is none of their business.
			if i == 0 {
				return ready[1].Close()
			}
			return nil
		})
	}
	began, all := make(chan struct{}, 1), make(chan struct{})
	s := start(t, r, func(context.Context, *Message) error {
		began <- struct{}{}
		<-all
		// In one turn of the loop all of them are ready.
		until(t, "all are ready", func() bool {
			return readable(ready[0].Raw()) && readable(ready[1].Raw()) && readable(ready[2].Raw())
		})
		return nil
	})
	_, err := dial(t, zmq4.PUSH, first.Endpoint()).SendMessage("wait")
	must(t, err)
	next(t, "the handler is called", began)
	for _, s := range ready {
		_, err := dial(t, zmq4.PUSH, s.Endpoint()).SendMessage("work")
		must(t, err)
	}
	close(all)
	if a, b := next(t, "a message", handled), next(t, "another", handled); a != 0 || b != 2 {
		t.Errorf("messages came from sockets %d and %d", a, b)
	}
	rep := s.ended()
	for i, want := range []int{1, 1, 0, 1} {
		if rep.Sockets[i].Handled != want {
			t.Errorf("socket %d handled %d messages, not %d", i, rep.Sockets[i].Handled, want)
		}
	}
}

func TestASocketAddedInAHandlerIsServedBesideTheOthers(t *testing.T) {
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	var added atomic.Int64
	s := start(t, r, func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) != "add" {
			return m.Reply(m.Frames...)
		}
		s, err := r.NewSocket(zmq4.REP)
		if err != nil {
			return err
		}
		if err := s.Bind("tcp://127.0.0.1:*"); err != nil {
			return err
		}
		s.Handle(func(ctx context.Context, m *Message) error {
			added.Add(1)
			err := m.Reply(m.Frames...)
			if string(m.Frames[0]) == "close" {
				return errors.Join(err, s.Close())
			}
			return err
		})
		return m.Reply([]byte(s.Endpoint()))
	})
	// One client floods the first socket meanwhile.
	flooding, flooded := make(chan struct{}), make(chan int, 1)
	other := dial(t, zmq4.REQ, router.Endpoint())
	go func() {
		n := 0
		defer func() { flooded <- n }()
		for {
			select {
			case <-flooding:
				return
			default:
				request(t, other, "hello")
				n++
			}
		}
	}()
	client := dial(t, zmq4.REQ, router.Endpoint())
	const rounds = 20
	for range rounds {
		endpoint := request(t, client, "add")[0]
		rep := dial(t, zmq4.REQ, endpoint)
		for _, body := range []string{"one", "two", "close"} {
			if got := request(t, rep, body); got[0] != body {
				t.Errorf("the answer is %q", got)
			}
		}
	}
	close(flooding)
	n := next(t, "the flood ends", flooded)
	rep := s.ended()
	if added.Load() != 3*rounds || len(rep.Sockets) != 1+rounds || rep.Sockets[0].Handled != n+rounds {
		t.Errorf("%d messages on the added sockets, %d sockets, %d of %d on the first", added.Load(), len(rep.Sockets), rep.Sockets[0].Handled, n+rounds)
	}
}

func TestWorkersMayNotTouchTheSockets(t *testing.T) {
	r := newTestRunner(t, briefly, WithWorkers(1))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, func(_ context.Context, m *Message) error {
		_, err := r.NewSocket(zmq4.REP)
		for what, err := range map[string]error{
			"NewSocket": err, "Bind": rep.Bind("tcp://127.0.0.1:*"), "Connect": rep.Connect("tcp://127.0.0.1:1"), "Close": rep.Close(),
		} {
			if err == nil || errors.Is(err, ErrClosed) {
				t.Errorf("%s on a worker returned %v", what, err)
			}
		}
		return m.Reply(m.Frames...)
	})
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "hello")
	s.ended()
}

// All at once: workers, deferred replies, sockets that come, go and pause, timers, Go functions, a proxy, and the end at
// any moment.
func TestEverythingAtOnceLosesNothing(t *testing.T) {
	for round := range 5 {
		r := newTestRunner(t, WithDrainQuiet(250*ms), WithWorkers(4*(round%2)))
		gateway := newGateway(t, r)
		serveEcho(t, 2, gateway.back.Endpoint(), 0)
		front, back, err := newBroker(r)
		must(t, err)
		serveEcho(t, 2, back.Endpoint(), 0)
		rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
		rep.Handle(echo)
		pub := bound(t, r, zmq4.PUB, "tcp://127.0.0.1:*")
		in, out := bound(t, r, zmq4.PULL, "inproc://inner"), connected(t, r, zmq4.PUSH, "inproc://inner")
		in.Handle(func(ctx context.Context, m *Message) error { return pub.Send(ctx, m.Frames...) })

		var extra *Socket
		r.Every(ms, func(context.Context) error {
			if r.Phase() > Running {
				return nil // a new socket, and what is sent to one's own, begin the quiet time anew
			}
			if extra != nil {
				must(t, extra.Close())
			}
			var err error
			extra, err = r.NewSocket(zmq4.PULL)
			extra.Handle(echo)
			return err
		})
		paused := false
		r.Every(2*ms, func(ctx context.Context) error {
			if paused = !paused; paused {
				rep.Pause()
			} else {
				rep.Resume()
			}
			if r.Phase() > Running {
				return nil
			}
			return out.Send(ctx, []byte("tick"))
		})
		for range 3 {
			r.Go(func(ctx context.Context) error {
				for ctx.Err() == nil {
					if err := out.Send(ctx, []byte("tock")); err != nil {
						return err
					}
					runtime.Gosched()
				}
				return ctx.Err()
			})
		}
		s := start(t, r, nil)

		const clients, each = 4, 50
		var count atomic.Int64
		answered := func() {
			if count.Add(1) == int64((2*round+1)*clients*each*3/10) {
				go s.Shutdown(context.Background())
			}
		}
		var all sync.WaitGroup
		for _, endpoint := range []string{gateway.front.Endpoint(), front.Endpoint()} {
			all.Go(func() { lockstep(t, dials(t, clients, zmq4.REQ, endpoint), each, answered) })
		}
		all.Go(func() { lockstep(t, dials(t, clients, zmq4.REQ, rep.Endpoint()), each, answered) })
		all.Wait()
		report, err := s.returned()
		for i, want := range map[int]int{0: clients * each, 2: clients * each, 4: clients * each} {
			if report.Sockets[i].Handled != want {
				t.Errorf("socket %d handled %d, not %d", i, report.Sockets[i].Handled, want)
			}
		}
		if err != nil || report.Sockets[6].Handled != report.Sockets[7].Sent {
			t.Errorf("Run returned %v, the report is %v", err, report)
		}
	}
}

// lockstep has every client ask and be answered a number of times. They never pause for longer than it takes.
func lockstep(t testing.TB, clients []*zmq4.Socket, each int, answered func()) {
	var all sync.WaitGroup
	for c, s := range clients {
		all.Go(func() {
			for i := range each {
				body := fmt.Sprint(c, "/", i)
				if got := request(t, s, body); len(got) != 1 || got[0] != body {
					t.Errorf("the answer to %q is %q", body, got)
				}
				answered()
			}
		})
	}
	all.Wait()
}

// Its client can go on only then, however long the silence before was.
func TestADeferredReplyThatLeavesBeginsTheQuietAnew(t *testing.T) {
	t.Parallel()
	const quiet = 600 * ms
	r := newTestRunner(t, WithDrainQuiet(quiet))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	deferred := make(chan *Message, 1)
	s := start(t, r, func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) != "first" {
			return m.Reply(m.Frames...)
		}
		deferred <- m
		return ErrDeferred
	})
	client := dial(t, zmq4.REQ, router.Endpoint())
	tell(t, client, "first")
	m := next(t, "the first request", deferred)
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	<-time.After(quiet + quiet/4) // now the reply is all that the drain waits for
	must(t, m.Reply([]byte("answer")))
	_, err := client.RecvMessage(0)
	must(t, err)
	<-time.After(quiet / 6)
	request(t, client, "second")
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Handled != 2 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestAHandlerMayDeferItsReplyAndStopTheServer(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	deferred := make(chan *Message, 1)
	s := start(t, r, func(_ context.Context, m *Message) error {
		deferred <- m
		return errors.Join(ErrDeferred, ErrStop)
	})
	client := dial(t, zmq4.DEALER, router.Endpoint())
	tell(t, client, "the last")
	m := next(t, "the message", deferred)
	over(t, "the end is asked for", r.asked)
	must(t, m.Reply(m.Frames...))
	expectMessage(t, client, "the last")
	if rep, err := s.returned(); !errors.Is(err, ErrStop) || errors.As(err, new(*ShutdownError)) || rep.Sockets[0].Handled != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// One worker is all that there is, and two sockets have more for it than it can ever handle.
func TestWithWorkersEverySocketGetsItsTurn(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly, WithWorkers(workers), WithDrainLimit(0))
			var sockets []*Socket
			for range 2 {
				sockets = append(sockets, bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*"), bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*"))
			}
			s := start(t, r, func(_ context.Context, m *Message) error {
				if m.Socket.typ == zmq4.ROUTER {
					return m.Reply(m.Frames...)
				}
				<-time.After(ms)
				return nil
			})
			for _, own := range sockets {
				if own.typ == zmq4.PULL {
					push := dial(t, zmq4.PUSH, own.Endpoint())
					for range 20_000 {
						tell(t, push, "work")
					}
					until(t, "the work has begun", func() bool { return own.report().Handled > 0 })
				}
			}
			for _, own := range sockets {
				if own.typ == zmq4.ROUTER {
					client := dial(t, zmq4.REQ, own.Endpoint())
					for range 20 {
						request(t, client, "is it my turn?")
					}
				}
			}
			must(t, r.Close())
			if rep, _ := s.returned(); rep.Sockets[0].Handled+rep.Sockets[2].Handled > 10_000 {
				t.Errorf("the report is %v", rep)
			}
		})
	}
}
