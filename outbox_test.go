package zmqgrace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// listen is a peer that is bound, and where.
func listen(t testing.TB, typ zmq4.Type, options ...func(*zmq4.Socket) error) (*zmq4.Socket, string) {
	t.Helper()
	s := peer(t, typ, append(options, func(s *zmq4.Socket) error { return s.Bind("tcp://127.0.0.1:*") })...)
	at, err := s.GetLastEndpoint()
	must(t, err)
	return s, at
}

// marked makes a socket with that send high-water mark, which is to be bound or connected yet.
func marked(t testing.TB, r *Runner, typ zmq4.Type, hwm int, opts ...SocketOption) *Socket {
	t.Helper()
	s, err := r.NewSocket(typ, opts...)
	must(t, err)
	must(t, s.Raw().SetSndhwm(hwm))
	return s
}

// nobody is an address where nobody listens.
const nobody = "tcp://127.0.0.1:1"

func countedBody(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

// expectCounted receives n messages whose last frames count from 0 on.
func expectCounted(t testing.TB, s *zmq4.Socket, n int) {
	t.Helper()
	for i := range n {
		m, err := s.RecvMessageBytes(0)
		if err != nil || !bytes.HasPrefix(m[len(m)-1], countedBody(i)) {
			t.Fatalf("message %d of %d is %.20q, %v", i, n, m, err)
		}
	}
}

func TestSendIsRefusedWhereItCantBe(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	for _, c := range []struct {
		typ    zmq4.Type
		frames [][]byte
		want   string
	}{
		{zmq4.PULL, frames("x"), "only receives"},
		{zmq4.SUB, frames("x"), "only receives"},
		{zmq4.REP, frames("x"), "Message.Reply"},
		{zmq4.ROUTER, frames("id"), "routing id"},
		{zmq4.ROUTER, nil, "routing id"},
	} {
		s, err := r.NewSocket(c.typ)
		must(t, err)
		err = s.Send(t.Context(), c.frames...)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), s.Name()) {
			t.Errorf("%v: Send returned %v", c.typ, err)
		}
	}
}

func TestSendNeedsAContext(t *testing.T) {
	t.Parallel()
	push, err := newTestRunner(t).NewSocket(zmq4.PUSH)
	must(t, err)
	var none context.Context
	if err := push.Send(none); err == nil || !strings.Contains(err.Error(), "context") {
		t.Errorf("Send returned %v", err)
	}
}

func TestSendCopiesItsFrames(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	pull, at := listen(t, zmq4.PULL)
	push := connected(t, r, zmq4.PUSH, at)
	body := []byte("hello")
	must(t, push.Send(t.Context(), body, body))
	copy(body, "XXXXX")
	s := start(t, r, nil)
	expectMessage(t, pull, "hello", "hello")
	s.ended()
}

func TestBeforeRunSendFillsTheOutboxAndThenSaysSo(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	pull, at := listen(t, zmq4.PULL)
	push := marked(t, r, zmq4.PUSH, 10)
	must(t, push.Connect(at))
	for i := range 10 {
		must(t, push.Send(t.Context(), countedBody(i)))
	}
	if err := push.Send(t.Context(), nil); !errors.Is(err, ErrFull) {
		t.Errorf("Send returned %v", err)
	}
	if rep := r.Report().Sockets[0]; rep.Queued != 10 || rep.Sent != 0 {
		t.Errorf("the report is %v", r.Report())
	}
	s := start(t, r, nil)
	expectCounted(t, pull, 10)
	if rep := s.ended().Sockets[0]; rep.Sent != 10 || rep.Unsent != 0 {
		t.Errorf("the report is %v", s.Report())
	}
}

func TestWhatWasSentBeforeAShutdownWithoutRunIsFlushed(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	pull, at := listen(t, zmq4.PULL)
	push := connected(t, r, zmq4.PUSH, at)
	for i := range 100 {
		must(t, push.Send(t.Context(), countedBody(i)))
	}
	must(t, r.Shutdown(t.Context()))
	expectCounted(t, pull, 100)
	checkAccounts(t, r.Report())
}

func TestSendBlocksAtTheHighWaterMarkUntilThePeerReads(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	push := marked(t, r, zmq4.PUSH, 10)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, nil)
	// A PUSH without a peer takes nothing, so all stays on the outbox.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 10 {
		must(t, push.Send(ended, countedBody(i))) // the context is looked at only when it must wait
	}
	if err := push.Send(ended, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("Send to a full outbox with an ended context returned %v", err)
	}
	sent := make(chan int, 1000)
	go func() {
		for i := 10; i < 1000; i++ {
			if err := push.Send(context.Background(), countedBody(i)); err != nil {
				t.Error(err)
			}
			sent <- i
		}
		close(sent)
	}()
	if got := push.report().Queued; got != 10 {
		t.Errorf("%d messages are queued", got)
	}
	expectCounted(t, dial(t, zmq4.PULL, push.Endpoint()), 1000)
	for range 990 {
		next(t, "the blocked Send returns", sent)
	}
	if rep := s.ended().Sockets[0]; rep.Sent != 1000 {
		t.Errorf("the report is %v", s.Report())
	}
}

func TestABlockedSendEndsWithItsContextAndItsCause(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithLinger(0))
	push := marked(t, r, zmq4.PUSH, 1)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, nil)
	must(t, push.Send(t.Context(), nil))
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error)
	go func() { result <- push.Send(ctx, nil) }()
	enough := errors.New("enough")
	cancel(enough)
	if err := next(t, "Send returns", result); !errors.Is(err, enough) {
		t.Errorf("Send returned %v", err)
	}
	if rep := s.ended().Sockets[0]; rep.Unsent != 1 {
		t.Errorf("the report is %v", s.Report())
	}
}

func TestABlockedSendEndsWhenTheFlushBegins(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithLinger(50*ms))
	push := marked(t, r, zmq4.PUSH, 5)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, nil)
	for range 5 {
		must(t, push.Send(t.Context(), nil))
	}
	results := make(chan error)
	for range 4 {
		go func() { results <- push.Send(context.Background(), nil) }()
	}
	rep, err := s.end()
	for range 4 {
		if err := next(t, "Send returns", results); !errors.Is(err, ErrClosed) {
			t.Errorf("Send returned %v", err)
		}
	}
	if e := incomplete(t, err); len(e.Sockets) != 1 || e.Sockets[0].Unsent != 5 || rep.Sockets[0].Sent != 0 {
		t.Errorf("Run returned %v", err)
	}
}

func TestNothingMoreIsTakenInTheFlush(t *testing.T) {
	t.Parallel()
	h := hold(t, Closing) // as long as nobody takes what lonely owes
	for _, s := range []*Socket{h.lonely, h.front} {
		until(t, "Send is refused", func() bool { return errors.Is(s.Send(t.Context(), frames("id", "x")...), ErrClosed) })
	}
	if p := h.Phase(); p != Closing {
		t.Errorf("the phase is %v by then", p)
	}
	h.letGoComplete()
}

func TestAFullOutboxPausesOnlyThoseWhoFillIt(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	push := marked(t, r, zmq4.PUSH, 5)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	type key struct{}
	rep.Handle(echo)
	pull.Handle(func(ctx context.Context, m *Message) error {
		// A context that is derived from the handler's is the handler's.
		return push.Send(context.WithValue(ctx, key{}, 1), m.Frames...)
	})
	s := start(t, r, nil)
	source := dial(t, zmq4.PUSH, pull.Endpoint())
	const n = 200
	for i := range n {
		tell(t, source, countedBody(i))
	}
	until(t, "the outbox is full", func() bool { return push.report().Queued == 5 })
	client := dial(t, zmq4.REQ, rep.Endpoint())
	for range 50 {
		request(t, client, "are you there?")
	}
	if got := pull.report(); got.Handled != 5 || push.report().Queued != 5 {
		t.Errorf("behind a full outbox the stage has handled %d, %d are queued", got.Handled, push.report().Queued)
	}
	// With a peer the stage goes on, and nothing is lost.
	expectCounted(t, dial(t, zmq4.PULL, push.Endpoint()), n)
	if rep := s.ended(); rep.Sockets[1].Handled != n || rep.Sockets[2].Sent != n {
		t.Errorf("the report is %v", rep)
	}
}

func TestAStageWithSmallMarksLosesNothing(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	in, err := r.NewSocket(zmq4.PULL)
	must(t, err)
	must(t, in.Raw().SetRcvhwm(7))
	must(t, in.Bind("tcp://127.0.0.1:*"))
	sink, at := listen(t, zmq4.PULL, func(s *zmq4.Socket) error { return s.SetRcvhwm(3) })
	out := marked(t, r, zmq4.PUSH, 4)
	must(t, out.Connect(at))
	s := start(t, r, func(ctx context.Context, m *Message) error { return out.Send(ctx, m.Frames...) })
	const n = 3000
	source := dial(t, zmq4.PUSH, in.Endpoint())
	go func() {
		for i := range n {
			source.SendBytes(append(countedBody(i), make([]byte, 4096)...), 0)
		}
	}()
	until(t, "the stage works", func() bool { return in.report().Handled > 0 })
	go s.Shutdown(context.Background()) // and the drain is backpressure's as well
	expectCounted(t, sink, n)
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Handled != n || rep.Sockets[1].Sent != n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestAStageWithoutAPeerSaysWhatItCouldNotSend(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithGrace(2*time.Second), WithDrainLimit(100*ms), WithLinger(200*ms))
	in := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithName("in"))
	out := marked(t, r, zmq4.PUSH, 5, WithName("out"))
	must(t, out.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, func(ctx context.Context, m *Message) error { return out.Send(ctx, m.Frames...) })
	source := dial(t, zmq4.PUSH, in.Endpoint())
	const n = 50
	for i := range n {
		tell(t, source, countedBody(i))
	}
	until(t, "the outbox is full", func() bool { return out.report().Queued == 5 })
	rep, err := s.end()
	e := incomplete(t, err)
	if i, o := rep.Sockets[0], rep.Sockets[1]; i.Handled+i.Abandoned != n || o.Unsent != i.Handled || len(e.Sockets) == 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestManyGoroutinesSendAtOnce(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	pull, at := listen(t, zmq4.PULL)
	push := marked(t, r, zmq4.PUSH, 50)
	must(t, push.Connect(at))
	s := start(t, r, nil)
	const senders, each = 16, 500
	var wg sync.WaitGroup
	for g := range senders {
		wg.Go(func() {
			for i := range each {
				if err := push.Send(context.Background(), []byte{byte(g)}, countedBody(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var seen [senders]int
	for range senders * each {
		m, err := pull.RecvMessageBytes(0)
		must(t, err)
		g := m[0][0]
		if len(m) != 2 || !bytes.Equal(m[1], countedBody(seen[g])) {
			t.Fatalf("message %d of sender %d is %q", seen[g], g, m)
		}
		seen[g]++
	}
	wg.Wait()
	if rep := s.ended().Sockets[0]; rep.Sent != senders*each {
		t.Errorf("the report is %v", s.Report())
	}
}

func TestABlockedSendDoesNotHoldTheDrainBeyondItsLimit(t *testing.T) {
	t.Parallel()
	const limit = 300 * ms
	r := newTestRunner(t, WithDrainLimit(limit), WithLinger(100*ms))
	// The client never pauses, so the drain lasts until its limit.
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	push := marked(t, r, zmq4.PUSH, 5)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, echo)
	for range 5 {
		must(t, push.Send(t.Context(), nil))
	}
	blocked := make(chan error, 1)
	go func() { blocked <- push.Send(context.Background(), nil) }()
	stop := restless(t, rep.Endpoint(), 2)
	defer stop()
	until(t, "the client is served", func() bool { return rep.report().Handled > 10 })
	asked := time.Now()
	report, err := s.end()
	took := time.Since(asked)
	if err := next(t, "Send returns", blocked); !errors.Is(err, ErrClosed) {
		t.Errorf("Send returned %v", err)
	}
	if incomplete(t, err); report.Sockets[1].Unsent != 5 || !report.Busy {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
	if took < limit || phaseOf(report, Draining) > limit+time.Second+patience/20 {
		t.Errorf("the end took %v, the report is %v", took, report)
	}
}

// restless has clients send one request after the other, each at once when the answer is there, until stop is called.
func restless(t testing.TB, endpoint string, clients int) (stop func()) {
	t.Helper()
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for range clients {
		client := dial(t, zmq4.REQ, endpoint, func(s *zmq4.Socket) error { return s.SetRcvtimeo(10 * ms) })
		wg.Go(func() {
			for asked := false; !stopped.Load(); {
				if !asked {
					client.Send("?", 0)
				}
				_, err := client.Recv(0)
				asked = err != nil
			}
		})
	}
	return sync.OnceFunc(func() {
		stopped.Store(true)
		wg.Wait()
	})
}

// phaseOf returns how long a phase lasted.
func phaseOf(rep Report, p Phase) time.Duration {
	for _, have := range rep.Phases {
		if have.Phase == p {
			return have.Duration
		}
	}
	return -1
}

// slowly receives like a peer that has better things to do now and then.
func slowly(i int, s *zmq4.Socket) ([][]byte, error) {
	if i%8 == 0 {
		time.Sleep(500 * time.Microsecond)
	}
	return s.RecvMessageBytes(0)
}

func TestWhatIsQueuedReachesASlowPeer(t *testing.T) {
	t.Parallel()
	const n = 2000
	for _, c := range []struct {
		typ, with zmq4.Type
		size      int
		hwm       int // of both
	}{
		{zmq4.PUSH, zmq4.PULL, 100, n}, {zmq4.PUSH, zmq4.PULL, 8192, n}, {zmq4.PUSH, zmq4.PULL, 8192, 10},
		{zmq4.PUB, zmq4.SUB, 100, n + 100}, {zmq4.PUB, zmq4.SUB, 8192, n + 100},
		{zmq4.XPUB, zmq4.SUB, 8192, n + 100},
		{zmq4.DEALER, zmq4.DEALER, 8192, n}, {zmq4.DEALER, zmq4.DEALER, 8192, 10},
		{zmq4.ROUTER, zmq4.DEALER, 8192, n}, {zmq4.ROUTER, zmq4.DEALER, 8192, 10},
		{zmq4.PAIR, zmq4.PAIR, 8192, n}, {zmq4.PAIR, zmq4.PAIR, 8192, 10},
	} {
		t.Run(fmt.Sprintf("%v, %d bytes, marks of %d", c.typ, c.size, c.hwm), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly)
			own := marked(t, r, c.typ, c.hwm)
			must(t, own.Bind("tcp://127.0.0.1:*"))
			with := peer(t, c.with, func(s *zmq4.Socket) error { return errors.Join(s.SetRcvhwm(c.hwm), s.SetIdentity("peer")) })
			if c.with == zmq4.SUB {
				must(t, with.SetSubscribe(""))
			}
			must(t, with.Connect(own.Endpoint()))
			known := make(chan struct{}, 10)
			s := start(t, r, func(context.Context, *Message) error { known <- struct{}{}; return nil })
			var front []string
			switch c.typ {
			case zmq4.ROUTER:
				front = []string{"peer"}
				tell(t, with, "hello")
				<-known
			case zmq4.PUB, zmq4.XPUB:
				until(t, "the subscription arrives", func() bool {
					must(t, own.Send(t.Context(), []byte("hello")))
					_, err := with.Recv(zmq4.DONTWAIT)
					return err == nil
				})
				// What was sent before that was noticed is no part of the test.
				must(t, own.Send(t.Context(), []byte("begin")))
				for m := ""; m != "begin"; {
					var err error
					m, err = with.Recv(0)
					must(t, err)
				}
			}
			read := make(chan struct{})
			reading := sync.OnceFunc(func() {
				go func() {
					defer close(read)
					for i := range n {
						if m, err := slowly(i, with); err != nil || !bytes.HasPrefix(m[0], countedBody(i)) {
							t.Errorf("message %d is %.20q, %v", i, m, err)
							return
						}
					}
				}()
			})
			for i := range n {
				if c.hwm < n {
					reading() // or Send would wait for ever
				}
				must(t, own.Send(t.Context(), append(frames(front...), append(countedBody(i), make([]byte, c.size)...))...))
			}
			go s.Shutdown(context.Background())
			reading()
			<-read
			if rep, err := s.returned(); err != nil || rep.Sockets[0].Sent < n || rep.Sockets[0].Unsent+rep.Sockets[0].Dropped != 0 {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestAPushThatHasNobodyEndsWithinTheGraceAndSaysSo(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"bound", "connected"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			const grace = 800 * ms
			r := newTestRunner(t, briefly, WithGrace(grace), WithLinger(-1))
			push, err := r.NewSocket(zmq4.PUSH, WithName("jobs"))
			must(t, err)
			if side == "bound" {
				must(t, push.Bind("tcp://127.0.0.1:*"))
			} else {
				must(t, push.Connect(nobody))
			}
			s := start(t, r, nil)
			for i := range 100 {
				must(t, push.Send(t.Context(), countedBody(i)))
			}
			asked := time.Now()
			rep, err := s.end()
			took := time.Since(asked)
			e := incomplete(t, err)
			if took > grace+time.Second || e.Phase != Closing || e.Leaked || len(e.Sockets) != 1 || e.Sockets[0].Name != "jobs" {
				t.Errorf("Run returned after %v: %v", took, err)
			}
			if !strings.Contains(err.Error(), `socket "jobs" (PUSH)`) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the error is %v", err)
			}
			// libzmq takes messages for a peer that it tries to reach, and none where nobody is.
			if side == "bound" && rep.Sockets[0].Unsent != 100 || side == "connected" && (!rep.LingerExpired || rep.Sockets[0].Sent != 100) {
				t.Errorf("the report is %v", rep)
			}
		})
	}
}

func TestALingerOfZeroDropsAndThatIsNoError(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithLinger(0))
	push := connected(t, r, zmq4.PUSH, nobody)
	s := start(t, r, nil)
	for range 10 {
		must(t, push.Send(t.Context(), nil))
	}
	until(t, "libzmq has them", func() bool { return push.report().Sent == 10 })
	if rep := s.ended(); rep.LingerExpired {
		t.Errorf("the report is %v", rep)
	}
}

func TestStagesOfOneRunnerNeverStandStill(t *testing.T) {
	t.Parallel()
	const n = 2000
	r := newTestRunner(t)
	front := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	inner, err := r.NewSocket(zmq4.PULL)
	must(t, err)
	must(t, inner.Raw().SetRcvhwm(20))
	must(t, inner.Bind("inproc://second"))
	stage := marked(t, r, zmq4.PUSH, 20)
	must(t, stage.Connect("inproc://second"))
	front.Handle(func(ctx context.Context, m *Message) error { return stage.Send(ctx, m.Frames...) })
	seen := make(chan int, n)
	inner.Handle(func(_ context.Context, m *Message) error {
		time.Sleep(100 * time.Microsecond) // the slower stage
		seen <- int(binary.BigEndian.Uint32(m.Frames[0]))
		return nil
	})
	s := start(t, r, nil)
	source := dial(t, zmq4.PUSH, front.Endpoint())
	for i := range n {
		tell(t, source, countedBody(i))
	}
	for i := range n / 2 {
		if got := next(t, "the second stage goes on", seen); got != i {
			t.Fatalf("message %d came as number %d", got, i)
		}
	}
	rep := s.ended()
	close(seen)
	i := n / 2
	for got := range seen {
		if got != i {
			t.Fatalf("message %d came as number %d", got, i)
		}
		i++
	}
	if i != n || rep.Sockets[0].Handled != n || rep.Sockets[1].Handled != n || rep.Sockets[2].Sent != n {
		t.Errorf("%d of %d arrived, the report is %v", i, n, rep)
	}
}

// A handler may fan out: more goes out than comes in, on a socket with a small mark.
func TestAHandlerNeverBlocksHoweverMuchItSends(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	pull, at := listen(t, zmq4.PULL, func(s *zmq4.Socket) error { return s.SetRcvhwm(5) })
	front := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	push := marked(t, r, zmq4.PUSH, 5)
	must(t, push.Connect(at))
	const n = 2000
	s := start(t, r, func(ctx context.Context, m *Message) error {
		for i := range n {
			must(t, push.Send(ctx, append(countedBody(i), make([]byte, 4096)...)))
		}
		return m.Reply()
	})
	client := dial(t, zmq4.REQ, front.Endpoint())
	request(t, client, "?")
	expectCounted(t, pull, n)
	request(t, client, "?") // it is not paused for ever
	go s.Shutdown(context.Background())
	expectCounted(t, pull, n)
	if rep, err := s.returned(); err != nil || rep.Sockets[1].Sent != 2*n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestASlowSubscriberLosesMessagesWhileRunningAndHoldsNobody(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	pub := marked(t, r, zmq4.PUB, 5)
	must(t, pub.Bind("tcp://127.0.0.1:*"))
	subscriber := func(hwm int) *zmq4.Socket {
		s := dial(t, zmq4.SUB, pub.Endpoint(), func(s *zmq4.Socket) error {
			return errors.Join(s.SetRcvhwm(hwm), s.SetSubscribe(""))
		})
		until(t, "the subscription arrives", func() bool {
			must(t, pub.Send(t.Context(), []byte("hello")))
			_, err := s.Recv(zmq4.DONTWAIT)
			return err == nil
		})
		return s
	}
	s := start(t, r, nil)
	slow := subscriber(1) // and reads no more for now
	reader := subscriber(0)
	const count = 200
	body := string(make([]byte, 64<<10))
	must(t, reader.SetRcvtimeo(time.Second))
	for range count {
		until(t, "the reader hears it", func() bool {
			must(t, pub.Send(t.Context(), []byte(body))) // anew where a busy machine had so many hellos on their way that this was dropped
			for {
				m, err := reader.Recv(0)
				if err != nil || m == body {
					return err == nil
				}
			}
		})
	}
	// What the slow one has got when it has heard what was sent afterwards is all that it gets.
	got := 0
	until(t, "the slow one hears the last", func() bool {
		must(t, pub.Send(t.Context(), []byte("bye")))
		for {
			switch m, err := slow.Recv(zmq4.DONTWAIT); {
			case err != nil:
				return false
			case m == "bye":
				return true
			case m == body:
				got++
			}
		}
	})
	t.Logf("the slow one got %d of %d", got, count)
	if got == 0 || got >= count {
		t.Errorf("the slow one got %d of %d", got, count)
	}
	// By then it has read all there was, so the end is complete. libzmq does not say what is missing.
	if c := s.ended().Sockets[0]; c.Dropped+c.Unsent+c.Unroutable != 0 {
		t.Errorf("the report is %+v", c)
	}
}

// Where a peer goes away in the middle of a message, libzmq swallows parts: never those of the next message.
func TestMessagesStayWholeWherePeersComeAndGo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		typ, with zmq4.Type
		portable  bool
	}{
		{zmq4.PUSH, zmq4.PULL, false}, {zmq4.DEALER, zmq4.DEALER, false}, {zmq4.PAIR, zmq4.PAIR, false},
		{zmq4.PUSH, zmq4.PULL, true}, {zmq4.DEALER, zmq4.DEALER, true}, {zmq4.PAIR, zmq4.PAIR, true},
	} {
		t.Run(fmt.Sprintf("%v, portable %v", c.typ, c.portable), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t)
			own, err := r.Context().NewSocket(c.typ)
			must(t, err)
			defer own.Close()
			must(t, own.SetLinger(0))
			must(t, own.Bind("inproc://here"))
			way := &Socket{raw: own, typ: c.typ}
			if !c.portable {
				way.handle = handleOf(own)
			}
			send := func(m [][]byte) error {
				var q queue
				q.add(envelope{}, m, nil, false)
				_, err := q.send(way, true)
				return err
			}
			const parts = 3000
			message := func(i int) [][]byte { return slices.Repeat([][]byte{countedBody(i)}, parts) }
			whole := func(m [][]byte, err error) bool {
				return err == nil && len(m) == parts && bytes.Equal(m[0], m[parts-1]) && bytes.Equal(m[0], m[parts/2])
			}
			var stop atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				for !stop.Load() {
					with := peerIn(t, r.Context(), c.with)
					must(t, with.SetRcvtimeo(100*ms))
					must(t, with.Connect("inproc://here"))
					for range 3 {
						if m, err := with.RecvMessageBytes(0); err == nil && !whole(m, err) {
							t.Errorf("a message of %d parts arrived, from %q to %q", len(m), m[0], m[len(m)-1])
						}
					}
					with.Close()
				}
			})
			for i, end := 0, time.Now().Add(time.Second); time.Now().Before(end); i++ {
				if err := send(message(i)); err != nil && !isAgain(err) {
					t.Error(err)
				}
			}
			stop.Store(true)
			wg.Wait()
			// The next peer gets all, from the first message on, once it is noticed that the last one is gone.
			until(t, "nobody is there", func() bool {
				events, err := own.GetEvents()
				must(t, err)
				return events&zmq4.POLLOUT == 0
			})
			with := peerIn(t, r.Context(), c.with)
			defer func() { with.Close() }()
			must(t, with.Connect("inproc://here"))
			looks := 0
			until(t, "the peer is there", func() bool {
				events, err := own.GetEvents()
				must(t, err)
				if looks++; looks%50 == 0 && events&zmq4.POLLOUT == 0 {
					// A PAIR turns everybody away until its last peer is gone to the end.
					with.Close()
					with = peerIn(t, r.Context(), c.with)
					must(t, with.Connect("inproc://here"))
				}
				return events&zmq4.POLLOUT != 0
			})
			for i := range 10 {
				must(t, send(message(i)))
				if m, err := with.RecvMessageBytes(0); !whole(m, err) || !bytes.Equal(m[0], countedBody(i)) {
					t.Errorf("message %d arrived as %d parts, %v", i, len(m), err)
				}
			}
		})
	}
}

// The others need no more time only because one socket does.
func TestAFlushThatWaitsForOneSocketDoesNotBlameTheOthers(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	push, err := r.NewSocket(zmq4.PUSH, WithName("jobs"), WithSocketLinger(100*ms))
	must(t, err)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, echo)
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
	must(t, push.Send(t.Context(), nil))
	report, err := s.end()
	if e := incomplete(t, err); len(e.Sockets) != 1 || e.Sockets[0].Name != "jobs" || e.Sockets[0].Unsent != 1 || report.LingerExpired {
		t.Errorf("Run returned %v", err)
	}
}

// owingPublisher is a PUB that has n messages of that size on its outbox when the end begins, and whose subscribers'
// pipes take next to none; the Runner has not run.
func owingPublisher(t *testing.T, n, size int, opts ...Option) (*Runner, *Socket, func() *zmq4.Socket) {
	t.Helper()
	r := newTestRunner(t, opts...)
	pub := marked(t, r, zmq4.PUB, 2)
	must(t, pub.Raw().Bind("tcp://127.0.0.1:*"))
	at, err := pub.Raw().GetLastEndpoint()
	must(t, err)
	must(t, pub.Raw().SetSndhwm(n)) // for the outbox, which takes it over with the next Bind
	must(t, pub.Bind("inproc://unused"))
	return r, pub, func() *zmq4.Socket {
		s := dial(t, zmq4.SUB, at, func(s *zmq4.Socket) error { return errors.Join(s.SetRcvhwm(1), s.SetSubscribe("")) })
		until(t, "the subscription arrives", func() bool {
			_, err := pub.Raw().SendBytes([]byte("hello"), zmq4.DONTWAIT)
			must(t, err)
			_, err = s.Recv(zmq4.DONTWAIT)
			return err == nil
		})
		return s
	}
}

func skipHellos(t *testing.T, s *zmq4.Socket, n int) {
	t.Helper()
	for i := 0; i < n; {
		m, err := s.RecvBytes(0)
		must(t, err)
		if string(m) == "hello" {
			continue
		}
		if !bytes.HasPrefix(m, countedBody(i)) {
			t.Fatalf("message %d of %d is %.20q", i, n, m)
		}
		i++
	}
}

func TestAPublishersLastMessagesReachItsSlowSubscribers(t *testing.T) {
	t.Parallel()
	const n, size = 300, 64 << 10
	r, pub, subscriber := owingPublisher(t, n, size)
	first, second := subscriber(), subscriber()
	for i := range n {
		must(t, pub.Send(t.Context(), append(countedBody(i), make([]byte, size)...)))
	}
	result := make(chan error, 1)
	go func() { result <- r.Shutdown(context.Background()) }()
	var wg sync.WaitGroup
	wg.Go(func() { skipHellos(t, first, n) })
	skipHellos(t, second, n)
	wg.Wait()
	if err := next(t, "Shutdown returns", result); err != nil || r.Report().Sockets[0].Sent != n {
		t.Errorf("Shutdown returned %v, the report is %v", err, r.Report())
	}
}

func TestAFrozenSubscriberIsWaitedForASecond(t *testing.T) {
	t.Parallel()
	const n, size = 300, 64 << 10
	r, pub, subscriber := owingPublisher(t, n, size, WithLinger(2*time.Second))
	subscriber() // and reads no more
	reader := subscriber()
	must(t, reader.SetRcvtimeo(10*ms))
	for i := range n {
		must(t, pub.Send(t.Context(), append(countedBody(i), make([]byte, size)...)))
	}
	begin := time.Now()
	result := make(chan error, 1)
	go func() { result <- r.Shutdown(context.Background()) }()
	var err error
	for over := false; !over; {
		reader.RecvBytes(0)
		select {
		case err = <-result:
			over = true
		default:
		}
	}
	// Then nothing waits for it any more, but libzmq has something for it that it never takes.
	took := time.Since(begin)
	if e := incomplete(t, err); len(e.Sockets) != 1 || r.Report().Sockets[0].Sent != n || !r.Report().LingerExpired {
		t.Errorf("Shutdown returned %v, the report is %v", err, r.Report())
	}
	if took < peerPatience || took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAMessageThatLibzmqRefusesIsUnsent(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	s := start(t, r, func(_ context.Context, m *Message) error {
		// The Runner does not know of this reply, and libzmq takes no second one.
		_, err := m.Socket.Raw().Send("behind the Runner's back", 0)
		return errors.Join(err, m.Reply([]byte("!")))
	})
	client := dial(t, zmq4.REQ, rep.Endpoint())
	if got := request(t, client, "?"); got[0] != "behind the Runner's back" {
		t.Errorf("the answer is %q", got)
	}
	until(t, "it is counted", func() bool { return rep.report().Unsent == 1 })
	_, err := s.end()
	if e := incomplete(t, err); len(e.Sockets) != 1 || e.Sockets[0].Name != "front" || e.Sockets[0].Unsent != 1 {
		t.Errorf("Run returned %v", err)
	}
}

// A REQ's open request may be one that the Runner did not send: of a socket that was adopted, or sent by Raw.
func TestTheDrainWaitsForTheAnswerToARequestThatSomebodyElseSent(t *testing.T) {
	for _, more := range []bool{false, true} {
		t.Run(fmt.Sprint("another one waits: ", more), func(t *testing.T) {
			t.Parallel()
			waitForAnswers(t, more)
		})
	}
}

func waitForAnswers(t *testing.T, more bool) {
	r := newTestRunner(t, WithDrainQuiet(20*ms))
	server, at := listen(t, zmq4.REP)
	raw, err := r.Context().NewSocket(zmq4.REQ)
	must(t, err)
	must(t, raw.Connect(at))
	_, err = raw.Send("before", 0)
	must(t, err)
	req, err := r.Adopt(raw)
	must(t, err)
	handled := make(chan [][]byte, 10)
	s := start(t, r, handOver(handled))
	expectMessage(t, server, "before")
	if more {
		must(t, req.Send(t.Context(), []byte("after")))
	}
	go r.Shutdown(t.Context())
	select {
	case err := <-s.result:
		t.Fatalf("Run returned %v before the answer", err)
	case <-time.After(200 * ms):
	}
	tell(t, server, "first answer")
	expectFrames(t, "the first", next(t, "an answer", handled), "first answer")
	if more {
		expectMessage(t, server, "after")
		tell(t, server, "second answer")
		expectFrames(t, "the second", next(t, "an answer", handled), "second answer")
	}
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Unsent != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestARelaxedREQHasItsLingerForWhatItHasToSend(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithDrainLimit(100*ms), WithLinger(patience), WithGrace(2*patience))
	first, at := listen(t, zmq4.ROUTER)
	req, err := r.NewSocket(zmq4.REQ)
	must(t, err)
	must(t, errors.Join(req.Raw().SetReqRelaxed(1), req.Raw().SetReqCorrelate(1), req.Raw().SetImmediate(true), req.Connect(at)))
	s := start(t, r, func(context.Context, *Message) error { return nil })
	must(t, req.Send(t.Context(), []byte("one")))
	_, err = first.RecvMessage(0)
	must(t, err)
	must(t, errors.Join(first.Unbind(at), first.Close()))
	until(t, "the peer is gone", func() bool { return req.report().Queued > 0 || req.Send(t.Context(), []byte("two")) != nil })
	s.loop.r.ask(ErrShutdown)
	until(t, "it flushes", func() bool { return errors.Is(req.Send(t.Context(), nil), ErrClosed) })
	second := peer(t, zmq4.ROUTER)
	must(t, second.Bind(at))
	_, err = second.RecvMessage(0)
	must(t, err)
	if rep, err := s.returned(); err != nil {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestARelaxedREQDoesNotWaitForAnAnswer(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	server, at := listen(t, zmq4.ROUTER)
	req, err := r.NewSocket(zmq4.REQ)
	must(t, err)
	must(t, errors.Join(req.Raw().SetReqRelaxed(1), req.Raw().SetReqCorrelate(1), req.Connect(at)))
	handled := make(chan [][]byte, 1)
	s := start(t, r, handOver(handled))
	must(t, req.Send(t.Context(), []byte("one")))
	first, err := server.RecvMessage(0)
	must(t, err)
	must(t, req.Send(t.Context(), []byte("two")))
	second, err := server.RecvMessage(0)
	must(t, err)
	if first[len(first)-1] != "one" || second[len(second)-1] != "two" {
		t.Errorf("the requests are %q and %q", first, second)
	}
	_, err = server.SendMessage(second)
	must(t, err)
	expectFrames(t, "the answer", next(t, "the answer", handled), "two")
	s.ended()
}

// Only its answers make room on a REQ's outbox, so it must go on receiving them.
func TestAREQWhoseHandlerAsksAgainWhileItsOutboxIsFullGoesOn(t *testing.T) {
	t.Parallel()
	const mark, again = 4, 10
	r := newTestRunner(t, briefly)
	server := bound(t, newTestRunner(t, briefly), zmq4.REP, "tcp://127.0.0.1:*")
	start(t, server.r, echo)
	req := marked(t, r, zmq4.REQ, mark)
	must(t, req.Connect(server.Endpoint()))
	for range mark {
		must(t, req.Send(t.Context(), []byte("job")))
	}
	var answers atomic.Int32
	s := start(t, r, func(ctx context.Context, m *Message) error {
		if answers.Add(1) <= again {
			return req.Send(ctx, []byte("again"))
		}
		return nil
	})
	until(t, "all is answered", func() bool { return answers.Load() == mark+again })
	s.ended()
}

func TestASendThatWaitsOnAREQGoesOnAsSoonAsThereIsRoom(t *testing.T) {
	t.Parallel()
	const mark = 4
	r := newTestRunner(t, WithGrace(100*ms))
	server, at := listen(t, zmq4.REP)
	req := marked(t, r, zmq4.REQ, mark)
	must(t, req.Connect(at))
	s := start(t, r, func(context.Context, *Message) error { return nil })
	for range 1 + mark { // libzmq has the first
		must(t, req.Send(t.Context(), []byte("job")))
		until(t, "the first is with libzmq", func() bool { return req.report().Sent == 1 })
	}
	sent := make(chan error, 1)
	go func() { sent <- req.Send(t.Context(), []byte("waits")) }()
	until(t, "a Send waits", func() bool {
		req.mu.Lock()
		defer req.mu.Unlock()
		return req.outbox.room != nil
	})
	_, err := server.Recv(0)
	must(t, err)
	_, err = server.Send("answer", 0) // and there are three of four
	must(t, err)
	must(t, next(t, "the Send that waits", sent))
	must(t, r.Close())
	s.returned()
}

// Whoever produces until Send says ErrClosed does not hold up the end.
func TestProducersThatNeverPauseDoNotHoldTheEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, with zmq4.Type }{{zmq4.PUB, zmq4.SUB}, {zmq4.PUSH, zmq4.PULL}} {
		r := newTestRunner(t, WithDrainLimit(8*time.Second))
		sink, at := listen(t, c.with, func(s *zmq4.Socket) error { return s.SetRcvtimeo(10 * ms) })
		if c.with == zmq4.SUB {
			must(t, sink.SetSubscribe(""))
		}
		own := connected(t, r, c.typ, at)
		rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
		s := start(t, r, echo)
		request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
		var producers, reader sync.WaitGroup
		for range 4 {
			producers.Go(func() {
				for {
					if err := own.Send(context.Background(), []byte("x")); err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("%v: Send returned %v", c.typ, err)
						}
						return
					}
				}
			})
		}
		var stopped atomic.Bool
		reader.Go(func() {
			for !stopped.Load() {
				sink.RecvBytes(0)
			}
		})
		until(t, "much is sent", func() bool { return own.report().Sent > 1000 })
		report := s.ended()
		producers.Wait()
		stopped.Store(true)
		reader.Wait()
		if d := phaseOf(report, Draining); d > 4*time.Second || report.Busy {
			t.Errorf("%v: the drain took %v, the report is %v", c.typ, d, report)
		}
	}
}

// A Send that waits for room is given up when nothing was taken for a second, not when the drain limit is over.
func TestABlockedSendGoesOnPastTheDrainLimitWhereAPeerComesWithinASecond(t *testing.T) {
	t.Parallel()
	const n, limit = 20, 200 * ms
	r := newTestRunner(t, briefly, WithDrainLimit(limit))
	push := marked(t, r, zmq4.PUSH, 5)
	must(t, push.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, nil)
	sent := make(chan error, 1)
	r.Go(func(ctx context.Context) error {
		<-ctx.Done()
		var err error
		for i := range n {
			err = errors.Join(err, push.Send(context.Background(), countedBody(i)))
		}
		sent <- err
		return nil
	})
	go s.Shutdown(context.Background())
	until(t, "the drain limit is over", func() bool { return phaseOf(r.Report(), Draining) > limit+200*ms })
	pull := dial(t, zmq4.PULL, push.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvtimeo(3 * time.Second) })
	expectCounted(t, pull, n)
	if err := next(t, "all is sent", sent); err != nil {
		t.Errorf("Send returned %v", err)
	}
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Sent != n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// The flush would give it no more than the linger.
func TestPastItsLimitTheDrainWaitsForAPeerThatReads(t *testing.T) {
	t.Parallel()
	const n = 20
	r := newTestRunner(t, briefly, WithDrainLimit(50*ms), WithLinger(10*ms))
	server, at := listen(t, zmq4.ROUTER)
	req := connected(t, r, zmq4.REQ, at) // whose answer never comes: there is no quiet
	push := marked(t, r, zmq4.PUSH, n/2) // as many on its outbox
	must(t, push.Bind("inproc://out"))
	pull := peerIn(t, r.Context(), zmq4.PULL)
	must(t, errors.Join(pull.SetRcvhwm(1), pull.Connect("inproc://out")))
	s := start(t, r, func(context.Context, *Message) error { return nil })
	must(t, req.Send(t.Context(), []byte("hello")))
	_, err := server.RecvMessage(0)
	must(t, err)
	for i := range n {
		must(t, push.Send(t.Context(), countedBody(i)))
	}
	go s.Shutdown(context.Background())
	slowly := time.NewTicker(20 * ms)
	defer slowly.Stop()
	for err == nil { // until Term
		<-slowly.C
		_, err = pull.RecvBytes(0)
	}
	must(t, pull.Close())
	if rep, err := s.returned(); rep.Sockets[1].Sent != n || rep.Sockets[1].Unsent != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// It would be sent when the first one is answered, which nobody would receive any more.
func TestTheFlushDoesNotWaitForAREQsNextRequest(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithDrainLimit(100*ms), WithLinger(patience), WithGrace(3*patience))
	server, at := listen(t, zmq4.ROUTER)
	req := connected(t, r, zmq4.REQ, at)
	s := start(t, r, func(context.Context, *Message) error { return nil })
	must(t, errors.Join(req.Send(t.Context(), []byte("one")), req.Send(t.Context(), []byte("two"))))
	_, err := server.RecvMessage(0)
	must(t, err)
	rep, err := s.end()
	if e := incomplete(t, err); rep.Sockets[0].Unsent != 1 || phaseOf(rep, Closing) > patience/2 {
		t.Errorf("Run returned %v, the report is %v", e, rep)
	}
}

func TestAREQThatOnceHadToWaitHasItsLingerForItsNextRequest(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly, WithDrainLimit(100*ms), WithLinger(patience), WithGrace(2*patience))
	first, at := listen(t, zmq4.ROUTER)
	req, err := r.NewSocket(zmq4.REQ)
	must(t, err)
	must(t, errors.Join(req.Raw().SetImmediate(true), req.Connect(at)))
	answers := make(chan [][]byte, 2)
	s := start(t, r, handOver(answers))
	var writable atomic.Bool
	watchWritable(r, req, &writable)
	must(t, errors.Join(req.Send(t.Context(), []byte("one")), req.Send(t.Context(), []byte("two"))))
	for range 2 { // "two" has to wait for the answer to "one"
		m, err := first.RecvMessage(0)
		must(t, err)
		_, err = first.SendMessage(m)
		must(t, err)
		next(t, "the answer", answers)
	}
	until(t, "it can send", writable.Load)
	must(t, errors.Join(first.Unbind(at), first.Close()))
	until(t, "the peer is gone", func() bool { return !writable.Load() })
	must(t, req.Send(t.Context(), []byte("three")))
	s.loop.r.ask(ErrShutdown)
	until(t, "it flushes", func() bool { return errors.Is(req.Send(t.Context(), nil), ErrClosed) })
	second := peer(t, zmq4.ROUTER, func(s *zmq4.Socket) error { return s.SetRcvtimeo(3 * time.Second) })
	must(t, second.Bind(at))
	if m, err := second.RecvMessage(0); err != nil || m[len(m)-1] != "three" {
		t.Errorf("the next peer received %q, %v", m, err)
	}
	if rep, err := s.returned(); rep.Sockets[0].Sent < 3 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// watchWritable has the loop note whether s has a peer with room.
func watchWritable(r *Runner, s *Socket, writable *atomic.Bool) {
	r.Every(ms, func(context.Context) error {
		events, err := s.Raw().GetEvents()
		writable.Store(events&zmq4.POLLOUT != 0)
		return err
	})
}

func TestWhatLibzmqHasForAPeerThatGoesAwayIsLostWithIt(t *testing.T) {
	t.Parallel()
	const n, size = 200, 256 << 10 // more than the kernel takes
	r := newTestRunner(t, briefly)
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	var writable atomic.Bool
	watchWritable(r, push, &writable)
	s := start(t, r, nil)
	pull := dial(t, zmq4.PULL, push.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvhwm(1) })
	for range n {
		must(t, push.Send(t.Context(), make([]byte, size)))
	}
	until(t, "libzmq has it all", func() bool { return push.report().Sent == n && writable.Load() })
	must(t, errors.Join(pull.SetLinger(0), pull.Close()))
	until(t, "the peer is gone", func() bool { return !writable.Load() })
	if rep := s.ended(); rep.Sockets[0].Sent != n || rep.Sockets[0].Unsent != 0 {
		t.Errorf("the report is %v", rep)
	}
}

// libzmq calls a publisher writable, also where it was told to refuse rather than drop, so that a poll for it would not sleep.
func TestAPublisherThatMustNotDropIsTriedAgainWithoutBeingPolled(t *testing.T) {
	t.Parallel()
	const n = 100
	r := newTestRunner(t, briefly)
	xpub := marked(t, r, zmq4.XPUB, 5)
	must(t, errors.Join(xpub.Raw().SetXpubNodrop(true), xpub.Bind("tcp://127.0.0.1:*")))
	subscribed, waits, polled := make(chan bool, 1), make(chan bool, 1), make(chan bool, 1)
	r.Every(ms, func(context.Context) error {
		if !xpub.delivery.taken.empty() {
			offer(waits, true)
			if xpub.polledFor&zmq4.POLLOUT != 0 {
				offer(polled, true)
			}
		}
		return nil
	})
	s := start(t, r, func(context.Context, *Message) error { offer(subscribed, true); return nil })
	sub := dial(t, zmq4.SUB, xpub.Endpoint(), subscribeTo(""), func(s *zmq4.Socket) error { return s.SetRcvhwm(1) })
	next(t, "the subscription", subscribed)
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := range n {
			err = errors.Join(err, xpub.Send(context.Background(), append(countedBody(i), make([]byte, 256<<10)...)))
		}
		sent <- err
	}()
	next(t, "the subscriber is at its mark", waits)
	expectCounted(t, sub, n)
	must(t, next(t, "all is sent", sent))
	s.ended()
	if len(polled) > 0 {
		t.Error("it was polled")
	}
}

// offer puts v into c if there is room.
func offer[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}
