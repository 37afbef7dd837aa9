package zmqgrace

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// What clients see of a restart: a burst in the middle, clients that think, clients that never pause, sessions;
// and what they see of a client that is frozen.

var bursts = flag.Int("bursts", 3, "how many times to restart a server in a burst")

// repeats is how often a test that restarts servers does so.
func repeats() int {
	if testing.Short() {
		return 1
	}
	return *bursts
}

const (
	burstSize   = 10_000
	burstBefore = 1_000           // replies before the signal
	burstWork   = 30_000          // nanoseconds, for each request
	silence     = 5 * time.Second // what has no answer after that long is lost
)

func init() { children["burst client"] = burstAsChild }

// burstAsChild is a DEALER that sends a burst to the endpoint in its environment. It says "replies" when the first
// of them have come, and "answered" at the end, with how many requests were and how many answers were second ones.
func burstAsChild() {
	ctx, err := zmq4.NewContext()
	check(err)
	s, err := ctx.NewSocket(zmq4.DEALER)
	check(err)
	check(s.SetLinger(0))
	check(s.SetSndhwm(0))
	check(s.SetRcvhwm(0))
	check(s.SetRcvtimeo(silence))
	check(s.Connect(os.Getenv("ZMQGRACE_TEST_ENDPOINT")))
	for n := range burstSize {
		_, err := s.Send(fmt.Sprintf("%08d", n), 0)
		check(err)
	}
	var seen [burstSize]bool
	answered, twice := 0, 0
	for answered < burstSize {
		reply, err := s.Recv(0)
		if err != nil {
			break
		}
		n, err := strconv.Atoi(reply[:8])
		check(err)
		if seen[n] {
			twice++
			continue
		}
		seen[n] = true
		if answered++; answered == burstBefore {
			say("replies")
		}
	}
	say("answered", answered, twice)
}

// restartInABurst has client, a child program, send a burst to a server, restarts that in the middle, and
// returns how many requests stayed without an answer.
func restartInABurst(t testing.TB, first *server, start func() *server, client *process) {
	t.Helper()
	client.expect("replies")
	asked := time.Now()
	first.signal(syscall.SIGTERM)
	o := first.returned()
	took := time.Since(asked)
	state, stderr := first.exit()
	if o.Error != "" || state.ExitCode() != 0 || o.Busy {
		t.Errorf("the server ended with %v, busy %v: %s; its standard error:\n%s", state, o.Busy, o.Error, stderr)
	}
	successor := start()
	var answered, twice int
	_, err := fmt.Sscan(client.expect("answered"), &answered, &twice)
	must(t, err)
	t.Logf("ended after %v, %v: drained %d, lost %d", took.Round(time.Millisecond), o.Phases, o.Sockets[0].Drained, burstSize-answered)
	if answered != burstSize || twice != 0 {
		t.Errorf("%d of %d requests were lost, %d answered twice", burstSize-answered, burstSize, twice)
	}
	successor.end()
}

func TestARestartInABurstLosesNothing(t *testing.T) {
	for _, test := range []struct {
		name     string
		endpoint func(testing.TB) string
		service  service
	}{
		{"tcp", ownPort, service{Unlimited: true}},
		{"ipc", ownPath, service{Unlimited: true}},
		{"tcp, default marks, 1 KiB", ownPort, service{Reply: 1 << 10}},
		{"ipc, default marks, 1 KiB", ownPath, service{Reply: 1 << 10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.service.Work = burstWork
			for range repeats() {
				test.service.Endpoint = test.endpoint(t)
				start := func() *server { return startServer(t, test.service) }
				first := start()
				client := startChild(t, "burst client", "ZMQGRACE_TEST_ENDPOINT="+first.endpoint)
				restartInABurst(t, first, start, client)
			}
		})
	}
}

// A lockstep client is a REQ that has one request on its way at a time. It belongs to one goroutine.
type lockstepClient struct {
	t        testing.TB
	ctx      *zmq4.Context
	endpoint string
	socket   *zmq4.Socket
	lost     int
	answered int
}

// lockstepContext makes the context that the lockstep clients of a test share.
func lockstepContext(t testing.TB) *zmq4.Context {
	t.Helper()
	ctx, err := zmq4.NewContext()
	must(t, err)
	t.Cleanup(func() { ctx.Term() })
	return ctx
}

// request sends one request and waits for its answer. If that is lost, it begins with a new socket.
func (c *lockstepClient) request(patience time.Duration) {
	if c.socket == nil {
		s, err := c.ctx.NewSocket(zmq4.REQ)
		if err != nil {
			c.t.Error(err)
			return
		}
		s.SetLinger(0)
		s.SetRcvtimeo(patience)
		s.Connect(c.endpoint)
		c.socket = s
	}
	_, err := c.socket.Send("request", 0)
	if err == nil {
		_, err = c.socket.Recv(0)
	}
	if err != nil {
		c.lost++
		c.close()
		return
	}
	c.answered++
}

func (c *lockstepClient) close() {
	if c.socket != nil {
		c.socket.Close()
		c.socket = nil
	}
}

func TestClientsThatThinkLoseNothingInRestarts(t *testing.T) {
	const (
		clients = 20
		think   = 400 * time.Millisecond
	)
	restarts := 10
	if testing.Short() {
		restarts = 2
	}
	svc := service{Type: zmq4.REP, Endpoint: ownPort(t)}
	s := startServer(t, svc)
	ctx := lockstepContext(t)
	all := make([]*lockstepClient, clients)
	for i := range all {
		all[i] = &lockstepClient{t: t, ctx: ctx, endpoint: s.endpoint}
		defer all[i].close()
	}
	for n := range restarts {
		// The clients think in step: a restart falls between their requests. (With 20 that each think at another
		// time the server sees no pause at all.)
		var round sync.WaitGroup
		for _, c := range all {
			round.Go(func() { c.request(silence) })
		}
		round.Wait()
		thought := time.After(think)
		// At another time of the thinking each. In its last part the server has been quiet for long, and ends at
		// once; just before its end a request would meet the end.
		time.Sleep(think * 3 / 4 * time.Duration(n) / time.Duration(restarts))
		o := s.end()
		s = startServer(t, svc)
		if o.Busy {
			t.Errorf("restart %d: no quiet came", n)
		}
		<-thought
	}
	answered, lost := 0, 0
	for _, c := range all {
		answered, lost = answered+c.answered, lost+c.lost
	}
	t.Logf("%d restarts, %d requests answered, %d lost", restarts, answered, lost)
	if lost > 0 || answered != clients*restarts {
		t.Errorf("%d of %d requests were lost", lost, clients*restarts)
	}
	s.end()
}

func TestClientsThatNeverPauseLoseAtMostOneRequestEach(t *testing.T) {
	const (
		clients = 4
		limit   = 300 * time.Millisecond
	)
	t.Parallel()
	for range repeats() {
		svc := service{Type: zmq4.REP, Endpoint: ownPort(t), Limit: limit}
		s := startServer(t, svc)
		ctx := lockstepContext(t)
		stop := make(chan struct{})
		begun := make(chan struct{}, clients)
		var all [clients]*lockstepClient
		var busy sync.WaitGroup
		for i := range all {
			c := &lockstepClient{t: t, ctx: ctx, endpoint: s.endpoint}
			all[i] = c
			busy.Go(func() {
				defer c.close()
				for {
					c.request(silence / 2)
					if c.answered == 100 {
						begun <- struct{}{}
					}
					if isClosed(stop) {
						return
					}
				}
			})
		}
		for range clients {
			<-begun
		}
		asked := time.Now()
		s.signal(syscall.SIGTERM)
		o := s.returned()
		took := time.Since(asked)
		if state, stderr := s.exit(); state.ExitCode() != 0 {
			t.Errorf("the server ended with %v; its standard error:\n%s", state, stderr)
		}
		s = startServer(t, svc)
		close(stop)
		busy.Wait()
		lost := 0
		for _, c := range all {
			lost += c.lost
			if c.lost > 1 {
				t.Errorf("a client lost %d requests", c.lost)
			}
		}
		t.Logf("ended after %v, %v: drained %d, lost %d", took.Round(time.Millisecond), o.Phases, o.Sockets[0].Drained, lost)
		if o.Error != "" || !o.Busy {
			t.Errorf("Run returned %q, busy %v; want nil and busy", o.Error, o.Busy)
		}
		s.end()
	}
}

func TestSessionsOfSlowRequestsAreNotBroken(t *testing.T) {
	// Clients that stand still for the quiet time look like clients that have fallen silent. They are all in this process.
	for tries := 0; ; tries++ {
		var clock stallWatch
		over := make(chan struct{})
		go clock.watch(over)
		broken := playSessions(t)
		close(over)
		stalled := clock.longest()
		if len(broken) == 0 {
			return
		}
		if stalled < DefaultDrainQuiet/2 || tries == 5 {
			t.Fatalf("this process stood still for at most %v; %s", stalled, strings.Join(broken, "\n"))
		}
		t.Logf("this process stood still for %v, so that nobody can say who was silent: once more", stalled)
	}
}

// playSessions has clients with slow requests, one after the other, while their servers end, and says which were broken.
func playSessions(t *testing.T) (broken []string) {
	const (
		sessions = 20
		requests = 4
		pause    = 300 * time.Millisecond // longer than the drain's quiet time
	)
	servers := make([]*server, sessions)
	for i := range servers {
		servers[i] = startServer(t, service{Type: zmq4.REP, Pause: pause})
	}
	ctx := lockstepContext(t)
	var all sync.WaitGroup
	answered := make([]int, sessions)
	for i, s := range servers {
		all.Go(func() {
			c := &lockstepClient{t: t, ctx: ctx, endpoint: s.endpoint}
			defer c.close()
			for range requests {
				c.request(silence)
			}
			answered[i] = c.answered
		})
	}
	// The sessions run side by side, and the signals come at moments all over them.
	for i, s := range servers {
		for range i*requests/sessions + 1 {
			s.expect("request")
		}
		s.signal(syscall.SIGTERM)
		time.Sleep(requests * pause / sessions)
	}
	all.Wait()
	for i, s := range servers {
		if o := s.returned(); o.Error != "" || o.Busy || o.Sockets[0].Handled != requests || answered[i] != requests {
			broken = append(broken, fmt.Sprintf("session %d: %d of %d requests were answered, the server ended with %+v", i, answered[i], requests, o))
		}
	}
	return broken
}

func TestOneFrozenClientHoldsUpNobodyElse(t *testing.T) {
	for _, test := range []struct {
		name   string
		signal syscall.Signal
	}{
		{"stopped", syscall.SIGSTOP},
		{"killed", syscall.SIGKILL},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, service{Grace: 2 * time.Second})
			client := dial(t, zmq4.DEALER, s.endpoint)
			request(t, client, "hello")
			// Its pipe is full when its high-water mark is reached and the buffers of both kernels are full.
			frozen := startFrozenClient(t, s.endpoint, "send thousands")
			s.expect("flooded")
			frozen.signal(test.signal)
			var clock stallWatch
			go clock.watch(t.Context().Done())
			var longest time.Duration
			served := 0
			for begin := time.Now(); time.Since(begin) < 2*peerPatience; served++ {
				sent := time.Now()
				request(t, client, "hello")
				longest = max(longest, time.Since(sent))
			}
			t.Logf("%d requests of another client in %v, the longest took %v", served, 2*peerPatience, longest)
			if longest > peerPatience/2+2*clock.longest() { // a loop that waits for the frozen one takes all of it
				t.Errorf("another client waited for %v", longest)
			}
			s.signal(syscall.SIGTERM)
			o := s.returned()
			t.Logf("Run returned %q, %v", o.Error, o.Phases)
			front := o.Sockets[0]
			if gone := front.Dropped + front.Unroutable; gone == 0 || front.Unsent != 0 {
				t.Errorf("the report is %+v, want the rest for the frozen client dropped or unroutable", front)
			}
			state, stderr := s.exit()
			if state.ExitCode() != 0 {
				t.Errorf("the server ended with %v; its standard error:\n%s", state, stderr)
			}
		})
	}
}
