package zmqgrace

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/pebbe/zmq4"
)

// A reply may come at the very moment when its handler returns ErrDeferred: it is sent all the same, once. The moment is
// a few nanoseconds long, and chaos meets it once in thousands of scenarios, so here nothing else happens: no
// message comes, and no loop runs.
func TestAReplyThatMeetsTheReturnOfErrDeferredIsSent(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	router := bound(t, r, zmq4.ROUTER, "inproc://here")
	sent := 0
	defer func() {
		if router.queued() != sent {
			t.Errorf("of %d replies %d are on the outbox", sent, router.queued())
		}
	}()
	for range sized(50_000) {
		m := &Message{Socket: router}
		var meet atomic.Int32
		replied := make(chan error)
		go func() {
			for meet.Add(1); meet.Load() < 2; {
			}
			replied <- m.Reply([]byte("id"), []byte("reply"))
		}()
		for meet.Add(1); meet.Load() < 2; {
		}
		for range rand.IntN(30) {
			meet.Load()
		}
		r.loop.crew.settle(0, m, ErrDeferred)
		if err := <-replied; err != nil {
			t.Fatalf("reply %d: %v", sent+1, err)
		}
		sent++
	}
}
