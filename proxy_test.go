package zmqgrace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

func init() {
	children["broker"] = brokerAsChild
	children["broker's worker"] = workerAsChild
}

const (
	backendVariable = "ZMQGRACE_TEST_BACKEND" // where a worker finds its broker
	workVariable    = "ZMQGRACE_TEST_WORK"    // how long a request takes
)

// newBroker makes r a broker: clients in front, workers at the back.
func newBroker(r *Runner, frontOpts ...SocketOption) (front, back *Socket, err error) {
	front, err = r.NewSocket(zmq4.ROUTER, append([]SocketOption{WithName("front")}, frontOpts...)...)
	if err != nil {
		return nil, nil, err
	}
	back, err = r.NewSocket(zmq4.DEALER, WithName("back"))
	if err != nil {
		return nil, nil, err
	}
	return front, back, errors.Join(front.Bind("tcp://127.0.0.1:*"), back.Bind("tcp://127.0.0.1:*"), r.Proxy(front, back))
}

// brokerAsChild says "front" and "back" with their endpoints, and "returned" with the outcome.
func brokerAsChild() {
	r, err := New(briefly, WithDrainLimit(time.Second)) // requests that are older than that are given up, on a busy machine, too
	check(err)
	front, back, err := newBroker(r)
	check(err)
	say("front", front.Endpoint())
	say("back", back.Endpoint())
	err = r.Run(context.Background(), nil)
	text, err2 := json.Marshal(r.Report().Sockets)
	check(err2)
	say("error", err)
	say("returned", string(text))
}

// workerAsChild is a REP that answers after a while. It says "busy" with every request.
func workerAsChild() {
	work, err := time.ParseDuration(os.Getenv(workVariable))
	check(err)
	ctx, err := zmq4.NewContext()
	check(err)
	s, err := ctx.NewSocket(zmq4.REP)
	check(err)
	check(s.Connect(os.Getenv(backendVariable)))
	for {
		m, err := s.RecvMessage(0)
		check(err)
		say("busy", m)
		time.Sleep(work)
		_, err = s.SendMessage(m)
		check(err)
	}
}

func startWorker(t testing.TB, back string, work time.Duration) *process {
	t.Helper()
	return startChild(t, "broker's worker", backendVariable+"="+back, workVariable+"="+work.String())
}

// hasty are clients that never pause: each has one request on its way all the time.
type hasty struct {
	all      sync.WaitGroup
	sent     atomic.Int64
	answered atomic.Int64
	over     atomic.Bool // the server has ended: no answer for a moment means that none will come
}

func newHasty(t testing.TB, n int, endpoint string) *hasty {
	h := new(hasty)
	clients := dials(t, n, zmq4.REQ, endpoint)
	t.Cleanup(h.end)
	for c, s := range clients {
		must(t, s.SetRcvtimeo(100*ms))
		h.all.Go(func() {
			for i := 0; ; i++ {
				body := fmt.Sprint(c, "/", i)
				if _, err := s.SendMessage(body); err != nil {
					t.Errorf("client %d: %v", c, err)
					return
				}
				h.sent.Add(1)
				for {
					over := h.over.Load()
					m, err := s.RecvMessage(0)
					if err == nil {
						if len(m) != 1 || m[0] != body {
							t.Errorf("the answer to %q is %q", body, m)
						}
						h.answered.Add(1)
						break
					}
					if over {
						return
					}
				}
			}
		})
	}
	return h
}

// end waits for the answers that are on their way when the server has ended.
func (h *hasty) end() {
	h.over.Store(true)
	h.all.Wait()
}

func TestABrokerAnswersAllThatEnteredWhenItEnds(t *testing.T) {
	t.Parallel()
	broker := startChild(t, "broker")
	front, back := broker.expect("front"), broker.expect("back")
	for range 3 {
		startWorker(t, back, 5*ms)
	}
	clients := newHasty(t, 4, front)
	enough := int64(sized(1000))
	until(t, "the broker works", func() bool { return clients.answered.Load() > enough })
	asked := time.Now()
	broker.signal(syscall.SIGTERM)
	if err := broker.expect("error"); err != "<nil>" {
		t.Errorf("Run returned %v", err)
	}
	took := time.Since(asked)
	var rep []struct{ Received, Handled, Drained, Sent int } // the types have no way back from their names
	must(t, json.Unmarshal([]byte(broker.expect("returned")), &rep))
	broker.exit()
	clients.end()
	f, b := rep[0], rep[1]
	sent, answered := int(clients.sent.Load()), int(clients.answered.Load())
	t.Logf("%d requests, %d answered; the end took %v and drained %d", sent, answered, took, f.Drained)
	if f.Received != f.Handled || f.Handled != f.Sent || f.Sent != answered || b.Received != answered || sent-answered > 4 || f.Drained == 0 {
		t.Errorf("%d requests, %d answered, the report is %+v", sent, answered, rep)
	}
	if took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
}

// What it gave up before the end was asked for has failed; what it gives up in the drain makes the end incomplete.
func TestABrokerCountsWhatAKilledWorkerHadAndDoesNotWaitForIt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		limit time.Duration
		ago   time.Duration // that the worker was killed, when the end begins
	}{
		{"long ago", time.Second, 1500 * ms},
		{"just now", 3 * time.Second, 0}, // however slowly the other worker starts
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly, WithDrainLimit(test.limit))
			front, back, err := newBroker(r)
			must(t, err)
			s := start(t, r, nil)
			victim := startWorker(t, back.Endpoint(), time.Hour)
			lost := dial(t, zmq4.REQ, front.Endpoint())
			_, err = lost.SendMessage("lost")
			must(t, err)
			victim.expect("busy")
			must(t, victim.Process.Kill())
			victim.exit()
			// The others work on.
			startWorker(t, back.Endpoint(), 0)
			client := dial(t, zmq4.REQ, front.Endpoint())
			for range 10 {
				request(t, client, "hello")
			}
			time.Sleep(test.ago)
			asked := time.Now()
			rep, err := s.end()
			took := time.Since(asked)
			front0 := rep.Sockets[0]
			if test.ago > 0 && (err != nil || front0.Failed != 1) || test.ago == 0 && (err == nil || front0.Abandoned != 1) ||
				front0.Handled != 10 || rep.Busy {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
			if test.ago > 0 && took > test.limit || took > test.limit+2*time.Second {
				t.Errorf("the end took %v", took)
			}
		})
	}
}

func TestABrokerThatNobodyWorksForAbandonsItsRequestsAtTheHardEnd(t *testing.T) {
	t.Parallel()
	const grace = 600 * ms
	r := newTestRunner(t, briefly, WithGrace(grace), WithLinger(100*ms))
	front, _, err := newBroker(r)
	must(t, err)
	s := start(t, r, nil)
	client := dial(t, zmq4.DEALER, front.Endpoint())
	for range 3 {
		_, err := client.SendMessage("hello")
		must(t, err)
	}
	until(t, "the requests are there", func() bool { return r.Report().Sockets[0].Received == 3 })
	rep, err := s.end()
	e := incomplete(t, err)
	if rep.Sockets[0].Abandoned != 3 || len(e.Sockets) != 2 || e.Sockets[0].Name != "front" || e.Sockets[1].Unsent != 3 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestABrokerForgetsWhatAGoneClientAskedFor(t *testing.T) {
	r := newTestRunner(t, briefly)
	front, back, err := newBroker(r)
	must(t, err)
	s := start(t, r, nil)
	ctx, err := zmq4.NewContext()
	must(t, err)
	client, err := ctx.NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, client.Connect(front.Endpoint()))
	const n = 100
	for i := range n {
		tell(t, client, "", i)
	}
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	var request []string
	for range n {
		request, err = worker.RecvMessage(0)
		must(t, err)
	}
	must(t, errors.Join(client.SetLinger(0), client.Close(), ctx.Term()))
	for answers := 1; front.report().Unroutable == 0; answers++ { // until the broker knows that the client is gone
		tell(t, worker, request)
		until(t, "the broker has dealt with the answer", func() bool {
			c := front.report()
			return c.Sent+c.Unroutable == answers
		})
	}
	// The answers to the others never come, and nobody waits for them.
	asked := time.Now()
	rep, err := s.end()
	if took := time.Since(asked); err != nil || rep.Sockets[0].Handled+rep.Sockets[0].Failed != n || rep.Sockets[0].Handled == n || took > 2*time.Second {
		t.Errorf("after %v Run returned %v, the report is %v", took, err, rep)
	}
}

func TestABrokerNeverCountsBelowZero(t *testing.T) {
	r := newTestRunner(t, briefly)
	front, back, err := newBroker(r)
	must(t, err)
	s := start(t, r, nil)
	worker, client := dial(t, zmq4.DEALER, back.Endpoint()), dial(t, zmq4.DEALER, front.Endpoint())
	for range 2 {
		_, err = client.SendMessage("", "hello")
		must(t, err)
		m, err := worker.RecvMessage(0)
		must(t, err)
		for range 3 { // more than was asked for
			_, err := worker.SendMessage(m)
			must(t, err)
			if _, err := client.RecvMessage(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Neither is one frame alone an answer, nor what is meant for nobody.
	for _, m := range [][]string{{"nobody"}, {"nobody", "", "hello"}, {""}} {
		_, err := worker.SendMessage(m)
		must(t, err)
	}
	until(t, "the last is there", func() bool { return r.Report().Sockets[1].Received == 9 })
	if got := r.Report().Sockets[0]; got.Received != 2 || got.Handled != 2 || got.InFlight != 0 {
		t.Errorf("the front reports %+v", got)
	}
	rep := s.ended()
	if got := rep.Sockets[1]; got.Handled != 9 {
		t.Errorf("the back reports %+v", got)
	}
}

func TestABrokerWaitsForWhatIsWithAWorker(t *testing.T) {
	r := newTestRunner(t, briefly)
	front, back, err := newBroker(r)
	must(t, err)
	s := start(t, r, nil)
	worker, client := dial(t, zmq4.DEALER, back.Endpoint()), dial(t, zmq4.REQ, front.Endpoint())
	_, err = client.SendMessage("hello")
	must(t, err)
	m, err := worker.RecvMessage(0)
	must(t, err)
	until(t, "it is in flight", func() bool { return r.Report().Sockets[0].InFlight == 1 }) // counted when it has left
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	time.Sleep(200 * ms) // ten times the quiet time
	_, err = worker.SendMessage(m)
	must(t, err)
	if answer, err := client.RecvMessage(0); err != nil || answer[0] != "hello" {
		t.Errorf("the answer is %q, %v", answer, err)
	}
	rep, err := s.returned()
	if got := rep.Sockets[0]; err != nil || got.Handled != 1 || got.Drained != 1 || rep.Sockets[1].Drained != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestABrokersLateAnswersClientsThatNeverPause(t *testing.T) {
	r := newTestRunner(t, WithDrainQuiet(200*ms))
	front, back, err := newBroker(r, WithLate(func(_ context.Context, m *Message) error {
		return m.Reply([]byte("late"))
	}))
	must(t, err)
	s := start(t, r, nil)
	serveEcho(t, 3, back.Endpoint(), ms)
	var all sync.WaitGroup
	var served, late atomic.Int64
	for _, c := range dials(t, 4, zmq4.REQ, front.Endpoint()) {
		all.Go(func() {
			for {
				switch request(t, c, "hello")[0] {
				case "hello":
					served.Add(1)
				case "late": // it would go elsewhere
					late.Add(1)
					return
				}
			}
		})
	}
	until(t, "the broker works", func() bool { return served.Load() > 100 })
	rep, err := s.end()
	all.Wait()
	got := rep.Sockets[0]
	if err != nil || got.Rejected != 4 || late.Load() != 4 || int(served.Load()) != got.Handled || got.Failed != 0 || rep.Busy {
		t.Errorf("%d were served, %d late; Run returned %v, the report is %v", served.Load(), late.Load(), err, rep)
	}
}

// newForwarder makes r a forwarder of publications.
func newForwarder(t testing.TB, r *Runner, mark int) (front, back *Socket) {
	t.Helper()
	front, err := r.NewSocket(zmq4.XSUB)
	must(t, err)
	back, err = r.NewSocket(zmq4.XPUB)
	must(t, err)
	must(t, errors.Join(front.Raw().SetRcvhwm(mark), back.Raw().SetSndhwm(mark)))
	must(t, errors.Join(front.Bind("tcp://127.0.0.1:*"), back.Bind("tcp://127.0.0.1:*"), r.Proxy(front, back)))
	return front, back
}

func subscribeTo(topic string) func(*zmq4.Socket) error {
	return func(s *zmq4.Socket) error { return s.SetSubscribe(topic) }
}

func TestAForwarderPassesSubscriptionsAndLosesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		mark int
	}{
		{"marks above the number of messages", 20_000},
		{"small marks", 100}, // behind a proxy a subscriber that reads is waited for
	} {
		t.Run(test.name, func(t *testing.T) {
			const messages = 10_000
			r := newTestRunner(t, briefly)
			front, back := newForwarder(t, r, test.mark)
			s := start(t, r, nil)
			pub := dial(t, zmq4.XPUB, front.Endpoint())
			sub := dial(t, zmq4.SUB, back.Endpoint(), subscribeTo("a"))
			if m, err := pub.RecvMessage(0); err != nil || m[0] != "\x01a" {
				t.Fatalf("the publisher received %q, %v", m, err)
			}
			go func() {
				for i := range messages {
					if _, err := pub.SendMessage("a", i); err != nil {
						t.Errorf("publish: %v", err)
					}
					if i%10 == 0 {
						pub.SendMessage("b", i) // nobody wants that
					}
				}
			}()
			for i := range messages {
				if m, err := sub.RecvMessage(0); err != nil || m[0] != "a" || m[1] != fmt.Sprint(i) {
					t.Fatalf("message %d is %q, %v", i, m, err)
				}
			}
			must(t, sub.SetUnsubscribe("a"))
			if m, err := pub.RecvMessage(0); err != nil || m[0] != "\x00a" {
				t.Errorf("the publisher received %q, %v", m, err)
			}
			rep := s.ended()
			if f, b := rep.Sockets[0], rep.Sockets[1]; f.Handled != messages || b.Sent != messages || b.Received != 2 || f.Sent != 2 {
				t.Errorf("the report is %v", rep)
			}
		})
	}
}

func TestAForwarderEndsInTheMiddleOfItsStreamWithAllThatItReceived(t *testing.T) {
	r := newTestRunner(t, briefly)
	front, back := newForwarder(t, r, 1000)
	s := start(t, r, nil)
	pub := dial(t, zmq4.XPUB, front.Endpoint())
	sub := dial(t, zmq4.SUB, back.Endpoint(), subscribeTo(""))
	if _, err := pub.RecvMessage(0); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; !isClosed(stop); i++ {
			pub.SendMessage(i)
			if i%100 == 0 {
				time.Sleep(ms) // a stream, not a flood
			}
		}
	}()
	ended := make(chan Report, 1)
	received := 0
	var rep *Report
	until(t, "all that was sent is there", func() bool {
		for {
			m, err := sub.RecvMessage(zmq4.DONTWAIT)
			if err != nil {
				break
			}
			if m[0] != fmt.Sprint(received) {
				t.Fatalf("message %d is %q", received, m)
			}
			if received++; received == 2000 {
				go func() {
					rep, err := s.end()
					if err != nil {
						t.Errorf("Run returned %v", err)
					}
					ended <- rep
				}()
			}
		}
		if rep == nil && len(ended) > 0 {
			got := <-ended
			rep = &got
		}
		return rep != nil && received >= rep.Sockets[1].Sent
	})
	close(stop)
	<-stopped
	if f, b := rep.Sockets[0], rep.Sockets[1]; f.Received != f.Handled || f.Handled != b.Sent || b.Sent != received || rep.Busy {
		t.Errorf("%d were received, the report is %v", received, rep)
	}
}

func TestASubscriberThatDoesNotReadHoldsAForwarderForASecond(t *testing.T) {
	t.Parallel()
	const messages = 400
	r := newTestRunner(t, briefly)
	front, back := newForwarder(t, r, 10)
	s := start(t, r, nil)
	pub := dial(t, zmq4.XPUB, front.Endpoint())
	sub := dial(t, zmq4.SUB, back.Endpoint(), subscribeTo("reads"))
	if _, err := pub.RecvMessage(0); err != nil {
		t.Fatal(err)
	}
	frozen := dial(t, zmq4.SUB, back.Endpoint(), subscribeTo(""), func(s *zmq4.Socket) error { return s.SetRcvhwm(1) })
	if _, err := pub.RecvMessage(0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	go func() {
		body := make([]byte, 64<<10)
		for i := range messages {
			if _, err := pub.SendMessage("reads", i, body); err != nil {
				t.Errorf("publish: %v", err)
			}
		}
	}()
	// What is lost is lost to the one that does not read, and perhaps, once nobody is waited for, to this one.
	if m, err := sub.RecvMessage(0); err != nil || m[1] != "0" {
		t.Fatalf("the first message is %q, %v", m[:2], err)
	}
	until(t, "all is forwarded", func() bool {
		for {
			if _, err := sub.RecvMessage(zmq4.DONTWAIT); err != nil {
				break
			}
		}
		return r.Report().Sockets[1].Sent == messages
	})
	took := time.Since(began)
	t.Logf("it took %v", took)
	if took < peerPatience || took > 4*peerPatience {
		t.Errorf("it took %v, a subscriber is waited for %v", took, peerPatience)
	}
	// The linger would wait for it, were it not gone.
	must(t, errors.Join(frozen.SetLinger(0), frozen.Close()))
	if m, err := pub.RecvMessage(0); err != nil || m[0] != "\x00" {
		t.Errorf("the publisher received %q, %v", m, err)
	}
	s.ended()
}

func TestAStreamerLosesNothing(t *testing.T) {
	const messages = 3000
	filler := make([]byte, 16<<10) // that is 48 MB, more than the kernel and the marks take
	r := newTestRunner(t, WithDrainQuiet(100*ms))
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	must(t, r.Proxy(pull, push))
	s := start(t, r, nil)
	source := dial(t, zmq4.PUSH, pull.Endpoint())
	sink := dial(t, zmq4.PULL, push.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvhwm(10) })
	for i := range messages {
		_, err := source.SendMessage(filler, i)
		must(t, err)
	}
	for i := range messages {
		if m, err := sink.RecvMessage(0); err != nil || len(m) != 2 || m[1] != fmt.Sprint(i) {
			t.Fatalf("message %d is %q, %v", i, m, err)
		}
		if i == messages/10 {
			go s.Shutdown(context.Background())
		}
	}
	rep, err := s.returned()
	if in, out := rep.Sockets[0], rep.Sockets[1]; err != nil || in.Handled != messages || out.Sent != messages || in.Drained == 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestProxyTakesOnlyWhatMakesAPair(t *testing.T) {
	r, other := newTestRunner(t, briefly), newTestRunner(t)
	made := func(r *Runner, typ zmq4.Type) *Socket {
		s, err := r.NewSocket(typ)
		must(t, err)
		return s
	}
	router, dealer, pull := made(r, zmq4.ROUTER), made(r, zmq4.DEALER), made(r, zmq4.PULL)
	handled := made(r, zmq4.ROUTER)
	handled.Handle(echo)
	closed := made(r, zmq4.ROUTER)
	must(t, closed.Close())
	lateBack, err := r.NewSocket(zmq4.DEALER, WithLate(echo))
	must(t, err)
	for _, test := range []struct {
		name        string
		front, back *Socket
	}{
		{"nil in front", nil, dealer},
		{"nil at the back", router, nil},
		{"itself", router, router},
		{"a stranger", made(other, zmq4.ROUTER), dealer},
		{"the wrong way round", dealer, router},
		{"no pair", pull, dealer},
		{"one with a handler", handled, dealer},
		{"a closed one", closed, dealer},
		{"answers that go to Late", router, lateBack},
	} {
		if err := r.Proxy(test.front, test.back); err == nil || !strings.Contains(err.Error(), "proxy") {
			t.Errorf("%s: Proxy returned %v", test.name, err)
		}
	}
	must(t, r.Proxy(router, dealer)) // nothing was left of the attempts
	if err := r.Proxy(made(r, zmq4.ROUTER), dealer); err == nil {
		t.Error("a socket is in two proxies")
	}
	pull.Handle(echo)
	late, back := made(r, zmq4.PULL), made(r, zmq4.PUSH)
	s := run(t, r, echo)
	until(t, "the Runner runs", func() bool { return r.Phase() == Running })
	if err := r.Proxy(late, back); err == nil {
		t.Error("a proxy was registered while the Runner ran")
	}
	s.ended()
}

func TestABrokerIsBusyWhereItLeavesRequestsUnread(t *testing.T) {
	t.Parallel()
	const limit = 600 * ms
	r := newTestRunner(t, WithDrainQuiet(200*ms), WithDrainLimit(limit))
	front, back, err := newBroker(r)
	must(t, err)
	s := start(t, r, nil)
	// One request has no answer, so there is quiet while the drain, past its limit, waits for it with the front shut.
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	var over atomic.Bool
	var working sync.WaitGroup
	working.Go(func() {
		for !over.Load() {
			if m, err := worker.RecvMessage(zmq4.DONTWAIT); err != nil {
				time.Sleep(ms)
			} else if m[2] != "never" {
				worker.SendMessage(m)
			}
		}
	})
	t.Cleanup(func() { over.Store(true); working.Wait() })
	clients := newHasty(t, 2, front.Endpoint())
	until(t, "the broker works", func() bool { return clients.answered.Load() > 20 })
	never := dial(t, zmq4.REQ, front.Endpoint())
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	time.Sleep(limit / 2)
	_, err = never.SendMessage("never")
	must(t, err)
	rep, err := s.returned()
	clients.end()
	if unanswered := clients.sent.Load() - clients.answered.Load(); err == nil || unanswered == 0 || rep.Sockets[0].Abandoned != 1 || !rep.Busy {
		t.Errorf("%d requests were left unread; Run returned %v, the report is %v", unanswered, err, rep)
	}
}

func TestABrokerIsBusyWhereTheHardEndFindsRequestsUnread(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(100*ms), WithDrainLimit(100*ms), WithGrace(time.Second))
	// Something else keeps the drain up to the hard end.
	front, back, err := newBroker(r, WithGoodbye(func(ctx context.Context, _ *Socket) error { <-ctx.Done(); return nil }))
	must(t, err)
	s := start(t, r, nil)
	worker := startWorker(t, back.Endpoint(), 0)
	go func() {
		for range worker.lines { // that it is busy
		}
	}()
	clients := newHasty(t, 2, front.Endpoint())
	until(t, "the broker works", func() bool { return clients.answered.Load() > 20 })
	rep, err := s.end()
	clients.end()
	if unanswered := clients.sent.Load() - clients.answered.Load(); err == nil || unanswered == 0 || !rep.Busy {
		t.Errorf("%d requests were left unread; Run returned %v, the report is %v", unanswered, err, rep)
	}
}

// What one broker has taken waits before the next one, when nothing more is taken from the clients.
func TestBrokersInARowAnswerWhatTheFirstHasTaken(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, WithDrainQuiet(100*ms), WithDrainLimit(500*ms))
			front, inner := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*"), bound(t, r, zmq4.ROUTER, "inproc://inner")
			outer, back := connected(t, r, zmq4.DEALER, "inproc://inner"), bound(t, r, zmq4.DEALER, "tcp://127.0.0.1:*")
			must(t, errors.Join(r.Proxy(front, outer), r.Proxy(inner, back)))
			s := start(t, r, nil)
			serveEcho(t, 2, back.Endpoint(), 0)
			clients := newHasty(t, 8, front.Endpoint())
			until(t, "the brokers work", func() bool { return clients.answered.Load() > 20 })
			rep := s.ended()
			clients.end()
			if got := clients.answered.Load(); int(got) != rep.Sockets[0].Handled {
				t.Errorf("%d were answered, the report is %v", got, rep)
			}
		})
	}
}

// floodThrough has a publisher that never pauses send what a subscriber takes, and counts it.
func floodThrough(t testing.TB, front, back string) (received *atomic.Int64) {
	t.Helper()
	received = new(atomic.Int64)
	sub := dial(t, zmq4.SUB, back, subscribeTo(""))
	pub := dial(t, zmq4.XPUB, front, func(s *zmq4.Socket) error {
		return errors.Join(s.SetSndhwm(1000), s.SetXpubNodrop(true), s.SetSndtimeo(10*ms))
	})
	_, err := pub.RecvMessage(0)
	must(t, errors.Join(err, sub.SetRcvtimeo(10*ms)))
	var over atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; !over.Load(); i++ {
			pub.Send("x", 0) // EAGAIN is no matter
			if i%1000 == 0 {
				time.Sleep(ms) // so that there are empty moments on a slow machine, too
			}
		}
	})
	all.Go(func() {
		for !over.Load() {
			if _, err := sub.RecvBytes(0); err == nil {
				received.Add(1)
			}
		}
	})
	t.Cleanup(func() { over.Store(true); all.Wait() })
	return received
}

// What one forwarder receives while it ends is to pass the next one, too, though its stream has no end.
func TestForwardersInARowPassOnAllThatTheFirstReceived(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	front, outer := bound(t, r, zmq4.XSUB, "tcp://127.0.0.1:*"), bound(t, r, zmq4.XPUB, "inproc://inner")
	inner, back := connected(t, r, zmq4.XSUB, "inproc://inner"), bound(t, r, zmq4.XPUB, "tcp://127.0.0.1:*")
	must(t, errors.Join(r.Proxy(front, outer), r.Proxy(inner, back)))
	s := start(t, r, nil)
	received := floodThrough(t, front.Endpoint(), back.Endpoint())
	until(t, "the forwarders work", func() bool { return received.Load() > 1000 })
	rep := s.ended()
	n := rep.Sockets[0].Received
	if last := rep.Sockets[3]; last.Sent != n {
		t.Fatalf("of %d that were received %d were passed on, the report is %v", n, last.Sent, rep)
	}
	until(t, "all is there", func() bool { return received.Load() == int64(n) })
}

// emptyInTheDrain waits until a subscriber has had its empty moment: it has read a probe, which the source sends it in some way, and then nothing.
func emptyInTheDrain(t testing.TB, sub *Socket, source *zmq4.Socket) (probes int) {
	t.Helper()
	until(t, "the drain", func() bool { return sub.r.Phase() == Draining })
	var empty atomic.Bool
	sub.r.Every(ms, func(context.Context) error { empty.Store(sub.emptied); return nil })
	until(t, "the subscriber has been empty in the drain", func() bool {
		if empty.Load() {
			return true
		}
		tell(t, source, "probe")
		probes++
		handled := func() bool { return sub.report().Handled >= probes }
		until(t, "the probe is handled", handled)
		return false
	})
	return probes
}

// Nor is it lost where a full outbox behind it pauses a subscriber that has been empty in the drain.
func TestAPausedSubscriberHandlesWhatItsOwnRunnerPublished(t *testing.T) {
	t.Parallel()
	const n, mark = 20, 5
	r := newTestRunner(t, briefly)
	published := make(chan struct{})
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithGoodbye(func(context.Context, *Socket) error { <-published; return nil }))
	pub, sub := bound(t, r, zmq4.PUB, "inproc://events"), connected(t, r, zmq4.SUB, "inproc://events")
	push := marked(t, r, zmq4.PUSH, mark)
	must(t, errors.Join(sub.Raw().SetSubscribe(""), push.Bind("tcp://127.0.0.1:*")))
	pull.Handle(func(ctx context.Context, m *Message) error { return pub.Send(ctx, m.Frames...) })
	sub.Handle(func(ctx context.Context, m *Message) error {
		if string(m.Frames[0]) == "probe" {
			return nil
		}
		return push.Send(ctx, m.Frames...)
	})
	s := start(t, r, nil)
	source := dial(t, zmq4.PUSH, pull.Endpoint())
	go s.Shutdown(context.Background())
	probes := emptyInTheDrain(t, sub, source)
	for i := range n {
		tell(t, source, countedBody(i))
	}
	until(t, "all is published, and the outbox is full", func() bool { return pub.report().Sent == probes+n && push.report().Queued == mark })
	close(published)
	<-time.After(50 * ms) // longer than the quiet time
	expectCounted(t, dial(t, zmq4.PULL, push.Endpoint()), n)
	s.ended()
}

// Nor past the drain limit, where the subscriber is slow.
func TestASlowSubscriberHandlesWhatItsOwnRunnerPublishedPastTheDrainLimit(t *testing.T) {
	t.Parallel()
	const n, work = 20, 5 * ms
	r := newTestRunner(t, briefly, WithDrainLimit(n*work/4))
	published := make(chan struct{})
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithGoodbye(func(context.Context, *Socket) error { <-published; return nil }))
	pub, sub := bound(t, r, zmq4.PUB, "inproc://events"), connected(t, r, zmq4.SUB, "inproc://events")
	must(t, sub.Raw().SetSubscribe(""))
	pull.Handle(func(ctx context.Context, m *Message) error {
		if string(m.Frames[0]) == "probe" {
			return pub.Send(ctx, m.Frames...)
		}
		defer close(published)
		for range n {
			if err := pub.Send(ctx, m.Frames...); err != nil {
				return err
			}
		}
		return nil
	})
	sub.Handle(func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) != "probe" {
			time.Sleep(work)
		}
		return nil
	})
	s := start(t, r, nil)
	source := dial(t, zmq4.PUSH, pull.Endpoint())
	go s.Shutdown(context.Background())
	probes := emptyInTheDrain(t, sub, source)
	tell(t, source, "work")
	if rep := s.ended(); rep.Sockets[2].Handled != probes+n {
		t.Errorf("of %d events and %d probes %d were handled", n, probes, rep.Sockets[2].Handled)
	}
}

// What another socket of the Runner asks may be part of what the Runner has taken elsewhere.
func TestABrokersFrontIsShutPastTheDrainLimitUnlessItsOwnRunnerMayStillAsk(t *testing.T) {
	for _, c := range []struct{ late, ownPeer, outside, later, owed, shut bool }{
		{late: false, shut: false},
		{late: true, shut: true},
		{late: true, ownPeer: true, shut: true}, // there is nothing to ask for
		{late: true, ownPeer: true, owed: true, shut: false},
		{late: true, ownPeer: true, owed: true, later: true, shut: false},
		{late: true, ownPeer: true, owed: true, outside: true, shut: false},
		{late: true, ownPeer: true, owed: true, outside: true, later: true, shut: true},
		{late: true, outside: true, owed: true, shut: true},
	} {
		r := newTestRunner(t)
		l, s := r.loop, &Socket{r: r, ownPeer: c.ownPeer, outside: c.outside, link: &link{front: true, owed: map[string]*owedPeer{}}}
		l.late, l.later, l.sockets = c.late, c.later, []*Socket{s, {r: r, awaiting: c.owed}}
		if got := s.shutFront(); got != c.shut {
			t.Errorf("%+v: it is shut: %v", c, got)
		}
	}
}

// A client of the Runner's own that wants nothing does not keep a broker open for others.
func TestABrokerWithAnIdleClientOfItsOwnRunnerEndsAtTheDrainLimit(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(100*ms), WithDrainLimit(500*ms), WithGrace(2*time.Second))
	front, back, err := newBroker(r)
	must(t, err)
	must(t, front.Bind("inproc://front"))
	connected(t, r, zmq4.DEALER, "inproc://front").Handle(echo)
	s := start(t, r, nil)
	serveEcho(t, 3, back.Endpoint(), ms)
	clients := newHasty(t, 10, front.report().Endpoints[0])
	until(t, "the broker works", func() bool { return clients.answered.Load() > 20 })
	if rep := s.ended(); rep.Sockets[0].Handled != rep.Sockets[0].Received {
		t.Errorf("the report is %v", rep)
	}
	clients.end()
}

// Nor do two brokers each other.
func TestBrokersWithIdleClientsOfTheirOwnRunnerDoNotKeepEachOtherOpen(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainQuiet(100*ms), WithDrainLimit(500*ms), WithGrace(4*time.Second))
	var clients []*hasty
	for i := range 2 {
		front, back, err := newBroker(r)
		must(t, err)
		at, inner := front.Endpoint(), fmt.Sprint("inproc://front", i)
		must(t, front.Bind(inner))
		connected(t, r, zmq4.DEALER, inner).Handle(echo)
		serveEcho(t, 3, back.Endpoint(), ms)
		clients = append(clients, newHasty(t, 10, at))
	}
	s := start(t, r, nil)
	for _, c := range clients {
		until(t, "the broker works", func() bool { return c.answered.Load() > 20 })
	}
	s.ended()
}

// Nor does a publisher of the Runner's own that says nothing.
func TestForwardersWithAnIdlePublisherOfTheirOwnRunnerEndAtTheDrainLimitUnderAStream(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithDrainLimit(50*ms))
	front, outer := bound(t, r, zmq4.XSUB, "tcp://127.0.0.1:*"), bound(t, r, zmq4.XPUB, "inproc://inner")
	inner, back := connected(t, r, zmq4.XSUB, "inproc://inner"), bound(t, r, zmq4.XPUB, "tcp://127.0.0.1:*")
	must(t, errors.Join(r.Proxy(front, outer), r.Proxy(inner, back)))
	at := front.Endpoint()
	must(t, front.Bind("inproc://front"))
	connected(t, r, zmq4.PUB, "inproc://front")
	s := start(t, r, nil)
	floodThrough(t, at, back.Endpoint())
	until(t, "the forwarder works", func() bool { return front.report().Handled > 1000 })
	s.ended()
}

func TestASocketHasAnOwnPeerWhereOneBindsAndTheOtherConnects(t *testing.T) {
	r := newTestRunner(t)
	for _, test := range []struct {
		name    string
		sockets []string // "b" for who binds, "c" for who connects, then the name
		want    []bool
	}{
		{"a pair", []string{"bx", "cx"}, []bool{true, true}},
		{"two that connect to somebody else", []string{"cx", "cx"}, []bool{false, false}},
		{"other names", []string{"bx", "cy"}, []bool{false, false}},
		{"a crowd", []string{"cx", "cx", "bx", "by"}, []bool{true, true, true, false}},
		{"one that nobody knows of", []string{"ax", "cx"}, []bool{true, true}},
		{"one alone that nobody knows of", []string{"ax"}, []bool{false}},
		{"not of the process", []string{"bt", "ct"}, []bool{false, false}},
	} {
		var sockets []*Socket
		for _, what := range test.sockets {
			s := &Socket{r: r}
			endpoint := "inproc://" + what[1:]
			if what[1:] == "t" {
				endpoint = "tcp://127.0.0.1:5555"
			}
			s.noteEndpoint(endpoint, what[0] != 'c', what[0] != 'b')
			sockets = append(sockets, s)
		}
		findOwnPeers(sockets)
		for i, s := range sockets {
			if s.ownPeer != test.want[i] {
				t.Errorf("%s: of socket %d it is %v", test.name, i, s.ownPeer)
			}
		}
	}
}

func TestAProxiedSocketMayBeBoundWhileTheRunnerRuns(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	front, err := r.NewSocket(zmq4.PULL)
	must(t, err)
	back := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
	must(t, r.Proxy(front, back))
	tried := make(chan error, 1)
	r.Every(ms, func(context.Context) error {
		if front.Endpoint() == "" {
			select {
			case tried <- front.Bind("tcp://127.0.0.1:*"):
			default:
			}
		}
		return nil
	})
	s := start(t, r, nil)
	must(t, next(t, "Bind", tried))
	tell(t, dial(t, zmq4.PUSH, front.Endpoint()), "x")
	expectMessage(t, dial(t, zmq4.PULL, back.Endpoint()), "x")
	s.ended()
}

// A client that is never answered, and comes again and again, must not fill the memory.
func TestABrokerForgetsWhatWasAskedLongAgo(t *testing.T) {
	const n = 20 * owedPeers
	r := newTestRunner(t)
	front := bound(t, r, zmq4.ROUTER, "inproc://front")
	must(t, r.Proxy(front, bound(t, r, zmq4.DEALER, "inproc://back")))
	now, most := time.Now(), 0
	for i := range n {
		front.received(1)
		front.account(strconv.Itoa(i), 1, now)
		most = max(most, len(front.link.owed))
		now = now.Add(owedTime / owedPeers)
	}
	c := front.report()
	if most > 2*owedPeers || c.Received != n || c.Failed+c.InFlight != n || c.InFlight != len(front.link.owed) {
		t.Errorf("%d clients are owed something, %d at most; the report is %v", len(front.link.owed), most, c)
	}
	front.link.to.link.to.answered("0", 1) // late
	if late := front.report(); late.Failed != c.Failed || late.Handled != 0 {
		t.Errorf("after a late answer the report is %v", late)
	}
	if front.account("young", 1, now); front.link.owed["young"] == nil || front.link.owed[strconv.Itoa(n-1)] == nil {
		t.Error("the youngest are forgotten")
	}
}

// What the outbox of the other side has no room for stays in libzmq, whose marks then hold the peers back. One is taken all the
// same where others have filled it: that pauses the socket until there is room.
func TestAForwarderTakesNoMoreThanItsOutboxHolds(t *testing.T) {
	t.Parallel()
	const n, mark = 100, 10
	for _, test := range []struct{ sent, taken int }{{0, mark}, {4, mark - 4}, {mark, 1}} {
		t.Run(fmt.Sprintf("%d on the outbox", test.sent), func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly)
			in := bound(t, r, zmq4.PULL, "inproc://in")
			out := marked(t, r, zmq4.PUSH, mark)
			must(t, out.Bind("tcp://127.0.0.1:*"))
			must(t, r.Proxy(in, out))
			push, err := r.Context().NewSocket(zmq4.PUSH)
			must(t, err)
			must(t, push.Connect("inproc://in"))
			for i := range test.sent {
				must(t, out.Send(t.Context(), countedBody(i)))
			}
			for i := range n - test.sent {
				_, err := push.SendBytes(countedBody(test.sent+i), 0)
				must(t, err)
			}
			must(t, push.Close())
			round := rounds(t, r)
			s := start(t, r, nil)
			until(t, "the frontend is paused", in.paused)
			round()
			if got := in.report(); got.Received != test.taken || out.report().Queued != test.sent+test.taken {
				t.Errorf("%d were taken, not %d; the report is %v", got.Received, test.taken, r.Report())
			}
			expectCounted(t, dial(t, zmq4.PULL, out.Endpoint()), n)
			s.ended()
		})
	}
}

// A backend that takes nothing is no empty moment of the frontend: what waits there is backlog, not late.
func TestABrokersBacklogIsNotLateWhereItsWorkersTakeNothing(t *testing.T) {
	t.Parallel()
	const n = 10
	r := newTestRunner(t, briefly)
	front, back, err := newBroker(r, WithLate(sayLate))
	must(t, err)
	must(t, front.Bind("inproc://front"))
	client, err := r.Context().NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, errors.Join(client.SetLinger(0), client.SetRcvtimeo(patience), client.Connect("inproc://front")))
	for i := range n {
		tell(t, client, "", i)
	}
	front.Pause()
	s := start(t, r, nil)
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	front.Resume()
	until(t, "the backlog is taken", func() bool { return front.report().Received == n })
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	for range front.report().InFlight {
		m, err := worker.RecvMessage(0)
		must(t, err)
		tell(t, worker, m)
	}
	for range n {
		if _, err := client.RecvMessage(0); err != nil {
			t.Fatal(err)
		}
	}
	must(t, client.Close())
	if rep := s.ended(); rep.Sockets[0].Handled != n || rep.Sockets[0].Rejected != 0 {
		t.Errorf("the report is %v", rep)
	}
}

// The quiet of a client's broker begins when the answer leaves, however long the worker took for it.
func TestAnAnswerThatPassesABrokerBeginsTheQuietOfItsFrontAnew(t *testing.T) {
	t.Parallel()
	const work, thought, quiet = 300 * ms, 200 * ms, 400 * ms // either is shorter than the quiet time, and both together longer
	r := newTestRunner(t)
	front := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithSocketQuiet(quiet))
	back := bound(t, r, zmq4.DEALER, "tcp://127.0.0.1:*", WithSocketQuiet(0))
	must(t, r.Proxy(front, back))
	s := start(t, r, nil)
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	client := dial(t, zmq4.REQ, front.Endpoint())
	for i := range 3 {
		tell(t, client, i)
		m, err := worker.RecvMessage(0)
		must(t, err)
		if i == 0 {
			go s.Shutdown(context.Background())
		}
		time.Sleep(work)
		tell(t, worker, m)
		expectMessage(t, client, fmt.Sprint(i))
		time.Sleep(thought)
	}
	if rep, err := s.returned(); err != nil || rep.Sockets[0].Handled != 3 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestABrokerWaitsForTheYoungestRequestOfAClientThatAlwaysHasOne(t *testing.T) {
	t.Parallel()
	const limit = 500 * ms
	r := newTestRunner(t, briefly, WithDrainLimit(limit))
	front, back, err := newBroker(r)
	must(t, err)
	s := start(t, r, nil)
	worker, client := dial(t, zmq4.DEALER, back.Endpoint()), dial(t, zmq4.DEALER, front.Endpoint())
	take := func() []string {
		t.Helper()
		m, err := worker.RecvMessage(0)
		must(t, err)
		return m
	}
	tell(t, client, "", "first")
	last := take()
	for began := time.Now(); time.Since(began) < 2*limit; <-time.After(10 * ms) {
		tell(t, client, "", "next")
		following := take()
		tell(t, worker, last)
		_, err := client.RecvMessage(0)
		must(t, err)
		last = following
	}
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	<-time.After(limit / 2) // the worker takes its time
	must(t, client.SetRcvtimeo(2*time.Second))
	tell(t, worker, last)
	if m, err := client.RecvMessage(0); err != nil {
		t.Errorf("the last answer is %q, %v", m, err)
	}
	rep, err := s.returned()
	if got := rep.Sockets[0]; err != nil || got.Handled != got.Received {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestABrokerForgetsWhatAGoneClientAskedForAlsoWhereItWasHeld(t *testing.T) {
	t.Parallel()
	const n = 400
	r := newTestRunner(t, briefly)
	front := marked(t, r, zmq4.ROUTER, 5)
	must(t, front.Bind("tcp://127.0.0.1:*"))
	back := bound(t, r, zmq4.DEALER, "tcp://127.0.0.1:*")
	must(t, r.Proxy(front, back))
	s := start(t, r, nil)
	ctx, err := zmq4.NewContext()
	must(t, err)
	client, err := ctx.NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, errors.Join(client.SetRcvhwm(1), client.SetLinger(0), client.Connect(front.Endpoint())))
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	for range n + 1 { // one stays without an answer
		tell(t, client, "", "hello")
	}
	for i := range n + 1 {
		m, err := worker.RecvMessage(0)
		must(t, err)
		if i < n {
			tell(t, worker, m, make([]byte, 64<<10))
		}
	}
	until(t, "all answers have come, and some are held", func() bool { return back.report().Received == n && front.report().Queued > 0 })
	must(t, errors.Join(client.Close(), ctx.Term()))
	until(t, "the broker knows that the client is gone", func() bool { return front.report().Unroutable > 0 })
	asked := time.Now()
	rep, err := s.end()
	if took := time.Since(asked); err != nil || rep.Sockets[0].Failed != 1 || took > 2*time.Second {
		t.Errorf("after %v Run returned %v, the report is %v", took, err, rep)
	}
}

func TestASubscriberThatHasHeldAForwarderIsNotWaitedForAgainAtOnce(t *testing.T) {
	t.Parallel()
	const n = 100
	r := newTestRunner(t, briefly)
	front, back := newForwarder(t, r, 10)
	s := start(t, r, nil)
	pub := dial(t, zmq4.XPUB, front.Endpoint())
	slow := dial(t, zmq4.SUB, back.Endpoint(), subscribeTo(""), func(s *zmq4.Socket) error {
		return errors.Join(s.SetRcvhwm(1), s.SetRcvtimeo(300*ms))
	})
	_, err := pub.RecvMessage(0)
	must(t, err)
	body := make([]byte, 256<<10)
	publish := func(sum int) time.Duration {
		t.Helper()
		began := time.Now()
		for i := range n {
			tell(t, pub, i, body)
		}
		until(t, "all is forwarded", func() bool { return back.report().Sent == sum })
		return time.Since(began)
	}
	if took := publish(n); took < peerPatience {
		t.Errorf("a subscriber that does not read was waited for %v", took)
	}
	read := 0
	for ; ; read++ { // it reads what it was sent, and then stops again
		if _, err := slow.RecvMessage(0); err != nil {
			break
		}
	}
	took := publish(2 * n)
	t.Logf("it read %d; then %d took %v", read, n, took)
	if took >= peerPatience {
		t.Errorf("it was waited for again, %v", took)
	}
	must(t, errors.Join(slow.SetLinger(0), slow.Close()))
	if m, err := pub.RecvMessage(0); err != nil || m[0] != "\x00" { // the linger would wait for it, were it not gone
		t.Errorf("the publisher received %q, %v", m, err)
	}
	s.ended()
}
