package zmqgrace

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/pebbe/zmq4"
)

// Close is a forced end from whatever phase it is called in: of a server that runs, neither the ready delay nor the drain
// begins, with its Goodbyes and its cancelled Go functions.
func TestCloseOfARunningServerNeverBeginsTheGracefulEnd(t *testing.T) {
	for range 1000 {
		e := &fakeEngine{told: make(chan struct{}), drainedC: make(chan struct{}), closedC: make(chan struct{}),
			termC: make(chan struct{}), termedC: make(chan struct{}), over: make(chan struct{})}
		log := newPhaseLog()
		o, err := buildOptions([]Option{WithSignals(), quietLog, WithPhaseHook(log.hook)})
		must(t, err)
		r := newRunner(o)
		r.engine = e
		go r.Run(context.Background(), nil)
		for r.Phase() != Running {
		}
		must(t, r.Close())
		close(e.over)
		log.await(t, Done) // which Close does not wait for, where the hook is late
		log.check(t, Running, Closing, Done)
	}
}

// A socket is leaked where Term waits for it, not where Term had no time. (Real servers say so, one time in four, if they
// are stopped with SIGSTOP in the drain and go on when the grace is over.)
func TestATermThatHadNoTimeIsNoLeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStaged(t, &fakeEngine{drainTakes: ms, closeTakes: 16 * ms, termTakes: 5 * ms}, WithGrace(20*ms))
		s.run(t.Context())
		go s.Shutdown(t.Context())
		_, err := s.returned()
		var e *ShutdownError
		if errors.As(err, &e) && e.Leaked {
			t.Errorf("Run returned %v", err)
		}
	})
}

// Nil says that all was handed to the kernel. It is not so where a socket's linger is over before another's.
func TestWhatAShortLingerDropsIsReportedAlsoWhereAnotherSocketLingersLonger(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	front := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"), WithSocketLinger(300*ms))
	push := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*", WithName("other"), WithSocketLinger(patience/4))
	must(t, push.Send(t.Context(), []byte("x")))
	answered := make(chan struct{})
	s := start(t, r, func(ctx context.Context, m *Message) error {
		defer close(answered)
		return flood(ctx, m, 40, 1<<20)
	})
	client := startFrozenClient(t, front.Endpoint(), "a request")
	over(t, "it has answered", answered)
	client.signal(syscall.SIGSTOP)
	expectMessage(t, dial(t, zmq4.PULL, push.Endpoint()), "x")
	rep, err := s.end()
	if err == nil || !rep.LingerExpired {
		t.Errorf("a client that never reads was owed 40 MB, and Run returned %v, the report is %v", err, rep)
	}
}
