package zmqgrace

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

const ms = time.Millisecond

func TestThePlanDividesTheGrace(t *testing.T) {
	asked := time.Now()
	for _, c := range []struct {
		name                                         string
		grace, readyDelay, drainLimit, longestLinger time.Duration
		drainAt, limit, hardEnd                      time.Duration
	}{
		{"the defaults", 25 * time.Second, 0, 5 * time.Second, 5 * time.Second, 0, 5 * time.Second, 20 * time.Second},
		{"no linger reserves the least", 25 * time.Second, 0, 5 * time.Second, 0, 0, 5 * time.Second, 24900 * ms},
		{"a short linger too", 25 * time.Second, 0, 5 * time.Second, 99 * ms, 0, 5 * time.Second, 24900 * ms},
		{"a part of a millisecond is rounded up", 25 * time.Second, 0, 0, 100*ms + 1, 0, 0, 24899 * ms},
		{"a long linger gets a quarter", 20 * time.Second, 0, 5 * time.Second, time.Hour, 0, 5 * time.Second, 15 * time.Second},
		{"so does -1", 20 * time.Second, 0, 5 * time.Second, -1, 0, 5 * time.Second, 15 * time.Second},
		{"the limit is half of the drain at most", 10 * time.Second, 0, time.Hour, time.Second, 0, 4500 * ms, 9 * time.Second},
		{"also behind a ready delay", 10 * time.Second, 5 * time.Second, time.Hour, time.Second, 5 * time.Second, 7 * time.Second, 9 * time.Second},
		{"no limit at all", 10 * time.Second, time.Second, 0, time.Second, time.Second, time.Second, 9 * time.Second},
		{"a grace of a second", time.Second, 0, 5 * time.Second, 5 * time.Second, 0, 375 * ms, 750 * ms},
		{"a grace of 100 ms", 100 * ms, 0, 5 * time.Second, 0, 0, 37*ms + 500*time.Microsecond, 75 * ms},
		{"a grace of a nanosecond", 1, 0, 5 * time.Second, -1, 0, 0, 1},
		{"a grace of four", 4, 0, 5 * time.Second, -1, 0, 1, 3},
		{"a ready delay at the hard end leaves a moment", 10 * time.Second, 9 * time.Second, time.Second, time.Second, 8100 * ms, 8550 * ms, 9 * time.Second},
		{"a ready delay beyond the hard end too", 10 * time.Second, 9900 * ms, time.Second, time.Second, 8100 * ms, 8550 * ms, 9 * time.Second},
	} {
		p := newPlan(asked, c.grace, c.readyDelay, c.drainLimit, c.longestLinger)
		drainAt, limit, hardEnd, end := p.drainAt.Sub(asked), p.limit.Sub(asked), p.hardEnd.Sub(asked), p.end.Sub(asked)
		if drainAt != c.drainAt || limit != c.limit || hardEnd != c.hardEnd || end != c.grace {
			t.Errorf("%s: drain at %v, limit %v, hard end %v, end %v\nwant drain at %v, limit %v, hard end %v, end %v", c.name,
				drainAt, limit, hardEnd, end, c.drainAt, c.limit, c.hardEnd, c.grace)
		}
		checkPlan(t, c.grace, c.readyDelay, c.drainLimit, c.longestLinger)
	}
}

// checkPlan holds a plan to what every one must be, whatever the options.
func checkPlan(t *testing.T, grace, readyDelay, drainLimit, longestLinger time.Duration) {
	t.Helper()
	asked := time.Unix(1_700_000_000, 0)
	p := newPlan(asked, grace, readyDelay, drainLimit, longestLinger)
	if p.drainAt.Before(asked) || p.limit.Before(p.drainAt) || p.hardEnd.Before(p.limit) || p.end.Before(p.hardEnd) {
		t.Errorf("newPlan(%v, %v, %v, %v) is out of order: drain at %v, limit %v, hard end %v, end %v", grace, readyDelay, drainLimit, longestLinger,
			p.drainAt.Sub(asked), p.limit.Sub(asked), p.hardEnd.Sub(asked), p.end.Sub(asked))
	}
	if sorted := p.hardEnd.Add(p.sorting); sorted.After(p.lingers) || p.lingers.After(p.term) || p.term.After(p.end) {
		t.Errorf("newPlan(%v, %v, %v, %v) is out of order: sorted %v, lingers %v, term %v, end %v", grace, readyDelay, drainLimit, longestLinger,
			sorted.Sub(asked), p.lingers.Sub(asked), p.term.Sub(asked), p.end.Sub(asked))
	}
	// What is abandoned is counted, then comes the linger, then Term, whatever the loop does.
	if p.lingers.Before(p.hardEnd.Add(p.sorting)) || p.term.Before(p.lingers) || p.end.Before(p.term) || p.sorting < 0 {
		t.Errorf("newPlan(%v, %v, %v, %v) leaves no time in its order: hard end %v, sorting %v, lingers %v, Term %v, end %v", grace, readyDelay, drainLimit,
			longestLinger, p.hardEnd.Sub(asked), p.sorting, p.lingers.Sub(asked), p.term.Sub(asked), p.end.Sub(asked))
	}
	if reserve := p.end.Sub(p.hardEnd); p.end.Sub(p.term) > min(reserve/2, termLead) {
		t.Errorf("of a reserve of %v Term gets %v", reserve, p.end.Sub(p.term))
	}
	if p.end.Sub(asked) != grace {
		t.Errorf("a grace of %v became %v", grace, p.end.Sub(asked))
	}
	if d := p.drainAt.Sub(asked); d > readyDelay {
		t.Errorf("a ready delay of %v became %v", readyDelay, d)
	}
	if d := p.limit.Sub(p.drainAt); d > drainLimit || d > p.hardEnd.Sub(p.drainAt)/2 {
		t.Errorf("a drain limit of %v became %v of %v", drainLimit, d, p.hardEnd.Sub(p.drainAt))
	}
	if reserve := p.end.Sub(p.hardEnd); reserve > grace/4 || reserve < min(minReserve, grace/4) {
		t.Errorf("of a grace of %v, %v is reserved", grace, reserve)
	}
}

func FuzzNewPlan(f *testing.F) {
	f.Add(int64(25*time.Second), int64(0), int64(5*time.Second), int64(5*time.Second))
	f.Add(int64(1), int64(0), int64(0), int64(-1))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64-1), int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add(int64(time.Second), int64(900*ms), int64(time.Hour), int64(1))
	f.Add(int64(399*ms), int64(300*ms), int64(1), int64(0))
	f.Fuzz(func(t *testing.T, grace, readyDelay, drainLimit, linger int64) {
		if grace <= 0 || readyDelay < 0 || readyDelay >= grace || drainLimit < 0 || linger < -1 {
			t.Skip("New refuses those")
		}
		checkPlan(t, time.Duration(grace), time.Duration(readyDelay), time.Duration(drainLimit), time.Duration(linger))
	})
}

func TestALingerIsNeverNegativeAndRoundedUp(t *testing.T) {
	const most = math.MaxInt32 * ms
	for _, c := range []struct{ wanted, left, want time.Duration }{
		{5 * time.Second, 10 * time.Second, 5 * time.Second},
		{5 * time.Second, 2 * time.Second, 2 * time.Second},
		{5 * time.Second, 0, 0},
		{5 * time.Second, -1, 0},
		{5 * time.Second, -1500 * time.Microsecond, 0}, // cut off, that would be -1: for ever
		{5 * time.Second, -time.Hour, 0},
		{0, time.Second, 0},
		{0, 0, 0},
		{0, -time.Second, 0},
		{1, time.Second, ms},
		{time.Second, 1, ms},
		{900 * time.Microsecond, time.Second, ms},
		{ms, time.Second, ms},
		{ms + 1, time.Second, 2 * ms},
		{2*ms - 1, time.Second, 2 * ms},
		{-1, time.Second, time.Second},
		{-1, 0, 0},
		{-1, -1, 0},
		{-1, math.MaxInt64, most},
		{math.MaxInt64, math.MaxInt64, most},
		{math.MaxInt64, math.MinInt64, 0},
		{math.MinInt64, 3 * ms, 3 * ms},
		{most, math.MaxInt64, most},
		{most + 1, math.MaxInt64, most},
		{most - 1, math.MaxInt64, most},
	} {
		if got := lingerWithin(c.wanted, c.left); got != c.want {
			t.Errorf("lingerWithin(%v, %v) = %v, not %v", c.wanted, c.left, got, c.want)
		}
	}
}

func FuzzLingerWithin(f *testing.F) {
	f.Add(int64(5*time.Second), int64(25*time.Second))
	f.Add(int64(-1), int64(-1500*time.Microsecond))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add(int64(1), int64(1))
	f.Fuzz(func(t *testing.T, wanted, left int64) {
		w, l := time.Duration(wanted), time.Duration(left)
		got := lingerWithin(w, l)
		switch {
		case got < 0 || got > math.MaxInt32*ms || got%ms != 0:
			t.Errorf("lingerWithin(%v, %v) = %v, which is nothing for SetLinger", w, l, got)
		case l <= 0 && got != 0:
			t.Errorf("lingerWithin(%v, %v) = %v, of a budget overrun", w, l, got)
		case w == 0 && got != 0:
			t.Errorf("lingerWithin(%v, %v) = %v, where dropping was asked", w, l, got)
		case l > 0 && w != 0 && got == 0:
			t.Errorf("lingerWithin(%v, %v) drops at once", w, l)
		case l > 0 && got-ms >= l:
			t.Errorf("lingerWithin(%v, %v) = %v, which is more than is left", w, l, got)
		case w > 0 && got-ms >= w:
			t.Errorf("lingerWithin(%v, %v) = %v, which is more than was wanted", w, l, got)
		}
	})
}

func FuzzWholeMillis(f *testing.F) {
	for _, d := range []time.Duration{0, 1, ms - 1, ms, ms + 1, time.Hour, math.MaxInt32 * ms, math.MaxInt32*ms + 1, math.MaxInt64} {
		f.Add(int64(d))
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := time.Duration(n)
		if d < 0 {
			t.Skip("nobody asks that")
		}
		got := wholeMillis(d)
		if got%ms != 0 || got > math.MaxInt32*ms {
			t.Errorf("wholeMillis(%v) = %v does not fit an int of milliseconds", d, got)
		}
		if d <= math.MaxInt32*ms && (got < d || got-d >= ms) {
			t.Errorf("wholeMillis(%v) = %v", d, got)
		}
	})
}

func TestTheLongestLingerOfAllCounts(t *testing.T) {
	sockets := func(lingers ...time.Duration) (all []*Socket) {
		for _, l := range lingers {
			all = append(all, &Socket{linger: l})
		}
		return all
	}
	for _, c := range []struct {
		sockets []*Socket
		want    time.Duration
	}{
		{nil, 0},
		{sockets(0), 0},
		{sockets(3, 7, 5), 7},
		{sockets(3, -1, time.Hour), -1},
	} {
		if got := longestLinger(c.sockets); got != c.want {
			t.Errorf("the longest linger is %v, not %v", got, c.want)
		}
	}
}

// Also where there is what nobody looks at any more: it must not make a busy loop of the flush.
func TestTheFlushSleepsWhileItWaitsForAPeer(t *testing.T) {
	t.Parallel()
	never := func(context.Context) error { return nil }
	for name, prepare := range map[string]func(r *Runner, s *Socket){
		"nothing else":                  func(*Runner, *Socket) {},
		"a timer":                       func(r *Runner, _ *Socket) { r.Every(ms, never) },
		"a worker that comes back":      func(r *Runner, s *Socket) { r.loop.crew.stir(s) },
		"a timer of a server that runs": func(r *Runner, s *Socket) { r.Every(ms, never); start(t, r, nil) },
		"a timer that is made while the server is ending": func(r *Runner, s *Socket) { start(t, r, nil); go r.Every(ms, never) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const linger = 300 * ms
			r := newTestRunner(t, briefly)
			push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*", WithSocketLinger(linger))
			must(t, push.Send(t.Context(), []byte("for nobody")))
			prepare(r, push)
			if err := r.Shutdown(context.Background()); err == nil {
				t.Error("Shutdown says that it was sent")
			}
			if slept := r.loop.waited; slept < linger/2 {
				t.Errorf("it slept for %v of %v", slept, linger)
			}
		})
	}
}

// Its linger ends with the grace, also if it is closed before the drain.
func TestASocketThatIsClosedInTheReadyDelayIsNoLeak(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithGrace(time.Second), WithReadyDelay(200*ms), WithLinger(-1))
	push := connected(t, r, zmq4.PUSH, nobody)
	must(t, push.Send(t.Context(), []byte("for nobody")))
	r.Every(ms, func(context.Context) error {
		if r.Phase() == Announced {
			return push.Close()
		}
		return nil
	})
	rep, err := start(t, r, nil).end()
	if e := incomplete(t, err); e.Leaked || !rep.LingerExpired {
		t.Errorf("Run returned %v", err)
	}
}

// The longest linger counts, in whatever order the sockets were made.
func TestTheEndWaitsForTheLongestLingerWhateverTheOrder(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"short", "long"} {
		t.Run(last+" last", func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly)
			at := ipcEndpoint(t)
			long := func() *Socket { return connected(t, r, zmq4.PUSH, at, WithSocketLinger(patience/2)) }
			short := func() *Socket { return connected(t, r, zmq4.PUSH, ipcEndpoint(t), WithSocketLinger(50*ms)) }
			var sockets []*Socket
			if last == "short" {
				sockets = []*Socket{long(), short()}
			} else {
				sockets = []*Socket{short(), long()}
			}
			for _, s := range sockets {
				must(t, s.Send(t.Context(), []byte("x")))
			}
			s := start(t, r, nil)
			until(t, "libzmq has both", func() bool { return sockets[0].report().Sent+sockets[1].report().Sent == 2 })
			go s.Shutdown(context.Background())
			until(t, "the other's linger and the slack are over", func() bool {
				return r.Phase() == Done || phaseOf(r.Report(), Closing) > 50*ms+termSlack+300*ms
			})
			pull := peer(t, zmq4.PULL, func(s *zmq4.Socket) error { return s.SetRcvtimeo(3 * time.Second) })
			must(t, pull.Bind(at))
			if m, err := pull.Recv(0); err != nil || m != "x" {
				t.Errorf("the peer received %q, %v", m, err)
			}
			_, err := s.returned()
			if e := incomplete(t, err); e.Leaked { // what the short one dropped nobody knows, and nothing was leaked
				t.Errorf("Run returned %v", err)
			}
		})
	}
}

func TestASocketThatIsClosedWhenItsLingerIsOverWasCutOffUnlessItHadNone(t *testing.T) {
	for linger, want := range map[time.Duration]bool{-1: true, time.Second: true, 0: false} {
		r := newTestRunner(t)
		s, err := r.NewSocket(zmq4.PUSH, WithSocketLinger(linger))
		must(t, err)
		s.deadline = time.Now()
		if s.shut(); s.cutOff != want {
			t.Errorf("with a linger of %v cutOff is %v", linger, s.cutOff)
		}
	}
}

// What libzmq holds that the Runner did not send has its linger all the same, and is nobody's leak.
func TestWhatWasNotSentByTheRunnerLingersToo(t *testing.T) {
	t.Parallel()
	const linger = 300 * ms
	raw := func(t *testing.T, r *Runner, typ zmq4.Type) *zmq4.Socket {
		s, err := r.Context().NewSocket(typ)
		must(t, err)
		must(t, s.Connect(nobody))
		return s
	}
	for name, hold := range map[string]func(t *testing.T, r *Runner){
		"sent before it was adopted": func(t *testing.T, r *Runner) {
			push := raw(t, r, zmq4.PUSH)
			tell(t, push, "x")
			_, err := r.Adopt(push)
			must(t, err)
		},
		"a request that was sent before": func(t *testing.T, r *Runner) {
			dealer := raw(t, r, zmq4.DEALER)
			tell(t, dealer, "x")
			_, err := r.Adopt(dealer)
			must(t, err)
		},
		"a raw send": func(t *testing.T, r *Runner) {
			push := connected(t, r, zmq4.PUSH, nobody)
			tell(t, push.Raw(), "x")
		},
		"a probe": func(t *testing.T, r *Runner) {
			dealer, err := r.NewSocket(zmq4.DEALER)
			must(t, err)
			must(t, errors.Join(dealer.Raw().SetProbeRouter(1), dealer.Connect(nobody)))
		},
		"a subscription": func(t *testing.T, r *Runner) {
			sub, err := r.NewSocket(zmq4.SUB, WithSocketLinger(linger))
			must(t, err)
			must(t, errors.Join(sub.Raw().SetSubscribe(""), sub.Connect(nobody)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, briefly, WithLinger(linger))
			hold(t, r)
			s := start(t, r, echo)
			asked := time.Now()
			rep, err := s.end()
			if e := incomplete(t, err); e.Leaked || !rep.LingerExpired {
				t.Errorf("Run returned %v", err)
			}
			if took := time.Since(asked); took < linger {
				t.Errorf("what it held had %v", took)
			}
		})
	}
}
