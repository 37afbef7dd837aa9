package zmqgrace

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// A server that is a process of its own, and what only such a one can show: that it dies of a panic, that it
// comes back with something stuck in it, that it sleeps. The tests of restarts and of signals use it too.

func init() {
	children["server"] = serveAsChild
	children["frozen client"] = reluctantAsChild
}

// service says what the child program "server" serves, and how. What is zero has the default.
type service struct {
	Type      zmq4.Type     // ROUTER if zero
	Endpoint  string        // a free port if empty
	Unlimited bool          // no high-water marks
	Work      time.Duration // of the processor, for each request
	Pause     time.Duration // for each request, without work; says "request" before
	Reply     int           // the size of a reply, at least that of the request

	Grace, ReadyDelay, Quiet, Limit, Linger, PollTimeout time.Duration

	Deaf      bool   // WithSignals()
	Stay      bool   // go on living when Run has returned
	HookPanic string // the phase in which the phase hook panics
	HookInt   string // the phase in which it sends SIGINT to the process
}

const serviceVariable = "ZMQGRACE_TEST_SERVICE"

func (c service) options() []Option {
	opts := []Option{WithPhaseHook(func(p Phase) {
		say("phase", p)
		switch p.String() {
		case c.HookPanic:
			phaseHookThatPanics()
		case c.HookInt:
			interruptOneself()
		}
	})}
	for _, o := range []struct {
		value  time.Duration
		option func(time.Duration) Option
	}{
		{c.Grace, WithGrace},
		{c.ReadyDelay, WithReadyDelay},
		{c.Quiet, WithDrainQuiet},
		{c.Limit, WithDrainLimit},
		{c.Linger, WithLinger},
		{c.PollTimeout, WithPollTimeout},
	} {
		if o.value != 0 {
			opts = append(opts, o.option(o.value))
		}
	}
	if c.Deaf {
		opts = append(opts, WithSignals())
	}
	return opts
}

// serveAsChild says "bound" and its endpoint, "phase" and its name for every phase, and, when Run has
// returned, "returned" and the outcome.
func serveAsChild() {
	var c service
	check(json.Unmarshal([]byte(os.Getenv(serviceVariable)), &c))
	if c.Type == 0 {
		c.Type = zmq4.ROUTER
	}
	if c.Endpoint == "" {
		c.Endpoint = "tcp://127.0.0.1:*"
	}
	r, err := New(c.options()...)
	check(err)
	front, err := r.NewSocket(c.Type, WithName("front"))
	check(err)
	if c.Unlimited {
		check(errors.Join(front.Raw().SetSndhwm(0), front.Raw().SetRcvhwm(0)))
	}
	check(front.Bind(c.Endpoint))
	lonely, err := r.NewSocket(zmq4.PUSH, WithName("lonely")) // without a peer, for a send that blocks
	check(err)
	check(lonely.Bind("inproc://lonely"))
	say("bound", front.Endpoint())
	err = r.Run(context.Background(), func(ctx context.Context, m *Message) error {
		if do := predicaments[string(m.Frames[0])]; do != nil {
			return do(ctx, r, lonely, m)
		}
		return c.work(m)
	})
	say("returned", outcomeOf(r, err))
	if c.Stay {
		time.Sleep(patience)
	}
}

// work serves an ordinary request.
func (c service) work(m *Message) error {
	for start := time.Now(); time.Since(start) < c.Work; {
	}
	if c.Pause > 0 {
		say("request", string(m.Frames[0]))
		time.Sleep(c.Pause)
	}
	body := m.Frames[0]
	if len(body) < c.Reply {
		body = append(make([]byte, 0, c.Reply), body...)[:c.Reply]
	}
	return m.Reply(body)
}

// predicaments are requests that bring the server into one. Their handlers say the word when it is in it.
var predicaments = map[string]func(ctx context.Context, r *Runner, lonely *Socket, m *Message) error{
	"sleep a minute": func(context.Context, *Runner, *Socket, *Message) error {
		say("sleeping")
		time.Sleep(time.Minute)
		return nil
	},
	"block in a raw send": func(_ context.Context, _ *Runner, lonely *Socket, _ *Message) error {
		say("blocking")
		_, err := lonely.Raw().SendMessage("for nobody")
		return err
	},
	"leak a socket": func(_ context.Context, r *Runner, _ *Socket, m *Message) error {
		_, err := r.Context().NewSocket(zmq4.PULL)
		say("leaking")
		return err
	},
	"send megabytes": func(ctx context.Context, _ *Runner, _ *Socket, m *Message) error {
		defer say("flooded")
		return flood(ctx, m, 100, 1<<20)
	},
	"send thousands": func(ctx context.Context, _ *Runner, _ *Socket, m *Message) error {
		defer say("flooded")
		return flood(ctx, m, 3000, 16<<10)
	},
	"close": func(_ context.Context, r *Runner, _ *Socket, _ *Message) error {
		go r.Close()
		return nil
	},
	"signal when cancelled": func(ctx context.Context, _ *Runner, _ *Socket, _ *Message) error {
		say("waiting")
		<-ctx.Done()
		interruptOneself()
		return nil
	},
	"panic": func(context.Context, *Runner, *Socket, *Message) error { return handlerThatPanics() },
	"runtime panic": func(_ context.Context, _ *Runner, _ *Socket, m *Message) error {
		return handlerThatReadsTooFar(m)
	},
}

// flood sends count messages of size bytes to m's peer.
func flood(ctx context.Context, m *Message, count, size int) error {
	for range count {
		if err := m.Socket.Send(ctx, append(m.Envelope(), make([]byte, size))...); err != nil {
			return err
		}
	}
	return nil
}

// interruptOneself says so if the process survives it. The signal goes to any of the threads, so death takes a moment.
func interruptOneself() {
	syscall.Kill(os.Getpid(), syscall.SIGINT)
	time.Sleep(patience / 4)
	say("survived")
}

func handlerThatPanics() error { panic("as the test asked") }

func handlerThatReadsTooFar(m *Message) error { return m.Reply(m.Frames[len(m.Frames)]) }

func phaseHookThatPanics() { panic("as the test asked") }

// outcome is what Run returned and reported in another process.
type outcome struct {
	Error    string
	Forced   bool // errors.Is(err, ErrForced)
	Deadline bool // errors.Is(err, context.DeadlineExceeded)
	Shutdown *struct {
		Phase   string
		Sockets []string
		Running []RunningHandler
		Leaked  bool
	}
	Cause         string
	Signal        int // of a SignalError as the cause
	Busy          bool
	LingerExpired bool
	Phases        []string
	Sockets       []account
}

// An account is a SocketReport that can be unmarshalled.
type account SocketReport

func outcomeOf(r *Runner, err error) string {
	rep := r.Report()
	o := outcome{
		Forced:        errors.Is(err, ErrForced),
		Deadline:      errors.Is(err, context.DeadlineExceeded),
		Cause:         causeText(rep.Cause),
		Busy:          rep.Busy,
		LingerExpired: rep.LingerExpired,
	}
	if err != nil {
		o.Error = err.Error()
	}
	var incomplete *ShutdownError
	if errors.As(err, &incomplete) {
		o.Shutdown = &struct {
			Phase   string
			Sockets []string
			Running []RunningHandler
			Leaked  bool
		}{Phase: incomplete.Phase.String(), Running: incomplete.Running, Leaked: incomplete.Leaked}
		for _, s := range incomplete.Sockets {
			o.Shutdown.Sockets = append(o.Shutdown.Sockets, s.Name)
		}
	}
	var signalled *SignalError
	if errors.As(rep.Cause, &signalled) {
		o.Signal = int(signalled.Signal.(syscall.Signal))
	}
	for _, p := range rep.Phases {
		o.Phases = append(o.Phases, fmt.Sprint(p.Phase, " ", p.Duration.Round(100*time.Microsecond)))
	}
	for _, s := range rep.Sockets {
		o.Sockets = append(o.Sockets, account(s))
	}
	line, err := json.Marshal(o)
	check(err)
	return string(line)
}

// server is a child program "server".
type server struct {
	*process
	endpoint string
}

// startServer starts the server and waits until it runs: from then on it hears signals.
func startServer(t testing.TB, c service) *server {
	t.Helper()
	return serverWith(t, "server", c)
}

func serverWith(t testing.TB, program string, c service, env ...string) *server {
	t.Helper()
	config, err := json.Marshal(c)
	must(t, err)
	p := startChild(t, program, append(env, serviceVariable+"="+string(config))...)
	s := &server{process: p, endpoint: p.expect("bound")}
	s.reach(Running)
	return s
}

// reach waits until the server is in phase p.
func (s *server) reach(p Phase) {
	s.t.Helper()
	s.expect("phase " + p.String())
}

// returned waits until Run has returned.
func (s *server) returned() outcome {
	s.t.Helper()
	var o outcome
	must(s.t, json.Unmarshal([]byte(s.expect("returned")), &o))
	rep := Report{Phase: Done}
	for _, a := range o.Sockets {
		rep.Sockets = append(rep.Sockets, SocketReport(a))
	}
	checkAccounts(s.t, rep)
	return o
}

// end has the server end with SIGTERM, and holds it to a complete end and exit code 0.
func (s *server) end() outcome {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	o := s.returned()
	state, stderr := s.exit()
	if o.Error != "" || state.ExitCode() != 0 {
		s.t.Errorf("the server ended with %v: %s; its standard error:\n%s", state, o.Error, stderr)
	}
	return o
}

// ownPort returns a tcp endpoint that stays free while no server holds it. It is below the ports that the
// kernel gives to clients: one of those that try again and again to connect could even connect to itself.
func ownPort(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return "tcp://" + address
		}
	}
	t.Fatal("found no free port")
	return ""
}

// ownPath returns an ipc endpoint. The path of a unix socket has room for hardly more than 100 bytes, which the
// names of tests can use up in t.TempDir.
func ownPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "zmqgrace")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "ipc://" + filepath.Join(dir, "s")
}

// reluctantAsChild is a client that sends one request, named by the environment, and reads nothing before it is ordered to. Ordered
// again, it says how many messages it has read.
func reluctantAsChild() {
	ctx, err := zmq4.NewContext()
	check(err)
	s, err := ctx.NewSocket(zmq4.DEALER)
	check(err)
	check(errors.Join(s.SetRcvhwm(1), s.Connect(os.Getenv("ZMQGRACE_TEST_ENDPOINT"))))
	_, err = s.Send(os.Getenv("ZMQGRACE_TEST_REQUEST"), 0)
	check(err)
	orders := bufio.NewScanner(os.Stdin)
	if orders.Scan() {
		enough := make(chan struct{})
		go func() { orders.Scan(); close(enough) }()
		check(s.SetRcvtimeo(50 * ms))
		read := 0
		for !isClosed(enough) {
			if _, err := s.RecvBytes(0); err == nil {
				read++
			}
		}
		say("read", read)
	}
	time.Sleep(2 * patience)
	runtime.KeepAlive(s)
}

// startFrozenClient starts a client process that does not read the answers to its one request, unless ordered to.
func startFrozenClient(t testing.TB, endpoint, request string) *process {
	t.Helper()
	return startChild(t, "frozen client", "ZMQGRACE_TEST_ENDPOINT="+endpoint, "ZMQGRACE_TEST_REQUEST="+request)
}

func TestRunReturnsWithinItsGraceWhateverIsStuck(t *testing.T) {
	const grace = time.Second
	for _, test := range []struct {
		name, request, word string
		frozen              bool // the request comes from a client that is stopped then
		phase               string
		socket              string
		running, leaked     bool
		lingerExpired       bool
	}{
		{name: "a handler that ignores its context", request: "sleep a minute", word: "sleeping",
			phase: "Draining", socket: "front", running: true},
		{name: "a handler in a raw send without a peer", request: "block in a raw send", word: "blocking",
			phase: "Draining", socket: "front", running: true},
		{name: "a socket that nobody closes", request: "leak a socket", word: "leaking",
			phase: "Closing", leaked: true},
		{name: "a stopped peer that is owed megabytes", request: "send megabytes", word: "flooded", frozen: true,
			phase: "Closing", socket: "front", lingerExpired: true},
		{name: "a stopped peer at its high-water mark", request: "send thousands", word: "flooded", frozen: true,
			phase: "Closing", socket: "front", lingerExpired: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, service{Grace: grace, Stay: true})
			if test.frozen {
				client := startFrozenClient(t, s.endpoint, test.request)
				s.expect(test.word)
				client.signal(syscall.SIGSTOP)
			} else {
				_, err := dial(t, zmq4.DEALER, s.endpoint).Send(test.request, 0)
				must(t, err)
				s.expect(test.word)
			}
			asked := time.Now()
			s.signal(syscall.SIGTERM)
			o := s.returned()
			took := time.Since(asked)
			t.Logf("Run returned after %v: %s", took.Round(time.Millisecond), o.Error)
			if took > 2*grace { // a generous bound: a busy machine took 1.25 s
				t.Errorf("Run took %v of a grace of %v", took, grace)
			}
			if o.Shutdown == nil || !o.Deadline || o.Forced {
				t.Fatalf("Run returned %q, want a ShutdownError that is DeadlineExceeded", o.Error)
			}
			if o.Signal != int(syscall.SIGTERM) || !strings.Contains(o.Error, o.Cause) {
				t.Errorf("the cause is %q, want SIGTERM, and in the error %q", o.Cause, o.Error)
			}
			e := o.Shutdown
			if e.Phase != test.phase || !strings.Contains(o.Error, test.phase) {
				t.Errorf("the error is of phase %s, want %s: %s", e.Phase, test.phase, o.Error)
			}
			if test.socket != "" && !strings.Contains(o.Error, fmt.Sprintf("socket %q", test.socket)) {
				t.Errorf("the error does not name the socket %q: %s", test.socket, o.Error)
			}
			if e.Leaked != test.leaked || o.LingerExpired != test.lingerExpired {
				t.Errorf("leaked %v, linger expired %v, want %v, %v", e.Leaked, o.LingerExpired, test.leaked, test.lingerExpired)
			}
			if test.running != (len(e.Running) == 1) {
				t.Fatalf("the error names the handlers %v", e.Running)
			}
			if test.running && (e.Running[0].Socket != "front" || e.Running[0].RoutingID == "" || e.Running[0].For <= 0) {
				t.Errorf("the error names the handler %+v", e.Running[0])
			}
		})
	}
}

func TestAPanicFlushesTheRepliesAndKillsTheProcess(t *testing.T) {
	const before = 200 // requests before the panic
	for _, test := range []struct {
		name, request string
		service       service
		value, stack  string
	}{
		{"of a handler", "panic", service{}, "panic: as the test asked", "handlerThatPanics"},
		{"of the runtime in a handler", "runtime panic", service{}, "panic: runtime error: index out of range [1] with length 1", "handlerThatReadsTooFar"},
		{"of the phase hook in the drain", "", service{HookPanic: "Draining"}, "panic: as the test asked", "phaseHookThatPanics"},
		{"of the phase hook at the end", "", service{HookPanic: "Done"}, "panic: as the test asked", "phaseHookThatPanics"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.service.Reply = 10 << 10
			s := startServer(t, test.service)
			client := dial(t, zmq4.DEALER, s.endpoint)
			for n := range before {
				_, err := client.Send(fmt.Sprint(n), 0)
				must(t, err)
			}
			if test.request != "" {
				_, err := client.Send(test.request, 0)
				must(t, err)
			}
			for n := range before {
				if _, err := client.Recv(0); err != nil {
					t.Fatalf("reply %d of %d did not arrive: %v", n+1, before, err)
				}
			}
			if test.request == "" {
				s.signal(syscall.SIGTERM)
			}
			state, stderr := s.exit()
			if state.ExitCode() != 2 {
				t.Errorf("the process ended with %v, want exit code 2", state)
			}
			for _, want := range []string{test.value, "goroutine ", test.stack} {
				if !strings.Contains(stderr, want) {
					t.Errorf("%q is not in standard error:\n%s", want, stderr)
				}
			}
			if strings.Contains(stderr, "recovered") {
				t.Errorf("the panic is not the original one:\n%s", stderr)
			}
		})
	}
}

func TestAPanicWaitsASecondForAPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := startServer(t, service{})
	client := startFrozenClient(t, s.endpoint, "send thousands")
	s.expect("flooded")
	client.signal(syscall.SIGSTOP)
	sent := time.Now()
	_, err := dial(t, zmq4.DEALER, s.endpoint).Send("panic", 0)
	must(t, err)
	state, stderr := s.exit()
	took := time.Since(sent)
	t.Logf("the process died after %v", took.Round(time.Millisecond))
	if state.ExitCode() != 2 || !strings.Contains(stderr, "handlerThatPanics") {
		t.Errorf("the process ended with %v; its standard error:\n%s", state, stderr)
	}
	if took > 2*lastWords {
		t.Errorf("the process died after %v, want hardly more than %v", took, lastWords)
	}
}

func TestAHandlerThatCallsGoexitEndsTheServerGracefully(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	client := dial(t, zmq4.DEALER, router.Endpoint())
	const requests = 100
	for n := range requests {
		_, err := client.Send(fmt.Sprint(n), 0)
		must(t, err)
	}
	s := run(t, r, func(_ context.Context, m *Message) error {
		if string(m.Frames[0]) == "10" {
			runtime.Goexit()
		}
		return m.Reply(m.Frames...)
	})
	report, err := s.returned()
	if err == nil || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("Run returned %v, want an error that names Goexit", err)
	}
	if errors.As(err, new(*ShutdownError)) {
		t.Errorf("the end was not complete: %v", err)
	}
	if c := report.Sockets[0]; c.Handled != requests-1 || c.Failed != 1 || c.Sent != requests-1 {
		t.Errorf("the report is %v", report)
	}
	for n := range requests - 1 {
		if _, err := client.Recv(0); err != nil {
			t.Fatalf("reply %d: %v", n, err)
		}
	}
}

func TestAnIdleServerSleeps(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the counts of context switches are Linux's")
	}
	t.Parallel()
	s := startServer(t, service{PollTimeout: -1})
	client := dial(t, zmq4.DEALER, s.endpoint)
	request(t, client, "are you there")
	time.Sleep(500 * time.Millisecond) // idle: the runtime's own threads come to rest
	before := contextSwitches(t, s.Process.Pid)
	time.Sleep(5 * time.Second)
	switches := contextSwitches(t, s.Process.Pid) - before
	t.Logf("%d voluntary context switches in 5 s", switches)
	if switches > 5 {
		t.Errorf("an idle server woke up: %d voluntary context switches in 5 s", switches)
	}
	request(t, client, "and now")
	s.end()
}

// contextSwitches sums up the voluntary context switches of all threads of a process.
func contextSwitches(t testing.TB, pid int) (sum int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of process %d: %v", pid, err)
	}
	for _, file := range files {
		status, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				var n int
				_, err := fmt.Sscan(rest, &n)
				must(t, err)
				sum += n
			}
		}
	}
	return sum
}
