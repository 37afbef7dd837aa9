package zmqgrace

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
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

// Chaos: scenarios drawn from a seed. Each composes a topology, load, options, a fault and what asks for the end, and is
// held to the promises that hold whatever happens. A seed fixes what is drawn, not how the threads interleave: a seed
// that fails may need -chaos.n repetitions with -chaos.same to fail again.

var (
	chaosSeed = flag.Uint64("chaos.seed", 1, "seed of the first chaos scenario; 0 takes it from the clock")
	chaosN    = flag.Int("chaos.n", 40, "how many chaos scenarios")
	chaosTime = flag.Duration("chaos.time", 0, "play chaos scenarios for this long, however many that are")
	chaosSame = flag.Bool("chaos.same", false, "play the same seed again and again")
)

// chaosRegressions are seeds that found something. What they found, as far as it is the Runner's, has a test of its
// own that needs no luck: a reply that meets the return of ErrDeferred (5544, 10671), and a broker that is not Busy where the hard end finds
// requests at its front (120504, 123140). A proxy that gives up requests older than the drain
// limit (5992, 40210), a machine that stands still while a socket leaks (5867, 82342, 83468) or more than once (340909, 344091), a first signal in an end that an error
// began (81262), a linger that had begun when the end was forced (132391), a WaitGroup waited for while a handler that was left
// behind adds to it (81950), two calls of Term at once (141272, 180642), peers that leave while connections are closed (192542), a client
// that counts a message when it is handled already (161306), and answers that all together take longer than the grace (161615, 162876),
// were holes in the test.
var chaosRegressions = []uint64{5544, 5867, 5992, 10671, 40210, 81262, 81950, 82342, 83468, 120504, 123140, 132391, 141272, 161306, 161615, 162876, 180642, 192542, 340909, 344091}

const (
	unlimited = 1 << 30 // messages

	// chaosSlack is the small constant that Run may take beyond its budget, on a loaded machine under -race.
	chaosSlack = time.Second

	// chaosQuiet is the least quiet time that is held to losing nothing: with less, a goroutine that is not
	// scheduled in time looks like a client that has fallen silent.
	chaosQuiet = 100 * ms

	// forcedLinger is the grace where the end is forced: as long as that lingers what was closed right before, though Run has returned.
	forcedLinger = 4 * time.Second

	chaosSignal = syscall.SIGUSR1
)

func TestChaosBreaksNoPromise(t *testing.T) {
	// Whoever sends the signal after the Runner has given it back must not end the test binary.
	spare := make(chan os.Signal, 100)
	signal.Notify(spare, chaosSignal)
	defer signal.Stop(spare)
	holdingsNow(t) // opens what the runtime needs to read a directory, once

	failures, played, stalled := 0, 0, 0
	play := func(seed uint64) {
		if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			c := newChaos(t, seed)
			c.play()
			if c.stalled() {
				stalled++
			}
		}) {
			failures++
		}
		played++
	}
	for _, seed := range chaosRegressions {
		play(seed)
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	n := *chaosN
	if testing.Short() {
		n = min(n, 10)
	}
	for begin, i := time.Now(), 0; failures < 10; i++ {
		if *chaosTime > 0 && time.Since(begin) > *chaosTime || *chaosTime == 0 && i >= n {
			break
		}
		play(seed)
		if !*chaosSame {
			seed++
		}
	}
	t.Logf("%d scenarios, the last seed is %d; in %d of them the machine stalled, so that nobody could say what was lost", played, seed, stalled)
	if played >= 40 && stalled > played/2 {
		t.Errorf("the machine stalled in %d of %d scenarios: they show too little", stalled, played)
	}
}

// chaos is one scenario.
type chaos struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	drawn []string // for whoever reads of a failure

	fault   string
	trigger string
	grace   time.Duration
	quiet   time.Duration
	linger  time.Duration
	workers int

	r        *Runner
	outer    *zmq4.Context // the peers' that are not inproc
	stations []*station
	peers    []*chaosPeer

	ended   chan struct{} // Run has returned: peers send nothing more
	quit    chan struct{} // peers leave
	release chan struct{} // stuck handlers return
	living  sync.WaitGroup
	pending atomic.Int64 // handlers, replies that were deferred, and whatever else goes on by itself, also after Run returned

	served   atomic.Int64 // messages that handlers saw
	fateful  int64        // the number of the one that the fault or ErrStop befalls
	struck   atomic.Bool  // it did
	clock    stallWatch
	asked    chan time.Time
	moment   time.Duration // when the end is asked for
	force    time.Duration // Close this long after the end was asked for; 0: never
	restless bool          // clients never pause
	spoiled  bool          // one of the peers misbehaves
	leak     *zmq4.Socket
	terming  sync.Mutex    // somebody else begins Term
	termed   chan struct{} // closed when that is back
}

// A station is a part of the topology: sockets of the Runner's, and the peers around them.
type station struct {
	kind    string
	front   *Socket // where the clients' messages arrive; nil if it only sends
	out     *Socket // whose messages go to sinks; nil if there are none
	clients []*chaosPeer
	sinks   []*chaosPeer
	lossy   bool // by its nature
	mode    string
}

// A chaosPeer is a socket that no Runner owns, on a goroutine of its own.
type chaosPeer struct {
	c       *chaos
	id      int
	typ     zmq4.Type
	socket  *zmq4.Socket
	prefix  [][]byte // before what it sends: a delimiter
	payload []byte

	total, window int           // messages to send; that may wait for an answer, 0: it waits for none
	pace          time.Duration // between them
	vanish        int           // leaves after so many, -1: never
	deaf          bool          // never reads
	slow          bool          // reads slowly
	worker        bool          // sends back what it gets

	sent, handled, replied, answered atomic.Int64
	gone                             atomic.Bool // it did not stay to the end
	seen                             map[string]bool
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		t:       t,
		seed:    seed,
		rng:     rand.New(rand.NewPCG(seed, 0)),
		ended:   make(chan struct{}),
		quit:    make(chan struct{}),
		release: make(chan struct{}),
		termed:  make(chan struct{}),
		asked:   make(chan time.Time, 1),
	}
	c.fault = c.draw("fault", "none", "none", "none", "none", "none", "vanish", "vanish", "slow", "errs", "deaf", "slow reader",
		"stuck", "heeds", "paused", "leak", "goexit", "never replied", "closed behind", "termed")
	c.trigger = c.draw("trigger", "Shutdown", "context", "signal", "ErrStop", c.forcing("Close"), "Shutdown twice")
	c.fateful = int64(c.number("fateful message", 1, 40))
	c.workers = c.rng.IntN(2) * c.number("workers", 1, 4)
	if c.rng.IntN(8) == 0 {
		c.restless = true
		c.drawn = append(c.drawn, "clients never pause")
	}
	if c.rng.IntN(8) == 0 {
		c.force = time.Duration(c.number("forced after ms", 1, 80)) * ms
	}
	if c.fault == "vanish" {
		c.force = 0
	}
	return c
}

// forcing is a trigger that forces the end; not where peers vanish: libzmq does not survive that a connection is closed in the middle of a
// message of several parts at the moment when its peer goes away (session_base.cpp, clean_pipes; libzmq issue 3442). So ended
// seed 60596, one in thousands, and, where somebody else's Term had the connections closed, seed 192542; two sockets in C and no Runner do it at once.
func (c *chaos) forcing(trigger string) string {
	if c.fault == "vanish" {
		return "Shutdown"
	}
	return trigger
}

// draw chooses one of the choices, and notes it.
func (c *chaos) draw(what string, choices ...string) string {
	choice := choices[c.rng.IntN(len(choices))]
	c.drawn = append(c.drawn, what+" "+choice)
	return choice
}

func (c *chaos) number(what string, from, to int) int {
	n := from + c.rng.IntN(to-from+1)
	c.drawn = append(c.drawn, fmt.Sprint(what, " ", n))
	return n
}

func (c *chaos) duration(what string, choices ...time.Duration) time.Duration {
	d := choices[c.rng.IntN(len(choices))]
	c.drawn = append(c.drawn, fmt.Sprint(what, " ", d))
	return d
}

func (c *chaos) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("%s\n(-run TestChaos -chaos.n 1 -chaos.seed %d: %s)", fmt.Sprintf(format, args...), c.seed, strings.Join(c.drawn, ", "))
}

func (c *chaos) must(err error) {
	c.t.Helper()
	if err != nil {
		c.errorf("%v", err)
		c.t.FailNow()
	}
}

// endless is a fault that only the hard end overcomes.
func (c *chaos) endless() bool {
	switch c.fault {
	case "stuck", "heeds", "paused", "never replied", "deaf":
		return true
	}
	return false
}

// play sets the scene, has it go on until the end, and judges.
func (c *chaos) play() {
	before := holdingsNow(c.t)
	c.setTheScene()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	result := make(chan error, 1)
	go func() { result <- c.r.Run(ctx, nil) }()
	var watching sync.WaitGroup
	watching.Go(c.watchAccounts)
	watching.Go(func() { c.clock.watch(c.ended) })
	for _, p := range c.peers {
		c.living.Add(1)
		go p.live()
	}
	go c.askForTheEnd(cancel)

	asked := <-c.asked
	limit := time.NewTimer(c.grace + chaosSlack + patience)
	defer limit.Stop()
	var err error
	select {
	case err = <-result:
	case <-limit.C:
		buf := make([]byte, 1<<20)
		c.errorf("Run does not return: %v\n%s", c.r.Report(), buf[:runtime.Stack(buf, true)])
		c.t.FailNow()
	}
	took := time.Since(asked)
	close(c.ended)
	watching.Wait()
	c.judge(c.r.Report(), err, took)
	if took > time.Second {
		c.t.Logf("seed %d took %v: %v, %v\n%v", c.seed, took, strings.Join(c.drawn, ", "), err, c.r.Report())
	}

	close(c.release)
	if c.leak != nil {
		c.leak.Close()
	}
	if c.fault == "termed" && c.struck.Load() {
		over(c.t, "somebody else's Term", c.termed) // before peers leave, since its linger is 0: see forcing
	}
	close(c.quit)
	c.living.Wait()
	c.settle()
	c.must(c.outer.Term())
	c.checkLeaks(before)
}

func (c *chaos) setTheScene() {
	t := c.t
	var err error
	c.outer, err = zmq4.NewContext()
	c.must(err)
	c.quiet = c.duration("quiet", 0, 5*ms, 20*ms, chaosQuiet, chaosQuiet, chaosQuiet, 130*ms)
	c.grace, c.linger = 20*time.Second, c.duration("linger", 4*time.Second, 4*time.Second, -1, 0)
	limit := c.duration("limit", 0, 30*ms, DefaultDrainLimit, DefaultDrainLimit, DefaultDrainLimit)
	if c.restless {
		limit, c.grace = 100*ms, 1500*ms
	}
	if c.fault == "vanish" {
		c.grace = 1500 * ms // what is for a peer that has gone lingers to the end
		if c.linger == 0 {  // see forcing
			c.linger = 4 * time.Second
		}
	}
	if c.force > 0 {
		c.grace = min(c.grace, forcedLinger)
	}
	if c.endless() {
		c.grace = c.duration("grace", 150*ms, 300*ms, 500*ms)
	}
	if c.fault == "leak" {
		c.grace, c.linger = 1500*ms, 50*ms
	}
	opts := []Option{quietLog, WithGrace(c.grace), WithDrainQuiet(c.quiet), WithDrainLimit(limit), WithLinger(c.linger),
		WithWorkers(c.workers), WithReadyDelay(c.duration("ready delay", 0, 0, 10*ms)),
		WithPollTimeout(c.duration("poll timeout", time.Second, -1, 3*ms)), WithSignals(chaosSignal)}
	c.r, err = New(opts...)
	c.must(err)
	t.Cleanup(func() { c.r.Close() })

	for range c.number("stations", 1, 3) {
		c.stations = append(c.stations, c.newStation())
	}
	for range c.rng.IntN(3) {
		c.r.Every(c.duration("timer", ms, 7*ms), func(context.Context) error { return nil })
	}
	if c.rng.IntN(4) == 0 && c.fault != "termed" { // pebbe's own fields would race
		c.drawn = append(c.drawn, "churn")
		c.churn()
	}
	if c.rng.IntN(3) == 0 {
		c.drawn = append(c.drawn, "Go")
		c.r.Go(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	}
	first := c.stations[0].front
	if first == nil {
		first = c.stations[0].out
	}
	c.moment = time.Duration(c.number("asked after ms", 0, 59)) * ms
	if c.trigger == "ErrStop" || c.fault == "goexit" {
		c.moment = 200 * ms // unless a handler is first
	}
	switch c.fault {
	case "leak":
		c.leak, err = c.r.Context().NewSocket(zmq4.PULL)
		c.must(err)
		c.must(c.leak.SetLinger(0))
	case "paused":
		first.Pause()
	case "closed behind":
		c.once(5*ms, func() { c.struck.Store(true); first.Raw().Close() })
	case "termed":
		c.once(5*ms, func() {
			c.struck.Store(true)
			c.terming.Lock()
			defer c.terming.Unlock()
			go func() {
				defer close(c.termed)
				c.r.Context().Term()
			}()
			for { // until it has begun
				if _, err := first.Raw().GetEvents(); err != nil {
					break
				}
			}
		})
		c.r.engine = lateTerm{c.r.engine, &c.terming}
	}
}

// lateTerm does not begin Term while somebody else does: pebbe's is not made for two callers at once.
type lateTerm struct {
	engine
	terming *sync.Mutex
}

func (l lateTerm) term() <-chan struct{} {
	l.terming.Lock()
	defer l.terming.Unlock()
	return l.engine.term()
}

// once has fn called on the loop, one time. Where the end comes sooner it is never called.
func (c *chaos) once(after time.Duration, fn func()) {
	var called atomic.Bool
	c.r.Every(after, func(context.Context) error {
		if !called.Swap(true) {
			fn()
		}
		return nil
	})
}

// churn makes and closes sockets while the Runner runs.
func (c *chaos) churn() {
	var last *Socket
	c.r.Every(3*ms, func(context.Context) error {
		if last != nil {
			err := last.Close()
			last = nil
			return err
		}
		s, err := c.r.NewSocket(zmq4.PULL)
		if err == nil {
			s.Handle(func(context.Context, *Message) error { return nil })
			last = s
			err = s.Bind("tcp://127.0.0.1:*")
		}
		return err
	})
}

// spoil makes one of the first peers there are misbehave.
func (c *chaos) spoil(peers []*chaosPeer) {
	p := peers[c.rng.IntN(len(peers))]
	if c.spoiled || p.typ == zmq4.REP || p.typ == zmq4.PUSH && c.fault != "vanish" {
		return
	}
	switch c.fault {
	case "vanish":
		p.vanish = c.rng.IntN(20)
	case "deaf":
		p.deaf = true
	case "slow reader":
		p.slow = true
	default:
		return
	}
	c.spoiled = true
	p.gone.Store(!p.slow)
}

// newStation draws a part of the topology.
func (c *chaos) newStation() *station {
	kind := c.draw("station", "REP", "ROUTER", "ROUTER", "DEALER", "PAIR", "PULL", "stage", "proxy", "gateway", "PUSH", "PUB", "SUB",
		"REQ", "XPUB", "XSUB-XPUB")
	st := &station{kind: kind, mode: "reply"}
	switch kind {
	case "REP", "ROUTER", "DEALER", "PAIR":
		typ := map[string]zmq4.Type{"REP": zmq4.REP, "ROUTER": zmq4.ROUTER, "DEALER": zmq4.DEALER, "PAIR": zmq4.PAIR}[kind]
		clientType := typ
		if kind == "REP" || kind == "ROUTER" {
			clientType = zmq4.DEALER
			if c.rng.IntN(2) == 0 {
				clientType = zmq4.REQ
			}
		}
		if kind != "REP" && c.rng.IntN(3) == 0 {
			st.mode = c.draw("replies", "deferred", "deferred late")
		}
		st.front = c.own(typ, c.late(typ)...)
		st.front.Handle(c.serve(st))
		c.surround(st, st.front, clientType, kind == "PAIR" || kind == "DEALER")
		if c.rng.IntN(3) > 0 && clientType == zmq4.DEALER && kind != "DEALER" || kind == "REP" && clientType == zmq4.DEALER {
			for _, p := range st.clients {
				p.prefix = [][]byte{nil}
			}
		}
	case "PULL":
		st.mode = "take"
		st.front = c.own(zmq4.PULL)
		st.front.Handle(c.serve(st))
		c.surround(st, st.front, zmq4.PUSH, false)
	case "stage":
		st.mode = "pass on"
		st.out = c.own(zmq4.PUSH)
		st.front = c.own(zmq4.PULL)
		st.front.Handle(c.serve(st))
		c.surround(st, st.front, zmq4.PUSH, false)
		st.sinks = c.around(st.out, zmq4.PULL, c.number("sinks", 1, 2))
	case "proxy":
		st.front = c.own(zmq4.ROUTER, c.late(zmq4.ROUTER)...)
		back := c.own(zmq4.DEALER)
		c.must(c.r.Proxy(st.front, back))
		c.surround(st, st.front, zmq4.REQ, false)
		c.employ(back)
	case "gateway":
		c.gateway(st)
	case "PUSH", "PUB":
		st.out = c.own(map[string]zmq4.Type{"PUSH": zmq4.PUSH, "PUB": zmq4.PUB}[kind], c.goodbye()...)
		st.lossy = kind == "PUB"
		st.sinks = c.around(st.out, map[string]zmq4.Type{"PUSH": zmq4.PULL, "PUB": zmq4.SUB}[kind], c.number("sinks", 1, 3))
		c.produce(st.out, always)
	case "SUB":
		st.mode, st.lossy = "take", true
		st.front = c.own(zmq4.SUB)
		c.must(st.front.Raw().SetSubscribe(""))
		st.front.Handle(c.serve(st))
		c.surround(st, st.front, zmq4.PUB, false)
	case "XPUB":
		st.mode, st.lossy = "take", true
		st.front = c.own(zmq4.XPUB)
		st.out = st.front
		st.front.Handle(func(context.Context, *Message) error { return nil })
		st.sinks = c.around(st.front, zmq4.SUB, 2)
		c.produce(st.front, always)
	case "XSUB-XPUB":
		st.lossy = true
		st.front, st.out = c.own(zmq4.XSUB), c.own(zmq4.XPUB)
		c.must(c.r.Proxy(st.front, st.out))
		c.surround(st, st.front, zmq4.PUB, false)
		st.sinks = c.around(st.out, zmq4.SUB, 2)
	case "REQ":
		st.mode = "take"
		st.out, st.lossy = c.own(zmq4.REQ), true // what it asks it asks of its own accord
		var answered atomic.Int64
		st.out.Handle(func(context.Context, *Message) error { answered.Add(1); return nil })
		st.sinks = c.employ(st.out)
		c.produce(st.out, func(sent int64) bool { return sent == answered.Load() })
	}
	return st
}

// own makes a socket of the Runner with marks drawn for it.
func (c *chaos) own(typ zmq4.Type, opts ...SocketOption) *Socket {
	s, err := c.r.NewSocket(typ, opts...)
	c.must(err)
	if mark := []int{1000, 1000, 0, 1, 10}[c.rng.IntN(5)]; typ != zmq4.REP {
		c.must(errors.Join(s.Raw().SetSndhwm(mark), s.Raw().SetRcvhwm(mark)))
		c.drawn = append(c.drawn, fmt.Sprint("mark ", mark))
	}
	return s
}

func (c *chaos) late(typ zmq4.Type) []SocketOption {
	if c.rng.IntN(4) > 0 || typ != zmq4.REP && typ != zmq4.ROUTER {
		return c.goodbye()
	}
	c.drawn = append(c.drawn, "Late")
	return []SocketOption{WithLate(func(_ context.Context, m *Message) error {
		p := c.peerOf(m.Frames)
		p.handled.Add(1)
		return c.reply(p, m)
	})}
}

func (c *chaos) goodbye() []SocketOption {
	if c.rng.IntN(4) > 0 {
		return nil
	}
	c.drawn = append(c.drawn, "Goodbye")
	return []SocketOption{WithGoodbye(func(ctx context.Context, s *Socket) error {
		if s.typ == zmq4.PUSH || s.typ == zmq4.PUB {
			return s.Send(ctx, []byte("goodbye"), []byte("-1:0"))
		}
		return nil
	})}
}

// attach connects s and peers over a transport, one of them bound.
func (c *chaos) attach(s *Socket, peers []*chaosPeer) {
	transport := c.draw("over", "tcp", "tcp", "ipc", "inproc")
	endpoint := "tcp://127.0.0.1:*"
	ctx := c.outer
	switch transport {
	case "ipc":
		endpoint = ipcEndpoint(c.t)
	case "inproc":
		endpoint = fmt.Sprintf("inproc://chaos-%d", len(c.drawn))
		ctx = c.r.Context()
	}
	for _, p := range peers {
		raw, err := ctx.NewSocket(p.typ)
		c.must(err)
		// They linger for a moment: see forcing, for when the Runner forces the end, or its linger ends, and they leave with it.
		c.must(errors.Join(raw.SetLinger(50*ms), raw.SetSndhwm(0), raw.SetRcvhwm(0), raw.SetRcvtimeo(5*ms), raw.SetSndtimeo(5*ms)))
		if p.typ == zmq4.SUB {
			c.must(raw.SetSubscribe(""))
		}
		if (p.deaf || p.slow) && transport == "tcp" { // ipc loses what the kernel holds for one at its mark, when the other side closes
			c.must(errors.Join(raw.SetRcvhwm(1), raw.SetRcvbuf(64<<10)))
		}
		p.socket = raw
	}
	if len(peers) == 1 && c.rng.IntN(3) == 0 {
		c.drawn = append(c.drawn, "connected")
		c.must(peers[0].socket.Bind(endpoint))
		endpoint, err := peers[0].socket.GetLastEndpoint()
		c.must(err)
		c.must(s.Connect(endpoint))
		return
	}
	c.must(s.Bind(endpoint))
	for _, p := range peers {
		c.must(p.socket.Connect(s.Endpoint()))
	}
}

func (c *chaos) newPeer(typ zmq4.Type) *chaosPeer {
	p := &chaosPeer{c: c, id: len(c.peers), typ: typ, vanish: -1, seen: make(map[string]bool)}
	c.peers = append(c.peers, p)
	return p
}

// around puts peers around s that only read.
func (c *chaos) around(s *Socket, typ zmq4.Type, n int) (peers []*chaosPeer) {
	for range n {
		peers = append(peers, c.newPeer(typ))
	}
	c.spoil(peers)
	c.attach(s, peers)
	return peers
}

// surround puts clients around s.
func (c *chaos) surround(st *station, s *Socket, typ zmq4.Type, alone bool) {
	n := 1
	if !alone {
		n = c.number("clients", 1, 4)
	}
	st.clients = c.around(s, typ, n)
	each, window := c.number("messages each", 0, 150), c.number("window", 1, 40)
	if c.restless {
		each = unlimited
	}
	pace := c.duration("pace", 0, 0, 200*time.Microsecond, 2*ms)
	size := c.number("size", 0, 3000)
	if typ == zmq4.PUSH || typ == zmq4.PUB {
		window = 0
		if each == unlimited {
			pace = max(pace, 200*time.Microsecond) // or it fills the memory
		}
	}
	if typ == zmq4.REQ {
		window = 1
		if st.mode == "deferred late" && !c.restless {
			each = min(each, int(c.grace/8/c.falseSilence())) // or the grace is over before the last answer
		}
	}
	for _, p := range st.clients {
		p.total, p.window, p.pace, p.payload = each, window, pace, make([]byte, size)
		if (p.deaf || p.slow) && typ != zmq4.REQ { // more than the kernel takes for one who does not read
			p.total, p.window, p.pace, p.payload = 150, unlimited, 0, make([]byte, 64<<10)
		}
	}
}

// employ puts workers around s that send back what they get.
func (c *chaos) employ(s *Socket) []*chaosPeer {
	workers := c.around(s, zmq4.REP, c.number("workers", 1, 3))
	for _, p := range workers {
		p.worker = true
	}
	return workers
}

// produce has s send whenever it may, from a timer, or from a goroutine, until the end is asked for.
func (c *chaos) produce(s *Socket, may func(sent int64) bool) {
	var n atomic.Int64
	body := func() []byte { return fmt.Appendf(nil, "-1:%d", n.Add(1)) }
	if c.draw("from", "a timer", "a goroutine") == "a timer" {
		c.r.Every(ms, func(ctx context.Context) error {
			for range 5 {
				if c.r.Phase() != Running || !may(n.Load()) {
					return nil
				}
				if err := s.Send(ctx, []byte("x"), body()); err != nil {
					return err
				}
			}
			return nil
		})
		return
	}
	c.r.Go(func(ctx context.Context) error {
		for ctx.Err() == nil && c.r.Phase() == Running {
			if !may(n.Load()) {
				time.Sleep(ms / 2)
				continue
			}
			if err := s.Send(ctx, []byte("x"), body()); err != nil {
				return err
			}
			time.Sleep(ms / 2)
		}
		return ctx.Err()
	})
}

func always(int64) bool { return true }

// gateway is a ROUTER whose replies come from workers behind a DEALER.
func (c *chaos) gateway(st *station) {
	st.mode = "ask"
	st.front = c.own(zmq4.ROUTER, c.late(zmq4.ROUTER)...)
	back := c.own(zmq4.DEALER)
	var mu sync.Mutex
	waiting := make(map[string]*Message)
	st.front.Handle(func(ctx context.Context, m *Message) error {
		p := c.peerOf(m.Frames)
		p.handled.Add(1)
		key := string(m.Frames[len(m.Frames)-1])
		mu.Lock()
		waiting[key] = m
		mu.Unlock()
		if err := back.Send(ctx, nil, []byte(key)); err != nil {
			return err
		}
		return ErrDeferred
	})
	back.Handle(func(_ context.Context, a *Message) error {
		key := string(a.Frames[len(a.Frames)-1])
		mu.Lock()
		m := waiting[key]
		delete(waiting, key)
		mu.Unlock()
		if m == nil {
			return fmt.Errorf("an answer that nobody waits for: %q", a.Frames)
		}
		return c.reply(c.peerOf(m.Frames), m)
	})
	c.surround(st, st.front, zmq4.DEALER, false)
	c.employ(back)
}

// peerOf is the client that sent a message: its last frame says so.
func (c *chaos) peerOf(frames [][]byte) *chaosPeer {
	var id, n int
	if _, err := fmt.Sscanf(string(frames[len(frames)-1]), "%d:%d", &id, &n); err != nil || id < 0 || id >= len(c.peers) {
		c.errorf("a message that no client sent: %q", frames[len(frames)-1])
		return &chaosPeer{c: c}
	}
	return c.peers[id]
}

// settle waits until nothing is pending. A WaitGroup must not be waited for while a handler that a forced end left behind adds to it.
func (c *chaos) settle() {
	until(c.t, "handlers and deferred replies are over", func() bool { return c.pending.Load() == 0 })
}

// falseSilence is longer than the quiet time, and no silence, since something is in flight.
func (c *chaos) falseSilence() time.Duration { return c.quiet + 30*ms }

func (c *chaos) reply(p *chaosPeer, m *Message) error {
	err := m.Reply(m.Frames...)
	if err == nil {
		p.replied.Add(1)
	}
	return err
}

// serve is the handler of a station, where the faults of handlers happen.
func (c *chaos) serve(st *station) Handler {
	return func(ctx context.Context, m *Message) error {
		c.pending.Add(1)
		defer c.pending.Add(-1)
		p := c.peerOf(m.Frames)
		p.handled.Add(1)
		if c.served.Add(1) == c.fateful {
			if err, done := c.befall(ctx, st, p, m); done {
				return err
			}
		}
		switch {
		case c.fault == "slow":
			time.Sleep(ms)
		case c.fault == "errs" && p.handled.Load()%3 == 0:
			if st.kind == "REP" {
				p.replied.Add(1) // an empty one is sent for it
			}
			return errors.New("the test's own")
		}
		switch st.mode {
		case "take":
			return nil
		case "pass on":
			return st.out.Send(ctx, m.Frames...)
		case "deferred", "deferred late":
			c.pending.Add(1)
			after := time.Duration(0)
			if st.mode == "deferred late" {
				after = c.falseSilence()
			}
			time.AfterFunc(after, func() {
				defer c.pending.Add(-1)
				c.reply(p, m)
			})
			return ErrDeferred
		}
		return c.reply(p, m)
	}
}

// befall has the fault happen to a message, and ErrStop.
func (c *chaos) befall(ctx context.Context, st *station, p *chaosPeer, m *Message) (err error, done bool) {
	switch c.fault {
	case "stuck":
		c.struck.Store(true)
		<-c.release
		return nil, true
	case "slow":
		time.Sleep(c.falseSilence())
	case "heeds":
		c.struck.Store(true)
		<-ctx.Done()
	case "goexit":
		c.struck.Store(true)
		if st.kind == "REP" {
			p.replied.Add(1)
		}
		runtime.Goexit()
	case "never replied":
		if canReply(m.Socket.typ) && m.Socket.typ != zmq4.REP {
			c.struck.Store(true)
			return ErrDeferred, true
		}
	}
	if c.trigger == "ErrStop" {
		if st.mode == "reply" {
			err = c.reply(p, m)
		} else if st.mode == "pass on" {
			err = st.out.Send(ctx, m.Frames...)
		} else if st.mode != "take" {
			return nil, false
		}
		return errors.Join(err, fmt.Errorf("enough: %w", ErrStop)), true
	}
	return nil, false
}

// live is a peer's life.
func (p *chaosPeer) live() {
	defer p.c.living.Done()
	defer p.socket.Close()
	for !isClosed(p.c.quit) {
		if err := p.talk(); zmq4.AsErrno(err) == zmq4.ETERM {
			p.gone.Store(true)
			return
		}
		if p.vanish >= 0 && int(p.sent.Load()+p.answered.Load()) >= p.vanish {
			return
		}
		if p.deaf || p.typ == zmq4.PUSH || p.typ == zmq4.PUB {
			if p.rest() {
				return
			}
			continue
		}
		m, err := p.socket.RecvMessageBytes(0)
		switch {
		case err == nil:
			p.hear(m)
			if p.slow {
				time.Sleep(ms)
			}
		case zmq4.AsErrno(err) == zmq4.ETERM:
			p.gone.Store(true)
			return
		case zmq4.AsErrno(err) == zmq4.EFSM: // a REQ has all its answers
			if p.rest() {
				p.gone.Store(true)
				return
			}
		case !isAgain(err):
			p.c.errorf("a peer can't receive: %v", err)
			return
		}
	}
}

// rest lets a moment pass, and reports whether the context has ended. A receive that is out of turn may never say: when a signal
// interrupts its look at the commands, libzmq does not look again (socket_base.cpp, recv: _ticks).
func (p *chaosPeer) rest() (ended bool) {
	time.Sleep(ms)
	_, err := p.socket.GetEvents()
	return zmq4.AsErrno(err) == zmq4.ETERM
}

// talk sends what may be sent now.
func (p *chaosPeer) talk() error {
	for !isClosed(p.c.ended) && int(p.sent.Load()) < p.total {
		if p.vanish >= 0 && int(p.sent.Load()) >= p.vanish || p.window > 0 && int(p.sent.Load()-p.answered.Load()) >= p.window {
			return nil
		}
		message := slices.Clone(p.prefix)
		if len(p.payload) > 0 {
			message = append(message, p.payload)
		}
		message = append(message, fmt.Appendf(nil, "%d:%d", p.id, p.sent.Load()))
		if _, err := p.socket.SendMessage(message); err != nil {
			return err
		}
		p.sent.Add(1)
		if p.pace > 0 {
			time.Sleep(p.pace)
			return nil // and read
		}
	}
	return nil
}

// hear takes a message: an answer, something to count, or work.
func (p *chaosPeer) hear(m [][]byte) {
	last := m[len(m)-1]
	if p.worker {
		if q := p.c.workOf(last); q != nil && p.typ == zmq4.REP {
			defer q.replied.Add(1)
			q.handled.Add(1)
		}
		if p.answered.Load() == 5 {
			time.Sleep(p.c.falseSilence())
		}
		p.socket.SendMessage(m)
	}
	p.answered.Add(1)
	if len(last) > 0 && !p.worker && bytes.HasPrefix(last, fmt.Appendf(nil, "%d:", p.id)) {
		if p.seen[string(last)] {
			p.c.errorf("peer %d got %q twice", p.id, last)
		}
		p.seen[string(last)] = true
	}
}

// workOf is the client of a proxy whose request a worker has.
func (c *chaos) workOf(last []byte) *chaosPeer {
	var id, n int
	if _, err := fmt.Sscanf(string(last), "%d:%d", &id, &n); err != nil || id < 0 {
		return nil
	}
	for _, st := range c.stations {
		if st.kind == "proxy" && slices.Contains(st.clients, c.peers[id]) {
			return c.peers[id]
		}
	}
	return nil
}

// askForTheEnd asks at the moment that was drawn.
func (c *chaos) askForTheEnd(cancel context.CancelCauseFunc) {
	until(c.t, "the Runner runs", func() bool { return c.r.Phase() != Idle })
	for begin := time.Now(); time.Since(begin) < c.moment && c.r.Report().Cause == nil; time.Sleep(ms) {
	}
	at := time.Now()
	// Only the second signal forces the end, also where something else asked for it.
	if c.r.Report().Cause == nil || c.force > 0 && c.trigger == "signal" {
		c.ask(cancel)
	}
	if c.force > 0 {
		time.Sleep(c.force)
		if c.trigger == "signal" {
			syscall.Kill(syscall.Getpid(), chaosSignal)
		} else {
			go c.r.Close()
		}
	}
	c.asked <- at
}

func (c *chaos) ask(cancel context.CancelCauseFunc) {
	switch c.trigger {
	case "context":
		cancel(errors.New("the test's own"))
	case "signal":
		syscall.Kill(syscall.Getpid(), chaosSignal)
	case "Close":
		go c.r.Close()
	case "Shutdown twice":
		go c.r.Shutdown(context.Background())
		fallthrough
	default:
		go c.r.Shutdown(context.Background())
	}
}

// watchAccounts holds every report to its sums while the Runner runs.
func (c *chaos) watchAccounts() {
	var last Report
	for !isClosed(c.ended) {
		rep := c.r.Report()
		if rep.Phase < last.Phase {
			c.errorf("from phase %v back to %v", last.Phase, rep.Phase)
			return
		}
		for i, s := range rep.Sockets {
			if s.Received != s.Handled+s.Failed+s.Rejected+s.InFlight+s.Abandoned {
				c.errorf("while %v the accounts do not add up: %+v", rep.Phase, s)
				return
			}
			if slices.Min([]int{s.Received, s.Handled, s.Failed, s.Rejected, s.InFlight, s.Abandoned, s.Drained, s.Sent, s.Queued, s.Unroutable, s.Dropped, s.Unsent}) < 0 {
				c.errorf("while %v something is below zero: %+v", rep.Phase, s)
				return
			}
			if i < len(last.Sockets) && (s.Received < last.Sockets[i].Received || s.Sent < last.Sockets[i].Sent) {
				c.errorf("while %v something was counted back: %+v, then %+v", rep.Phase, last.Sockets[i], s)
				return
			}
		}
		last = rep
		time.Sleep(ms / 2)
	}
}

// stalled reports whether a pause of the machine can have looked like a pause of the clients.
func (c *chaos) stalled() bool { return c.clock.longest() > chaosQuiet/3 }

// judge holds the end to the promises.
func (c *chaos) judge(rep Report, err error, took time.Duration) {
	checkAccounts(c.t, rep)
	var incomplete *ShutdownError
	errors.As(err, &incomplete)
	wrong := func(format string, args ...any) {
		c.t.Helper()
		c.errorf("%s\nRun returned %v after %v, the report is %v", fmt.Sprintf(format, args...), err, took, rep)
	}
	budget := c.grace
	if rep.Cause == ErrForced {
		budget = 0 // Close was the first to ask
	} else if c.force > 0 {
		budget = min(budget, c.force)
	}
	if still := c.clock.total(); took > budget+chaosSlack+still {
		wrong("Run took longer than %v and the slack; the machine stood still for %v in all", budget, still)
	}
	if rep.Cause == nil {
		wrong("nothing is said to have asked for the end")
	}
	if rep.Forced && !errors.Is(err, ErrForced) {
		wrong("a forced end must say so")
	}
	for _, s := range rep.Sockets {
		if incomplete == nil && (s.Abandoned > 0 || s.Backlog || s.linger != 0 && s.Unsent > 0) {
			wrong("socket %q was left with something, and no error says so", s.Name)
		}
	}
	if incomplete == nil && (rep.Forced || rep.LingerExpired) {
		wrong("the end was cut, and no error says so")
	}
	c.judgeFault(rep, err, incomplete, wrong)
	if incomplete == nil {
		c.judgeLoss(rep, wrong)
	}
}

// judgeFault holds the error to what happened.
func (c *chaos) judgeFault(rep Report, err error, incomplete *ShutdownError, wrong func(string, ...any)) {
	if rep.Forced {
		return
	}
	switch c.fault {
	case "none", "slow", "errs", "slow reader":
		// Everybody reads, stays and pauses: there is no reason for anything but a complete end.
		if c.restless || rep.Busy || c.quiet < chaosQuiet || c.stalled() {
			return // something may come when nobody looks any more
		}
		if slices.ContainsFunc(c.stations, func(st *station) bool { return st.gaveUp(rep) }) {
			return // its workers were slower than the drain limit
		}
		if incomplete != nil {
			wrong("nothing went wrong, and the end was not complete")
		}
		if c.trigger != "ErrStop" && err != nil {
			wrong("nothing went wrong")
		}
	case "goexit":
		if c.struck.Load() && !errors.Is(err, errGoexit) {
			wrong("a handler called Goexit")
		}
	case "stuck", "heeds":
		if c.struck.Load() && (incomplete == nil || len(incomplete.Running) == 0) {
			wrong("a handler did not return in time")
		}
	case "never replied":
		if c.struck.Load() && incomplete == nil {
			wrong("a message was never replied to")
		}
	case "leak":
		// Where time ran out before, what is said is who took it; and where little of it was left, that there may be a leak.
		took := time.Duration(0)
		for _, p := range rep.Phases[1 : len(rep.Phases)-1] {
			took += p.Duration
		}
		unsure := incomplete != nil && incomplete.unsure && c.grace-took < termSlack/2
		if incomplete == nil || !incomplete.Leaked && incomplete.Phase != Draining && !unsure {
			wrong("a socket leaked")
		}
	case "closed behind", "termed":
		if c.struck.Load() && err == nil {
			wrong("somebody else ended a socket")
		}
	}
}

// judgeLoss counts what the peers sent and got. It is called where the end is said to be complete.
func (c *chaos) judgeLoss(rep Report, wrong func(string, ...any)) {
	if c.fault == "closed behind" || c.fault == "termed" {
		return // what that socket had to read is gone, and the error says why
	}
	if c.linger == 0 {
		return // what was on its way out was dropped, as asked
	}
	c.settle()
	// Where clients never pause, silence was a client that stood still, and what it then sent met the end.
	sure := !rep.Busy && !c.restless && c.quiet >= chaosQuiet && !c.stalled()
	// To connect takes several turns of libzmq's threads, and a pause of these is not seen here.
	connecting := rep.Phases[0].Duration < c.quiet
	for i, st := range c.stations {
		if st.lossy || st.gaveUp(rep) {
			continue
		}
		whole := true
		for _, p := range st.clients {
			// A client counts a message after it has sent it.
			for begin := time.Now(); p.handled.Load() > p.sent.Load() && time.Since(begin) < patience; time.Sleep(ms) {
			}
			sent, handled := p.sent.Load(), p.handled.Load()
			whole = whole && sent == handled
			if handled > sent {
				wrong("station %d: client %d sent %d, and %d were handled", i, p.id, sent, handled)
			}
			if sure && !p.gone.Load() && handled != sent && (handled > 0 || !connecting) {
				wrong("station %d: of %d messages of client %d %d were handled", i, sent, p.id, handled)
			}
		}
		// Whoever sends while the socket closes can lose replies that were on their way (TCP).
		if whole && !slices.ContainsFunc(st.clients, func(p *chaosPeer) bool { return p.gone.Load() }) {
			c.expectAnswers(i, st, rep, wrong)
		}
	}
}

// gaveUp reports whether a proxy did not wait for answers any longer: requests that are older than the drain limit when the end
// is asked for count as failed, and no error says so; those that grow too old in the drain are abandoned.
func (st *station) gaveUp(rep Report) bool {
	return st.kind == "proxy" && slices.ContainsFunc(rep.Sockets, func(s SocketReport) bool {
		return s.Name == st.front.Name() && s.Failed+s.Abandoned > 0
	})
}

// expectAnswers waits for what was sent to those who stay.
func (c *chaos) expectAnswers(i int, st *station, rep Report, wrong func(string, ...any)) {
	arrived := func() bool {
		for _, p := range st.clients {
			if p.typ != zmq4.PUSH && p.typ != zmq4.PUB && p.answered.Load() != p.replied.Load() && !p.gone.Load() {
				return false
			}
		}
		if st.out == nil {
			return true
		}
		got, sent := int64(0), 0
		for _, p := range st.sinks {
			if p.gone.Load() {
				return true
			}
			got += p.answered.Load()
		}
		for _, s := range rep.Sockets {
			if s.Name == st.out.Name() {
				sent = s.Sent
			}
		}
		return got == int64(sent)
	}
	for end := time.Now().Add(3 * time.Second); !arrived(); time.Sleep(ms) {
		if time.Now().After(end) {
			for _, p := range append(slices.Clone(st.clients), st.sinks...) {
				wrong("station %d, peer %d (%v): sent %d, handled %d, replied %d, got %d", i, p.id, p.typ, p.sent.Load(), p.handled.Load(), p.replied.Load(), p.answered.Load())
			}
			return
		}
	}
}

// checkLeaks waits until the scenario has left nothing behind.
func (c *chaos) checkLeaks(before holdings) {
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(ms) { // longer than forcedLinger
		now := holdingsNow(c.t)
		if now.goroutines <= before.goroutines && now.descriptors <= before.descriptors {
			return
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			c.errorf("before: %+v, after: %+v; the goroutines are\n%s", before, now, buf[:runtime.Stack(buf, true)])
			return
		}
	}
}
