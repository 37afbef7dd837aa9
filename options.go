package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
)

// The defaults of the options.
const (
	DefaultGrace       = 25 * time.Second       // Kubernetes kills after 30 s
	DefaultReadyDelay  = 0 * time.Second        // drain at once
	DefaultDrainQuiet  = 250 * time.Millisecond // outlasts a round trip of 200 ms
	DefaultDrainLimit  = 5 * time.Second        // clients that never pause make no quiet
	DefaultLinger      = 5 * time.Second        // for peers that read slowly
	DefaultPollTimeout = 1 * time.Second        // as in the usual loop
)

// An Option sets how a [Runner] serves and ends. Values are checked in [New], all at once.
type Option func(*options)

type options struct {
	context     *zmq4.Context
	signals     []os.Signal
	grace       time.Duration
	readyDelay  time.Duration
	drainQuiet  time.Duration
	drainLimit  time.Duration
	linger      time.Duration
	pollTimeout time.Duration
	workers     int
	logger      *slog.Logger
	hook        func(Phase)
	bad         []error
}

func buildOptions(opts []Option) (options, error) {
	o := options{
		signals:     []os.Signal{syscall.SIGINT, syscall.SIGTERM},
		grace:       DefaultGrace,
		readyDelay:  DefaultReadyDelay,
		drainQuiet:  DefaultDrainQuiet,
		drainLimit:  DefaultDrainLimit,
		linger:      DefaultLinger,
		pollTimeout: DefaultPollTimeout,
		logger:      slog.Default(),
	}
	for i, opt := range opts {
		if opt == nil {
			o.reject("option %d is nil", i+1)
			continue
		}
		opt(&o)
	}
	o.validate()
	if len(o.bad) > 0 {
		return o, fmt.Errorf("zmqgrace: New: %w", errors.Join(o.bad...))
	}
	return o, nil
}

// validate checks the values that the options left, also against each other.
func (o *options) validate() {
	o.atLeastZero("WithReadyDelay", o.readyDelay)
	o.atLeastZero("WithDrainQuiet", o.drainQuiet)
	o.atLeastZero("WithDrainLimit", o.drainLimit)
	if o.grace <= 0 {
		o.reject("WithGrace(%v): the grace must be positive", o.grace)
	} else if o.readyDelay >= o.grace {
		o.reject("WithReadyDelay(%v): the delay must be shorter than the grace of %v, which it is part of", o.readyDelay, o.grace)
	}
	if o.linger < 0 && o.linger != -1 {
		o.reject("WithLinger(%v): a linger is positive, 0 to drop, or -1 for all the budget", o.linger)
	}
	if o.workers < 0 {
		o.reject("WithWorkers(%d): the number must not be negative; 0 runs handlers inline", o.workers)
	}
	if o.pollTimeout == 0 {
		o.reject("WithPollTimeout(0): the loop would never sleep; give a positive timeout, or a negative one for no limit")
	}
}

func (o *options) atLeastZero(name string, d time.Duration) {
	if d < 0 {
		o.reject("%s(%v): the duration must not be negative", name, d)
	}
}

func (o *options) reject(format string, args ...any) {
	o.bad = append(o.bad, fmt.Errorf(format, args...))
}

// WithContext has the Runner make its sockets in ctx rather than in a context of its own. The Runner
// takes ctx over: it terminates it when it ends, so every other socket in it must be closed by then.
func WithContext(ctx *zmq4.Context) Option {
	return func(o *options) {
		if ctx == nil {
			o.reject("WithContext(nil): give a context, or leave the option out for one of the Runner's own")
		}
		o.context = ctx
	}
}

// WithSignals names the signals that end the server, instead of SIGINT and SIGTERM. WithSignals() with
// none installs no handler: end the server by cancelling the context of [Runner.Run], or with [Runner.Shutdown].
func WithSignals(signals ...os.Signal) Option {
	return func(o *options) {
		for _, s := range signals {
			if s == nil || s == os.Kill {
				o.reject("WithSignals(%v): no program can catch that signal", s)
			}
		}
		o.signals = append([]os.Signal{}, signals...)
	}
}

// WithGrace sets the whole budget from the signal until Run returns: ready delay, drain, flush, linger
// and term. It must be positive. The default is [DefaultGrace]. Whoever kills the process afterwards
// (Kubernetes: terminationGracePeriodSeconds, systemd: TimeoutStopSec) must wait longer than this.
func WithGrace(d time.Duration) Option { return func(o *options) { o.grace = d } }

// WithReadyDelay keeps the server serving as before for d after the signal, in phase [Announced], so
// that load balancers see the failing readiness probe before the drain begins. It is part of the grace
// and must be shorter. The default is 0: no delay.
func WithReadyDelay(d time.Duration) Option { return func(o *options) { o.readyDelay = d } }

// WithDrainQuiet sets how long a socket must have been silent to count as drained. A pause of the
// network longer than d (a round trip, a retransmission) looks like the end. 0 means that the first
// empty moment is enough. The default is [DefaultDrainQuiet]; 50 ms will do on a LAN.
func WithDrainQuiet(d time.Duration) Option { return func(o *options) { o.drainQuiet = d } }

// WithDrainLimit sets how long the drain insists on quiet, for clients that never pause: from then on
// the first moment with nothing to read and nothing in flight ends it, and the report says Busy. It is
// cut to half of the time that the drain has. 0 means at once. A socket with [WithLate] has a little longer. A [Runner.Proxy] gives up
// requests that are older, so it must be longer than the longest job of a broker's workers. The default is [DefaultDrainLimit].
func WithDrainLimit(d time.Duration) Option { return func(o *options) { o.drainLimit = d } }

// WithLinger sets how long a socket may take at its end to hand to the kernel what was sent on it.
// It never goes beyond the grace. 0 drops at once what the peers have not taken; -1 means all that is
// left of the grace. The default is [DefaultLinger]; SUB and XSUB have 0 unless [WithSocketLinger] says otherwise.
func WithLinger(d time.Duration) Option { return func(o *options) { o.linger = d } }

// WithPollTimeout sets the longest sleep of the loop while it serves. It has no effect on latency:
// messages, sends and signals wake the loop at once. A negative timeout means no limit; 0 is an
// error. The default is [DefaultPollTimeout].
func WithPollTimeout(d time.Duration) Option { return func(o *options) { o.pollTimeout = d } }

// WithWorkers has handlers run on n goroutines instead of the loop goroutine. Replies and sends still leave through the
// loop. While all workers are busy nothing is received, so that libzmq's high-water marks hold the clients back. Order
// between messages is then not kept. A REP still answers one request after the other. 0, the default, means inline, which is
// much faster for handlers that neither wait nor compute for long: a message's way to a worker and back takes some 50 µs.
func WithWorkers(n int) Option { return func(o *options) { o.workers = n } }

// WithLogger sets where the Runner logs its phases (Info), a handler's errors (Warn, sampled) and an
// incomplete end (Error). The default is [slog.Default].
func WithLogger(l *slog.Logger) Option {
	return func(o *options) {
		if l == nil {
			o.reject("WithLogger(nil): give a logger; slog.New(slog.DiscardHandler) logs nothing")
		}
		o.logger = l
	}
}

// WithPhaseHook has fn called with every phase that the Runner enters, in order, on a goroutine of its
// own, so that fn never delays the server. The end of the Runner waits for fn to have seen [Done], but
// no longer than the grace allows, and hardly at all when the end is forced. So fn must not wait for Run to return.
func WithPhaseHook(fn func(Phase)) Option {
	return func(o *options) {
		if fn == nil {
			o.reject("WithPhaseHook(nil): give a function")
		}
		o.hook = fn
	}
}

// A SocketOption sets what is particular to one socket. Values are checked where the socket is made.
type SocketOption func(*socketOptions)

type socketOptions struct {
	name    string
	linger  time.Duration
	quiet   time.Duration
	quietly bool // WithSocketQuiet was given
	goodbye func(ctx context.Context, s *Socket) error
	late    Handler
	bad     []error
}

// buildSocketOptions starts from the Runner's values, as far as they make sense for the type: what a SUB
// lingers over are subscriptions, and a publisher's stream has no end to wait for.
func buildSocketOptions(t zmq4.Type, o *options, name string, opts []SocketOption) (socketOptions, error) {
	so := socketOptions{name: name, linger: o.linger, quiet: o.drainQuiet}
	switch t {
	case zmq4.SUB, zmq4.XSUB:
		so.linger, so.quiet = 0, 0
	case zmq4.PUB, zmq4.XPUB:
		so.quiet = 0
	}
	for i, opt := range opts {
		if opt == nil {
			so.bad = append(so.bad, fmt.Errorf("socket option %d is nil", i+1))
			continue
		}
		opt(&so)
	}
	return so, errors.Join(so.bad...)
}

// WithName names the socket in the report, in errors and in logs. The default is its type and number: "rep-1".
func WithName(name string) SocketOption {
	return func(so *socketOptions) {
		if name == "" {
			so.bad = append(so.bad, errors.New(`WithName(""): give a name`))
		}
		so.name = name
	}
}

// WithSocketLinger is [WithLinger] for one socket.
func WithSocketLinger(d time.Duration) SocketOption {
	return func(so *socketOptions) {
		if d < 0 && d != -1 {
			so.bad = append(so.bad, fmt.Errorf("WithSocketLinger(%v): a linger is positive, 0 to drop, or -1 for all the budget", d))
		}
		so.linger = d
	}
}

// WithSocketQuiet is [WithDrainQuiet] for one socket. SUB, XSUB, PUB and XPUB have 0 by default: a SUB
// ends at its first empty moment, since most publishers never pause. A socket whose peers send heartbeats never
// falls silent for longer than they: give it 0 or less than their interval. The socket that answers for authentication
// (bound to inproc://zeromq.zap.01) has 0 by default too: strangers who knock must not be able to put off the end.
func WithSocketQuiet(d time.Duration) SocketOption {
	return func(so *socketOptions) {
		if d < 0 {
			so.bad = append(so.bad, fmt.Errorf("WithSocketQuiet(%v): the duration must not be negative", d))
		}
		so.quiet, so.quietly = d, true
	}
}

// WithGoodbye has fn called, on a goroutine of its own, when the drain begins: to tell a broker that this worker
// takes no more work, for example, with [Socket.Send]. The drain waits for it to return, and the socket's quiet time
// begins when it has. Its ctx is cancelled when the drain has used up its time. An error is logged.
func WithGoodbye(fn func(ctx context.Context, s *Socket) error) SocketOption {
	return func(so *socketOptions) {
		if fn == nil {
			so.bad = append(so.bad, errors.New("WithGoodbye(nil): give a function"))
		}
		so.goodbye = fn
	}
}

// WithLate has h answer what arrives during the drain once the backlog is served ("try another server"): from the
// socket's first empty moment on, at the latest from the drain limit on. Such messages count as Rejected. For up to a second and the socket's
// quiet time the drain then insists on quiet past its limit, since clients that heed it do pause. Clients that
// never pause lose nothing if they heed it, resend elsewhere, and keep the old socket until all they sent there is
// answered.
func WithLate(h Handler) SocketOption {
	return func(so *socketOptions) {
		if h == nil {
			so.bad = append(so.bad, errors.New("WithLate(nil): give a handler"))
		}
		so.late = h
	}
}
