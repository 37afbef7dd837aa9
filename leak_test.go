package zmqgrace

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

var (
	runners  = flag.Int("runners", 50, "how many Runners live and end in one process; 10000 for the whole promise")
	messages = flag.Int("messages", 100_000, "how many messages one Runner serves; 10000000 for the whole promise")
)

// flatness is how much more memory may be in use at the end than after the first part: the allocators of Go and of C keep
// what they once had, and when they give some of it back is theirs to choose. A leak of 1 KiB a Runner, or of 2 bytes a message,
// would be more where the whole promise is tried. The race detector's own memory grows with all that it has seen.
const flatness = 10 << 20

// raceDetector says that this binary has it.
var raceDetector = func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// memory is what a process has that messages and Runners could use up.
type memory struct{ resident, heap int64 }

func memoryNow(t testing.TB) memory {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory() // collects once more: the first may have run finalizers
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return memory{residentMemory(t), int64(stats.HeapAlloc)}
}

func (m memory) String() string {
	return fmt.Sprintf("%.1f MiB resident, %.1f MiB of heap", float64(m.resident)/(1<<20), float64(m.heap)/(1<<20))
}

// expectFlat holds what is used now to what was used before.
func expectFlat(t testing.TB, before memory) {
	t.Helper()
	after := memoryNow(t)
	t.Logf("before: %v; after: %v", before, after)
	if after.heap-before.heap > flatness || !raceDetector && after.resident-before.resident > flatness {
		t.Errorf("memory is not flat within %d MiB: %v, then %v", flatness>>20, before, after)
	}
}

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
	{"owing a peer", func(t *testing.T, r *Runner) {
		router := lowRouter(t, r)
		s := start(t, r, fountain(400, 64<<10))
		tell(t, greedy(t, router.Endpoint(), "slow"), "flood")
		atItsMark(t, router)
		must(t, r.Close())
		if _, err := s.returned(); !errors.Is(err, ErrForced) {
			t.Errorf("Run returned %v", err)
		}
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

// Nothing of a Runner outlives it. What the allocators keep of other tests must not be filled meanwhile.
func TestRunnersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	life := func(i int) {
		l := lives[i%len(lives)]
		t.Run(fmt.Sprintf("life %d, %s", i, l.name), func(t *testing.T) {
			l.live(t, newTestRunner(t, WithDrainQuiet(5*ms), WithLinger(2*time.Second)))
		})
	}
	// The first ones have the runtime and libzmq get what they keep.
	for i := range max(2*len(lives), *runners/10) {
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
	used := memoryNow(t)
	for i := range *runners {
		life(i)
	}
	if testing.Verbose() {
		t.Logf("before %d lives: %+v, after: %+v", *runners, before, holdingsNow(t))
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
			t.Fatalf("before %d lives of Runners: %+v, after: %+v; the goroutines are\n%s", *runners, before, now, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * ms)
	}
	expectFlat(t, used)
	if runtime.GOOS != "linux" {
		t.Log("only the goroutines were counted: descriptors and threads are in /proc, which only Linux has")
	}
}

// A Runner that has served for long uses no more than one that has served for a while.
func TestMessagesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	if !alone(t) {
		return
	}
	for _, test := range []struct{ workers, messages int }{
		{0, *messages * 9 / 10},
		{2, *messages / 10}, // handing over takes its time
	} {
		t.Run(fmt.Sprintf("%d workers", test.workers), func(t *testing.T) {
			r := newTestRunner(t, briefly, WithWorkers(test.workers))
			router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
			s := start(t, r, echo)
			clients := dials(t, 2, zmq4.DEALER, router.Endpoint())
			each := test.messages / len(clients)
			stream(t, clients, each/5)
			used, held := memoryNow(t), holdingsNow(t)
			began := time.Now()
			for range 4 {
				stream(t, clients, each/5)
				if testing.Verbose() {
					t.Logf("%v, %+v", memoryNow(t), holdingsNow(t))
				}
			}
			t.Logf("%d messages in %v", 4*(each/5)*len(clients), time.Since(began).Round(ms))
			expectFlat(t, used)
			if now := holdingsNow(t); now.descriptors > held.descriptors || now.goroutines > held.goroutines {
				t.Errorf("before: %+v, after: %+v", held, now)
			}
			if got := s.ended().Sockets[0]; got.Handled != 5*(each/5)*len(clients) {
				t.Errorf("of %d messages %d were handled", 5*(each/5)*len(clients), got.Handled)
			}
		})
	}
}

// stream has each client send n messages, at most a hundred of which wait for an answer, and takes the answers.
func stream(t testing.TB, clients []*zmq4.Socket, n int) {
	t.Helper()
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			body := make([]byte, 32)
			for sent, answered := 0, 0; answered < n; {
				for ; sent < n && sent-answered < 100; sent++ {
					if _, err := c.SendBytes(body, 0); err != nil {
						t.Error(err)
						return
					}
				}
				if _, err := c.RecvBytes(0); err != nil {
					t.Error(err)
					return
				}
				answered++
			}
		})
	}
	all.Wait()
}
