package zmqgrace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// What the tests share: programs that are this test binary executed again, servers inside the test, clients.

// patience is for what must happen at once but runs on a loaded machine. It is never what a test measures.
const patience = 20 * time.Second

// children are the programs that tests run as processes of their own, by name. A test file adds its own in
// init. The process exits with 0 when the function returns.
var children = map[string]func(){}

const childVariable = "ZMQGRACE_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		children[name]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is a child program: what it writes to standard output is read line by line.
type process struct {
	*exec.Cmd
	t      testing.TB
	name   string
	in     io.Writer
	lines  chan string
	stderr strings.Builder
}

// startChild runs the named child program with the given environment ("KEY=value"). It is killed with the test.
func startChild(t testing.TB, name string, env ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0]), t: t, name: name, lines: make(chan string, 1000)}
	// The race detector would have every child sleep a second before it exits.
	race := "GORACE=atexit_sleep_ms=0 " + os.Getenv("GORACE")
	p.Env = append(append(os.Environ(), childVariable+"="+name, race), env...)
	p.Stderr = &p.stderr
	in, err := p.StdinPipe()
	must(t, err)
	p.in = in
	out, err := p.StdoutPipe()
	must(t, err)
	if err := p.Start(); err != nil {
		t.Fatalf("start child %q: %v", name, err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Process.Signal(syscall.SIGCONT)
		p.Wait()
	})
	go func() {
		defer close(p.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			p.lines <- in.Text()
		}
		io.Copy(io.Discard, out)
	}()
	return p
}

// expect reads lines until one begins with word, and returns the rest of it.
func (p *process) expect(word string) string {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("child %q ended before it said %q; its standard error:\n%s", p.name, word, p.exitText())
			}
			if rest, ok := strings.CutPrefix(line, word); ok {
				return strings.TrimSpace(rest)
			}
		case <-timeout:
			p.t.Fatalf("child %q did not say %q within %v", p.name, word, patience)
		}
	}
}

func (p *process) exitText() string {
	p.Wait()
	return p.stderr.String()
}

// order writes a line for the child to read. A child that is frozen finds it when it goes on.
func (p *process) order(line string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		p.t.Fatalf("order %q to child %q: %v", line, p.name, err)
	}
}

// signal sends s to the child.
func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v to child %q: %v", s, p.name, err)
	}
}

// exit waits for the child's end and returns its state and what it wrote to standard error. Lines that were
// not expected are dropped.
func (p *process) exit() (*os.ProcessState, string) {
	p.t.Helper()
	hung := time.AfterFunc(2*patience, func() { p.Process.Kill() })
	for range p.lines {
	}
	p.Wait()
	if !hung.Stop() {
		p.t.Fatalf("child %q did not end within %v; its standard error:\n%s", p.name, 2*patience, p.stderr.String())
	}
	return p.ProcessState, p.stderr.String()
}

// A stallWatch sees how long the machine stands still, so that a test can tell that from a server that does.
type stallWatch struct{ worst, sum atomic.Int64 }

// watch watches until over is closed.
func (w *stallWatch) watch(over <-chan struct{}) {
	const nap = 5 * ms
	for !isClosed(over) {
		begin := time.Now()
		time.Sleep(nap)
		still := time.Since(begin) - nap
		w.worst.Store(max(w.worst.Load(), int64(still)))
		if still > nap {
			w.sum.Add(int64(still))
		}
	}
}

// restart forgets what was before.
func (w *stallWatch) restart() {
	w.worst.Store(0)
	w.sum.Store(0)
}

// longest is the longest that a goroutine has slept too long.
func (w *stallWatch) longest() time.Duration { return time.Duration(w.worst.Load()) }

// total is how long it has slept too long in all.
func (w *stallWatch) total() time.Duration { return time.Duration(w.sum.Load()) }

// quietLog keeps the phases out of the tests' output.
var quietLog = WithLogger(slog.New(slog.DiscardHandler))

// newTestRunner makes a Runner for a test: without signals and without a log, unless opts say otherwise. It is
// closed with the test.
func newTestRunner(t testing.TB, opts ...Option) *Runner {
	t.Helper()
	r, err := New(append([]Option{WithSignals(), quietLog}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// bound makes a socket of r bound to endpoint.
func bound(t testing.TB, r *Runner, typ zmq4.Type, endpoint string, opts ...SocketOption) *Socket {
	t.Helper()
	s, err := r.NewSocket(typ, opts...)
	if err == nil {
		err = s.Bind(endpoint)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// connected makes a socket of r connected to endpoint.
func connected(t testing.TB, r *Runner, typ zmq4.Type, endpoint string, opts ...SocketOption) *Socket {
	t.Helper()
	s, err := r.NewSocket(typ, opts...)
	if err == nil {
		err = s.Connect(endpoint)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running is a Runner that runs.
type running struct {
	*Runner
	t      testing.TB
	result chan error
}

// run has r serve with h on a goroutine of its own.
func run(t testing.TB, r *Runner, h Handler) *running {
	t.Helper()
	s := &running{Runner: r, t: t, result: make(chan error, 1)}
	go func() { s.result <- r.Run(context.Background(), h) }()
	return s
}

// end asks for the graceful end and returns what returned gives.
func (s *running) end() (Report, error) {
	s.t.Helper()
	go s.Shutdown(context.Background())
	return s.returned()
}

// returned waits for Run to return, checks that the accounts of the report add up, and returns it and Run's error.
func (s *running) returned() (Report, error) {
	s.t.Helper()
	select {
	case err := <-s.result:
		rep := s.Report()
		checkAccounts(s.t, rep)
		return rep, err
	case <-time.After(2 * patience):
		s.t.Fatalf("Run did not return within %v: %v", 2*patience, s.Report())
		panic("unreachable")
	}
}

// checkAccounts holds a final report to what every one promises.
func checkAccounts(t testing.TB, rep Report) {
	t.Helper()
	if rep.Phase != Done {
		t.Errorf("the final report is in phase %v", rep.Phase)
	}
	for _, s := range rep.Sockets {
		if s.InFlight != 0 || s.Received != s.Handled+s.Failed+s.Rejected+s.InFlight+s.Abandoned {
			t.Errorf("socket %q: received %d = handled %d + failed %d + rejected %d + in flight %d + abandoned %d does not add up, with 0 in flight",
				s.Name, s.Received, s.Handled, s.Failed, s.Rejected, s.InFlight, s.Abandoned)
		}
		if s.Drained > s.Handled || s.Queued != 0 {
			t.Errorf("socket %q: drained %d of handled %d, queued %d at the end", s.Name, s.Drained, s.Handled, s.Queued)
		}
	}
}

// echo replies with what it got.
func echo(_ context.Context, m *Message) error { return m.Reply(m.Frames...) }

// peer makes a socket that no Runner owns, in a context of its own, with unlimited high-water marks and
// timeouts that let a test fail rather than hang. It is closed, with linger 0, with the test; its first linger is not
// endless, for it goes to each connection that it accepts, whose end it can be if that breaks right then.
func peer(t testing.TB, typ zmq4.Type, options ...func(*zmq4.Socket) error) *zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ctx.NewSocket(typ)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.SetLinger(0)
		s.Close()
		ctx.Term()
	})
	err = errors.Join(s.SetLinger(patience/4), s.SetSndhwm(0), s.SetRcvhwm(0), s.SetRcvtimeo(patience), s.SetSndtimeo(patience))
	for _, set := range options {
		err = errors.Join(err, set(s))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dial is a peer that is connected.
func dial(t testing.TB, typ zmq4.Type, endpoint string, options ...func(*zmq4.Socket) error) *zmq4.Socket {
	t.Helper()
	return peer(t, typ, append(options, func(s *zmq4.Socket) error { return s.Connect(endpoint) })...)
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// request sends one message on a client and returns the answer.
func request(t testing.TB, client *zmq4.Socket, parts ...any) []string {
	t.Helper()
	_, err := client.SendMessage(parts...)
	must(t, err)
	answer, err := client.RecvMessage(0)
	must(t, err)
	return answer
}

// say prints a line for the parent of a child program.
func say(word string, args ...any) { fmt.Println(append([]any{word}, args...)...) }

// check ends a child program on an error.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}
