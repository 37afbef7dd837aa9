package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"log/slog"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// docs/troubleshooting.md has every error text of the sources, and nothing else. What varies in a text is an ellipsis there.

var verb = regexp.MustCompile(`%[a-z]`)

// asOnThePage writes a format as the page does.
func asOnThePage(format string) string {
	return verb.ReplaceAllStringFunc(format, func(v string) string {
		if v == "%q" {
			return `"…"`
		}
		return "…"
	})
}

// pattern is what an error with that text looks like.
func pattern(text string) *regexp.Regexp {
	return regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(text), "…", ".+"))
}

// errorTexts are the texts in the sources of this package, with the line where each is made.
func errorTexts(t *testing.T) map[string]string {
	t.Helper()
	files, sources := parseSources(t)
	texts := make(map[string]string)
	note := func(e ast.Expr) {
		if format, ok := literal(e); ok {
			texts[asOnThePage(format)] = files.Position(e.Pos()).String()
		}
	}
	inspect := func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		switch name := nameOf(call.Fun); name {
		case "fmt.Errorf", "errors.New", "o.reject":
			note(call.Args[0])
		case "panic":
			if formatted, ok := call.Args[0].(*ast.CallExpr); ok {
				note(formatted.Args[0])
			} else {
				note(call.Args[0])
			}
		}
		return true
	}
	for _, file := range sources {
		ast.Inspect(file, inspect)
	}
	return texts
}

func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return nameOf(e.X) + "." + e.Sel.Name
	}
	return ""
}

// literal is the value of a constant string.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.Ident:
		if e.Name == "zapEndpoint" {
			return zapEndpoint, true
		}
	case *ast.BinaryExpr:
		a, ok := literal(e.X)
		b, ok2 := literal(e.Y)
		return a + b, ok && ok2
	}
	return "", false
}

const troubleshooting = "docs/troubleshooting.md"

// rows are the texts that the page explains.
func rows(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(troubleshooting)
	must(t, err)
	var texts []string
	for _, table := range tables(string(page)) {
		for _, row := range table {
			if len(row) != 3 || row[1] == "" || row[2] == "" {
				t.Errorf("%s does not say what it means and what to do: %q", troubleshooting, row)
			}
			text := strings.Trim(row[0], "`")
			if slices.Contains(texts, text) {
				t.Errorf("%s has %q twice", troubleshooting, text)
			}
			texts = append(texts, text)
		}
	}
	return texts
}

func TestThePageOnTroubleHasEveryErrorText(t *testing.T) {
	sources, page := errorTexts(t), rows(t)
	if len(sources) < 50 {
		t.Fatalf("found only %d texts in the sources", len(sources))
	}
	for text, where := range sources {
		if !slices.Contains(page, text) {
			t.Errorf("%s: %s does not have %q", where, troubleshooting, text)
		}
	}
	for _, text := range page {
		if sources[text] == "" && !slices.Contains(composed, text) {
			t.Errorf("%s has %q, which is not in the sources", troubleshooting, text)
		}
	}
}

// composed are texts that an Error method makes.
var composed = []string{
	"zmqgrace: ended by signal: …",
	"zmqgrace: incomplete end, seen while …: …",
	"a handler of socket \"…\" was still running after …",
	"the Goodbye of socket \"…\" was still running after …",
	"a timer was still running after …",
	"a Go function was still running after …",
	"abandoned …",
	"could not send …",
	"dropped …",
	"left a backlog unread",
	"may not have handed over all that was sent when its linger ended",
	"Term was not back, so that a socket that the Runner does not know may have been left open in its context",
	"a socket that the Runner does not know was left open in its context: close it before the end, or Adopt it",
}

// shownBy names the tests of what takes more than a few lines to produce.
var shownBy = map[string]string{
	"zmqgrace: New: context: …":                                                                                         "TestWithoutADescriptorLeftNewIsAnError",
	"zmqgrace: the Runner's context was terminated by somebody else":                                                    "TestSomebodyElsesTermEndsTheServerWithAnError",
	"zmqgrace: socket \"…\" was closed behind the Runner's back: use its own Close":                                     "TestASocketClosedBehindTheRunnersBackEndsTheServerWithAnError",
	"it authenticates the peers of other sockets, or may, and without it every peer would be let in: close those first": "TestTheSocketThatAuthenticatesStaysAsLongAsThoseThatAsk",
	"dropped …":             "TestAPeerThatIsFrozenInAnyPhaseCostsASecondAndItsLingerAndIsReported",
	"left a backlog unread": "TestABacklogThatNobodyEverRanForIsReported",
	"Term was not back, so that a socket that the Runner does not know may have been left open in its context":  "TestASocketLeftOpenBesideALingerWithoutAnEndIsNamedAsPossible",
	"a socket that the Runner does not know was left open in its context: close it before the end, or Adopt it": "TestASocketOfTheContextThatNobodyClosesIsALeak",
}

func TestEveryErrorTextOfThePageComes(t *testing.T) {
	tests := existingTests(t)
	for _, text := range rows(t) {
		produce := occasions[text]
		switch other := shownBy[text]; {
		case other != "":
			if !tests[other] {
				t.Errorf("%q is said to be shown by %s, which does not exist", text, other)
			}
			continue
		case produce == nil:
			t.Errorf("nothing produces %q", text)
			continue
		}
		t.Run(text, func(t *testing.T) {
			if err := produce(t); err == nil || !pattern(text).MatchString(err.Error()) {
				t.Errorf("the error is %v, not %q", err, text)
			}
		})
	}
}

// option is the error of a bad option.
func option(o Option) func(t *testing.T) error {
	return func(t *testing.T) error { _, err := New(o); return err }
}

// socketOption is the error of a bad option of a socket.
func socketOption(o SocketOption) func(t *testing.T) error {
	return func(t *testing.T) error { _, err := newTestRunner(t, quick).NewSocket(zmq4.REP, o); return err }
}

// ending is Run's error of a Runner that ends at once.
func ending(prepare func(t *testing.T, r *Runner), opts ...Option) func(t *testing.T) error {
	return func(t *testing.T) error {
		r := newTestRunner(t, append([]Option{quick}, opts...)...)
		prepare(t, r)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return r.Run(ctx, nil)
	}
}

// answering is what a handler's call gives, for the first message that a socket of the type gets from one of another.
func answering(typ, from zmq4.Type, call func(ctx context.Context, r *Runner, m *Message) error) func(t *testing.T) error {
	return func(t *testing.T) error {
		r := newTestRunner(t, quick)
		s := bound(t, r, typ, "inproc://x")
		client := connected(t, r, from, "inproc://x")
		client.Handle(func(context.Context, *Message) error { return nil })
		must(t, client.Send(context.Background(), []byte("x")))
		var result error
		s.Handle(func(ctx context.Context, m *Message) error {
			result = call(ctx, r, m)
			m.Reply() // so that a REQ does not wait for it; where it can't be, no matter
			return ErrStop
		})
		must(t, r.Run(context.Background(), nil))
		return result
	}
}

// whileRunning is what a call from a goroutine that is not the loop gives.
func whileRunning(call func(r *Runner, s *Socket) error) func(t *testing.T) error {
	return func(t *testing.T) error {
		r := newTestRunner(t, quick)
		s := bound(t, r, zmq4.PULL, "inproc://x")
		var result error
		r.Go(func(context.Context) error { result = call(r, s); return ErrStop })
		r.Run(context.Background(), echo)
		return result
	}
}

func withoutHandler(t *testing.T) error {
	r := newTestRunner(t, quick)
	bound(t, r, zmq4.PULL, "inproc://x")
	return r.Run(context.Background(), nil)
}

func adoptTwice(t *testing.T) error {
	r := newTestRunner(t, quick)
	_, err := r.Adopt(bound(t, r, zmq4.PULL, "inproc://x").Raw())
	return err
}

func adoptNothing(t *testing.T) error { _, err := newTestRunner(t, quick).Adopt(nil); return err }

func streamSocket(t *testing.T) error {
	_, err := newTestRunner(t, quick).NewSocket(zmq4.STREAM)
	return err
}

func proxyOf(a, b zmq4.Type, prepare func(a, b *Socket)) func(t *testing.T) error {
	return func(t *testing.T) error {
		r := newTestRunner(t, quick)
		front, back := bound(t, r, a, "inproc://a"), bound(t, r, b, "inproc://b")
		prepare(front, back)
		return r.Proxy(front, back)
	}
}

func asTheyAre(*Socket, *Socket) {}

func goexit() error { runtime.Goexit(); return nil }

func goexitInAHandler(t *testing.T) error {
	r := newTestRunner(t, quick)
	bound(t, r, zmq4.PULL, "inproc://x")
	push := connected(t, r, zmq4.PUSH, "inproc://x")
	must(t, push.Send(context.Background(), []byte("x")))
	return r.Run(context.Background(), func(context.Context, *Message) error { return goexit() })
}

// goexitInTheHook has nothing else end the Runner, which would have gone by the time when the hook is called.
func goexitInTheHook(t *testing.T) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return newTestRunner(t, quick, WithPhaseHook(func(Phase) { goexit() })).Run(ctx, nil)
}

// brokenPoller is a poller whose poll fails as libzmq's does for nothing that is known.
type brokenPoller struct{ poller }

func (brokenPoller) poll(time.Duration) error { return zmq4.Errno(syscall.EFAULT) }

func brokenPoll(t *testing.T) error {
	r := newTestRunner(t, quick)
	r.Every(time.Millisecond, func(context.Context) error { // on the loop goroutine, which owns the poller
		r.loop.poller = brokenPoller{r.loop.poller}
		return nil
	})
	return r.Run(context.Background(), nil)
}

func unheard(t *testing.T, r *Runner) {
	push := connected(t, r, zmq4.PUSH, "tcp://127.0.0.1:1") // nobody is there
	must(t, push.Send(context.Background(), []byte("x")))
}

func unconnected(t *testing.T, r *Runner) {
	push, err := r.NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Send(context.Background(), []byte("x")))
}

// stuck is what does not return before the end of the test.
func stuck(t *testing.T) func() {
	freed := make(chan struct{})
	t.Cleanup(func() { close(freed) })
	return func() { <-freed }
}

func stuckHandler(t *testing.T, r *Runner) {
	wait := stuck(t)
	pull := bound(t, r, zmq4.PULL, "inproc://x")
	pull.Handle(func(context.Context, *Message) error { wait(); return nil })
	must(t, connected(t, r, zmq4.PUSH, "inproc://x").Send(context.Background(), []byte("x")))
}

func stuckGoFunction(t *testing.T, r *Runner) {
	wait := stuck(t)
	r.Go(func(context.Context) error { wait(); return nil })
}

func stuckTimer(t *testing.T, r *Runner) {
	wait := stuck(t)
	inside := make(chan struct{})
	r.Every(ms, func(context.Context) error { close(inside); wait(); return nil })
	r.Go(func(context.Context) error { <-inside; return nil }) // or the end is over before
}

func stuckGoodbye(t *testing.T, r *Runner) {
	wait := stuck(t)
	bound(t, r, zmq4.PUSH, "inproc://y", WithGoodbye(func(context.Context, *Socket) error { wait(); return nil }))
}

// noReply is what is logged.
func noReply(t *testing.T) error {
	var text strings.Builder
	r := newTestRunner(t, quick, WithLogger(slog.New(slog.NewTextHandler(&text, nil))))
	rep := bound(t, r, zmq4.REP, "inproc://x")
	rep.Handle(func(context.Context, *Message) error { return nil })
	req := connected(t, r, zmq4.REQ, "inproc://x")
	req.Handle(func(context.Context, *Message) error { return ErrStop })
	must(t, req.Send(context.Background(), []byte("x")))
	must(t, r.Run(context.Background(), nil))
	return errors.New(text.String())
}

func everyNothing(t *testing.T) (err error) {
	r := newTestRunner(t, quick)
	defer func() { err = fmt.Errorf("%v", recover()) }()
	r.Every(0, func(context.Context) error { return nil })
	return nil
}

func tooLate(t *testing.T) error {
	r := newTestRunner(t, quick)
	rep := bound(t, r, zmq4.REP, "inproc://x")
	var kept *Message
	rep.Handle(func(_ context.Context, m *Message) error { kept = m; return nil })
	req := connected(t, r, zmq4.REQ, "inproc://x")
	req.Handle(func(context.Context, *Message) error { return ErrStop })
	must(t, req.Send(context.Background(), []byte("x")))
	must(t, r.Run(context.Background(), nil))
	return kept.Reply()
}

func withoutZAP(t *testing.T) error {
	r := newTestRunner(t, quick)
	rep, err := r.NewSocket(zmq4.REP)
	must(t, err)
	must(t, rep.Raw().SetZapDomain("global"))
	must(t, rep.Bind("inproc://x"))
	return r.Run(context.Background(), echo)
}

func fullOutbox(t *testing.T) error {
	r := newTestRunner(t, quick)
	push, err := r.NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Raw().SetSndhwm(1))
	must(t, push.Connect("inproc://x"))
	must(t, push.Send(context.Background(), []byte("x")))
	return push.Send(context.Background(), []byte("x"))
}

func endedBySignal(t *testing.T) error {
	r := newTestRunner(t, quick, WithSignals(os.Interrupt))
	r.Go(func(context.Context) error {
		self, err := os.FindProcess(os.Getpid())
		if err != nil {
			return err
		}
		return self.Signal(os.Interrupt)
	})
	must(t, r.Run(context.Background(), nil))
	return r.Report().Cause
}

func shutDown(t *testing.T) error {
	r := newTestRunner(t, quick)
	r.Shutdown(context.Background())
	return r.Report().Cause
}

func terminated(t *testing.T) error {
	r := newTestRunner(t, quick)
	r.Context().Term()
	return r.Run(context.Background(), nil)
}

func again(t *testing.T) error {
	r := newTestRunner(t, quick)
	r.Close()
	return r.Run(context.Background(), nil)
}

func closedOne(t *testing.T) error {
	return proxyOf(zmq4.PULL, zmq4.PUSH, func(a, _ *Socket) { a.Close() })(t)
}

func forced(t *testing.T) error {
	r := newTestRunner(t, quick)
	r.Go(func(context.Context) error { return r.Close() })
	return r.Run(context.Background(), nil)
}

var noContext context.Context // for calls that must refuse it

// quick ends where there is nothing more.
var quick = WithDrainQuiet(0)

var short = WithGrace(200 * time.Millisecond)

// occasions produce the errors.
var occasions = map[string]func(t *testing.T) error{
	"zmqgrace: New: …":                         option(nil),
	"option … is nil":                          option(nil),
	"WithGrace(…): the grace must be positive": option(WithGrace(0)),
	"WithReadyDelay(…): the delay must be shorter than the grace of …, which it is part of":                   option(WithReadyDelay(time.Hour)),
	"WithLinger(…): a linger is positive, 0 to drop, or -1 for all the budget":                                option(WithLinger(-2)),
	"WithWorkers(…): the number must not be negative; 0 runs handlers inline":                                 option(WithWorkers(-1)),
	"WithPollTimeout(0): the loop would never sleep; give a positive timeout, or a negative one for no limit": option(WithPollTimeout(0)),
	"…(…): the duration must not be negative":                                                                 option(WithDrainQuiet(-1)),
	"WithContext(nil): give a context, or leave the option out for one of the Runner's own":                   option(WithContext(nil)),
	"WithSignals(…): no program can catch that signal":                                                        option(WithSignals(os.Kill)),
	"WithLogger(nil): give a logger; slog.New(slog.DiscardHandler) logs nothing":                              option(WithLogger(nil)),
	"WithPhaseHook(nil): give a function":                                                                     option(WithPhaseHook(nil)),

	"socket option … is nil":    socketOption(nil),
	`WithName(""): give a name`: socketOption(WithName("")),
	"WithSocketLinger(…): a linger is positive, 0 to drop, or -1 for all the budget": socketOption(WithSocketLinger(-2)),
	"WithSocketQuiet(…): the duration must not be negative":                          socketOption(WithSocketQuiet(-1)),
	"WithGoodbye(nil): give a function":                                              socketOption(WithGoodbye(nil)),
	"WithLate(nil): give a handler":                                                  socketOption(WithLate(nil)),

	"zmqgrace: new … socket: …": streamSocket,
	"the type is not served":    streamSocket,
	"zmqgrace: adopt: …":        adoptNothing,
	"the socket is nil":         adoptNothing,
	"the socket was made in another context: make it with Context().NewSocket": func(t *testing.T) error {
		_, err := newTestRunner(t, quick).Adopt(peer(t, zmq4.REP))
		return err
	},
	"the Runner has that socket already": adoptTwice,
	"it has a request that was not replied to, and would receive no other one: reply first": func(t *testing.T) error {
		r := newTestRunner(t, quick)
		rep, err := r.Context().NewSocket(zmq4.REP)
		must(t, err)
		t.Cleanup(func() { rep.Close() })
		must(t, rep.Bind("tcp://127.0.0.1:*"))
		endpoint, err := rep.GetLastEndpoint()
		must(t, err)
		tell(t, dial(t, zmq4.REQ, endpoint), "x")
		_, err = rep.Recv(0)
		must(t, err)
		_, err = r.Adopt(rep)
		return err
	},
	"zmqgrace: … \"…\" on socket \"…\": …": func(t *testing.T) error {
		return bound(t, newTestRunner(t, quick), zmq4.REP, "inproc://x").Bind("nowhere")
	},
	"the socket can receive and has no handler: call Handle first": func(t *testing.T) error {
		r := newTestRunner(t, quick)
		var result error
		r.Every(time.Millisecond, func(context.Context) error {
			pull, err := r.NewSocket(zmq4.PULL)
			if err != nil {
				return err
			}
			result = pull.Bind("inproc://x")
			return ErrStop
		})
		must(t, r.Run(context.Background(), nil))
		return result
	},
	"zmqgrace: close socket \"…\": …": whileRunning(func(_ *Runner, s *Socket) error { return s.Close() }),
	"while the Runner runs, only its inline handlers and timers may do that": whileRunning(func(r *Runner, _ *Socket) error {
		_, err := r.NewSocket(zmq4.PUB)
		return err
	}),
	"zmqgrace: proxy: …":                  proxyOf(zmq4.PUB, zmq4.SUB, asTheyAre),
	"it takes two sockets of this Runner": func(t *testing.T) error { return newTestRunner(t, quick).Proxy(nil, nil) },
	"it must be registered before Run":    whileRunning(func(r *Runner, s *Socket) error { return r.Proxy(s, &Socket{r: r}) }),
	"… and … do not make a pair: take ROUTER and DEALER, XSUB and XPUB, or PULL and PUSH": proxyOf(zmq4.PUB, zmq4.SUB, asTheyAre),
	"socket \"…\" has a proxy or a handler already":                                       proxyOf(zmq4.PULL, zmq4.PUSH, func(a, _ *Socket) { a.Handle(echo) }),
	"socket \"…\": …": closedOne,
	"zmqgrace: Every(…): the interval must be positive": everyNothing,

	"zmqgrace: Run: the context is nil":                                            func(t *testing.T) error { return newTestRunner(t, quick).Run(noContext, nil) },
	"zmqgrace: Shutdown: the context is nil":                                       func(t *testing.T) error { return newTestRunner(t, quick).Shutdown(noContext) },
	"zmqgrace: Run: …: a Runner runs once":                                         again,
	"zmqgrace: Run: …":                                                             withoutHandler,
	"socket \"…\" can receive and has no handler: give one to Run, or call Handle": withoutHandler,
	"it has a ZAP domain and nothing serves inproc://zeromq.zap.01 in the Runner's context, so every peer would be let in: bind a REP socket of this Runner there, or set no domain": withoutZAP,
	"its ZAP domain was set after Bind or Connect, which have taken over the options as they were, so that every peer would be let in: close it, and set the domain of a new one first": func(t *testing.T) error {
		r := newTestRunner(t, quick)
		bound(t, r, zmq4.REP, zapEndpoint)
		must(t, bound(t, r, zmq4.REP, "tcp://127.0.0.1:*").Raw().SetZapDomain("test"))
		return refusal(t, r)
	},
	"the PAIR that wakes the loop: …": terminated,

	"zmqgrace: reply on socket \"…\": a … can't reply": answering(zmq4.PULL, zmq4.PUSH, func(_ context.Context, _ *Runner, m *Message) error { return m.Reply() }),
	"zmqgrace: reply on socket \"…\": …":               tooLate,
	"zmqgrace: reply: the message did not arrive on a socket": answering(zmq4.REP, zmq4.REQ, func(_ context.Context, _ *Runner, m *Message) error {
		return errors.Join(m.Reply(), (&Message{}).Reply())
	}),
	"the message was already replied to": answering(zmq4.REP, zmq4.REQ, func(_ context.Context, _ *Runner, m *Message) error {
		return errors.Join(m.Reply(), m.Reply())
	}),
	"too late, the handler had returned and a REP can't wait": tooLate,
	"zmqgrace: send on socket \"…\": …": answering(zmq4.PULL, zmq4.PUSH, func(ctx context.Context, _ *Runner, m *Message) error {
		return m.Socket.Send(ctx)
	}),
	"the context is nil": answering(zmq4.PULL, zmq4.PUSH, func(_ context.Context, _ *Runner, m *Message) error { return m.Socket.Send(noContext) }),
	"a REP sends with Message.Reply": answering(zmq4.REP, zmq4.REQ, func(ctx context.Context, _ *Runner, m *Message) error {
		return m.Socket.Send(ctx)
	}),
	"a … only receives": answering(zmq4.PULL, zmq4.PUSH, func(ctx context.Context, _ *Runner, m *Message) error { return m.Socket.Send(ctx) }),
	"a ROUTER needs the routing id of the peer and at least one more frame": answering(zmq4.ROUTER, zmq4.DEALER, func(ctx context.Context, _ *Runner, m *Message) error {
		return m.Socket.Send(ctx, []byte("x"))
	}),
	"the handler returned without a reply, an empty one was sent": noReply,

	"zmqgrace: …: …": goexitInAHandler,
	"it called runtime.Goexit (as testing's FailNow does), which is for goroutines of one's own": goexitInAHandler,
	"zmqgrace: phase hook: …":             goexitInTheHook,
	"zmqgrace: Go or Goodbye function: …": ending(func(_ *testing.T, r *Runner) { r.Go(func(context.Context) error { return goexit() }) }),

	"zmqgrace: poll: …": brokenPoll,

	"zmqgrace: stop":                answering(zmq4.PULL, zmq4.PUSH, func(context.Context, *Runner, *Message) error { return ErrStop }),
	"zmqgrace: deferred":            answering(zmq4.PULL, zmq4.PUSH, func(context.Context, *Runner, *Message) error { return ErrDeferred }),
	"zmqgrace: Shutdown was called": shutDown,
	"zmqgrace: the end was forced":  forced,
	"zmqgrace: closed":              again,
	"zmqgrace: the outbox is full":  fullOutbox,

	"zmqgrace: ended by signal: …":                          endedBySignal,
	"zmqgrace: incomplete end, seen while …: …":             ending(unheard, WithLinger(10*time.Millisecond)),
	"a handler of socket \"…\" was still running after …":   ending(stuckHandler, short),
	"the Goodbye of socket \"…\" was still running after …": ending(stuckGoodbye, short),
	"only a REP or ROUTER can authenticate, not a …": func(t *testing.T) error {
		s, err := newTestRunner(t, quick).NewSocket(zmq4.DEALER)
		must(t, err)
		return s.Bind(zapEndpoint)
	},
	"a timer was still running after …":       ending(stuckTimer, short),
	"a Go function was still running after …": ending(stuckGoFunction, short),
	"abandoned …":      ending(stuckHandler, short),
	"could not send …": ending(unconnected, WithLinger(10*time.Millisecond)),
	"may not have handed over all that was sent when its linger ended": ending(unheard, WithLinger(10*time.Millisecond)),
}
