package zmqgrace

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// greedy is a client that asks for much and reads little: its own marks are low.
func greedy(t testing.TB, endpoint, id string) *zmq4.Socket {
	t.Helper()
	return dial(t, zmq4.DEALER, endpoint, func(s *zmq4.Socket) error {
		return errors.Join(s.SetIdentity(id), s.SetRcvhwm(1))
	})
}

// fountain is a handler that answers "flood" with n messages of that size, which count from 0, and anything else with itself.
func fountain(n, size int) Handler {
	return func(ctx context.Context, m *Message) error {
		if string(m.Frames[0]) != "flood" {
			return m.Reply(m.Frames...)
		}
		for i := range n {
			if err := m.Socket.Send(ctx, m.Envelope()[0], append(countedBody(i), make([]byte, size)...)); err != nil {
				return err
			}
		}
		return nil
	}
}

// lowRouter is a bound ROUTER with a small send high-water mark.
func lowRouter(t testing.TB, r *Runner) *Socket {
	t.Helper()
	s := marked(t, r, zmq4.ROUTER, 5)
	must(t, s.Bind("tcp://127.0.0.1:*"))
	return s
}

// atItsMark waits until a flood, the first thing that the ROUTER sends, has got stuck.
func atItsMark(t testing.TB, router *Socket) {
	t.Helper()
	until(t, "the peer is at its mark", func() bool {
		rep := router.report() // Sent is counted when as much as goes has gone
		return rep.Sent > 0 && rep.Queued > 0
	})
}

func TestABurstOfRepliesLosesNoneAtTheDefaultMarks(t *testing.T) {
	t.Parallel()
	const n = 10_000
	r := newTestRunner(t)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	s := start(t, r, func(_ context.Context, m *Message) error {
		return m.Reply(append(m.Frames[0], make([]byte, 1024)...))
	})
	client := dial(t, zmq4.DEALER, router.Endpoint())
	for i := range n {
		_, err := client.SendBytes(countedBody(i), 0)
		must(t, err)
	}
	until(t, "the server is at it", func() bool { return router.report().Handled > 1000 })
	go s.Shutdown(context.Background())
	expectCounted(t, client, n)
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Sent != n || rep.Sockets[0].Dropped != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestAPeerAtItsMarkHoldsNobodyUpAndGetsItsOwnWhenItReads(t *testing.T) {
	t.Parallel()
	const n, size = 400, 64 << 10
	r := newTestRunner(t, briefly, WithPollTimeout(-1)) // what is held is tried again all the same
	router := lowRouter(t, r)
	s := start(t, r, fountain(n, size))
	slow := greedy(t, router.Endpoint(), "slow")
	tell(t, slow, "flood")
	atItsMark(t, router)
	client := dial(t, zmq4.REQ, router.Endpoint())
	for range 20 {
		request(t, client, "are you there?")
	}
	if rep := router.report(); rep.Queued == 0 && rep.Dropped == 0 {
		t.Fatal("the peer was not at its mark any more: the test shows nothing")
	}
	expectCounted(t, slow, n)
	if rep := s.ended(); rep.Sockets[0].Dropped != 0 || rep.Sockets[0].Sent != n+20 {
		t.Errorf("the report is %v", rep)
	}
}

func TestWhatAPeerTakesNothingOfForASecondIsDroppedAndCounted(t *testing.T) {
	t.Parallel()
	const n, size = 400, 64 << 10
	r := newTestRunner(t, briefly)
	router := lowRouter(t, r)
	s := start(t, r, fountain(n, size))
	slow := greedy(t, router.Endpoint(), "slow")
	begin := time.Now()
	tell(t, slow, "flood")
	client := dial(t, zmq4.REQ, router.Endpoint())
	until(t, "what the peer is owed is dropped", func() bool {
		request(t, client, "are you there?")
		return router.report().Dropped > 0
	})
	if took := time.Since(begin); took < peerPatience {
		t.Errorf("it was dropped after %v", took)
	}
	until(t, "nothing is held any more", func() bool { return router.report().Queued == 0 })
	rep := router.report()
	// What comes while it takes nothing is dropped at once: it had its second.
	var clock stallWatch
	watched := make(chan struct{})
	go clock.watch(watched)
	begin = time.Now()
	tell(t, slow, "hello")
	until(t, "the next is dropped too", func() bool { return router.report().Dropped > rep.Dropped })
	took := time.Since(begin)
	close(watched)
	if took-clock.longest() > peerPatience/2 {
		t.Errorf("the next was held anew, for %v", took)
	}
	dropped := router.report().Dropped
	// What libzmq had taken arrives; from then on the peer is like any other.
	for i := range n - rep.Dropped {
		m, err := slow.RecvMessageBytes(0)
		if err != nil || int(binary.BigEndian.Uint32(m[0])) != i {
			t.Fatalf("message %d of %d is %.20q, %v", i, n-rep.Dropped, m, err)
		}
	}
	if got := request(t, slow, "hello again"); got[0] != "hello again" {
		t.Errorf("the answer is %q", got)
	}
	tell(t, slow, "flood")
	expectCounted(t, slow, n)
	// Dropped before the end was asked for: that is no reason to call the end incomplete.
	if rep := s.ended(); rep.Sockets[0].Dropped != dropped {
		t.Errorf("the report is %v", rep)
	}
}

func TestAPeerIsHeldNoMoreThan64MiB(t *testing.T) {
	t.Parallel()
	const n, size = 90, 1 << 20
	r := newTestRunner(t, briefly, WithLinger(100*ms))
	router := lowRouter(t, r)
	answered := make(chan time.Time, 1)
	s := start(t, r, func(ctx context.Context, m *Message) error {
		defer func() {
			if len(m.Frames[0]) == len("flood") {
				answered <- time.Now()
			}
		}()
		return fountain(n, size)(ctx, m)
	})
	slow := greedy(t, router.Endpoint(), "slow")
	tell(t, slow, "flood")
	begin := next(t, "the flood", answered)
	until(t, "it is dropped", func() bool { return router.report().Dropped > 0 })
	if took := time.Since(begin); took >= peerPatience {
		t.Errorf("it was dropped only after %v", took)
	}
	client := dial(t, zmq4.REQ, router.Endpoint())
	request(t, client, "are you there?")
	until(t, "all has been sent or dropped", func() bool {
		rep := router.report()
		return rep.Queued == 0 && rep.Sent+rep.Dropped == n+1
	})
	s.end() // what libzmq has taken for the peer stays where it is
}

func TestASlowPeerInTheDrainGetsASecondAndTheRestIsReported(t *testing.T) {
	t.Parallel()
	for _, linger := range []time.Duration{1500 * ms, 50 * ms} { // the second is over first, or the linger, with all still held
		t.Run(linger.String(), func(t *testing.T) {
			t.Parallel()
			const n, size = 400, 64 << 10
			r := newTestRunner(t, briefly, WithLinger(linger))
			router := lowRouter(t, r)
			s := start(t, r, fountain(n, size))
			slow := greedy(t, router.Endpoint(), "slow")
			tell(t, slow, "flood")
			atItsMark(t, router)
			asked := time.Now()
			rep, err := s.end()
			e := incomplete(t, err)
			if took := time.Since(asked); took > 3*time.Second {
				t.Errorf("Run returned after %v", took)
			}
			if c := rep.Sockets[0]; c.Dropped+c.Unsent == 0 || c.Sent+c.Dropped+c.Unsent != n || c.Queued != 0 || len(e.Sockets) != 1 {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestASlowPeerThatReadsInTheFlushGetsEverything(t *testing.T) {
	t.Parallel()
	const n, size = 400, 64 << 10
	r := newTestRunner(t, briefly)
	router := lowRouter(t, r)
	s := start(t, r, fountain(n, size))
	slow := greedy(t, router.Endpoint(), "slow")
	tell(t, slow, "flood")
	atItsMark(t, router)
	go s.Shutdown(context.Background())
	until(t, "the flush has begun", func() bool { return s.Phase() == Closing || router.report().Dropped > 0 })
	expectCounted(t, slow, n)
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Sent != n {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestWhatARouterHoldsForASocketOfItsOwnRunnerIsHandledBeforeTheEnd(t *testing.T) {
	t.Parallel()
	const n = 100
	r := newTestRunner(t, WithDrainQuiet(0))
	router := marked(t, r, zmq4.ROUTER, 1)
	must(t, router.Bind("inproc://front"))
	router.Handle(func(context.Context, *Message) error { return nil })
	dealer, err := r.NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, errors.Join(dealer.Raw().SetRcvhwm(1), dealer.Raw().SetIdentity("stage"), dealer.Connect("inproc://front")))
	handled := 0
	dealer.Handle(func(context.Context, *Message) error { handled++; return nil })
	left := n
	r.Every(ms, func(ctx context.Context) error { // which never waits for room
		for ; left > 0; left-- {
			if err := router.Send(ctx, []byte("stage"), []byte("x")); err != nil {
				return err
			}
		}
		return r.Shutdown(ctx)
	})
	if err := r.Run(context.Background(), nil); handled != n || err != nil {
		t.Errorf("of %d messages %d were handled, Run returned %v, the report is %v", n, handled, err, r.Report())
	}
}

func TestWhatGoesToNobodyIsUnroutable(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	s := start(t, r, echo)
	for range 3 {
		must(t, router.Send(t.Context(), frames("nobody", "hello")...))
	}
	until(t, "it is counted", func() bool { return router.report().Unroutable == 3 })
	request(t, dial(t, zmq4.REQ, router.Endpoint()), "?")
	if rep := s.ended(); rep.Sockets[0].Unroutable != 3 || rep.Sockets[0].Sent != 1 {
		t.Errorf("the report is %v", rep)
	}
}

func TestAPeerThatGoesAwayIsUnroutableAlsoWhereItWasHeld(t *testing.T) {
	t.Parallel()
	const n, size = 400, 64 << 10
	r := newTestRunner(t, briefly)
	router := lowRouter(t, r)
	s := start(t, r, fountain(n, size))
	slow := greedy(t, router.Endpoint(), "slow")
	tell(t, slow, "flood")
	atItsMark(t, router)
	must(t, slow.SetLinger(0))
	must(t, slow.Close())
	until(t, "it is counted", func() bool { return router.report().Queued == 0 })
	if rep := s.ended().Sockets[0]; rep.Sent+rep.Unroutable != n || rep.Unroutable == 0 {
		t.Errorf("the report is %v", s.Report())
	}
}

// With many peers at their marks, what one holds must not be what another waits for.
func TestManySlowPeersAreHeldEachOnItsOwn(t *testing.T) {
	t.Parallel()
	const n, size, peers = 60, 64 << 10, 8
	r := newTestRunner(t, briefly)
	router := lowRouter(t, r)
	var floods atomic.Int32
	s := start(t, r, func(ctx context.Context, m *Message) error {
		defer floods.Add(1)
		return fountain(n, size)(ctx, m)
	})
	var slow [peers]*zmq4.Socket
	for i := range slow {
		slow[i] = greedy(t, router.Endpoint(), "slow"+string(rune('a'+i)))
		tell(t, slow[i], "flood")
	}
	until(t, "all have been asked", func() bool { return floods.Load() == peers })
	// The last one first, beside those that are held; these not one by one, since each must take something within a second.
	expectCounted(t, slow[peers-1], n)
	var all sync.WaitGroup
	for _, peer := range slow[:peers-1] {
		all.Go(func() { expectCounted(t, peer, n) })
	}
	all.Wait()
	if rep := s.ended(); rep.Sockets[0].Sent != peers*n {
		t.Errorf("the report is %v", rep)
	}
}
