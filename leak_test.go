package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// holdings is what a process has that Runners could leak.
type holdings struct{ goroutines, descriptors, threads int }

func holdingsNow(t testing.TB) (h holdings) {
	t.Helper()
	h.goroutines = runtime.NumGoroutine()
	if runtime.GOOS != "linux" {
		return h // what follows is in /proc
	}
	dir, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	h.descriptors = len(dir)
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if n, ok := strings.CutPrefix(line, "Threads:"); ok {
			h.threads, err = strconv.Atoi(strings.TrimSpace(n))
			must(t, err)
		}
	}
	return h
}

// lives are the ways in which a Runner can live and end.
var lives = []struct {
	name string
	live func(t *testing.T, r *Runner)
}{
	{"served and shut down", func(t *testing.T, r *Runner) {
		rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
		router := bound(t, r, zmq4.ROUTER, ipcEndpoint(t))
		inner := bound(t, r, zmq4.PULL, "inproc://inner")
		push := connected(t, r, zmq4.PUSH, "inproc://inner")
		inner.Handle(func(context.Context, *Message) error { return nil })
		s := start(t, r, func(ctx context.Context, m *Message) error {
			return errors.Join(push.Send(ctx, m.Frames...), m.Reply(m.Frames...))
		})
		for _, own := range []*Socket{rep, router} {
			client := dial(t, zmq4.REQ, own.Endpoint())
			for range 10 {
				request(t, client, "hello")
			}
		}
		s.ended()
	}},
	{"forced", func(t *testing.T, r *Runner) {
		push := connected(t, r, zmq4.PUSH, nobody)
		s := start(t, r, nil)
		must(t, push.Send(t.Context(), []byte("lost")))
		must(t, r.Close())
		if _, err := s.returned(); !errors.Is(err, ErrForced) {
			t.Errorf("Run returned %v", err)
		}
	}},
	{"refused", func(t *testing.T, r *Runner) {
		bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
		if r.Run(t.Context(), nil) == nil {
			t.Error("Run served a socket without a handler")
		}
		must(t, r.Close())
	}},
	{"never run", func(t *testing.T, r *Runner) {
		bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
		must(t, r.Shutdown(t.Context()))
	}},
	{"left by its handler", func(t *testing.T, r *Runner) {
		pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
		s := start(t, r, func(context.Context, *Message) error { runtime.Goexit(); return nil })
		tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "x")
		if _, err := s.returned(); !errors.Is(err, errGoexit) {
			t.Errorf("Run returned %v", err)
		}
	}},
}

// Nothing of a Runner outlives it. This test must be alone: it is not parallel to any other.
func TestRunnersLeaveNothingBehind(t *testing.T) {
	life := func(i int) {
		l := lives[i%len(lives)]
		t.Run(fmt.Sprintf("life %d, %s", i, l.name), func(t *testing.T) {
			l.live(t, newTestRunner(t, WithDrainQuiet(5*ms), WithLinger(50*ms)))
		})
	}
	// The first ones have the runtime and libzmq get what they keep.
	for i := range 2 * len(lives) {
		life(i)
	}
	var before holdings
	settled := 0
	until(t, "the process is at rest", func() bool {
		now := holdingsNow(t)
		if now == before {
			settled++
		} else {
			before, settled = now, 0
		}
		return settled > 20
	})
	for i := range 50 {
		life(i)
	}
	if testing.Verbose() {
		t.Logf("before 50 lives: %+v, after: %+v", before, holdingsNow(t))
	}
	// Term may still be on its way back where the end was forced.
	deadline := time.Now().Add(5 * time.Second)
	for {
		now := holdingsNow(t)
		// Go keeps the threads that calls to C have once needed.
		if now.goroutines <= before.goroutines && now.descriptors <= before.descriptors && now.threads <= before.threads+3 {
			break
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("before 50 lives of Runners: %+v, after: %+v; the goroutines are\n%s", before, now, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * ms)
	}
	if runtime.GOOS != "linux" {
		t.Log("only the goroutines were counted: descriptors and threads are in /proc, which only Linux has")
	}
}
