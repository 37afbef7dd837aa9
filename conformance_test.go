package zmqgrace

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// Every type of socket, over every transport, from either side, ended in every way in the middle of its work: what was
// sent to it is handled or reported, and what it sent has arrived or is reported. What ZeroMQ does not give is in the
// exceptions, each with its reason, and nowhere else. High-water marks are off: outbox_test.go and router_test.go have
// what they cost.

var conformanceRounds = flag.Int("conformance.rounds", 1, "how often the conformance of every type is tested")

// A trigger is what ends a server.
type trigger string

const (
	bySignal   trigger = "signal"
	byContext  trigger = "context"
	byShutdown trigger = "Shutdown"
	byErrStop  trigger = "ErrStop"
	byPanic    trigger = "panic"
)

// A combination is one cell of the table.
type combination struct {
	Type      zmq4.Type
	Transport string // tcp, ipc, inproc
	Side      string // bind, connect
	Trigger   trigger
}

func (c combination) String() string {
	return fmt.Sprintf("%v, %s, %s, %s", c.Type, c.Transport, c.Side, c.Trigger)
}

// Two directions.
const (
	inbound  = "inbound"
	outbound = "outbound"
)

// An exception is where ZeroMQ may lose what nobody reports. An empty field means all of its kind.
type exception struct {
	types     []zmq4.Type
	transport string
	trigger   trigger
	direction string
	reason    string
}

var exceptions = []exception{
	{direction: inbound, types: []zmq4.Type{zmq4.SUB, zmq4.XSUB},
		reason: "a publisher never pauses, so a subscriber ends at its first empty moment: what is on its way then is lost, " +
			"as it is for a subscriber that leaves; WithSocketQuiet has it wait"},
	{direction: inbound, types: []zmq4.Type{zmq4.XPUB},
		reason: "subscriptions are of no use to a publisher that ends: the drain does not wait for them"},
	{direction: inbound, trigger: byPanic,
		reason: "what was not handled dies with the process, and no Run returns to report it"},
	{direction: outbound, transport: "inproc", types: []zmq4.Type{zmq4.PUSH, zmq4.PUB, zmq4.XPUB},
		reason: "no kernel keeps for an inproc peer what it has not read, and when Term begins libzmq refuses it every call: what is " +
			"sent right before the end is lost, unless the peer is a socket of the same Runner (the others' quiet time is time to read)"},
	{direction: outbound, transport: "inproc", trigger: byPanic,
		reason: "the same, since nothing is quiet then"},
	{direction: outbound, types: []zmq4.Type{zmq4.REQ}, trigger: byPanic,
		reason: "a REQ sends its next request when it has the answer to the last: those that wait for that die with the process"},
}

// mayLose returns why messages may be lost in that direction; empty if they may not.
func (c combination) mayLose(direction string) string {
	for _, e := range exceptions {
		if e.direction == direction && (e.types == nil || slices.Contains(e.types, c.Type)) &&
			(e.transport == "" || e.transport == c.Transport) && (e.trigger == "" || e.trigger == c.Trigger) {
			return e.reason
		}
	}
	return ""
}

// part is what one type of socket does in its combination, and who is on the other side.
type part struct {
	typ, peer  zmq4.Type
	receives   bool // and handles
	replies    bool // to all that it handles
	originates bool // it sends unasked; what it receives then are answers
}

var parts = []part{
	{typ: zmq4.REP, peer: zmq4.DEALER, receives: true, replies: true}, // a REQ can't have two requests on their way
	{typ: zmq4.ROUTER, peer: zmq4.DEALER, receives: true, replies: true},
	{typ: zmq4.DEALER, peer: zmq4.DEALER, receives: true, replies: true},
	{typ: zmq4.PULL, peer: zmq4.PUSH, receives: true},
	{typ: zmq4.PUSH, peer: zmq4.PULL, originates: true},
	{typ: zmq4.SUB, peer: zmq4.XPUB, receives: true},
	{typ: zmq4.PUB, peer: zmq4.SUB, originates: true},
	{typ: zmq4.XPUB, peer: zmq4.SUB, receives: true, replies: true}, // a reply to a subscription is published
	{typ: zmq4.XSUB, peer: zmq4.XPUB, receives: true},
	{typ: zmq4.PAIR, peer: zmq4.PAIR, receives: true, replies: true},
	{typ: zmq4.REQ, peer: zmq4.REP, receives: true, originates: true},
}

func partOf(typ zmq4.Type) part {
	return parts[slices.IndexFunc(parts, func(p part) bool { return p.typ == typ })]
}

const (
	allSent = 200 // messages that the peer sends, or that a socket sends unasked
	midway  = 70  // of them are handled, or sent, when the end is asked for

	greeting = "are you there"
)

func body(i int) string { return "m" + strconv.Itoa(i) }

// A player is one combination at work: a Runner with one socket.
type player struct {
	combination
	part
	*Runner
	own *Socket

	asked  chan struct{} // closed when the end is asked for
	heard  chan struct{} // closed when the peer has heard a greeting
	midway chan struct{} // closed when the socket is at it
	middle func()        // what happens then, on the goroutine of the handler or the Go function

	mu       sync.Mutex
	handled  []string
	accepted []string // by Reply and Send
	greeted  int      // greetings sent
}

func newPlayer(c combination, opts ...Option) (*player, error) {
	r, err := New(append([]Option{quietLog, WithSignals(syscall.SIGTERM)}, opts...)...)
	if err != nil {
		return nil, err
	}
	p := &player{combination: c, part: partOf(c.Type), Runner: r,
		asked: make(chan struct{}), heard: make(chan struct{}), midway: make(chan struct{})}
	p.middle = func() {
		close(p.midway)
		<-p.asked
	}
	if p.own, err = r.NewSocket(c.Type); err != nil {
		return nil, err
	}
	err = errors.Join(p.own.Raw().SetSndhwm(0), p.own.Raw().SetRcvhwm(0))
	switch c.Type {
	case zmq4.SUB:
		err = errors.Join(err, p.own.Raw().SetSubscribe(""))
	case zmq4.XSUB:
		for _, topic := range topics() {
			err = errors.Join(err, p.send(context.Background(), "\x01"+topic))
		}
	}
	if p.receives {
		p.own.Handle(p.handle)
	}
	if p.originates {
		r.Go(p.originate)
	}
	return p, err
}

// topics are what an XSUB subscribes to: what it wants, and some more to count.
func topics() (topics []string) {
	for i := range midway {
		topics = append(topics, "other"+strconv.Itoa(i))
	}
	return append(topics, "m") // the last: who has it has all
}

func (p *player) send(ctx context.Context, text string) error {
	if err := p.own.Send(ctx, []byte(text)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if text == greeting {
		p.greeted++
	} else {
		p.accepted = append(p.accepted, strings.TrimPrefix(text, "\x01"))
	}
	return nil
}

func (p *player) handle(_ context.Context, m *Message) error {
	text := strings.TrimPrefix(string(m.Frames[0]), "\x01")
	p.mu.Lock()
	p.handled = append(p.handled, text)
	n := len(p.handled)
	p.mu.Unlock()
	if n == midway {
		p.middle()
	}
	if p.replies {
		if err := m.Reply([]byte(text)); err != nil {
			return err
		}
		p.mu.Lock()
		p.accepted = append(p.accepted, text)
		p.mu.Unlock()
	}
	if n == midway && p.Trigger == byErrStop {
		return ErrStop
	}
	return nil
}

// originate sends what nobody asked for; first, where nobody would miss it, until the peer is there.
func (p *player) originate(ctx context.Context) error {
	tick := time.NewTicker(ms)
	defer tick.Stop()
	for p.Type == zmq4.PUB && !isClosed(p.heard) {
		if err := p.send(ctx, greeting); err != nil {
			return err
		}
		<-tick.C
	}
	for i := range allSent {
		if i == midway && !p.receives {
			p.middle()
		}
		if err := p.send(context.Background(), body(i)); err != nil {
			return err
		}
	}
	if p.Trigger == byErrStop && !p.receives {
		return ErrStop
	}
	return nil
}

// newEndpoint is what the side that binds binds to.
func (c combination) newEndpoint(dir string) string {
	switch c.Transport {
	case "tcp":
		return "tcp://127.0.0.1:*"
	case "ipc":
		return fmt.Sprintf("ipc://%s/%v-%s", dir, c.Type, c.Side)
	}
	return "inproc://" + c.Type.String()
}

// An opponent is the peer of a player: one raw socket, of another context but for inproc.
type opponent struct {
	combination
	part
	raw     *zmq4.Socket
	heard   func()               // is called with the first greeting
	say     func(arrived string) // for every message
	sent    chan struct{}        // closed when it has sent all it has to send
	over    chan struct{}        // closed when its player has ended: nothing more comes than what is wanted
	wanted  int                  // before over is closed
	arrived []string
}

func newOpponent(ctx *zmq4.Context, c combination) (*opponent, error) {
	o := &opponent{combination: c, part: partOf(c.Type), heard: func() {}, say: func(string) {}, sent: make(chan struct{}), over: make(chan struct{})}
	var err error
	if o.raw, err = ctx.NewSocket(o.part.peer); err != nil {
		return nil, err
	}
	err = errors.Join(o.raw.SetSndhwm(0), o.raw.SetRcvhwm(0), o.raw.SetLinger(0), o.raw.SetRcvtimeo(20*ms), o.raw.SetSndtimeo(20*ms))
	if c.Type == zmq4.PUB {
		err = errors.Join(err, o.raw.SetSubscribe(""))
	}
	return o, err
}

// play is all that an opponent does, on a goroutine of its own. It ends when its player has, and closes the socket.
func (o *opponent) play() error {
	defer o.raw.Close()
	if err := o.sendAll(); err != nil {
		return err
	}
	close(o.sent)
	for patient := time.Now(); ; {
		if isClosed(o.over) && (len(o.arrived) >= o.wanted || time.Since(patient) > patience) {
			return nil
		}
		text, err := o.receive()
		switch {
		case zmq4.AsErrno(err) == zmq4.ETERM:
			return nil
		case zmq4.AsErrno(err) == zmq4.Errno(syscall.EAGAIN):
			continue
		case err != nil:
			return err
		}
		patient = time.Now()
		if text == greeting {
			o.heard()
			o.heard = func() {}
		} else if text != "" {
			o.arrived = append(o.arrived, text)
			o.say(text)
			if o.Type == zmq4.REQ {
				if err := o.send(text); err != nil {
					return err
				}
			}
		}
	}
}

// receive returns a message, or the topic of a subscription; nothing of one that ends.
func (o *opponent) receive() (string, error) {
	if o.part.peer == zmq4.PUSH { // nothing ever comes but the end of its context
		select {
		case <-o.over:
		case <-time.After(20 * ms):
		}
		if _, err := o.raw.GetEvents(); err != nil {
			return "", err
		}
		return "", zmq4.Errno(syscall.EAGAIN)
	}
	parts, err := o.raw.RecvMessage(0)
	if err != nil {
		return "", err
	}
	text := parts[len(parts)-1]
	if strings.HasPrefix(text, "\x00") {
		return "", nil
	}
	return strings.TrimPrefix(text, "\x01"), nil
}

func (o *opponent) sendAll() error {
	if !o.receives || o.originates {
		return nil
	}
	for last := o.part.peer != zmq4.XPUB; !last; { // a publisher waits for its subscriber
		text, err := o.receive()
		if err == nil && o.Type == zmq4.XSUB {
			o.arrived = append(o.arrived, text)
			o.say(text)
		}
		if err != nil && zmq4.AsErrno(err) != zmq4.Errno(syscall.EAGAIN) {
			return err
		}
		last = err == nil && (text == "m" || o.Type == zmq4.SUB)
	}
	for i := range allSent {
		var err error
		switch o.Type {
		case zmq4.REP:
			err = o.send("", body(i))
		case zmq4.XPUB:
			err = o.raw.SetSubscribe(body(i))
		default:
			err = o.send(body(i))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// send sends a message, unless its player is gone for good: who has no peer left can't.
func (o *opponent) send(parts ...any) error {
	for {
		_, err := o.raw.SendMessage(parts...)
		if zmq4.AsErrno(err) != zmq4.Errno(syscall.EAGAIN) {
			return err
		}
		if isClosed(o.over) {
			return nil
		}
	}
}

// meet attaches a player and its opponent to each other.
func meet(p *player, o *opponent, endpoint string) error {
	if p.Side == "bind" {
		if err := p.own.Bind(endpoint); err != nil {
			return err
		}
		return o.raw.Connect(p.own.Endpoint())
	}
	if err := o.raw.Bind(endpoint); err != nil {
		return err
	}
	bound, err := o.raw.GetLastEndpoint()
	if err != nil {
		return err
	}
	return p.own.Connect(bound)
}

// groups are the combinations that end by the same trigger, over the same transport, from the same side. Those of one
// trigger are tried at once: all at once would need thousands of descriptors.
func groups(t *testing.T, triggers []trigger, test func(t *testing.T, group []combination)) {
	for range *conformanceRounds {
		for _, by := range triggers {
			var all sync.WaitGroup
			for _, transport := range []string{"tcp", "ipc", "inproc"} {
				for _, side := range []string{"bind", "connect"} {
					var group []combination
					for _, p := range parts {
						group = append(group, combination{p.typ, transport, side, by})
					}
					all.Go(func() {
						t.Run(fmt.Sprintf("%s, %s, %s", by, transport, side), func(t *testing.T) { test(t, group) })
					})
				}
			}
			all.Wait()
		}
	}
}

func TestWhatIsSentIsHandledOrReportedWhateverTheTypeAndTheTransportAndTheEnd(t *testing.T) {
	t.Parallel()
	groups(t, []trigger{byContext, byShutdown, byErrStop}, func(t *testing.T, group []combination) {
		playTogether(t, group, func(games []*game) {
			for _, g := range games {
				switch g.Trigger {
				case byContext:
					g.cancel()
				case byShutdown:
					go g.player.Shutdown(context.Background())
				case byErrStop:
					close(g.player.asked) // so that the handler returns it
					continue
				}
				<-g.Runner.asked
				close(g.player.asked)
			}
		})
	})
}

// All servers of a process end by the same signal, so the test has a process, and its groups are one after the other.
func TestWhatIsSentIsHandledOrReportedWhereASignalEndsTheServer(t *testing.T) {
	if os.Getenv(aloneVariable) == "" {
		t.Parallel()
	}
	if !alone(t) {
		return
	}
	var one sync.Mutex
	groups(t, []trigger{bySignal}, func(t *testing.T, group []combination) {
		one.Lock()
		defer one.Unlock()
		playTogether(t, group, func(games []*game) {
			must(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
			for _, g := range games {
				<-g.Runner.asked
				close(g.player.asked)
			}
		})
	})
}

// A game is a player with its opponent, in this process.
type game struct {
	*player
	opponent *opponent
	cancel   context.CancelFunc
	result   chan error
}

// playTogether plays the games of a group at once, and has end end them when all are midway.
func playTogether(t *testing.T, group []combination, end func(games []*game)) {
	dir, err := os.MkdirTemp("", "zg")
	must(t, err)
	defer os.RemoveAll(dir)
	peers := peerContext(t)
	var games []*game
	for _, c := range group {
		p, err := newPlayer(c)
		must(t, err)
		defer p.Close()
		ctx := peers
		if c.Transport == "inproc" {
			ctx = p.Context()
		}
		o, err := newOpponent(ctx, c)
		must(t, err)
		must(t, meet(p, o, c.newEndpoint(dir)))
		o.heard = func() { close(p.heard) }
		games = append(games, &game{player: p, opponent: o, result: make(chan error, 1)})
	}
	var opponents sync.WaitGroup
	for _, g := range games {
		var ctx context.Context
		ctx, g.cancel = context.WithCancel(context.Background())
		defer g.cancel()
		go func() { g.result <- g.Run(ctx, nil) }()
		opponents.Go(func() {
			if err := g.opponent.play(); err != nil {
				t.Errorf("%v: the peer: %v", g.player, err)
			}
		})
	}
	for _, g := range games {
		over(t, g.combination.String()+" is midway", g.midway)
		over(t, g.combination.String()+": all is sent", g.opponent.sent)
	}
	end(games)
	for _, g := range games {
		err := next(t, g.combination.String()+" ends", g.result)
		g.opponent.wanted = len(g.accepted)
		close(g.opponent.over)
		if err != nil {
			t.Errorf("%v: Run returned %v, the report is %v", g.combination, err, g.Report())
		}
	}
	opponents.Wait()
	for _, g := range games {
		g.judge(t)
	}
}

// judge holds the accounts of both sides against each other.
func (g *game) judge(t *testing.T) {
	rep := g.Report()
	checkAccounts(t, rep)
	c := rep.Sockets[0]
	if c.Handled != len(g.handled) || c.Failed+c.Abandoned+c.Rejected != 0 || c.Backlog {
		t.Errorf("%v: handled %d, the report is %v", g.combination, len(g.handled), rep)
	}
	if g.receives {
		g.compare(t, inbound, allBodies(), g.handled)
	}
	if c.Sent+c.Unsent+c.Dropped+c.Unroutable != len(g.accepted)+g.greeted || c.Unsent+c.Dropped+c.Unroutable != 0 {
		t.Errorf("%v: accepted %d and %d greetings, the report is %v", g.combination, len(g.accepted), g.greeted, rep)
	}
	g.compare(t, outbound, g.accepted, g.opponent.arrived)
}

const (
	combinationVariable = "ZMQGRACE_TEST_COMBINATION"
	endpointVariable    = "ZMQGRACE_TEST_ENDPOINT"
)

func init() { children["conformance"] = playAndPanicAsChild }

// playAndPanicAsChild is a player that panics midway. What it has handled and accepted by then it says; inproc, it has its
// opponent here, and says what arrives there.
func playAndPanicAsChild() {
	var c combination
	check(json.Unmarshal([]byte(os.Getenv(combinationVariable)), &c))
	p, err := newPlayer(c)
	check(err)
	p.middle = func() {
		p.mu.Lock()
		said := fmt.Sprintf("%d %s", len(p.handled)-1, strings.Join(p.accepted, " "))
		p.mu.Unlock()
		say("panics", said)
		panic("as the test asked")
	}
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGUSR1)
	go func() {
		<-heard
		close(p.heard)
	}()
	endpoint := os.Getenv(endpointVariable)
	if c.Transport == "inproc" {
		o, err := newOpponent(p.Context(), c)
		check(err)
		o.say = func(text string) { say("arrived", text) }
		o.heard = func() { heard <- syscall.SIGUSR1 }
		check(meet(p, o, endpoint))
		go o.play()
	} else if c.Side == "bind" {
		check(p.own.Bind(endpoint))
		say("bound", p.own.Endpoint())
	} else {
		check(p.own.Connect(endpoint))
	}
	p.Run(context.Background(), nil)
}

func TestWhatIsSentHasArrivedOrIsReportedWhereAPanicEndsTheServer(t *testing.T) {
	t.Parallel()
	groups(t, []trigger{byPanic}, func(t *testing.T, group []combination) {
		dir, err := os.MkdirTemp("", "zg")
		must(t, err)
		defer os.RemoveAll(dir)
		for _, c := range group {
			playAgainstAPanic(t, c, dir)
		}
	})
}

func playAgainstAPanic(t *testing.T, c combination, dir string) {
	t.Helper()
	config, err := json.Marshal(c)
	must(t, err)
	endpoint := c.newEndpoint(dir)
	start := func() *process {
		return startChild(t, "conformance", combinationVariable+"="+string(config), endpointVariable+"="+endpoint)
	}
	var p *process
	var arrived []string
	var o *opponent
	played := make(chan error, 1)
	if c.Transport == "inproc" {
		p = start()
		close(played)
	} else {
		if o, err = newOpponent(peerContext(t), c); err != nil {
			t.Fatal(err)
		}
		if c.Side == "connect" {
			must(t, o.raw.Bind(endpoint))
			endpoint, err = o.raw.GetLastEndpoint()
			must(t, err)
			p = start()
		} else {
			p = start()
			must(t, o.raw.Connect(p.expect("bound")))
		}
		o.heard = func() { p.Process.Signal(syscall.SIGUSR1) }
		go func() { played <- o.play() }()
	}
	var said []string
	for line := range p.lines {
		if text, ok := strings.CutPrefix(line, "panics "); ok {
			said = strings.Fields(text)
		} else if text, ok := strings.CutPrefix(line, "arrived "); ok {
			arrived = append(arrived, text)
		}
	}
	state, stderr := p.exit()
	if state.ExitCode() != 2 || !strings.Contains(stderr, "panic: as the test asked") || len(said) == 0 {
		t.Fatalf("%v: the process ended with %v; its standard error:\n%s", c, state, stderr)
	}
	accepted := said[1:]
	if o != nil {
		if c.mayLose(outbound) == "" {
			o.wanted = len(accepted)
		}
		close(o.over)
	}
	if err := <-played; err != nil {
		t.Errorf("%v: the peer: %v", c, err)
	}
	if o != nil {
		arrived = o.arrived
	}
	if partOf(c.Type).receives {
		if handled, err := strconv.Atoi(said[0]); handled != midway-1 {
			t.Errorf("%v: handled %v before the panic, %v", c, handled, err)
		}
	}
	c.compare(t, outbound, accepted, arrived)
}

func allBodies() (all []string) {
	for i := range allSent {
		all = append(all, body(i))
	}
	return all
}

// compare fails the test where something was lost, but for an exception, or came twice, or from nowhere.
func (c combination) compare(t *testing.T, direction string, sent, got []string) {
	t.Helper()
	sent, got = slices.Sorted(slices.Values(sent)), slices.Sorted(slices.Values(got))
	if slices.Equal(sent, got) {
		return
	}
	if i := slices.IndexFunc(got, func(s string) bool { _, found := slices.BinarySearch(sent, s); return !found }); i >= 0 {
		t.Errorf("%v: %q was never sent", c, got[i])
	}
	if n := len(slices.Compact(slices.Clone(got))); n != len(got) {
		t.Errorf("%v: %d of %d came twice", c, len(got)-n, len(got))
	}
	if reason := c.mayLose(direction); reason == "" {
		t.Errorf("%v: %s, %d were sent, %d arrived", c, direction, len(sent), len(got))
	} else {
		t.Logf("%v: %s, %d of %d were lost: %s", c, direction, len(sent)-len(got), len(sent), reason)
	}
}
