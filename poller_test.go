package zmqgrace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

func TestARepAnswersAndEndsComplete(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, echo)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	for range 3 {
		if got := request(t, client, "hello"); len(got) != 1 || got[0] != "hello" {
			t.Fatalf("the answer is %q", got)
		}
	}
	report, err := s.end()
	if err != nil || report.Cause != ErrShutdown || report.Sockets[0].Handled != 3 || report.Sockets[0].Sent != 3 {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

func TestAnIdleServerEndsAtOnce(t *testing.T) {
	const quiet = 2 * time.Second // far from what a busy machine takes for the end
	for name, pollTimeout := range map[string]time.Duration{"the default": DefaultPollTimeout, "an hour": time.Hour, "no limit": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, WithPollTimeout(pollTimeout), WithDrainQuiet(quiet))
			rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
			s := start(t, r, echo)
			request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
			// Idle for longer than the quiet time, so that it need not wait for that.
			until(t, "quiet", func() bool { return time.Since(r.Report().began()) > quiet*3/2 })
			asked := time.Now()
			report := s.ended()
			if took := time.Since(asked); took > quiet/2 {
				t.Errorf("it took %v: %v", took, report)
			}
		})
	}
}

// began returns when the Runner of a snapshot began to run.
func (r Report) began() time.Time {
	now := time.Now()
	for _, p := range r.Phases {
		now = now.Add(-p.Duration)
	}
	return now
}

func TestAPullHandlesAllThatWasQueuedWhenItIsShutDown(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for _, transport := range []string{"tcp", "ipc"} {
		for _, side := range []string{"bound", "connected"} {
			t.Run(transport+", "+side, func(t *testing.T) {
				t.Parallel()
				r := newTestRunner(t)
				endpoint := "tcp://127.0.0.1:*"
				if transport == "ipc" {
					endpoint = ipcEndpoint(t)
				}
				pull, err := r.NewSocket(zmq4.PULL)
				must(t, err)
				must(t, pull.Raw().SetRcvhwm(n))
				push := peer(t, zmq4.PUSH)
				if side == "bound" {
					must(t, pull.Bind(endpoint))
					must(t, push.Connect(pull.Endpoint()))
				} else {
					must(t, push.Bind(endpoint))
					at, err := push.GetLastEndpoint()
					must(t, err)
					must(t, pull.Connect(at))
				}
				first, gate := make(chan struct{}), make(chan struct{})
				i := 0
				s := start(t, r, func(_ context.Context, m *Message) error {
					if i == 0 {
						close(first)
						<-gate // the others wait in libzmq until the end has been asked for
					}
					if !bytes.Equal(m.Frames[0], countedBody(i)) {
						t.Errorf("message %d is %q", i, m.Frames)
					}
					i++
					return nil
				})
				for i := range n {
					_, err := push.SendBytes(countedBody(i), 0)
					must(t, err)
				}
				<-first
				go s.Shutdown(context.Background())
				until(t, "the drain begins", func() bool { return r.Phase() == Draining })
				close(gate)
				rep, err := s.returned()
				if c := rep.Sockets[0]; err != nil || c.Handled != n || c.Drained != n || c.Backlog {
					t.Errorf("Run returned %v, the report is %v", err, rep)
				}
			})
		}
	}
}

// A reply invites the next request, so the quiet time must begin anew when one leaves; also where it is
// given by another goroutine, long after the handler has returned.
func TestSessionsInTheDrainAreServedToTheirEnd(t *testing.T) {
	t.Parallel()
	const quiet, work = 100 * ms, 150 * ms
	for _, typ := range []zmq4.Type{zmq4.REP, zmq4.ROUTER} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, WithDrainQuiet(quiet))
			own := bound(t, r, typ, "tcp://127.0.0.1:*")
			received := make(chan struct{}, 10)
			s := start(t, r, func(_ context.Context, m *Message) error {
				received <- struct{}{}
				time.Sleep(work) // longer than the quiet time
				return m.Reply(m.Frames...)
			})
			client := dial(t, zmq4.REQ, own.Endpoint())
			tell(t, client, "0")
			<-received
			go s.Shutdown(context.Background())
			for i := range 4 {
				expectMessage(t, client, fmt.Sprint(i))
				if i < 3 {
					tell(t, client, fmt.Sprint(i+1))
				}
			}
			if rep, err := s.returned(); err != nil || rep.Sockets[0].Drained != 4 || rep.Busy {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestAReplyFromAnotherGoroutineBeginsTheQuietAnew(t *testing.T) {
	t.Parallel()
	const quiet, work = 300 * ms, 200 * ms
	r := newTestRunner(t, WithDrainQuiet(quiet))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	received := make(chan struct{}, 10)
	s := start(t, r, func(_ context.Context, m *Message) error {
		received <- struct{}{}
		time.AfterFunc(work, func() { m.Reply(m.Frames...) })
		return nil
	})
	client := dial(t, zmq4.REQ, router.Endpoint())
	tell(t, client, "0")
	<-received
	go s.Shutdown(context.Background())
	for i := range 4 {
		expectMessage(t, client, fmt.Sprint(i))
		if i < 3 {
			tell(t, client, fmt.Sprint(i+1))
		}
	}
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Received != 4 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestClientsThatNeverPauseEndTheDrainAtItsLimit(t *testing.T) {
	t.Parallel()
	const limit = 300 * ms
	r := newTestRunner(t, WithDrainLimit(limit))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, echo)
	stop := restless(t, rep.Endpoint(), 2)
	defer stop()
	until(t, "they are served", func() bool { return rep.report().Handled > 100 })
	asked := time.Now()
	report, err := s.end()
	took := time.Since(asked)
	if err != nil || !report.Busy {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
	if took < limit || phaseOf(report, Draining) > limit+time.Second {
		t.Errorf("the end took %v, the report is %v", took, report)
	}
}

func TestADrainThatIsQuietBeforeItsLimitIsNotBusy(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(50*ms), WithDrainLimit(5*time.Second))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, echo)
	stop := restless(t, rep.Endpoint(), 2)
	until(t, "they are served", func() bool { return rep.report().Handled > 100 })
	go s.Shutdown(context.Background())
	until(t, "the drain begins", func() bool { return r.Phase() == Draining })
	stop()
	report, err := s.returned()
	if err != nil || report.Busy {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

func TestASubscriberEndsUnderAPublisherThatNeverPauses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ   zmq4.Type
		every time.Duration
	}{{zmq4.SUB, 200 * time.Microsecond}, {zmq4.SUB, time.Millisecond}, {zmq4.XSUB, 200 * time.Microsecond}} {
		t.Run(fmt.Sprintf("%v, a message every %v", c.typ, c.every), func(t *testing.T) {
			t.Parallel()
			// The limit is not to be what ends it.
			r := newTestRunner(t, WithDrainLimit(8*time.Second))
			pub, at := listen(t, zmq4.XPUB)
			sub, err := r.NewSocket(c.typ)
			must(t, err)
			if c.typ == zmq4.SUB {
				must(t, sub.Raw().SetSubscribe(""))
			} else {
				must(t, sub.Send(t.Context(), []byte("\x01")))
			}
			must(t, sub.Connect(at))
			rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
			s := start(t, r, func(_ context.Context, m *Message) error {
				if m.Socket == rep {
					return m.Reply()
				}
				return nil
			})
			_, err = pub.RecvMessage(0)
			must(t, err)
			var stopped atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				for !stopped.Load() {
					pub.Send("news", 0)
					if c.every > 0 {
						time.Sleep(c.every)
					}
				}
			})
			defer wg.Wait()
			defer stopped.Store(true)
			until(t, "the news arrive", func() bool { return sub.report().Handled > 100 })
			request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
			report, err := s.end()
			if err != nil || report.Busy || report.Sockets[0].Backlog {
				t.Errorf("Run returned %v, the report is %v", err, report)
			}
			if d := phaseOf(report, Draining); d > 2*time.Second {
				t.Errorf("the drain took %v", d)
			}
		})
	}
}

func TestAPublisherDoesNotWaitForSubscriptions(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainLimit(8*time.Second))
	xpub := bound(t, r, zmq4.XPUB, "tcp://127.0.0.1:*")
	sub := dial(t, zmq4.SUB, xpub.Endpoint())
	s := start(t, r, func(context.Context, *Message) error { return nil })
	var stopped atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !stopped.Load(); i++ {
			sub.SetSubscribe(fmt.Sprint(i))
			time.Sleep(100 * time.Microsecond)
		}
	})
	defer wg.Wait()
	defer stopped.Store(true)
	until(t, "subscriptions arrive", func() bool { return xpub.report().Handled > 100 })
	report, err := s.end()
	if err != nil || phaseOf(report, Draining) > 2*time.Second {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

func TestAReqWithAnOpenRequestWaitsForItsAnswer(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	server, at := listen(t, zmq4.REP)
	req := connected(t, r, zmq4.REQ, at)
	got := make(chan [][]byte, 10)
	s := start(t, r, handOver(got))
	must(t, req.Send(t.Context(), []byte("one")))
	must(t, req.Send(t.Context(), []byte("two")))
	expectMessage(t, server, "one")
	go s.Shutdown(context.Background())
	until(t, "the drain begins", func() bool { return r.Phase() == Draining })
	time.Sleep(200 * ms) // what the answer takes, longer than the quiet time
	tell(t, server, "first")
	expectMessage(t, server, "two") // what waited behind it is asked, too
	tell(t, server, "second")
	rep, err := s.returned()
	if err != nil || rep.Sockets[0].Handled != 2 || rep.Sockets[0].Drained != 2 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
	expectFrames(t, "the first answer", <-got, "first")
	expectFrames(t, "the second answer", <-got, "second")
}

func TestAReqWhoseAnswerNeverComesEndsAtTheDrainLimit(t *testing.T) {
	t.Parallel()
	const limit = 200 * ms
	r := newTestRunner(t, briefly, WithDrainLimit(limit), WithLinger(100*ms))
	server, at := listen(t, zmq4.REP)
	req := connected(t, r, zmq4.REQ, at)
	s := start(t, r, func(context.Context, *Message) error { return nil })
	must(t, req.Send(t.Context(), []byte("one")))
	must(t, req.Send(t.Context(), []byte("two")))
	expectMessage(t, server, "one")
	asked := time.Now()
	rep, err := s.end()
	took := time.Since(asked)
	if e := incomplete(t, err); len(e.Sockets) != 1 || rep.Sockets[0].Unsent != 1 || !rep.Busy {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
	if took < limit || phaseOf(rep, Draining) > limit+2*time.Second {
		t.Errorf("the end took %v, the report is %v", took, rep)
	}
}

func TestTheHardEndCountsWhatItAbandons(t *testing.T) {
	t.Parallel()
	for _, linger := range []time.Duration{0, 200 * ms, -1} {
		t.Run(fmt.Sprintf("linger %v", linger), func(t *testing.T) {
			t.Parallel()
			const n = 500
			r := newTestRunner(t, WithGrace(800*ms), WithLinger(linger))
			pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithName("jobs"))
			s := start(t, r, func(ctx context.Context, m *Message) error {
				select {
				case <-time.After(20 * ms):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
			push := dial(t, zmq4.PUSH, pull.Endpoint())
			for range n {
				tell(t, push, "job")
			}
			until(t, "work begins", func() bool { return pull.report().Handled > 0 })
			asked := time.Now()
			rep, err := s.end()
			took := time.Since(asked)
			e := incomplete(t, err)
			if e.Phase != Draining || e.Leaked || len(e.Sockets) != 1 || e.Sockets[0].Name != "jobs" || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Run returned %v", err)
			}
			// On a slow machine the time for counting does not do for all; then the rest is a backlog.
			if c := rep.Sockets[0]; c.Received != n && !c.Backlog || c.Abandoned == 0 || c.Failed > 1 {
				t.Errorf("the report is %v", rep)
			}
			if took < 550*ms || took > 1800*ms {
				t.Errorf("Run returned after %v", took)
			}
			if strings.Contains(err.Error(), "somebody else") {
				t.Errorf("the Runner blames somebody else: %v", err)
			}
		})
	}
}

func TestAHandlerThatHeedsTheHardEndCanStillReply(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithGrace(2*time.Second))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"))
	inside := make(chan struct{})
	s := start(t, r, func(ctx context.Context, m *Message) error {
		close(inside)
		<-ctx.Done()
		return m.Reply([]byte(context.Cause(ctx).Error()))
	})
	client := dial(t, zmq4.REQ, router.Endpoint())
	tell(t, client, "?")
	over(t, "the handler is called", inside)
	go s.Shutdown(context.Background())
	expectMessage(t, client, ErrShutdown.Error())
	rep, err := s.returned()
	if e := incomplete(t, err); e.Phase != Draining || len(e.Running) != 1 || e.Running[0].Socket != "front" || len(e.Sockets) != 0 {
		t.Errorf("Run returned %v", err)
	}
	if c := rep.Sockets[0]; c.Handled != 1 || c.Sent != 1 || c.Abandoned != 0 {
		t.Errorf("the report is %v", rep)
	}
}

func TestOneSocketsFloodDoesNotStarveTheOthers(t *testing.T) {
	t.Parallel()
	const n = 20_000 // of 50 us each
	r := newTestRunner(t)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	gate, first := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := start(t, r, func(_ context.Context, m *Message) error {
		if m.Socket == rep {
			return m.Reply()
		}
		once.Do(func() { close(first) })
		<-gate
		for end := time.Now().Add(50 * time.Microsecond); time.Now().Before(end); {
		}
		return nil
	})
	push := dial(t, zmq4.PUSH, pull.Endpoint())
	for range n {
		tell(t, push, "x")
	}
	<-first
	client := dial(t, zmq4.REQ, rep.Endpoint())
	tell(t, client, "?")
	close(gate)
	expectMessage(t, client, "")
	for range 4 {
		request(t, client, "?")
	}
	if got := pull.report().Handled; got == n {
		t.Error("the others had to wait until the flood was over")
	}
	if report := s.ended(); report.Sockets[0].Handled != n || report.Sockets[1].Handled != 5 {
		t.Errorf("the report is %v", report)
	}
}

func TestErrStopEndsTheServerWhereABackloggedClientIsStillAnswered(t *testing.T) {
	t.Parallel()
	wrapped := fmt.Errorf("quota: %w", ErrStop)
	for _, c := range []struct{ give, want error }{{ErrStop, nil}, {wrapped, wrapped}} {
		r := newTestRunner(t)
		router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
		s := start(t, r, func(_ context.Context, m *Message) error {
			must(t, m.Reply(m.Frames...))
			if binary.BigEndian.Uint32(m.Frames[0]) == 10 {
				return c.give
			}
			return nil
		})
		client := dial(t, zmq4.DEALER, router.Endpoint())
		for i := range 100 {
			_, err := client.SendBytes(countedBody(i), 0)
			must(t, err)
		}
		expectCounted(t, client, 100)
		rep, err := s.returned()
		if err != c.want || rep.Cause != c.give || rep.Sockets[0].Handled != 100 || rep.Sockets[0].Failed != 0 {
			t.Errorf("Run returned %v, the report is %v", err, rep)
		}
	}
}

func TestAHandlerThatCallsGoexitEndsTheServerWithAnError(t *testing.T) {
	t.Parallel()
	for _, typ := range []zmq4.Type{zmq4.REP, zmq4.ROUTER} {
		r := newTestRunner(t)
		own := bound(t, r, typ, "tcp://127.0.0.1:*", WithName("front"))
		other := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
		other.Handle(echo)
		s := start(t, r, func(_ context.Context, m *Message) error {
			if string(m.Frames[0]) == "exit" {
				runtime.Goexit()
			}
			return m.Reply(m.Frames...)
		})
		first, second, third := dial(t, zmq4.REQ, own.Endpoint()), dial(t, zmq4.REQ, own.Endpoint()), dial(t, zmq4.REQ, other.Endpoint())
		request(t, first, "hello")
		tell(t, first, "exit")
		// The drain still serves the others.
		if got := request(t, second, "me too"); got[0] != "me too" {
			t.Errorf("%v: the answer is %q", typ, got)
		}
		request(t, third, "and me")
		if typ == zmq4.REP {
			expectMessage(t, first, "")
		}
		rep, err := s.returned()
		if !errors.Is(err, errGoexit) || !strings.Contains(err.Error(), `"front"`) || rep.Sockets[0].Failed != 1 {
			t.Errorf("%v: Run returned %v, the report is %v", typ, err, rep)
		}
	}
}

func TestHandlersGetTheValuesOfRunsContextButNotItsEnd(t *testing.T) {
	t.Parallel()
	type key struct{}
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	defer cancel()
	result := make(chan error, 1)
	inside := make(chan struct{})
	go func() {
		result <- r.Run(ctx, func(ctx context.Context, m *Message) error {
			close(inside)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * ms):
			}
			return m.Reply([]byte(ctx.Value(key{}).(string)))
		})
	}()
	client := dial(t, zmq4.REQ, rep.Endpoint())
	tell(t, client, "?")
	<-inside
	cancel()
	expectMessage(t, client, "value")
	if err := next(t, "Run returns", result); err != nil || r.Report().Cause != context.Canceled {
		t.Errorf("Run returned %v, the report is %v", err, r.Report())
	}
	checkAccounts(t, r.Report())
}

func TestAHandlerMayAskForTheEnd(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, func(ctx context.Context, m *Message) error {
		return errors.Join(r.Shutdown(ctx), m.Reply([]byte("done")))
	})
	if got := request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?"); got[0] != "done" {
		t.Errorf("the answer is %q", got)
	}
	if report, err := s.returned(); err != nil || report.Cause != ErrShutdown || report.Sockets[0].Failed != 0 {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}

func TestCloseInAHandlerEndsTheServer(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	s := start(t, r, func(context.Context, *Message) error { return r.Close() })
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
}

func TestTheReadyDelayServesAsBefore(t *testing.T) {
	t.Parallel()
	const delay = 300 * ms
	r := newTestRunner(t, briefly, WithReadyDelay(delay))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, echo)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	asked := time.Now()
	go s.Shutdown(context.Background())
	until(t, "the end is announced", func() bool { return r.Phase() == Announced })
	served := 0
	for r.Phase() == Announced {
		request(t, client, "?")
		served++
	}
	took := time.Since(asked)
	report, err := s.returned()
	if err != nil || served < 2 || report.Sockets[0].Handled != served || report.Sockets[0].Drained != served {
		t.Errorf("%d were served, Run returned %v, the report is %v", served, err, report)
	}
	if took < delay {
		t.Errorf("the ready delay took %v", took)
	}
}

func TestSomebodyElsesTermEndsTheServerWithAnError(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := start(t, r, echo)
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
	termed := make(chan error)
	go func() { termed <- r.Context().Term() }()
	_, err := s.returned()
	if err == nil || !strings.Contains(err.Error(), "terminated by somebody else") {
		t.Errorf("Run returned %v", err)
	}
	must(t, next(t, "Term is back", termed))
}

func TestASocketClosedBehindTheRunnersBackEndsTheServerWithAnError(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"another", "its own", "with something to send"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly)
			front := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
			router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("router"))
			push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*", WithName("push"))
			s := start(t, r, func(ctx context.Context, m *Message) error {
				err := m.Reply(m.Frames...)
				if string(m.Frames[0]) == "close" {
					victim := router
					switch which {
					case "its own":
						victim = m.Socket
					case "with something to send":
						victim = push
						must(t, push.Send(ctx, nil))
						must(t, router.Send(ctx, frames("nobody", "x")...))
					}
					victim.Raw().SetLinger(0)
					victim.Raw().Close()
				}
				return err
			})
			client := dial(t, zmq4.REQ, front.Endpoint())
			request(t, client, "hello")
			tell(t, client, "close")
			victim := map[string]string{"another": "router", "its own": "front", "with something to send": "push"}[which]
			if which != "its own" {
				expectMessage(t, client, "close") // the others are served to the end
			}
			rep, err := s.returned()
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", victim)) || !strings.Contains(err.Error(), "behind the Runner's back") {
				t.Errorf("Run returned %v", err)
			}
			if rep.Sockets[0].Handled != 2 {
				t.Errorf("the report is %v", rep)
			}
		})
	}
}

// It says nothing about the peer.
func TestAReplyOfARouterThatWasClosedBehindTheRunnersBackIsUnsent(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	s := start(t, r, func(_ context.Context, m *Message) error {
		return errors.Join(m.Reply(), router.Raw().SetLinger(0), router.Raw().Close())
	})
	tell(t, dial(t, zmq4.DEALER, router.Endpoint()), "?")
	rep, err := s.returned()
	if c := rep.Sockets[0]; err == nil || c.Unsent != 1 || c.Unroutable != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// leak leaves a socket open in r's context that r does not know. The function returned closes it, and then Term is back.
func leak(t testing.TB, r *Runner) (mend func()) {
	t.Helper()
	raw := peerIn(t, r.Context(), zmq4.PUSH)
	return func() {
		t.Helper()
		must(t, raw.Close())
		over(t, "Term", r.loop.termedC)
	}
}

func TestASocketOfTheContextThatNobodyClosesIsALeak(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithGrace(time.Second), WithLinger(0))
	mend := leak(t, r)
	s := start(t, r, nil)
	asked := time.Now()
	_, err := s.end()
	if e := incomplete(t, err); !e.Leaked || e.Phase != Closing || time.Since(asked) > 2*time.Second {
		t.Errorf("Run returned %v after %v", err, time.Since(asked))
	}
	mend()
}

// lingerBesideALeak is how a Runner ends that has sent something to nobody, with a socket left open in its context.
func lingerBesideALeak(t testing.TB, opts ...Option) (*Socket, error) {
	t.Helper()
	r := newTestRunner(t, append(opts, WithDrainQuiet(0))...)
	mend := leak(t, r)
	push := connected(t, r, zmq4.PUSH, "ipc://"+filepath.Join(t.TempDir(), "nobody"))
	must(t, push.Send(context.Background(), []byte("hello")))
	_, err := start(t, r, nil).end()
	mend()
	return push, err
}

func TestASocketLeftOpenBesideALingerWithoutAnEndIsNamedAsPossible(t *testing.T) {
	t.Parallel()
	_, err := lingerBesideALeak(t, WithGrace(time.Second), WithLinger(-1))
	if e := incomplete(t, err); e.Leaked || !strings.Contains(err.Error(), "Term was not back, so that a socket that the Runner does not know may have been left open") {
		t.Errorf("Run returned %v", err)
	}
}

// A slow machine does that too: then nobody knows whether the linger was long enough.
func TestWhatWasSentIsNotCalledHandedOverWhereTermIsNotBackWithinTheGrace(t *testing.T) {
	t.Parallel()
	push, err := lingerBesideALeak(t, WithGrace(forcedWait*4/5)) // too short to say that a socket was leaked
	if e := incomplete(t, err); e.Leaked || !push.r.Report().LingerExpired || !strings.Contains(err.Error(), push.Name()) {
		t.Errorf("Run returned %v", err)
	}
}

func TestTheEndWaitsForWhatIsLeftOfTheLingerOfASocketThatWasClosedBefore(t *testing.T) {
	t.Parallel()
	const linger = 50 * ms
	s, at := closedForNobody(t, linger)
	<-time.After(time.Until(at.Add(2 * linger))) // libzmq has dropped it by then, and tells nobody
	if rep := s.ended(); rep.Sockets[0].Sent != 1 || rep.Sockets[0].Unsent != 0 || rep.LingerExpired {
		t.Errorf("the report is %v", rep)
	}
	s, _ = closedForNobody(t, -1)
	rep, err := s.end()
	if incomplete(t, err); !rep.LingerExpired || rep.Sockets[0].Sent != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// closedForNobody starts a server that closes a socket which has sent something to nobody, and tells when that was.
func closedForNobody(t *testing.T, linger time.Duration) (s *running, at time.Time) {
	r := newTestRunner(t, briefly, WithGrace(2*time.Second))
	push := connected(t, r, zmq4.PUSH, "ipc://"+filepath.Join(t.TempDir(), "nobody"), WithSocketLinger(linger))
	s = start(t, r, nil)
	must(t, push.Send(t.Context(), []byte("for nobody")))
	closed := make(chan time.Time, 1)
	r.Every(ms, func(context.Context) error {
		if push.closed || push.report().Sent == 0 {
			return nil
		}
		defer func() { closed <- time.Now() }()
		return push.Close()
	})
	return s, next(t, "it is closed", closed)
}

func TestAHandlerInABlockingRawSendIsFreedAtTheEnd(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithGrace(time.Second))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"))
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	inside, freed := make(chan struct{}), make(chan error, 1)
	s := start(t, r, func(context.Context, *Message) error {
		close(inside)
		_, err := push.Raw().SendMessage("into the void")
		freed <- err
		return nil
	})
	tell(t, dial(t, zmq4.REQ, router.Endpoint()), "?")
	<-inside
	asked := time.Now()
	_, err := s.end()
	e := incomplete(t, err)
	if e.Phase != Draining || len(e.Running) != 1 || e.Running[0].Socket != "front" || e.Running[0].RoutingID == "" || e.Leaked {
		t.Errorf("Run returned %v", err)
	}
	if took := time.Since(asked); took > 2*time.Second {
		t.Errorf("Run returned after %v", took)
	}
	if err := next(t, "the send returns", freed); zmq4.AsErrno(err) != zmq4.ETERM {
		t.Errorf("the send returned %v", err)
	}
	if strings.Contains(err.Error(), "somebody else") {
		t.Errorf("the Runner blames somebody else: %v", err)
	}
}

func TestAStuckHandlerDoesNotHoldRun(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithGrace(500*ms))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	inside, back := make(chan struct{}), make(chan struct{})
	s := start(t, r, func(context.Context, *Message) error { close(inside); <-back; return nil })
	tell(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
	<-inside
	asked := time.Now()
	report, err := s.end()
	e := incomplete(t, err)
	if e.Phase != Draining || len(e.Running) != 1 || e.Running[0].Socket != "front" || len(e.Sockets) != 1 || e.Sockets[0].Abandoned != 1 {
		t.Errorf("Run returned %v", err)
	}
	if took := time.Since(asked); took > time.Second || report.Sockets[0].Abandoned != 1 {
		t.Errorf("Run returned after %v, the report is %v", took, report)
	}
	// When the handler returns after all, the rest goes its way, and the report stays as it was.
	close(back)
	over(t, "Term", r.loop.termedC)
	if got := r.Report().String(); got != report.String() {
		t.Errorf("the report became %s", got)
	}
}

// What comes with one call into C waits in Go for its handler: where the loop does not come back for it, the end must say so.
func TestWhatWaitsBehindAStuckHandlerIsAbandoned(t *testing.T) {
	t.Parallel()
	const messages = 100
	taken := messages
	if portable != "" {
		taken = 2 // by pebbe's calls they come one at a time: the others are with libzmq
	}
	for name, end := range map[string]func(*running) (Report, error){
		"graceful": (*running).end,
		"forced":   func(s *running) (Report, error) { s.Close(); return s.returned() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, WithGrace(300*ms))
			bound(t, r, zmq4.PULL, "inproc://front")
			push := inside(t, r, zmq4.PUSH, "inproc://front")
			for range messages { // all are there at once: inproc has no wire
				tell(t, push, "work")
			}
			must(t, errors.Join(push.SetLinger(-1), push.Close()))
			stuck, release := make(chan struct{}), make(chan struct{})
			defer close(release)
			var handled atomic.Int32
			s := start(t, r, func(context.Context, *Message) error {
				if handled.Add(1) == 2 {
					close(stuck)
					<-release
				}
				return nil
			})
			over(t, "the second handler is stuck", stuck)
			rep, err := end(s)
			if got := rep.Sockets[0]; got.Received != taken || got.Handled != 1 || got.Abandoned != taken-1 {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestHandlersErrorsAreLoggedAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	r := newTestRunner(t, briefly, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	s := start(t, r, func(context.Context, *Message) error { return errors.New("what the client did wrong") })
	client := dial(t, zmq4.REQ, rep.Endpoint())
	for range 200 {
		request(t, client, "?")
	}
	s.ended()
	text := log.String()
	took := time.Since(r.Report().began()) // about: how often a second has passed
	lines := strings.Count(text, "what the client did wrong")
	if lines < 1 || lines > 2+int(took/time.Second) {
		t.Errorf("%d lines in %v", lines, took)
	}
	for _, want := range []string{"socket=front", "zmqgrace: Running", "zmqgrace: Draining", "zmqgrace: Done", "level=WARN"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
}

// lockedBuffer is a log that goroutines share.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

var _ io.Writer = (*lockedBuffer)(nil)

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestAStageGoesOnWhenItsPeerComesPastTheDrainLimit(t *testing.T) {
	t.Parallel()
	const n = 10
	r := newTestRunner(t, briefly, WithDrainLimit(50*ms))
	in := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	out := marked(t, r, zmq4.PUSH, 1)
	must(t, out.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, func(ctx context.Context, m *Message) error { return out.Send(ctx, m.Frames...) })
	source := dial(t, zmq4.PUSH, in.Endpoint())
	for i := range n {
		tell(t, source, countedBody(i))
	}
	until(t, "the stage is paused", func() bool { return out.report().Queued == 1 })
	go s.Shutdown(context.Background())
	until(t, "the drain limit is over", func() bool { return phaseOf(r.Report(), Draining) > 300*ms })
	expectCounted(t, dial(t, zmq4.PULL, out.Endpoint()), n)
	rep, err := s.returned()
	if err != nil || rep.Sockets[0].Handled != n || rep.Sockets[1].Sent != n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// A stage of the same Runner that is paused holds what is on its way to it.
func TestAPausedStageHoldsTheDrainUntilItGoesOn(t *testing.T) {
	t.Parallel()
	const n = 200
	r := newTestRunner(t, briefly)
	front := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	inner, err := r.NewSocket(zmq4.PULL)
	must(t, err)
	must(t, inner.Raw().SetRcvhwm(1))
	must(t, inner.Bind("inproc://inner"))
	stage := marked(t, r, zmq4.PUSH, 1)
	must(t, stage.Connect("inproc://inner"))
	front.Handle(func(ctx context.Context, m *Message) error {
		for range n {
			must(t, stage.Send(ctx, m.Frames...))
		}
		return nil
	})
	inner.Handle(func(context.Context, *Message) error { return nil })
	inner.Pause()
	s := start(t, r, nil)
	tell(t, dial(t, zmq4.PUSH, front.Endpoint()), "x")
	until(t, "the stage has its work", func() bool { return stage.report().Sent > 0 && stage.report().Queued > 0 })
	go s.Shutdown(context.Background())
	until(t, "the drain has lasted much longer than the quiet time", func() bool { return phaseOf(r.Report(), Draining) > 200*ms })
	if got := inner.report().Received; got != 0 {
		t.Errorf("the paused socket received %d", got)
	}
	inner.Resume()
	rep, err := s.returned()
	if err != nil || rep.Sockets[1].Handled != n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestTheFirstEmptyMomentWillDoWhereThatIsAsked(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]Option{"no quiet time": WithDrainQuiet(0), "a drain limit of 0": WithDrainLimit(0)} {
		shortest := patience
		for range 5 { // on a busy machine an end may take as long as the quiet time, but not each
			r := newTestRunner(t, option)
			rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
			s := start(t, r, echo)
			request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
			report := s.ended()
			shortest = min(shortest, phaseOf(report, Draining))
			// With a limit there was a quiet time, which did not pass.
			if want := name != "no quiet time"; report.Busy != want {
				t.Errorf("with %s the report is %v", name, report)
			}
		}
		if shortest > DefaultDrainQuiet-50*ms {
			t.Errorf("with %s the drain took at least %v", name, shortest)
		}
	}
}

func TestABacklogThatNobodyEverRanForIsReported(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithName("jobs"))
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
	until(t, "it is there", func() bool { return readable(pull.Raw()) })
	err := r.Shutdown(t.Context())
	if e := incomplete(t, err); e.Phase != Closing || len(e.Sockets) != 1 || !e.Sockets[0].Backlog || !strings.Contains(err.Error(), "backlog") {
		t.Errorf("Shutdown returned %v", err)
	}
}

// Where a turn takes several batches, what the first was answered is out before the second is handled: with large messages their
// peers can work on it meanwhile.
func TestWhatATurnHasAnsweredLeavesBeforeItTakesMore(t *testing.T) {
	t.Parallel()
	const rounds, n, size = 20, 8, batchBytes / 4
	r := newTestRunner(t)
	bound(t, r, zmq4.ROUTER, "inproc://large")
	client, err := r.Context().NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, errors.Join(client.SetLinger(0), client.Connect("inproc://large")))
	ask := func() {
		for range n {
			_, err := client.SendMessage(make([]byte, size))
			must(t, err)
		}
	}
	answers, early := 0, 0 // early: before all were handled
	take := func() {
		for {
			if _, err := client.RecvMessageBytes(zmq4.DONTWAIT); err != nil {
				return
			}
			answers++
		}
	}
	through := make(chan struct{})
	handled := 0
	ask() // inproc it is all there at once, for one turn
	s := start(t, r, func(_ context.Context, m *Message) error {
		switch handled++; {
		case handled == rounds*n:
			close(through)
		case handled%n == 0:
			take()
			if answers > handled-n {
				early++
			}
			ask()
		}
		return m.Reply([]byte("OK"))
	})
	over(t, "all are handled", through)
	must(t, client.Close())
	s.ended()
	if early != rounds-1 {
		t.Errorf("only in %d of %d rounds was the first batch answered when the last message was handled", early, rounds-1)
	}
}

// A stream that goes on with gaps shorter than the quiet time is handled to its end, also where nothing is replied.
func TestAPullIsNotQuietBetweenTwoMessages(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(400*ms))
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	handled := make(chan struct{}, 1)
	s := start(t, r, func(context.Context, *Message) error { handled <- struct{}{}; return nil })
	push := dial(t, zmq4.PUSH, pull.Endpoint())
	const n = 10
	for i := range n {
		tell(t, push, i)
		next(t, fmt.Sprintf("message %d is handled", i), handled)
		if i == 0 {
			go s.Shutdown(context.Background())
		}
		time.Sleep(100 * ms)
	}
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Handled != n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// hooked is the loop's poller with something that happens right before it is told what to look for, or right after it has looked.
type hooked struct {
	poller
	before, after func()
}

func (p *hooked) want(place int, events zmq4.State) {
	if p.before != nil {
		p.before()
	}
	p.poller.want(place, events)
}

func (p *hooked) poll(timeout time.Duration) error {
	err := p.poller.poll(timeout)
	if p.after != nil {
		p.after()
	}
	return err
}

// However late poll comes back, it has waited for a slice at most.
func TestAMachineThatStandsStillMakesNoQuiet(t *testing.T) {
	t.Parallel()
	const quiet = 250 * ms
	r := newTestRunner(t, WithDrainQuiet(quiet))
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	slices := 0
	s := start(t, r, func(context.Context, *Message) error {
		go r.Shutdown(context.Background())
		until(t, "the drain", func() bool { return r.loop.told() == draining })
		r.loop.poller = &hooked{poller: r.loop.poller, after: func() { slices++; time.Sleep(3 * quietSlice) }}
		return nil
	})
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
	if _, err := s.returned(); err != nil || slices < int(quiet/quietSlice) {
		t.Errorf("after %d slices of at most %v Run returned %v", slices, quietSlice, err)
	}
}

// The loop looks at what it is told after it has decided to sleep, and before others can wake it.
func TestWhatTheLoopIsToldRightBeforeItSleepsIsHeard(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithPollTimeout(-1)) // it would sleep for ever
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	s := start(t, r, func(context.Context, *Message) error {
		pull.Pause() // so that the poller is told
		r.loop.poller = &hooked{poller: r.loop.poller, before: sync.OnceFunc(func() {
			go r.Shutdown(context.Background())
			until(t, "the drain", func() bool { return r.loop.told() == draining })
		})}
		return nil
	})
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
	// At the hard end it would be told once more.
	if rep, err := s.returned(); err != nil || phaseOf(rep, Draining) > patience/2 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// Nor does whoever sends then ring.
func TestWhatIsSentRightBeforeTheLoopSleepsLeaves(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithPollTimeout(-1))
	pull, push := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*"), bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	s := start(t, r, func(context.Context, *Message) error {
		pull.Pause()
		r.loop.poller = &hooked{poller: r.loop.poller, before: sync.OnceFunc(func() {
			sent := make(chan error, 1)
			go func() { sent <- push.Send(context.Background(), []byte("y")) }()
			if err := next(t, "it is sent", sent); err != nil {
				t.Error(err)
			}
		})}
		return nil
	})
	peer := dial(t, zmq4.PULL, push.Endpoint())
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
	if m, err := peer.Recv(0); m != "y" || err != nil {
		t.Errorf("the peer received %q, %v", m, err)
	}
	s.ended()
}

// What a forced end leaves is a backlog wherever it is: in the inbox, or in a socket that the loop has not come to.
func TestWhatAForcedEndLeavesIsABacklogWhereverItIs(t *testing.T) {
	t.Parallel()
	const n = 10
	r := newTestRunner(t)
	var sockets []*Socket
	for _, name := range []string{"one", "other"} {
		sockets = append(sockets, bound(t, r, zmq4.PULL, "inproc://"+name))
		push, err := r.Context().NewSocket(zmq4.PUSH)
		must(t, err)
		must(t, push.Connect("inproc://"+name))
		for i := range n {
			tell(t, push, i)
		}
		must(t, push.Close())
	}
	s := start(t, r, func(context.Context, *Message) error {
		go r.Close()
		until(t, "the end is forced", func() bool { return r.loop.told() == forcing })
		return nil
	})
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
	over(t, "the sockets are closed", r.loop.closedC) // Run does not wait for that for long
	for i, want := range []int{1, 0} {
		if c := sockets[i].report(); c.Received != want || !c.Backlog {
			t.Errorf("socket %d has received %d of %d, its report is %v", i, c.Received, n, c)
		}
	}
}

// What the hard end leaves is counted wherever it is.
func TestWhatTheHardEndLeavesIsCountedWhereverItIs(t *testing.T) {
	t.Parallel()
	const n = 2*turnMessages + 10 // in the inbox, and in libzmq
	r := newTestRunner(t, WithGrace(time.Second))
	pull := bound(t, r, zmq4.PULL, "inproc://jobs")
	push, err := r.Context().NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Connect("inproc://jobs"))
	for i := range n {
		tell(t, push, i)
	}
	must(t, push.Close())
	s := start(t, r, func(ctx context.Context, _ *Message) error {
		<-ctx.Done()
		return nil
	})
	_, err = s.end()
	incomplete(t, err)
	over(t, "the sockets are closed", r.loop.closedC) // on a slow machine that is when Run has returned
	// Nor does the time for counting do for all then; the rest is a backlog.
	if c := pull.report(); c.Handled != 1 || c.Abandoned != n-1 && !c.Backlog {
		t.Errorf("of %d the report is %v", n, c)
	}
}

// What comes while the flush waits for a peer is a backlog too: the drain did not see it.
func TestWhatComesWhileTheFlushWaitsIsABacklog(t *testing.T) {
	t.Parallel()
	const n, mark = 15, 10
	r := newTestRunner(t, briefly)
	own := marked(t, r, zmq4.PAIR, mark)
	client, err := r.Context().NewSocket(zmq4.PAIR)
	must(t, err)
	must(t, errors.Join(client.SetLinger(0), client.SetRcvhwm(1), own.Bind("inproc://pair"), client.Connect("inproc://pair")))
	s := start(t, r, func(context.Context, *Message) error { return nil })
	for i := range n {
		must(t, own.Send(t.Context(), countedBody(i)))
	}
	until(t, "the peer is at its mark", func() bool { return own.report().Sent == mark+1 })
	go s.Shutdown(context.Background())
	over(t, "the drain is over", r.loop.drainedC)
	until(t, "the flush waits", r.loop.sleeping.Load)
	tell(t, client, "too late")
	for range n {
		if _, err := client.RecvMessageBytes(0); err != nil {
			break // Term has begun
		}
	}
	must(t, client.Close())
	_, err = s.returned()
	if e := incomplete(t, err); e.Phase != Closing || len(e.Sockets) != 1 || !e.Sockets[0].Backlog {
		t.Errorf("Run returned %v", err)
	}
}

// Who has something to read waits for about the rest of a flooded socket's turn, which is a matter of time also where its 256 messages are
// not used up: the next turn begins with a look at all.
func TestAFloodOfSlowMessagesDoesNotHoldBackAnotherSocketForLongerThanATurn(t *testing.T) {
	t.Parallel()
	const rounds, work = 10, turnTime / 30 // a turn is longer than what the loop takes for a busy one, and much shorter than 256 messages
	r := newTestRunner(t, briefly)
	feed := func(name string) (*Socket, *zmq4.Socket) {
		pull := bound(t, r, zmq4.PULL, "inproc://"+name)
		push, err := r.Context().NewSocket(zmq4.PUSH)
		must(t, err)
		must(t, errors.Join(push.SetSndhwm(0), push.Connect("inproc://"+name)))
		return pull, push
	}
	flooded, flood := feed("flooded")
	other, knock := feed("other")
	must(t, flooded.Raw().SetRcvhwm(0))
	handled, asked := 0, 0
	var waited []int
	through := make(chan struct{})
	flooded.Handle(func(context.Context, *Message) error {
		if handled++; handled == asked+40 { // in a turn
			tell(t, knock, "x")
		}
		for began := time.Now(); time.Since(began) < work; {
		}
		return nil
	})
	other.Handle(func(context.Context, *Message) error {
		waited = append(waited, handled-asked-40)
		if asked = handled; len(waited) == rounds {
			asked = rounds * 2 * turnMessages // no more
			close(through)
		}
		return nil
	})
	for i := range rounds * 2 * turnMessages {
		tell(t, flood, i)
	}
	s := start(t, r, nil)
	over(t, "all are handled", through)
	must(t, errors.Join(flood.Close(), knock.Close()))
	s.ended()
	for _, n := range waited {
		if n > 100 {
			t.Errorf("the other socket waited for so many messages: %v", waited)
			break
		}
	}
}

// After the last look of a drain nobody knows whether what is there came in time; without one, it is a backlog.
func TestWhatComesAfterTheLastLookOfTheDrainIsNoBacklog(t *testing.T) {
	t.Parallel()
	for _, looked := range []bool{true, false} {
		r := newTestRunner(t)
		pull := bound(t, r, zmq4.PULL, "inproc://jobs")
		push, err := r.Context().NewSocket(zmq4.PUSH)
		must(t, err)
		must(t, push.Connect("inproc://jobs"))
		tell(t, push, "x")
		must(t, push.Close())
		r.loop.looked = looked
		r.loop.closeSocket(pull)
		if got := pull.report().Backlog; got == looked {
			t.Errorf("where the loop has looked is %v the backlog is %v", looked, got)
		}
	}
}

// What is left of a batch when its socket's turn is over is something to read, though libzmq has nothing more.
func TestWhatIsLeftOfABatchIsHandledAtOnce(t *testing.T) {
	t.Parallel()
	const n = 5
	r := newTestRunner(t, briefly, WithPollTimeout(-1)) // it would sleep for ever
	bound(t, r, zmq4.PULL, "inproc://jobs")
	push, err := r.Context().NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Connect("inproc://jobs"))
	for i := range n {
		tell(t, push, i)
	}
	must(t, push.Close())
	handled := make(chan struct{}, n)
	s := start(t, r, func(context.Context, *Message) error {
		time.Sleep(2 * turnTime)
		handled <- struct{}{}
		return nil
	})
	for range n {
		next(t, "one more is handled", handled)
	}
	s.ended()
}

func TestASocketThatIsAdoptedAtTheEndOfTheDrainIsServedYet(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	publisher, at := listen(t, zmq4.PUB)
	sub := connected(t, r, zmq4.SUB, at)
	must(t, sub.Raw().SetSubscribe(""))
	raw := peerIn(t, r.Context(), zmq4.PULL)
	must(t, raw.Bind("inproc://more"))
	more := peerIn(t, r.Context(), zmq4.PUSH)
	must(t, more.Connect("inproc://more"))
	tell(t, more, "one more")
	must(t, more.Close())
	// The drain waits for nothing but this, and has had its empty moment.
	release := make(chan struct{})
	r.Go(func(context.Context) error { <-release; return nil })
	sub.Handle(func(_ context.Context, m *Message) error {
		if r.Phase() != Draining || raw == nil || !sub.emptied {
			return nil
		}
		s, err := r.Adopt(raw, WithSocketQuiet(0))
		raw = nil
		if err != nil {
			return err
		}
		handled := make(chan [][]byte, 1)
		s.Handle(handOver(handled))
		close(release)
		return eventually(func() bool { return !r.routines.busy() }) // nothing else is waited for
	})
	s := start(t, r, func(context.Context, *Message) error { return nil })
	go r.Shutdown(context.Background())
	for s.Phase() < Closing {
		tell(t, publisher, "tick")
	}
	rep, err := s.returned()
	if err != nil || len(rep.Sockets) != 2 || rep.Sockets[1].Handled != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestTheTimeThatLateIsGivenHasABoundWhateverTheQuiet(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	s, err := r.NewSocket(zmq4.ROUTER, WithSocketQuiet(math.MaxInt64), WithLate(echo))
	must(t, err)
	p := newPlan(time.Now(), time.Second, 0, 100*ms, 0)
	r.loop.plan = p
	if end := r.loop.lateEnd(s); !end.After(p.limit) || !end.Before(p.hardEnd) {
		t.Errorf("it ends %v after the limit, the hard end is %v after it", end.Sub(p.limit), p.hardEnd.Sub(p.limit))
	}
}

func TestABlockedSendReturnsWithRunAlsoWhereAHandlerIsStuck(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithGrace(400*ms))
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	push := marked(t, r, zmq4.PUSH, 1)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	stuck, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	s := start(t, r, func(context.Context, *Message) error {
		close(stuck)
		<-release
		return nil
	})
	tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
	over(t, "the handler is stuck", stuck)
	must(t, push.Send(t.Context(), nil))
	blocked := make(chan error, 1)
	go func() { blocked <- push.Send(context.Background(), nil) }()
	_, err := s.end()
	incomplete(t, err)
	select {
	case err := <-blocked:
		if !errors.Is(err, ErrClosed) {
			t.Errorf("Send returned %v", err)
		}
	case <-time.After(3 * time.Second):
		t.Error("Run has returned and Send has not")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := push.Send(ctx, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end Send returned %v", err)
	}
}

// Past the drain limit the loop looks again by itself: that a peer's second is over rings nobody.
func TestPastTheDrainLimitAPeersSecondEndsWithoutAnyEvent(t *testing.T) {
	t.Parallel()
	const limit = 100 * ms
	r := newTestRunner(t, briefly, WithDrainLimit(limit), WithLinger(100*ms), WithPollTimeout(-1))
	server, at := listen(t, zmq4.ROUTER)
	req := connected(t, r, zmq4.REQ, at) // whose answer never comes: the drain lasts until its limit
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	s := start(t, r, func(context.Context, *Message) error { return nil })
	must(t, req.Send(t.Context(), []byte("hello")))
	_, err := server.RecvMessage(0)
	must(t, err)
	must(t, push.Send(t.Context(), []byte("to nobody")))
	asked := time.Now()
	rep, err := s.end()
	took := time.Since(asked)
	if e := incomplete(t, err); rep.Sockets[1].Unsent != 1 || e.Phase != Closing {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
	if most := limit + peerPatience + 100*ms + 2*time.Second; took > most {
		t.Errorf("the end took %v, at most it may take %v: %v", took, most, rep.Phases)
	}
}

func TestALastLookThatFailsIsNotAnEmptyOne(t *testing.T) {
	t.Parallel()
	for _, typ := range []zmq4.Type{zmq4.PULL, zmq4.PUSH} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, WithDrainQuiet(0))
			s := bound(t, r, typ, "tcp://127.0.0.1:*")
			l := r.loop
			l.empty = true
			if !l.isDrained() {
				t.Fatal("nothing is there, and it is not drained")
			}
			termed := make(chan error, 1)
			go func() { termed <- r.Context().Term() }()
			until(t, "Term has begun", func() bool { _, err := s.raw.GetEvents(); return err != nil })
			if l.isDrained() {
				t.Error("nobody could look, and it is drained")
			}
			must(t, s.raw.Close())
			must(t, next(t, "Term is back", termed))
		})
	}
}
