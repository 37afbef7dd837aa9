package interop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pebbe "github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

var restarts = flag.Int("restarts", 3, "how often each server is restarted")

const quiet = 100 * time.Millisecond // of servers whose clients pause, for three times as long

// serveGracefully is the server: a ROUTER that sends back what it gets.
func serveGracefully(args []string) error {
	endpoint, mode := args[0], args[1]
	opts := []zmqgrace.Option{zmqgrace.WithLogger(slog.New(slog.DiscardHandler))}
	var late []zmqgrace.SocketOption
	switch mode {
	case "pausing":
		opts = append(opts, zmqgrace.WithDrainQuiet(quiet))
	case "hasty":
		opts = append(opts, zmqgrace.WithDrainLimit(200*time.Millisecond))
	case "late": // with the default quiet time: on a loaded machine a client's process stands still for long, and who is silent is not told
		late = append(late, zmqgrace.WithLate(func(_ context.Context, m *zmqgrace.Message) error {
			return m.Reply(append(m.Frames[0], " late"...))
		}))
	}
	r, err := zmqgrace.New(opts...)
	if err != nil {
		return err
	}
	front, err := r.NewSocket(pebbe.ROUTER, late...)
	if err == nil {
		err = front.Bind(endpoint)
	}
	if err != nil {
		return err
	}
	return runChild(r, func(_ context.Context, m *zmqgrace.Message) error { return m.Reply(m.Frames...) })
}

// serveAsGateway is the other server: clients before it, servers of other makes behind it.
func serveAsGateway(args []string) error {
	r, err := zmqgrace.New(zmqgrace.WithDrainQuiet(quiet), zmqgrace.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	front, err := r.NewSocket(pebbe.ROUTER)
	if err != nil {
		return err
	}
	back, err := r.NewSocket(pebbe.DEALER)
	if err != nil {
		return err
	}
	for _, endpoint := range strings.Split(args[1], ",") {
		err = errors.Join(err, back.Connect(endpoint))
	}
	if err = errors.Join(err, r.Proxy(front, back), front.Bind(args[0])); err != nil {
		return err
	}
	return runChild(r, nil)
}

// runChild says "running", and at the end "ended" and whether the drain found no quiet.
func runChild(r *zmqgrace.Runner, h zmqgrace.Handler) error {
	running := make(chan struct{})
	r.Go(func(ctx context.Context) error {
		close(running)
		<-ctx.Done()
		return nil
	})
	go func() {
		<-running
		fmt.Println("running")
	}()
	err := r.Run(context.Background(), h)
	fmt.Println("ended", r.Report().Busy)
	return err
}

// A field is a server that is restarted again and again, and those who live with it.
type field struct {
	t        *testing.T
	argv     []string // of the server
	endpoint string
	server   *process
	clients  []*member
	ends     []time.Duration // from the signal until the process was gone
	busy     int
}

// A member is a client and what is known of it.
type member struct {
	*process
	make, typ string
	lost      atomic.Int64 // so far
	progress  chan struct{}
}

func newField(t *testing.T, transport string, argv ...string) *field {
	t.Helper()
	f := &field{t: t, argv: argv, endpoint: "ipc://" + filepath.Join(shortDir(t), "s")}
	if transport == "tcp" {
		f.endpoint = "tcp://" + freePort(t)
	}
	if err := f.startServer(); err != nil {
		t.Fatal(err)
	}
	return f
}

// shortDir is a directory with a name short enough for the path of a unix socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ip")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// freePort is below the ports that the kernel gives to clients.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("found no free port")
	return ""
}

func (f *field) startServer() error {
	argv, err := self(f.argv[0])
	if err == nil {
		f.server, err = start(f.t, "the server", argv, append([]string{f.endpoint}, f.argv[1:]...)...)
	}
	if err == nil {
		_, err = f.server.expect("running")
	}
	return err
}

// endServer sends SIGTERM and waits until the process is gone.
func (f *field) endServer() error {
	began := time.Now()
	if err := f.server.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	busy, err := f.server.expect("ended")
	if err != nil {
		return err
	}
	for range f.server.lines {
	}
	if err := f.server.Wait(); err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	f.ends = append(f.ends, time.Since(began))
	if busy == "true" {
		f.busy++
	}
	return nil
}

func (f *field) join(p peer, typ, mode string) {
	f.t.Helper()
	argv, err := p.find()
	if err != nil {
		f.t.Fatal(err)
	}
	name := p.name + " " + typ
	client, err := start(f.t, name, argv, "client", typ, f.endpoint, mode)
	if err != nil {
		f.t.Fatal(err)
	}
	f.clients = append(f.clients, &member{process: client, make: p.name, typ: typ, progress: make(chan struct{}, 1)})
}

// work has the client do so many rounds.
func (m *member) work(rounds int) error {
	if _, err := fmt.Fprintln(m.in, rounds); err != nil {
		return err
	}
	said, err := m.expect("done")
	if err != nil {
		return err
	}
	var lost int64
	if _, err := fmt.Sscan(said, &lost); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	m.lost.Store(lost)
	return nil
}

// together has all clients do their rounds side by side.
func (f *field) together(rounds int, meanwhile func() error) {
	f.t.Helper()
	var all sync.WaitGroup
	for _, m := range f.clients {
		all.Go(func() {
			if err := m.work(rounds); err != nil {
				f.t.Error(err)
			}
		})
	}
	if err := meanwhile(); err != nil {
		f.t.Error(err)
	}
	all.Wait()
	if f.t.Failed() {
		f.t.FailNow()
	}
}

// result closes the account of every client, and prints the table.
func (f *field) result(allowed int) {
	f.t.Helper()
	var table strings.Builder // printed at once: another test runs beside this one
	row := func(format string, values ...any) { fmt.Fprintf(&table, format+"\n", values...) }
	row("%-10s %-6s %8s %8s %8s %5s %5s %12s", "peer", "type", "requests", "answers", "retried", "lost", "twice", "worst wait")
	for _, m := range f.clients {
		m.in.Close()
		line, err := m.expect("result")
		if err != nil {
			f.t.Fatal(err)
		}
		var sent, answered, lost, retried, twice, worst int
		if _, err := fmt.Sscan(line, &sent, &answered, &lost, &retried, &twice, &worst); err != nil {
			f.t.Fatal(err)
		}
		row("%-10s %-6s %8d %8d %8d %5d %5d %9d ms", m.make, m.typ, sent, answered, retried, lost, twice, worst)
		if answered+lost != sent || lost > allowed || twice > 0 || answered == 0 {
			f.t.Errorf("%s: %d requests, %d answers, %d lost where %d are allowed, %d came twice", m.name, sent, answered, lost, allowed, twice)
		}
	}
	var longest, sum time.Duration
	for _, d := range f.ends {
		longest, sum = max(longest, d), sum+d
	}
	row("%d restarts, signal to exit %v on average, at most %v; %d found no quiet", len(f.ends), (sum / time.Duration(len(f.ends))).Round(time.Millisecond), longest.Round(time.Millisecond), f.busy)
	f.t.Logf("over %s\n%s", strings.SplitN(f.endpoint, ":", 2)[0], &table)
	if err := f.endServer(); err != nil {
		f.t.Error(err)
	}
}

var transports = []string{"tcp", "ipc"}

func onEachTransport(t *testing.T, test func(t *testing.T, transport string, here []peer)) {
	here := available(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			test(t, transport, here)
		})
	}
}

// pauseAndRestart has the clients work and pause, and restarts the server now in their work, now in their pause. The pause
// outlasts the end of the server: a request that meets the end is what no pause helps against. After a pause the clients
// do not wait for the next server.
func (f *field) pauseAndRestart() {
	f.t.Helper()
	f.together(1, func() error { return nil }) // all are there
	for n := range *restarts {
		inWork := n%2 == 0
		f.together(20, func() error {
			if !inWork {
				return nil
			}
			time.Sleep(rand.N(5 * time.Millisecond))
			if err := f.endServer(); err != nil {
				return err
			}
			return f.startServer()
		})
		pause := time.After(3 * quiet)
		if !inWork {
			time.Sleep(rand.N(2 * quiet))
			if err := f.endServer(); err != nil {
				f.t.Fatal(err)
			}
		}
		<-pause
		f.together(1, func() error {
			if inWork {
				return nil
			}
			return f.startServer()
		})
	}
}

func TestClientsThatPauseLoseNothingInRestarts(t *testing.T) {
	onEachTransport(t, func(t *testing.T, transport string, here []peer) {
		f := newField(t, transport, "graceful", "pausing")
		for _, p := range here {
			f.join(p, "REQ", "pausing")
			f.join(p, "DEALER", "pausing")
		}
		f.pauseAndRestart()
		f.result(0)
		if f.busy > 0 {
			t.Errorf("%d of the servers found no quiet", f.busy)
		}
	})
}

func TestServersBehindAGatewayLoseNothingInItsRestarts(t *testing.T) {
	onEachTransport(t, func(t *testing.T, transport string, here []peer) {
		var backs []string
		var servers []*process
		for i, p := range here {
			argv, err := p.find()
			if err != nil {
				t.Fatal(err)
			}
			endpoint := "tcp://127.0.0.1:*"
			if transport == "ipc" {
				endpoint = fmt.Sprintf("ipc://%s/%d", shortDir(t), i)
			}
			s, err := start(t, p.name+" server", argv, "server", endpoint)
			if err != nil {
				t.Fatal(err)
			}
			at, err := s.expect("bound")
			if err != nil {
				t.Fatal(err)
			}
			backs, servers = append(backs, at), append(servers, s)
		}
		f := newField(t, transport, "gateway", strings.Join(backs, ","))
		for _, p := range here {
			f.join(p, "REQ", "pausing")
		}
		f.pauseAndRestart()
		f.result(0)
		for _, s := range servers {
			s.in.Close()
			served, err := s.expect("served")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%-18s served %s", s.name, served)
			if served == "0" {
				t.Errorf("%s served nothing", s.name)
			}
		}
	})
}

// restless has the clients work on without a pause until stop.
func (f *field) restless() (stop func()) {
	over := make(chan struct{})
	var all sync.WaitGroup
	for _, m := range f.clients {
		all.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if err := m.work(10); err != nil {
					f.t.Error(err)
					close(m.progress)
					return
				}
				select {
				case m.progress <- struct{}{}:
				default:
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(over)
		all.Wait()
	})
}

// restartUnderLoad restarts the server while the clients go on. In each restart a client may lose as much as is allowed.
func (f *field) restartUnderLoad(allowed int64) {
	f.t.Helper()
	stop := f.restless()
	defer stop()
	for _, m := range f.clients { // a client that still starts is one that is silent
		if _, ok := <-m.progress; !ok {
			f.t.FailNow()
		}
	}
	before := make(map[*member]int64)
	for n := range *restarts {
		time.Sleep(rand.N(100 * time.Millisecond))
		if err := f.endServer(); err != nil {
			f.t.Fatal(err)
		}
		if err := f.startServer(); err != nil {
			f.t.Fatal(err)
		}
		// All have come over to the new server: two times, since the first may be from before.
		for _, m := range f.clients {
			for range 2 {
				if _, ok := <-m.progress; !ok {
					f.t.FailNow()
				}
			}
			if lost := m.lost.Load(); lost-before[m] > allowed {
				f.t.Errorf("%s lost %d requests in restart %d", m.name, lost-before[m], n+1)
			}
			before[m] = m.lost.Load()
		}
	}
	stop()
}

func TestClientsThatHeedLateLoseNothingInRestarts(t *testing.T) {
	onEachTransport(t, func(t *testing.T, transport string, here []peer) {
		f := newField(t, transport, "graceful", "late")
		for _, p := range here {
			f.join(p, "REQ", "late")
			f.join(p, "DEALER", "late")
		}
		f.restartUnderLoad(0)
		f.result(0)
	})
}

func TestClientsThatNeverPauseLoseAtMostOneRequestARestart(t *testing.T) {
	onEachTransport(t, func(t *testing.T, transport string, here []peer) {
		f := newField(t, transport, "graceful", "hasty")
		for _, p := range here {
			f.join(p, "REQ", "hasty")
		}
		f.restartUnderLoad(1)
		f.result(*restarts)
	})
}
