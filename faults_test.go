package zmqgrace

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// What can go wrong inside the process, in every phase in which it can. docs/reliability.md has the table: each fault, each
// phase, what happens, and the test that shows it. Faults of peers and of the network are in peers_test.go.

// A held Runner stays in a phase until the test lets it go. It echoes, and does the errands that the test sends.
type held struct {
	*running
	phase   Phase
	delayed *delayed
	front   *Socket // ROUTER
	client  *zmq4.Socket
	release chan struct{} // closed: the ready delay is over, and the drain may end
	lonely  *Socket       // PUSH: what is sent here holds up the flush until somebody takes it
	errands chan errand
	did     chan struct{}
	answers int    // to the client
	before  func() // is called while it runs, if the phase is a later one
}

// An errand is something to do in a handler, as the message that it was sent with.
type errand func(ctx context.Context, m *Message) error

// Only what does not end by itself in such a Runner has a time, which no test waits for.
const (
	heldGrace  = 2 * patience
	heldLinger = time.Second
	heldFlush  = 3 * time.Second // in Closing
	atOnce     = patience / 2    // a generous bound for the end of what is let go
)

// delayed is the loop, but for the ready delay, which is over when the test says so, and for Term, which waits for it.
type delayed struct {
	engine
	over  <-chan struct{}
	asked bool // for the first time, which is in Announced

	errand chan struct{} // nil, or closed: Term may begin
}

func (d *delayed) drained() <-chan struct{} {
	if d.asked {
		return d.engine.drained()
	}
	d.asked = true
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-d.over:
		case <-d.engine.drained():
		}
	}()
	return over
}

func (d *delayed) term() <-chan struct{} {
	if d.errand != nil {
		<-d.errand
	}
	return d.engine.term()
}

// prepareHeld makes a Runner that can be brought into a phase.
func prepareHeld(t testing.TB, phase Phase, opts ...Option) *held {
	t.Helper()
	usual := []Option{briefly, WithGrace(heldGrace), WithLinger(heldLinger)}
	switch phase {
	case Announced:
		usual = append(usual, WithReadyDelay(patience))
	case Closing:
		usual = append(usual, WithLinger(heldFlush))
	}
	opts = append(usual, opts...)
	h := &held{running: &running{Runner: newTestRunner(t, opts...), t: t, result: make(chan error, 1)}, phase: phase,
		release: make(chan struct{}), errands: make(chan errand, 1), did: make(chan struct{}, 1)}
	h.delayed = &delayed{engine: h.loop, over: h.release}
	h.engine = h.delayed
	h.front = bound(t, h.Runner, zmq4.ROUTER, "tcp://127.0.0.1:*", WithName("front"))
	h.lonely = bound(t, h.Runner, zmq4.PUSH, "tcp://127.0.0.1:*", WithName("lonely"))
	h.client = dial(t, zmq4.DEALER, h.front.Endpoint())
	return h
}

// hold makes a Runner and brings it into a phase.
func hold(t testing.TB, phase Phase, opts ...Option) *held {
	t.Helper()
	h := prepareHeld(t, phase, opts...)
	if phase != Idle {
		h.proceed()
	}
	return h
}

// proceed brings it into its phase, or from Idle to Running.
func (h *held) proceed() {
	h.t.Helper()
	if h.phase == Draining {
		h.Go(func(ctx context.Context) error { <-h.release; return nil })
	}
	go func() { h.result <- h.Run(context.Background(), h.handle) }()
	h.reach(Running)
	if h.phase <= Running {
		return
	}
	if h.before != nil {
		h.before()
	}
	if h.phase == Closing {
		must(h.t, h.lonely.Send(context.Background(), []byte("for nobody yet")))
	}
	go h.Shutdown(context.Background())
	h.reach(h.phase)
}

func (h *held) reach(p Phase) {
	h.t.Helper()
	until(h.t, "the phase is "+p.String(), func() bool { return h.Phase() >= p })
	if got := h.Phase(); got != p {
		h.t.Fatalf("the phase is %v, not %v", got, p)
	}
}

func (h *held) handle(ctx context.Context, m *Message) error {
	select {
	case do := <-h.errands:
		defer func() { h.did <- struct{}{} }()
		return do(ctx, m)
	default:
		return m.Reply(m.Frames...)
	}
}

// errand has a handler do something in the phase, and waits until it has done it. In Closing that is a handler which
// began before, and outlasted the hard end.
func (h *held) errand(do errand) {
	h.t.Helper()
	h.errands <- do
	tell(h.t, h.client, "an errand")
	select {
	case <-h.did:
	case <-time.After(patience):
		h.t.Fatal("the errand was not done")
	}
}

// holdAtErrand is hold where the errand is all that happens: in Closing the Runner is held by it.
func holdAtErrand(t testing.TB, phase Phase, do errand, opts ...Option) *held {
	t.Helper()
	if phase != Closing {
		h := hold(t, phase, opts...)
		h.errand(do)
		return h
	}
	h := prepareHeld(t, Running, append(opts, WithGrace(time.Second))...)
	h.delayed.errand = make(chan struct{})
	h.proceed()
	inside := make(chan struct{})
	h.errands <- func(ctx context.Context, m *Message) error {
		close(inside)
		<-ctx.Done()
		defer close(h.delayed.errand)
		h.reach(Closing)
		return do(ctx, m)
	}
	tell(t, h.client, "an errand")
	over(t, "the handler runs", inside)
	go h.Shutdown(context.Background())
	select {
	case <-h.did:
	case <-time.After(patience):
		t.Fatal("the errand was not done")
	}
	return h
}

// serves fails the test unless the server answers, which is what it does up to the end of the drain.
func (h *held) serves() {
	h.t.Helper()
	if got := request(h.t, h.client, "hello"); got[0] != "hello" {
		h.t.Errorf("the answer is %q", got)
	}
	h.answers++
	if got := h.Phase(); got != h.phase && h.phase != Idle {
		h.t.Errorf("the phase is %v by now, not %v", got, h.phase)
	}
}

// letGo lets the Runner end, and returns its end.
func (h *held) letGo() (Report, error) {
	h.t.Helper()
	close(h.release)
	if h.phase == Closing && h.lonely.queued() > 0 {
		expectMessage(h.t, dial(h.t, zmq4.PULL, h.lonely.Endpoint()), "for nobody yet")
	}
	return h.end()
}

// letGoComplete is letGo where nothing may have been left.
func (h *held) letGoComplete() Report {
	h.t.Helper()
	rep, err := h.letGo()
	if err != nil {
		h.t.Errorf("Run returned %v, the report is %v", err, rep)
	}
	return rep
}

// inPhases runs a test for each of the phases, all at once: most of their time they wait.
func inPhases(t *testing.T, test func(t *testing.T, phase Phase), phases ...Phase) {
	var all sync.WaitGroup
	for _, phase := range phases {
		all.Go(func() {
			t.Run(phase.String(), func(t *testing.T) { test(t, phase) })
		})
	}
	all.Wait()
}

const aloneVariable = "ZMQGRACE_TEST_ALONE"

// alone reports whether the test has a process of its own. If not, it runs the test in one, which wrap may start
// otherwise, and the caller returns.
func alone(t *testing.T, wrap ...string) bool {
	t.Helper()
	if os.Getenv(aloneVariable) == t.Name() {
		return true
	}
	args := append(wrap, os.Args[0], "-test.v", "-test.parallel=10", "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") { // the tests' own
			args = append(args, fmt.Sprintf("-%s=%v", f.Name, f.Value))
		}
	})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), aloneVariable+"="+t.Name(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	} else if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a process of its own it did not run:\n%s", out)
	} else if testing.Verbose() {
		t.Logf("in a process of its own:\n%s", out)
	}
	return false
}

func init() {
	children["bind without descriptors"] = bindWithoutDescriptorsAsChild
	children["new without descriptors"] = newWithoutDescriptorsAsChild
	predicaments["answer, panic"] = func(ctx context.Context, _ *Runner, _ *Socket, m *Message) error {
		if err := flood(ctx, m, lastAnswers, 1000); err != nil {
			return err
		}
		return handlerThatPanics()
	}
	predicaments["answer, panic past the hard end"] = func(ctx context.Context, r *Runner, _ *Socket, m *Message) error {
		if err := flood(ctx, m, lastAnswers, 1000); err != nil {
			return err
		}
		say("waiting")
		for <-ctx.Done(); r.Phase() != Closing; {
			runtime.Gosched()
		}
		return handlerThatPanics()
	}
}

const lastAnswers = 50

func TestAPanicInAnyPhaseHasTheLoopFlushAndKillsTheProcess(t *testing.T) {
	t.Parallel()
	for phase, c := range map[Phase]service{
		Running:   {},
		Announced: {ReadyDelay: patience / 2},
		Draining:  {Quiet: patience / 2, Limit: patience / 2},
		Closing:   {Grace: 4 * time.Second}, // one of which is for Closing
	} {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			s := startServer(t, c)
			client := dial(t, zmq4.DEALER, s.endpoint)
			request(t, client, "hello")
			if phase == Closing {
				tell(t, client, "answer, panic past the hard end")
				s.expect("waiting")
				s.signal(syscall.SIGTERM)
			} else {
				if phase != Running {
					s.signal(syscall.SIGTERM)
					s.reach(phase)
				}
				tell(t, client, "answer, panic")
			}
			for n := range lastAnswers {
				if _, err := client.Recv(0); err != nil {
					t.Fatalf("answer %d of %d did not arrive: %v", n+1, lastAnswers, err)
				}
			}
			state, stderr := s.exit()
			if state.ExitCode() != 2 || !strings.Contains(stderr, "panic: as the test asked") || !strings.Contains(stderr, "handlerThatPanics") {
				t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
			}
		})
	}
}

func TestTwoSignalsAtOnceForceTheEndOfARunningServer(t *testing.T) {
	t.Parallel()
	svc := service{Grace: time.Minute, Quiet: 30 * time.Second, Limit: 30 * time.Second, Stay: true}
	t.Run("and a third while it ends", func(t *testing.T) {
		t.Parallel()
		svc.HookInt = "Done"
		s := startServer(t, svc)
		s.signal(syscall.SIGINT)
		s.signal(syscall.SIGTERM)
		s.diesAtTheThird()
	})
	s := startServer(t, svc)
	request(t, dial(t, zmq4.DEALER, s.endpoint), "hello")
	// Two of the same kind could become one in the kernel.
	s.signal(syscall.SIGINT)
	s.signal(syscall.SIGTERM)
	began := time.Now()
	o := s.returned()
	if took := time.Since(began); took > time.Second || !o.Forced || o.Deadline {
		t.Errorf("Run returned %q after %v", o.Error, took)
	}
	s.signal(syscall.SIGINT)
	s.diedOf(syscall.SIGINT)
}

func TestGoexitInAnyPhaseEndsTheServerGracefullyWithAnError(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		h := holdAtErrand(t, phase, func(context.Context, *Message) error { runtime.Goexit(); return nil })
		if phase != Closing && phase != Running {
			h.serves() // the loop goes on in another goroutine
		}
		rep, err := h.letGo()
		if !errors.Is(err, errGoexit) || !strings.Contains(err.Error(), `"front"`) {
			t.Errorf("Run returned %v", err)
		}
		if left := errors.As(err, new(*ShutdownError)); left != (phase == Closing) { // where the handler was late besides
			t.Errorf("Run returned %v", err)
		}
		if c := rep.Sockets[0]; c.Failed != 1 || c.Abandoned != 0 {
			t.Errorf("the report is %v", rep)
		}
	}, Running, Announced, Draining, Closing)
}

func TestAHandlerThatGetsStuckInAnyPhaseIsNamedWhenTheGraceIsOver(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		back := make(chan struct{})
		defer close(back)
		inside := make(chan struct{})
		grace := []Option{WithGrace(3 * time.Second)}
		if phase == Announced {
			grace = append(grace, WithReadyDelay(2*time.Second))
		}
		h := hold(t, phase, grace...)
		cancelled := make(chan Phase, 1)
		h.errands <- func(ctx context.Context, _ *Message) error {
			close(inside)
			<-ctx.Done()
			cancelled <- h.Phase()
			<-back
			return nil
		}
		tell(t, h.client, "stay")
		over(t, "the handler runs", inside)
		tell(t, h.client, "nobody handles this one")
		asked := time.Now()
		rep, err := h.letGo()
		if took := time.Since(asked); took > 6*time.Second {
			t.Errorf("Run returned after %v", took)
		}
		if p := next(t, "its context ends", cancelled); p != Draining && p != Closing { // Closing where it sees that late
			t.Errorf("its context was cancelled while %v", p)
		}
		if got, err := h.client.Recv(zmq4.DONTWAIT); err == nil {
			t.Errorf("the client received %q", got)
		}
		if e := incomplete(t, err); e.Phase != Draining || len(e.Running) != 1 || e.Running[0].Socket != "front" || rep.Sockets[0].Abandoned != 1 {
			t.Errorf("Run returned %v, the report is %v", err, rep)
		}
	}, Running, Announced, Draining)
}

func TestNoHandlerBeginsInClosing(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{0, 1} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			t.Parallel()
			h := prepareHeld(t, Running, WithGrace(time.Second), WithWorkers(workers))
			h.delayed.errand = make(chan struct{})
			var begun atomic.Int32
			inside := make(chan struct{})
			tell(t, h.client, "the last that is handled")
			tell(t, h.client, "in its batch")
			until(t, "the first is there", func() bool { return readable(h.front.raw) })
			go func() {
				h.result <- h.Run(context.Background(), func(ctx context.Context, m *Message) error {
					if begun.Add(1) > 1 {
						return m.Reply()
					}
					close(inside)
					<-ctx.Done()
					defer close(h.delayed.errand)
					if err := eventually(func() bool { return h.Phase() == Closing }); err != nil || workers > 0 {
						return err
					}
					return eventually(func() bool { return readable(m.Socket.raw) }) // the socket is this goroutine's
				})
			}()
			over(t, "the handler runs", inside)
			tell(t, h.client, "one more")
			rep, err := h.end()
			if e := incomplete(t, err); len(e.Running) != 1 {
				t.Errorf("Run returned %v", err)
			}
			if n := begun.Load(); n != 1 || workers == 0 && rep.Sockets[0].Abandoned != 2 {
				t.Errorf("%d handlers began, the report is %v", n, rep)
			}
		})
	}
}

func TestARawSocketLeakedInAnyPhaseHoldsTheEndForASecondAndIsReported(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		h := hold(t, phase)
		mend := leak(t, h.Runner)
		if phase == Idle {
			h.proceed()
		}
		var clock stallWatch
		go clock.watch(t.Context().Done())
		asked := time.Now()
		_, err := h.letGo()
		most := 2 * time.Second
		if phase == Closing { // the linger of what lonely sent
			most += heldFlush
		}
		if took := time.Since(asked); took < time.Second || took > most+2*clock.longest() {
			t.Errorf("Run returned after %v", took)
		}
		if e := incomplete(t, err); !e.Leaked || e.Phase != Closing {
			t.Errorf("Run returned %v", err)
		}
		mend()
	}, Idle, Running, Announced, Draining, Closing)
}

func TestASocketClosedBehindTheRunnersBackInAnyPhaseIsNamed(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		if phase == Idle {
			h := prepareHeld(t, phase)
			must(t, h.lonely.Raw().Close())
			if err := h.Run(t.Context(), h.handle); err == nil || !strings.Contains(err.Error(), `"lonely"`) {
				t.Errorf("Run returned %v", err)
			}
			must(t, h.lonely.Close()) // and is mended
			h.proceed()
			h.serves()
			h.letGoComplete()
			return
		}
		h := holdAtErrand(t, phase, func(ctx context.Context, m *Message) error {
			return errors.Join(lonelyOf(m).Raw().Close(), m.Reply())
		})
		served := 1
		if phase == Announced || phase == Draining { // in Running it would be a matter of luck: that ends it
			expectMessage(t, h.client, "")
			h.serves()
			served = 2
		}
		rep, err := h.letGo()
		if phase == Closing { // it is closed then anyway; the handler was late
			if e := incomplete(t, err); len(e.Running) != 1 || strings.Contains(err.Error(), "lonely") {
				t.Errorf("Run returned %v", err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), `"lonely" was closed behind the Runner's back`) || errors.As(err, new(*ShutdownError)) {
			t.Errorf("Run returned %v", err)
		}
		if rep.Sockets[0].Handled != served || rep.Sockets[0].Sent != served {
			t.Errorf("the report is %v", rep)
		}
	}, Idle, Running, Announced, Draining, Closing)

	t.Run("Closing, while it owes", func(t *testing.T) {
		h := holdAtErrand(t, Closing, func(ctx context.Context, m *Message) error {
			lonely := lonelyOf(m)
			return errors.Join(lonely.Send(ctx, []byte("for nobody")), lonely.Raw().Close())
		})
		rep, err := h.letGo()
		if err == nil || !strings.Contains(err.Error(), `"lonely" was closed behind the Runner's back`) || rep.Sockets[1].Unsent != 1 {
			t.Errorf("Run returned %v, the report is %v", err, rep)
		}
	})
}

// lonelyOf is a held Runner's other socket, for an errand, which may run before there is a variable for the Runner.
func lonelyOf(m *Message) *Socket {
	all := m.Socket.r.allSockets()
	return all[slices.IndexFunc(all, func(s *Socket) bool { return s.name == "lonely" })]
}

func TestSomebodyElsesTermInAnyPhaseEndsTheServerAtOnceWithAnError(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		if phase == Idle {
			r := newTestRunner(t)
			must(t, r.Context().Term())
			if err := r.Run(t.Context(), echo); err == nil {
				t.Error("Run served in a context that was terminated")
			}
			must(t, r.Close())
			return
		}
		h := hold(t, phase)
		termed := make(chan error, 1)
		go func() { termed <- h.Context().Term() }()
		asked := time.Now()
		defer close(h.release) // nothing but Term ends it
		rep, err := h.returned()
		if err == nil || !strings.Contains(err.Error(), "terminated by somebody else") {
			t.Errorf("Run returned %v", err)
		}
		if took := time.Since(asked); took > atOnce {
			t.Errorf("Run returned after %v", took)
		}
		if phase == Closing && rep.Sockets[1].Unsent != 1 {
			t.Errorf("the report is %v", rep)
		}
		must(t, next(t, "Term is back", termed))
	}, Idle, Running, Announced, Draining, Closing)
}

// A Bind that fails, in every phase: the address is in use.
func TestAnAddressInUseIsAnErrorOfBindAndOfNothingElse(t *testing.T) {
	t.Parallel()
	taken := peer(t, zmq4.PULL)
	must(t, taken.Bind("tcp://127.0.0.1:*"))
	endpoint, err := taken.GetLastEndpoint()
	must(t, err)
	failingBindInPhases(t, endpoint, zmq4.Errno(syscall.EADDRINUSE))
}

// The same, where the directory of an ipc path has no room for it: a file system of that kind has no room for inodes.
func TestAFullDiskBelowAnIpcPathIsAnErrorOfBindAndOfNothingElse(t *testing.T) {
	t.Parallel()
	failingBindInPhases(t, "ipc://"+filepath.Join(fullDisk(t), "socket"), zmq4.Errno(syscall.ENOSPC))
}

// fullDisk mounts a file system in which no file can be made.
func fullDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("skipped: only root can mount a file system that is full")
	}
	dir, err := os.MkdirTemp("", "zg")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The one inode is the root directory's.
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=1", "tmpfs", dir).CombinedOutput()
	if err != nil {
		t.Skipf("skipped: no file system can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v: %s", err, out)
		}
	})
	if _, err := os.Create(filepath.Join(dir, "file")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a file on a full disk: %v", err)
	}
	return dir
}

func failingBindInPhases(t *testing.T, endpoint string, want error) {
	bind := func(t *testing.T, r *Runner) {
		t.Helper()
		s, err := r.NewSocket(zmq4.PUSH, WithName("extra"))
		must(t, err)
		err = s.Bind(endpoint)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), endpoint) || !strings.Contains(err.Error(), `"extra"`) {
			t.Errorf("Bind returned %v, want %v", err, want)
		}
	}
	inPhases(t, func(t *testing.T, phase Phase) {
		if phase == Idle {
			h := prepareHeld(t, phase)
			bind(t, h.Runner)
			h.proceed()
			h.serves()
			h.letGoComplete()
			return
		}
		h := holdAtErrand(t, phase, func(_ context.Context, m *Message) error {
			bind(t, m.Socket.r)
			return m.Reply()
		})
		expectMessage(t, h.client, "") // also where the handler was late, but heeded its context
		if phase != Closing {
			h.serves()
			h.letGoComplete()
			return
		}
		if _, err := h.letGo(); len(incomplete(t, err).Running) != 1 {
			t.Errorf("Run returned %v", err)
		}
	}, Idle, Running, Announced, Draining, Closing)
}

// Without a descriptor left no socket can be made or bound, in any phase; those that are there are served on, and the
// end needs none. The limit is the process's, so the test has one.
func TestWithoutADescriptorLeftTheServerServesOnAndEnds(t *testing.T) {
	if !alone(t) {
		return
	}
	for _, phase := range []Phase{Idle, Running, Announced, Draining, Closing} {
		t.Run(phase.String(), func(t *testing.T) {
			h := prepareHeld(t, phase)
			extra, err := h.NewSocket(zmq4.PUSH, WithName("extra"))
			must(t, err)
			fails := func(r *Runner) {
				none := withoutDescriptors(t)
				if _, err := r.NewSocket(zmq4.PUSH); !errors.Is(err, zmq4.Errno(syscall.EMFILE)) {
					t.Errorf("NewSocket returned %v", err)
				}
				// Not an address of tcp: see the next test.
				for _, endpoint := range []string{"tcp://*:*", ownPath(t)} {
					if err := extra.Bind(endpoint); !errors.Is(err, zmq4.Errno(syscall.EMFILE)) || !strings.Contains(err.Error(), `"extra"`) {
						t.Errorf("Bind of %s returned %v", endpoint, err)
					}
				}
				none.free()
				another, err := r.NewSocket(zmq4.PUSH)
				must(t, errors.Join(err, another.Bind("tcp://*:*"), another.Close(), extra.Bind(ownPath(t))))
			}
			if phase == Idle {
				fails(h.Runner)
				none := withoutDescriptors(t)
				if err := h.Run(t.Context(), h.handle); !errors.Is(err, zmq4.Errno(syscall.EMFILE)) || h.Phase() != Idle {
					t.Errorf("Run returned %v", err)
				}
				none.free()
				h.proceed()
				h.serves()
				h.letGoComplete()
				return
			}
			h.proceed()
			if phase != Closing {
				h.errand(func(_ context.Context, m *Message) error { fails(m.Socket.r); return m.Reply() })
				expectMessage(t, h.client, "")
			}
			taker := peer(t, zmq4.PULL)
			none := withoutDescriptors(t)
			defer none.free()
			if phase == Closing { // one for each side of the connection that the flush waits for
				none.giveOne()
				none.giveOne()
				must(t, taker.Connect(h.lonely.Endpoint()))
			} else {
				h.serves()
			}
			close(h.release)
			if rep, err := h.end(); err != nil {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
}

func TestWhoConnectsWhileThereIsNoDescriptorLeftIsServedWhenThereIs(t *testing.T) {
	if !alone(t) {
		return
	}
	for _, phase := range []Phase{Running, Announced, Draining} {
		t.Run(phase.String(), func(t *testing.T) {
			h := hold(t, phase)
			h.serves() // so that its client is connected
			newcomer := peer(t, zmq4.DEALER)
			ctx, err := newcomer.Context()
			must(t, err)
			must(t, newcomer.Monitor("inproc://events", zmq4.EVENT_CONNECTED|zmq4.EVENT_HANDSHAKE_SUCCEEDED))
			events := peerIn(t, ctx, zmq4.PAIR)
			defer events.Close()
			defer newcomer.Monitor("", 0)
			must(t, events.Connect("inproc://events"))
			expectEvent := func(want zmq4.Event) {
				t.Helper()
				if got, _, _, err := events.RecvEvent(0); got != want {
					t.Fatalf("the newcomer's connection has %v, %v, not %v", got, err, want)
				}
			}
			none := withoutDescriptors(t)
			defer none.free()
			none.giveOne() // for the newcomer's side of the connection
			must(t, newcomer.Connect(h.front.Endpoint()))
			tell(t, newcomer, "let me in")
			expectEvent(zmq4.EVENT_CONNECTED) // to the kernel
			for range 100 {                   // while it waits
				h.serves()
			}
			if got, _, _, err := events.RecvEvent(zmq4.DONTWAIT); err == nil || h.front.report().Received != h.answers {
				t.Errorf("the newcomer was let in: %v, received %d", got, h.front.report().Received)
			}
			none.free()
			expectEvent(zmq4.EVENT_HANDSHAKE_SUCCEEDED)
			expectMessage(t, newcomer, "let me in")
			h.letGoComplete()
		})
	}
}

// libzmq looks for a network interface of that name first, and does not survive that it can't (ip_resolver.cpp). Nothing
// here can help that; so the test only says what is to be expected: an error, in a libzmq that has learnt it, or this.
func TestWithoutADescriptorLeftLibzmqAbortsInABindToATCPAddress(t *testing.T) {
	t.Parallel()
	p := startChild(t, "bind without descriptors")
	state, stderr := p.exit()
	status := state.Sys().(syscall.WaitStatus)
	aborted := (status.Signaled() && status.Signal() == syscall.SIGABRT || state.ExitCode() == 2) && strings.Contains(stderr, "Too many open files") && strings.Contains(stderr, "ip_resolver.cpp")
	if t.Logf("%v", state); !aborted && state.ExitCode() != 0 {
		t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
	}
}

func bindWithoutDescriptorsAsChild() {
	r, err := New(WithSignals())
	check(err)
	s, err := r.NewSocket(zmq4.PUSH)
	check(err)
	none, err := exhaust()
	check(err)
	if err := s.Bind("tcp://127.0.0.1:*"); !errors.Is(err, zmq4.Errno(syscall.EMFILE)) {
		check(fmt.Errorf("Bind returned %w", err))
	}
	none.free()
	check(r.Close())
}

// A context needs one. With one or two left, it is its first socket in which libzmq aborts the process (epoll.cpp).
func TestWithoutADescriptorLeftNewIsAnError(t *testing.T) {
	t.Parallel()
	p := startChild(t, "new without descriptors")
	if said, want := p.expect("New returned"), "zmqgrace: New: context: too many open files"; said != want {
		t.Errorf("New returned %q, want %q", said, want)
	}
	if state, stderr := p.exit(); !state.Success() {
		t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
	}
}

func newWithoutDescriptorsAsChild() {
	none, err := exhaust()
	check(err)
	_, err = New(WithSignals())
	none.free()
	if !errors.Is(err, zmq4.Errno(syscall.EMFILE)) {
		check(fmt.Errorf("New returned %w", err))
	}
	say("New returned", err)
	r, err := New(WithSignals())
	check(err)
	check(r.Close())
}

// A hoard is all the descriptors that the process may have.
type hoard struct {
	before syscall.Rlimit
	files  []*os.File
}

func exhaust() (*hoard, error) {
	var h hoard
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &h.before); err != nil {
		return nil, err
	}
	limit := h.before
	limit.Cur = min(limit.Cur, 256)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			return &h, nil
		}
		if err != nil {
			h.free()
			return nil, err
		}
		h.files = append(h.files, f)
	}
}

// giveOne leaves room for one descriptor.
func (h *hoard) giveOne() {
	h.files[0].Close()
	h.files = h.files[1:]
}

func (h *hoard) free() {
	for _, f := range h.files {
		f.Close()
	}
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &h.before)
}

// withoutDescriptors is exhaust for a test.
func withoutDescriptors(t *testing.T) *hoard {
	t.Helper()
	h, err := exhaust()
	must(t, err)
	return h
}
