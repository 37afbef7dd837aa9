package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// Servers that say "try another", and clients that do.

func sayLate(_ context.Context, m *Message) error { return m.Reply(m.Frames[0], []byte("late")) }

func sayServed(_ context.Context, m *Message) error { return m.Reply(m.Frames[0], []byte("served")) }

// lateServer serves at an endpoint, and says so when it no longer does.
func lateServer(t testing.TB, endpoint string) (*running, string) {
	t.Helper()
	r := newTestRunner(t, WithDrainQuiet(400*ms)) // the clients are in the same process, which may stand still
	router := bound(t, r, zmq4.ROUTER, endpoint, WithLate(sayLate))
	return start(t, r, sayServed), router.Endpoint()
}

// nomad is a client with a socket for each server and a window of requests, who never pauses. What one server is too
// late for it sends to the other, and it keeps the old socket until all that it sent there is answered.
type nomad struct {
	sockets [2]*zmq4.Socket
	at      int // where it sends
	moves   int
}

// roam has requests answered as long as it is to go on, and returns how many it sent and how many answers came twice. It
// needs no timeout; the one that it has fails the test.
func (c *nomad) roam(goOn func(sent int) bool, answered func()) (sent, twice int, err error) {
	const window = 4
	poller := zmq4.NewPoller()
	for _, s := range c.sockets {
		poller.Add(s, zmq4.POLLIN)
	}
	send := func(id string) error {
		_, err := c.sockets[c.at].SendMessage(id)
		return err
	}
	waiting := make(map[string]bool)
	for {
		for ; goOn(sent) && len(waiting) < window; sent++ {
			id := fmt.Sprint(sent)
			if err := send(id); err != nil {
				return sent, twice, err
			}
			waiting[id] = true
		}
		if len(waiting) == 0 {
			return sent, twice, nil
		}
		ready, err := poller.Poll(patience)
		if err != nil || len(ready) == 0 {
			return sent, twice, fmt.Errorf("%d requests are unanswered: %v", len(waiting), err)
		}
		for _, r := range ready {
			m, err := r.Socket.RecvMessage(0)
			switch {
			case err != nil || len(m) != 2:
				return sent, twice, fmt.Errorf("the answer is %q, %v", m, err)
			case m[1] == "late":
				if r.Socket == c.sockets[c.at] {
					c.at = 1 - c.at
					c.moves++
				}
				if err := send(m[0]); err != nil {
					return sent, twice, err
				}
			case !waiting[m[0]]:
				twice++
			default:
				delete(waiting, m[0])
				answered()
			}
		}
	}
}

func TestClientsThatNeverPauseLoseNothingWhereTheyHeedLate(t *testing.T) {
	const clients = 8
	requests := sized(20_000)
	var servers [2]*running
	var endpoints [2]string
	for i := range servers {
		servers[i], endpoints[i] = lateServer(t, "tcp://127.0.0.1:*")
	}
	ctx, err := zmq4.NewContext()
	must(t, err)
	var all sync.WaitGroup
	var sent, count, twice, moves atomic.Int64
	var restarted atomic.Bool // both servers
	defer restarted.Store(true)
	for range clients {
		var c nomad
		for i := range c.sockets {
			c.sockets[i], err = ctx.NewSocket(zmq4.DEALER)
			must(t, err)
			must(t, errors.Join(c.sockets[i].SetLinger(0), c.sockets[i].SetRcvtimeo(patience), c.sockets[i].Connect(endpoints[i])))
		}
		all.Go(func() {
			defer func() {
				for _, s := range c.sockets {
					s.Close()
				}
			}()
			n, again, err := c.roam(
				func(sent int) bool { return sent < requests/clients || !restarted.Load() },
				func() { count.Add(1) })
			if err != nil {
				t.Error(err)
			}
			sent.Add(int64(n))
			twice.Add(int64(again))
			moves.Add(int64(c.moves))
		})
	}
	// The rolling restart, in the midst of it.
	var rejected, served int
	for i, s := range servers {
		part := int64(requests * (i + 1) / 4)
		until(t, "the clients are at work", func() bool { return count.Load() > part })
		rep := s.ended()
		rejected, served = rejected+rep.Sockets[0].Rejected, served+rep.Sockets[0].Handled
		if rep.Busy || rep.Sockets[0].Failed > 0 {
			t.Errorf("the report is %v", rep)
		}
		servers[i], _ = lateServer(t, endpoints[i])
	}
	restarted.Store(true)
	all.Wait()
	for _, s := range servers {
		rep := s.ended()
		served += rep.Sockets[0].Handled
	}
	must(t, ctx.Term())
	t.Logf("%d requests, %d answered, %d served, %d said to be late in %d moves", sent.Load(), count.Load(), served, rejected, moves.Load())
	if count.Load() != sent.Load() || served != int(sent.Load()) || twice.Load() != 0 || moves.Load() != 2*clients {
		t.Errorf("of %d requests %d were answered, %d served, %d of them twice; %d were late in %d moves",
			sent.Load(), count.Load(), served, twice.Load(), rejected, moves.Load())
	}
}

func TestTheBacklogIsServedBeforeLateAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		typ     zmq4.Type
		workers int
	}{
		{zmq4.ROUTER, 0},
		{zmq4.ROUTER, 1},
		{zmq4.REP, 0},
		{zmq4.REP, 1},
		{zmq4.REP, 4}, // its own turns have empty moments, between a request and its reply
	} {
		t.Run(fmt.Sprintf("%v with %d workers", test.typ, test.workers), func(t *testing.T) {
			const backlog = 20
			r := newTestRunner(t, WithDrainQuiet(300*ms), WithWorkers(test.workers))
			bound(t, r, test.typ, "inproc://here", WithLate(sayLate))
			round := rounds(t, r)
			began, leave := make(chan struct{}, 2*backlog), make(chan struct{})
			s := start(t, r, func(ctx context.Context, m *Message) error {
				began <- struct{}{}
				<-leave
				return sayServed(ctx, m)
			})
			// What is sent over inproc is there at once.
			client, err := r.Context().NewSocket(zmq4.DEALER)
			must(t, err)
			defer client.Close()
			must(t, errors.Join(client.SetLinger(0), client.SetRcvtimeo(patience), client.Connect("inproc://here")))
			for i := range backlog {
				_, err := client.SendMessage("", i)
				must(t, err)
			}
			next(t, "the first request", began)
			go s.Shutdown(context.Background())
			until(t, "the drain", func() bool { return r.Phase() == Draining })
			close(leave)
			for i := range backlog {
				if m, err := client.RecvMessage(0); err != nil || m[1] != fmt.Sprint(i) || m[2] != "served" {
					t.Fatalf("answer %d is %q, %v", i, m, err)
				}
			}
			// That was all. When the loop has seen it, it is late.
			round()
			_, err = client.SendMessage("", "more")
			must(t, err)
			if m, err := client.RecvMessage(0); err != nil || m[2] != "late" {
				t.Errorf("after the backlog the answer is %q, %v", m, err)
			}
			must(t, client.Close())
			rep, err := s.returned()
			if got := rep.Sockets[0]; err != nil || got.Handled != backlog || got.Rejected != 1 {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestPastTheDrainLimitOnlyLateInsistsOnQuietAndNotForLong(t *testing.T) {
	const limit, hardEnd = 2 * time.Second, 10 * time.Second
	asked := time.Now()
	l := &loop{plan: plan{limit: asked.Add(limit), hardEnd: asked.Add(hardEnd)}}
	for _, c := range []struct {
		late        Handler
		quiet, want time.Duration
	}{
		{nil, 500 * ms, limit},
		{echo, 0, limit + peerPatience},
		{echo, 500 * ms, limit + peerPatience + 500*ms},
		{echo, 3 * time.Second, limit + 4*time.Second},
		{echo, 4 * time.Second, limit + 4*time.Second}, // half of what is left
		{echo, math.MaxInt64, limit + 4*time.Second},
	} {
		if got := l.lateEnd(&Socket{late: c.late, quiet: c.quiet}).Sub(asked); got != c.want {
			t.Errorf("with a quiet of %v it insists for %v, not %v", c.quiet, got, c.want)
		}
	}
}

func TestFromTheDrainLimitOnLateAnswersWhereTheBacklogNeverEnds(t *testing.T) {
	const limit = 400 * ms
	r := newTestRunner(t, WithDrainQuiet(200*ms), WithDrainLimit(limit))
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithLate(sayLate))
	s := start(t, r, func(ctx context.Context, m *Message) error {
		time.Sleep(2 * ms) // slower than what comes
		return sayServed(ctx, m)
	})
	var all sync.WaitGroup
	var served, late atomic.Int64
	const clients, window = 4, 10
	for _, c := range dials(t, clients, zmq4.DEALER, router.Endpoint()) {
		all.Go(func() {
			leaving := false
			for waiting := 0; ; waiting-- {
				for ; waiting < window && !leaving; waiting++ {
					if _, err := c.SendMessage("hello"); err != nil {
						t.Error(err)
					}
				}
				if waiting == 0 {
					return
				}
				m, err := c.RecvMessage(0)
				if err != nil {
					t.Error(err)
					return
				}
				if m[1] == "late" {
					late.Add(1)
					leaving = true // for another server
				} else {
					served.Add(1)
				}
			}
		})
	}
	until(t, "the server works", func() bool { return served.Load() > 20 })
	asked := time.Now()
	rep, err := s.end()
	took := time.Since(asked)
	all.Wait()
	got := rep.Sockets[0]
	if err != nil || took < limit || got.Handled != int(served.Load()) || got.Rejected != int(late.Load()) || late.Load() < clients || rep.Busy {
		t.Errorf("%d were served, %d late; after %v Run returned %v, the report is %v", served.Load(), late.Load(), took, err, rep)
	}
}

func TestLateIsNotCalledBeforeTheDrain(t *testing.T) {
	r := newTestRunner(t, briefly, WithReadyDelay(200*ms))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithLate(sayLate))
	s := start(t, r, sayServed)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	request(t, client, "hello")
	go s.Shutdown(context.Background())
	until(t, "the end is announced", func() bool { return r.Phase() == Announced })
	if got := request(t, client, "hello"); got[1] != "served" && r.Phase() == Announced {
		t.Errorf("in the ready delay the answer is %q", got)
	}
	if _, err := s.returned(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestWhatGoesToLateIsRejectedWhateverLateReturns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		late Handler
	}{
		{"nil", func(context.Context, *Message) error { return nil }},
		{"an error", func(context.Context, *Message) error { return errors.New("the test's own") }},
		{"ErrStop", func(context.Context, *Message) error { return ErrStop }},
		{"deferred", func(_ context.Context, m *Message) error {
			time.AfterFunc(50*ms, func() { m.Reply() })
			return ErrDeferred
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newTestRunner(t, WithDrainQuiet(300*ms))
			router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithLate(test.late))
			round := rounds(t, r)
			s := start(t, r, echo)
			client := dial(t, zmq4.DEALER, router.Endpoint())
			request(t, client, "before")
			go s.Shutdown(context.Background())
			until(t, "the drain", func() bool { return r.Phase() == Draining })
			round()
			for range 5 {
				_, err := client.SendMessage("late")
				must(t, err)
			}
			until(t, "all are there", func() bool { return r.Report().Sockets[0].Received == 6 })
			rep, err := s.returned()
			if got := rep.Sockets[0]; err != nil || got.Failed != 0 || got.Abandoned != 0 || got.Rejected != 5 || got.Handled != 1 {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestASocketThatHasOnlyLateIsRefused(t *testing.T) {
	r := newTestRunner(t)
	bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"), WithLate(sayLate))
	if err := r.Run(context.Background(), nil); err == nil || !strings.Contains(err.Error(), `"front"`) {
		t.Errorf("Run returned %v", err)
	}
}

// An empty moment before the drain is none of the drain's.
func TestABacklogBehindAnEmptyMomentBeforeTheDrainIsNotLate(t *testing.T) {
	t.Parallel()
	const n = 10
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "inproc://here", WithLate(sayLate))
	round := rounds(t, r)
	client, err := r.Context().NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, errors.Join(client.SetLinger(0), client.SetRcvtimeo(patience), client.Connect("inproc://here")))
	s := start(t, r, sayServed)
	tell(t, client, "", "first")
	expectMessage(t, client, "", "first", "served")
	round() // the socket is empty, and the loop has seen it
	router.Pause()
	for i := range n {
		tell(t, client, "", i)
	}
	go s.Shutdown(context.Background())
	until(t, "the drain", func() bool { return r.Phase() == Draining })
	router.Resume()
	for i := range n {
		expectMessage(t, client, "", fmt.Sprint(i), "served")
	}
	must(t, client.Close())
	s.ended()
}
