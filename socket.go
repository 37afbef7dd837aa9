package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

// A Socket is a ZeroMQ socket that a [Runner] owns. Where a method does not say that any goroutine may
// call it, it belongs to the goroutine that sets the Runner up, and while the Runner runs to the loop
// goroutine, which runs the handlers: a ZeroMQ socket that two goroutines touch crashes.
type Socket struct {
	r        *Runner
	raw      *zmq4.Socket  // kept while libzmq knows it: pebbe's finalizer closes a socket that nobody references
	handle   libzmq.Handle // of raw, for the fast way in and out; see wire.go
	typ      zmq4.Type
	name     string
	linger   time.Duration // -1: all the budget
	quiet    time.Duration
	quietly  bool // that quiet was asked for
	handler  Handler
	late     Handler
	goodbye  func(ctx context.Context, s *Socket) error
	adopted  bool  // it may be bound and connected to what nobody knows
	atZAP    bool  // it authenticates the peers of the others
	maybeZAP bool  // or may do so
	openDoor bool  // at one of its endpoints everybody is let in
	link     *link // to the other side of its proxy
	warner   warner
	ctx      context.Context // for its handler; names the socket as the sender that backpressure pauses

	noticed atomic.Bool  // the loop knows that there is something on the outbox
	pauses  atomic.Int32 // full outboxes that its handler sent to: it receives nothing until they have room

	asleep atomic.Bool // Pause

	// The loop's own.
	inbox     inbox
	begun     int           // messages that were given to an inline handler
	lastTurn  int           // messages handled in its last turn
	turnLeft  int           // messages that it may handle before the next poll
	polledFor zmq4.State    // what the poller looks for
	place     int           // among the sockets of the last poll
	owing     bool          // it is among the loop's owing
	mark      time.Duration // the loop's waited time at the last activity: quiet is counted from there
	emptied   bool          // had an empty moment since the drain began
	binds     []string      // inproc endpoints
	connects  []string      // likewise
	ownPeer   bool          // another socket of this Runner is at the other end of one of them
	outside   bool          // it has other endpoints, too
	awaiting  bool          // REQ: the answer to an open request
	refusing  bool          // REQ: and libzmq takes no other one before that
	closed    bool
	deadline  time.Time // when its linger ends
	cutOff    bool      // it was closed when that was over
	delivery  delivery

	mu     sync.Mutex // guards what follows
	outbox outbox
	counts SocketReport
	batch  batch // what was received last
	ended  int   // of the messages begun, those that have ended, as far as anybody has noted
	odd    int   // of those ended, how many the counts have
}

// batch tells which of the messages begun one of those received at once is.
type batch struct {
	messages []Message
	begun    int // before them
}

// NewSocket makes a socket of type t in the Runner's context. STREAM is refused: it has no messages to
// drain. A finite linger is set at once, because libzmq's default of -1 can block the end for ever. ROUTER
// gets ROUTER_MANDATORY (so that it says what it can't route), and REP a send high-water mark of 0, because
// it drops replies silently there (libzmq router.cpp, rep.cpp).
//
// While the Runner runs, only an inline handler or a timer may call it.
func (r *Runner) NewSocket(t zmq4.Type, opts ...SocketOption) (*Socket, error) {
	fail := func(err error) (*Socket, error) {
		return nil, fmt.Errorf("zmqgrace: new %v socket: %w", t, err)
	}
	release, err := r.touch()
	if err != nil {
		return fail(err)
	}
	defer release()
	so, err := r.socketOptions(t, opts)
	if err != nil {
		return fail(err)
	}
	raw, err := r.makeSocket(t)
	if err != nil {
		return fail(err)
	}
	s, err := r.own(raw, t, so)
	if err != nil {
		raw.SetLinger(0)
		raw.Close()
		return fail(err)
	}
	return s, nil
}

// Adopt takes over a socket that was made in the Runner's context, see [Runner.Context], with what it is
// already bound or connected to. From then on the Runner alone may use it and close it. Options that apply
// to later connections alone, such as high-water marks, keep the values that they had when it was bound. A REP must have been given a send
// high-water mark of 0 before its Bind, or it drops replies at the mark without a word (libzmq's rep.cpp). A socket that serves ZAP comes before
// those that ask for it.
//
// While the Runner runs, only an inline handler or a timer may call it.
func (r *Runner) Adopt(raw *zmq4.Socket, opts ...SocketOption) (*Socket, error) {
	fail := func(err error) (*Socket, error) {
		return nil, fmt.Errorf("zmqgrace: adopt: %w", err)
	}
	if raw == nil {
		return fail(errors.New("the socket is nil"))
	}
	release, err := r.touch()
	if err != nil {
		return fail(err)
	}
	defer release()
	ctx, err := raw.Context()
	if err != nil {
		return fail(err)
	}
	if ctx != r.context {
		return fail(errors.New("the socket was made in another context: make it with Context().NewSocket"))
	}
	t, err := raw.GetType()
	if err != nil {
		return fail(err)
	}
	so, err := r.socketOptions(t, opts)
	if err != nil {
		return fail(err)
	}
	if slices.ContainsFunc(r.openSockets(), func(s *Socket) bool { return s.raw == raw }) {
		return fail(errors.New("the Runner has that socket already"))
	}
	if err := r.guardZAP(raw); err != nil {
		return fail(err)
	}
	endpoint, err := raw.GetLastEndpoint()
	if err == nil && endpoint == zapEndpoint {
		err = mayServeZAP(t)
	}
	if err == nil && t == zmq4.REP {
		err = owesNothing(raw)
	}
	if err != nil {
		return fail(err)
	}
	s, err := r.own(raw, t, so)
	if err != nil {
		return fail(err)
	}
	s.adopted = true
	s.mayHoldMore()
	if endpoint != "" {
		s.noteEndpoint(endpoint, true, true) // nobody knows which, nor what others there are
		s.outside = true
		s.count(func(c *SocketReport) { c.Endpoints = append(c.Endpoints, endpoint) })
	}
	if endpoint == zapEndpoint {
		s.servesZAP()
	}
	return s, nil
}

// makeSocket makes one in the Runner's context, unless Term has begun.
func (r *Runner) makeSocket(t zmq4.Type) (*zmq4.Socket, error) {
	r.making.Lock()
	defer r.making.Unlock()
	if r.loop.terming.Load() {
		return nil, ErrClosed
	}
	return r.context.NewSocket(t)
}

// owesNothing refuses a REP that somebody has received a request from: it is writable, and nobody here has the message to reply to.
func owesNothing(rep *zmq4.Socket) error {
	events, err := rep.GetEvents()
	if err == nil && events&zmq4.POLLOUT != 0 {
		err = errors.New("it has a request that was not replied to, and would receive no other one: reply first")
	}
	return err
}

// socketOptions checks whether and how a socket of type t can be made.
func (r *Runner) socketOptions(t zmq4.Type, opts []SocketOption) (socketOptions, error) {
	switch t {
	case zmq4.REQ, zmq4.REP, zmq4.DEALER, zmq4.ROUTER, zmq4.PUB, zmq4.SUB, zmq4.XPUB, zmq4.XSUB, zmq4.PUSH, zmq4.PULL, zmq4.PAIR:
	default:
		return socketOptions{}, errors.New("the type is not served")
	}
	r.mu.Lock()
	r.made[t]++
	name := fmt.Sprintf("%s-%d", strings.ToLower(t.String()), r.made[t])
	r.mu.Unlock()
	return buildSocketOptions(t, &r.opts, name, opts)
}

// own gives raw the options that the Runner's promises rest on, and makes it one of its sockets.
func (r *Runner) own(raw *zmq4.Socket, t zmq4.Type, so socketOptions) (*Socket, error) {
	if err := raw.SetLinger(lingerWithin(so.linger, r.opts.grace)); err != nil {
		return nil, err
	}
	var err error
	switch t {
	case zmq4.ROUTER:
		err = raw.SetRouterMandatory(1)
	case zmq4.REP:
		err = raw.SetSndhwm(0)
	}
	if err != nil {
		return nil, err
	}
	s := &Socket{r: r, raw: raw, handle: handleOf(raw), typ: t, name: so.name, linger: so.linger, quiet: so.quiet, quietly: so.quietly, late: so.late, goodbye: so.goodbye}
	s.counts = SocketReport{Name: so.name, Type: t, linger: so.linger}
	if t == zmq4.SUB || t == zmq4.XSUB {
		s.mayHoldMore() // subscriptions are sent, too
	}
	if err := s.readHighWaterMark(); err != nil {
		return nil, err
	}
	r.add(s)
	return s, nil
}

// readHighWaterMark takes the outbox's limit from the socket, whose options the user may have set.
func (s *Socket) readHighWaterMark() error {
	hwm, err := s.raw.GetSndhwm()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.outbox.limit = hwm
	s.mu.Unlock()
	return nil
}

// Bind accepts connections at endpoint, like zmq_bind: "tcp://*:5555", "tcp://127.0.0.1:*" for a free port
// (see Endpoint), "ipc:///run/service.sock", "inproc://name". ipc takes over the path of a live server
// without an error. While the Runner runs, only an inline handler or a timer may call it.
func (s *Socket) Bind(endpoint string) error {
	if endpoint == zapEndpoint {
		return s.attach("bind", endpoint, s.bindZAP)
	}
	return s.attach("bind", endpoint, s.raw.Bind)
}

// Connect connects to endpoint, like zmq_connect: it returns at once, also where nobody listens yet.
// While the Runner runs, only an inline handler or a timer may call it.
func (s *Socket) Connect(endpoint string) error {
	return s.attach("connect", endpoint, s.raw.Connect)
}

func (s *Socket) attach(verb, endpoint string, do func(string) error) error {
	release, err := s.r.touch()
	if err == nil {
		defer release()
	}
	if err == nil && s.closed {
		err = ErrClosed
	}
	if err == nil && s.r.isUsed() && canReceive(s.typ) && s.r.handlerOf(s) == nil && s.link == nil {
		err = errors.New("the socket can receive and has no handler: call Handle first")
	}
	if err == nil {
		err = s.r.guardZAP(s.raw)
	}
	if err == nil {
		err = do(endpoint)
	}
	if err == nil {
		err = s.readHighWaterMark()
	}
	if err != nil {
		return fmt.Errorf("zmqgrace: %s %q on socket %q: %w", verb, endpoint, s.name, err)
	}
	s.noteDoor(endpoint)
	if resolved, err := s.raw.GetLastEndpoint(); err == nil && resolved != "" {
		endpoint = resolved
	}
	s.noteEndpoint(endpoint, verb == "bind", verb == "connect")
	s.count(func(c *SocketReport) { c.Endpoints = append(c.Endpoints, endpoint) })
	return nil
}

// Close closes this socket alone: what is on its outbox is sent as far as libzmq takes it at once (the rest is
// unsent), and has the socket's linger to leave. What the socket has to read is lost, up to 256 messages that were taken with
// the one that a handler has among it. The other sockets are served on, and this one stays in the report, which is about 1 KiB. What its
// linger drops while the Runner runs nobody knows; the end waits for what is left of it, as for any other's. The socket that
// authenticates the others' peers can't be closed before those.
// While the Runner runs, only an inline handler or a timer may call it. A second Close does nothing.
func (s *Socket) Close() error {
	release, err := s.r.touch()
	if errors.Is(err, ErrClosed) {
		return nil // the end of the Runner closed it
	}
	if err == nil {
		defer release()
		if s.closed {
			return nil
		}
		err = s.mayLeave()
	}
	if err != nil {
		return fmt.Errorf("zmqgrace: close socket %q: %w", s.name, err)
	}
	now := time.Now()
	s.deliver(now)
	s.deadline = now.Add(lingerWithin(s.linger, s.r.loop.left(now)))
	s.shut()
	return nil
}

// Endpoint returns the endpoint of the last Bind or Connect, resolved: "tcp://127.0.0.1:43211"; empty
// before. Any goroutine may call it.
func (s *Socket) Endpoint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.counts.Endpoints); n > 0 {
		return s.counts.Endpoints[n-1]
	}
	return ""
}

// Handle gives this socket a handler of its own. Without one, the handler given to Run serves it. Call it
// before Run, or right after making the socket in a handler.
func (s *Socket) Handle(h Handler) { s.handler = h }

// Name returns the socket's name. Any goroutine may call it.
func (s *Socket) Name() string { return s.name }

// Raw returns the socket itself, for the options that the Runner has no say in: before Run, or in an inline handler or a timer (a
// handler on a worker is another goroutine, and libzmq does not bear two on a socket). Set high-water marks before Bind and Connect.
// Do not close it, and do not receive from it. A send on it is not counted, and one that blocks, blocks the loop (the end of the
// Runner's grace frees it). ROUTER_HANDOVER lets a client have libzmq abort the process: see SECURITY.md.
func (s *Socket) Raw() *zmq4.Socket {
	s.mayHoldMore()
	return s.raw
}

// mayHoldMore notes that s may hold what the Runner did not send, and so does not count: a send on the raw socket, what was sent before
// Adopt, the probe of ZMQ_PROBE_ROUTER.
func (s *Socket) mayHoldMore() {
	s.count(func(c *SocketReport) { c.untold = c.Type != zmq4.PULL })
}

// Pause has the socket receive nothing more until Resume, as a broker does while it has no worker: what comes
// waits in libzmq, whose high-water mark then holds the peers back. It takes effect at once; any goroutine may call
// it. A paused socket with something to read holds up the drain until its hard end.
func (s *Socket) Pause() { s.asleep.Store(true) }

// Resume ends Pause. Any goroutine may call it.
func (s *Socket) Resume() {
	s.asleep.Store(false)
	s.r.loop.rouse()
}

// report is a copy of the socket's counts at this moment.
func (s *Socket) report() SocketReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Endpoints = slices.Clone(c.Endpoints)
	c.Queued += s.outbox.size
	// Nobody notes every message that a handler inline is through with: that costs as much as a good part of handling a small
	// one. But which one the handler has is seen, and those before it have ended.
	begun, ended := s.ended, s.ended
	if len(s.batch.messages) > 0 {
		if n := s.batch.number(s.r.loop.crew.seats[0].inside.Load()); n > ended {
			begun, ended = n, n-1
		}
		c.waiting = s.batch.begun + len(s.batch.messages) - begun
	}
	c.Received += begun
	c.Handled += ended - s.odd
	c.InFlight = c.Received - c.Handled - c.Failed - c.Rejected - c.Abandoned
	return c
}

// number counts the messages begun up to m; it is 0 if m is not in the batch.
func (b batch) number(m *Message) int {
	const size = unsafe.Sizeof(Message{})
	offset := uintptr(unsafe.Pointer(m)) - uintptr(unsafe.Pointer(unsafe.SliceData(b.messages)))
	if m == nil || offset >= uintptr(len(b.messages))*size {
		return 0
	}
	return b.begun + int(offset/size) + 1
}

// noteEnds notes that the messages begun have ended.
func (s *Socket) noteEnds() {
	s.mu.Lock()
	s.ended = s.begun
	if len(s.inbox.messages) == 0 {
		s.inbox.messages, s.batch = nil, batch{} // they may be large
	}
	s.mu.Unlock()
}

// noteEnd is noteEnds where the last one is to be counted apart.
func (s *Socket) noteEnd(as fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.begun
	s.odd++
	as.settle(&s.counts, 1, s.r.ending.Load())
}

// dropInbox forgets what was taken from libzmq and nobody has begun to handle; it counts as if it had been left there, or as abandoned.
func (s *Socket) dropInbox(abandoned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if abandoned {
		s.counts.Received += len(s.inbox.messages)
		s.counts.Abandoned += len(s.inbox.messages)
	}
	if s.ended == s.begun {
		s.batch = batch{} // a turn of another socket may have had it closed
	} else {
		s.batch.messages = s.batch.messages[:s.begun-s.batch.begun]
	}
	s.inbox = inbox{}
}

// queued is how many messages libzmq has not taken yet.
func (s *Socket) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts.Queued + s.outbox.size
}

// count changes the socket's counts.
func (s *Socket) count(change func(c *SocketReport)) {
	s.mu.Lock()
	change(&s.counts)
	s.mu.Unlock()
}

// fate is how a message that was in flight ended.
type fate int

const (
	handled fate = iota
	failed
	rejected
	abandoned
	open // it is in flight still
)

// received counts n messages that are in flight from now on.
func (s *Socket) received(n int) { s.count(func(c *SocketReport) { c.Received += n }) }

// settle closes the account of n messages in flight.
func (s *Socket) settle(n int, as fate) {
	s.count(func(c *SocketReport) { as.settle(c, n, s.r.ending.Load()) })
}

func (f fate) settle(c *SocketReport, n int, ending bool) {
	switch f {
	case rejected:
		c.Rejected += n
	case failed:
		c.Failed += n
	case abandoned:
		c.Abandoned += n
	case handled:
		c.Handled += n
		if ending {
			c.Drained += n
		}
	}
}

// endless says that the socket's stream has no end to wait for: one empty moment is all a drain asks of it.
func (s *Socket) endless() bool {
	switch s.typ {
	case zmq4.SUB, zmq4.XSUB, zmq4.PUB, zmq4.XPUB:
		return s.quiet == 0
	}
	return false
}

// check refuses what can't be served.
func (r *Runner) check(h Handler) error {
	sockets := r.openSockets()
	for _, s := range sockets {
		if canReceive(s.typ) && s.handler == nil && h == nil && s.link == nil {
			return fmt.Errorf("socket %q can receive and has no handler: give one to Run, or call Handle", s.name)
		}
		if err := s.readHighWaterMark(); err != nil {
			return fmt.Errorf("socket %q: %w", s.name, err)
		}
	}
	return r.checkZAP(sockets)
}

// prepare sets what handlers get.
func (r *Runner) prepare(ctx context.Context, h Handler) {
	r.handler = h
	r.base, r.cancel = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), ownerKey{r}, true))
	for _, s := range r.openSockets() {
		s.ctx = asCaller(r.base, r, s)
	}
}

func (r *Runner) handlerOf(s *Socket) Handler {
	if s.handler != nil {
		return s.handler
	}
	return r.handler
}

// touch is where every call begins that touches the sockets: before Run nobody else touches them until it is released, not even
// a Close or Shutdown, which any goroutine may call. Afterwards it reports why they may not be touched from here and now, as far as it can
// be told.
func (r *Runner) touch() (release func(), err error) {
	r.setup.Lock()
	if !r.isUsed() {
		return r.setup.Unlock, nil
	}
	r.setup.Unlock()
	switch {
	case isClosed(r.done): // first: whose handler outlasts Run is not the caller
		return nil, ErrClosed
	case r.loop.crew.seats[0].inside.Load() != nil:
		return func() {}, nil
	}
	return nil, errors.New("while the Runner runs, only its inline handlers and timers may do that")
}

// add makes s one of the Runner's sockets.
func (r *Runner) add(s *Socket) {
	if r.base != nil {
		s.ctx = asCaller(r.base, r, s)
	}
	s.touch()
	r.loop.stale = true
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sockets = append(r.sockets, s)
}

// allSockets returns the sockets in order of creation.
func (r *Runner) allSockets() []*Socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sockets)
}

// openSockets returns those that are not closed. Only their owner may call it.
func (r *Runner) openSockets() []*Socket {
	return slices.DeleteFunc(r.allSockets(), func(s *Socket) bool { return s.closed })
}
