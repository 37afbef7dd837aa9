package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

var allTypes = []zmq4.Type{
	zmq4.REQ, zmq4.REP, zmq4.DEALER, zmq4.ROUTER, zmq4.PUB, zmq4.SUB,
	zmq4.XPUB, zmq4.XSUB, zmq4.PUSH, zmq4.PULL, zmq4.PAIR,
}

// briefly is for tests that know that nothing is on its way when they end the server.
var briefly = WithDrainQuiet(20 * ms)

// start has r serve with h, and waits until it does.
func start(t testing.TB, r *Runner, h Handler) *running {
	t.Helper()
	s := run(t, r, h)
	until(t, "the Runner runs", func() bool { return r.Phase() != Idle })
	return s
}

// ended ends the server and fails the test unless the end was complete.
func (s *running) ended() Report {
	s.t.Helper()
	rep, err := s.end()
	if err != nil {
		s.t.Errorf("Run returned %v, the report is %v", err, rep)
	}
	return rep
}

// until looks again and again until what is awaited is there, for what gives no sign of its own.
func until(t testing.TB, what string, there func() bool) {
	t.Helper()
	if err := eventually(there); err != nil {
		t.Fatalf("%v: %s", err, what)
	}
}

// eventually is until for a handler, which may not end its test, nor its goroutine.
func eventually(there func() bool) error {
	tick := time.NewTicker(ms)
	defer tick.Stop()
	for end := time.Now().Add(patience); !there(); <-tick.C {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v", patience)
		}
	}
	return nil
}

// next takes the next value from a channel, or fails the test.
func next[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("the channel was closed: %s", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
		panic("unreachable")
	}
}

// over waits until a channel is closed.
func over(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
}

// ipcEndpoint returns a free ipc endpoint whose path is short enough for one.
func ipcEndpoint(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "zg")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "ipc://" + filepath.Join(dir, "s")
}

// peerIn is a peer in a given context. The test closes it.
func peerIn(t testing.TB, ctx *zmq4.Context, typ zmq4.Type) *zmq4.Socket {
	t.Helper()
	s, err := ctx.NewSocket(typ)
	must(t, err)
	must(t, errors.Join(s.SetLinger(0), s.SetSndhwm(0), s.SetRcvhwm(0), s.SetRcvtimeo(patience), s.SetSndtimeo(patience)))
	return s
}

// handOver is a handler that gives the body of each message to a channel, and, where the type can, replies with it.
func handOver(got chan<- [][]byte) Handler {
	return func(_ context.Context, m *Message) error {
		got <- m.Frames
		if canReply(m.Socket.typ) {
			return m.Reply(m.Frames...)
		}
		return nil
	}
}

func expectFrames(t testing.TB, what string, got [][]byte, want ...string) {
	t.Helper()
	if !sameFrames(got, frames(want...)) {
		t.Errorf("%s is %q, not %q", what, got, want)
	}
}

func expectMessage(t testing.TB, s *zmq4.Socket, want ...string) {
	t.Helper()
	got, err := s.RecvMessage(0)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the peer received %q, %v, not %q", got, err, want)
	}
}

func tell(t testing.TB, s *zmq4.Socket, parts ...any) {
	t.Helper()
	_, err := s.SendMessage(parts...)
	must(t, err)
}

// conversations are what a socket of each type says to a peer, and hears.
var conversations = []struct {
	typ, with zmq4.Type
	talk      func(t *testing.T, own *Socket, with *zmq4.Socket, got <-chan [][]byte)
}{
	{zmq4.REP, zmq4.REQ, asked},
	{zmq4.ROUTER, zmq4.REQ, asked},
	{zmq4.ROUTER, zmq4.DEALER, asked},
	{zmq4.DEALER, zmq4.DEALER, asked},
	{zmq4.PAIR, zmq4.PAIR, asked},
	{zmq4.REQ, zmq4.REP, asks},
	{zmq4.DEALER, zmq4.REP, func(t *testing.T, own *Socket, with *zmq4.Socket, got <-chan [][]byte) {
		must(t, own.Send(t.Context(), frames("", "question")...))
		expectMessage(t, with, "question")
		tell(t, with, "answer")
		expectFrames(t, "the answer", next(t, "the answer", got), "", "answer")
		expectMessage(t, with, "answer") // the handler replies even to that
	}},
	{zmq4.PULL, zmq4.PUSH, func(t *testing.T, _ *Socket, with *zmq4.Socket, got <-chan [][]byte) {
		tell(t, with, "a", "", "b")
		expectFrames(t, "the message", next(t, "the message", got), "a", "", "b")
	}},
	{zmq4.PUSH, zmq4.PULL, func(t *testing.T, own *Socket, with *zmq4.Socket, _ <-chan [][]byte) {
		must(t, own.Send(t.Context(), frames("a", "", "b")...))
		must(t, own.Send(t.Context()))
		expectMessage(t, with, "a", "", "b")
		expectMessage(t, with, "")
	}},
	{zmq4.SUB, zmq4.XPUB, func(t *testing.T, own *Socket, with *zmq4.Socket, got <-chan [][]byte) {
		expectMessage(t, with, "\x01")
		tell(t, with, "topic", "news")
		expectFrames(t, "the message", next(t, "the message", got), "topic", "news")
	}},
	{zmq4.XSUB, zmq4.XPUB, func(t *testing.T, own *Socket, with *zmq4.Socket, got <-chan [][]byte) {
		must(t, own.Send(t.Context(), []byte("\x01topic")))
		expectMessage(t, with, "\x01topic")
		tell(t, with, "topic", "news")
		expectFrames(t, "the message", next(t, "the message", got), "topic", "news")
	}},
	{zmq4.PUB, zmq4.SUB, func(t *testing.T, own *Socket, with *zmq4.Socket, _ <-chan [][]byte) {
		until(t, "the subscription arrives", func() bool {
			must(t, own.Send(t.Context(), frames("topic", "news")...))
			got, err := with.RecvMessage(zmq4.DONTWAIT)
			return err == nil && slices.Equal(got, []string{"topic", "news"})
		})
	}},
	{zmq4.XPUB, zmq4.SUB, func(t *testing.T, own *Socket, with *zmq4.Socket, got <-chan [][]byte) {
		until(t, "the subscription arrives", func() bool {
			with.GetEvents() // a SUB that is bound looks for those who connect when it is asked something
			return len(got) > 0
		})
		expectFrames(t, "the subscription", <-got, "\x01")
		expectMessage(t, with, "\x01") // a reply is published
		must(t, own.Send(t.Context(), frames("topic", "news")...))
		expectMessage(t, with, "topic", "news")
	}},
}

func asked(t *testing.T, _ *Socket, with *zmq4.Socket, got <-chan [][]byte) {
	for range 3 {
		if answer := request(t, with, "hello", "", "world"); !slices.Equal(answer, []string{"hello", "", "world"}) {
			t.Errorf("the answer is %q", answer)
		}
		expectFrames(t, "the request", next(t, "the request", got), "hello", "", "world")
	}
}

func asks(t *testing.T, own *Socket, with *zmq4.Socket, got <-chan [][]byte) {
	// The second question waits on the outbox for the first one's answer.
	must(t, own.Send(t.Context(), []byte("one")))
	must(t, own.Send(t.Context(), []byte("two")))
	for _, question := range []string{"one", "two"} {
		expectMessage(t, with, question)
		tell(t, with, "answer to "+question)
		expectFrames(t, "the answer", next(t, "the answer", got), "answer to "+question)
	}
}

func TestEveryTypeTalksOverEveryTransportFromEitherSide(t *testing.T) {
	for _, c := range conversations {
		for _, transport := range []string{"tcp", "ipc", "inproc"} {
			for _, side := range []string{"bound", "connected"} {
				t.Run(fmt.Sprintf("%v with %v, %s, %s", c.typ, c.with, transport, side), func(t *testing.T) {
					t.Parallel()
					r := newTestRunner(t, briefly)
					endpoint := "tcp://127.0.0.1:*"
					switch transport {
					case "ipc":
						endpoint = ipcEndpoint(t)
					case "inproc":
						endpoint = "inproc://here"
					}
					own, err := r.NewSocket(c.typ)
					must(t, err)
					if c.typ == zmq4.SUB {
						must(t, own.Raw().SetSubscribe(""))
					}
					var with *zmq4.Socket
					if transport == "inproc" {
						with = peerIn(t, r.Context(), c.with)
						defer with.Close() // where the test fails
					} else {
						with = peer(t, c.with)
					}
					if c.with == zmq4.SUB {
						must(t, with.SetSubscribe(""))
					}
					if side == "bound" {
						must(t, own.Bind(endpoint))
						must(t, with.Connect(own.Endpoint()))
					} else {
						must(t, with.Bind(endpoint))
						bound, err := with.GetLastEndpoint()
						must(t, err)
						must(t, own.Connect(bound))
					}
					got := make(chan [][]byte, 1000)
					s := start(t, r, handOver(got))
					c.talk(t, own, with, got)
					if transport == "inproc" {
						must(t, with.Close())
					}
					rep := s.ended().Sockets[0]
					if want := own.Endpoint(); len(rep.Endpoints) != 1 || rep.Endpoints[0] != want || strings.HasSuffix(want, "*") {
						t.Errorf("the endpoints in the report are %q", rep.Endpoints)
					}
					if canReceive(c.typ) != (rep.Handled > 0) || canSend(c.typ) && rep.Sent == 0 || rep.Failed != 0 {
						t.Errorf("the report is %v", s.Report())
					}
				})
			}
		}
	}
}

func TestStreamIsRefused(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	if s, err := r.NewSocket(zmq4.STREAM); err == nil || s != nil || !strings.Contains(err.Error(), "STREAM") {
		t.Errorf("NewSocket returned %v, %v", s, err)
	}
	if s, err := r.NewSocket(zmq4.Type(77)); err == nil || s != nil {
		t.Errorf("NewSocket of a type that does not exist returned %v, %v", s, err)
	}
}

func TestASocketGetsWhatThePromisesRestOn(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, WithGrace(3*time.Second), WithLinger(2*time.Second))
	for _, c := range []struct {
		typ    zmq4.Type
		option SocketOption
		linger time.Duration
	}{
		{zmq4.PUSH, WithName("default"), 2 * time.Second},
		{zmq4.PUSH, WithSocketLinger(time.Hour), 3 * time.Second}, // never beyond the grace
		{zmq4.PUSH, WithSocketLinger(-1), 3 * time.Second},        // never for ever
		{zmq4.PUSH, WithSocketLinger(1), ms},
		{zmq4.PUSH, WithSocketLinger(0), 0},
		{zmq4.SUB, WithName("sub"), 0},
		{zmq4.REP, WithName("rep"), 2 * time.Second},
	} {
		s, err := r.NewSocket(c.typ, c.option)
		must(t, err)
		if got, err := s.Raw().GetLinger(); err != nil || got != c.linger {
			t.Errorf("%s: libzmq's linger is %v, %v, not %v", s.Name(), got, err, c.linger)
		}
		if c.typ == zmq4.REP {
			if hwm, err := s.Raw().GetSndhwm(); err != nil || hwm != 0 {
				t.Errorf("the high-water mark of a REP is %d, %v", hwm, err)
			}
		}
	}
}

func TestSocketsAreNamedByTypeAndNumber(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var names []string
	for _, c := range []struct {
		typ  zmq4.Type
		opts []SocketOption
	}{
		{zmq4.REP, nil}, {zmq4.REP, nil}, {zmq4.PULL, nil}, {zmq4.REP, []SocketOption{WithName("mine")}}, {zmq4.REP, nil},
	} {
		s, err := r.NewSocket(c.typ, c.opts...)
		must(t, err)
		names = append(names, s.Name())
	}
	if want := []string{"rep-1", "rep-2", "pull-1", "mine", "rep-4"}; !slices.Equal(names, want) {
		t.Errorf("the names are %q, not %q", names, want)
	}
	for i, s := range r.Report().Sockets {
		if s.Name != names[i] {
			t.Errorf("socket %d of the report is %q", i, s.Name)
		}
	}
}

func TestBindAndConnectSayWhatFailedAndWhere(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	if got := rep.Endpoint(); strings.Contains(got, "*") || !strings.HasPrefix(got, "tcp://127.0.0.1:") {
		t.Errorf("the endpoint is %q", got)
	}
	other, err := r.NewSocket(zmq4.REP, WithName("second"))
	must(t, err)
	if got := other.Endpoint(); got != "" {
		t.Errorf("before Bind the endpoint is %q", got)
	}
	err = other.Bind(rep.Endpoint())
	if err == nil || !strings.Contains(err.Error(), `bind "tcp://127.0.0.1:`) || !strings.Contains(err.Error(), `"second"`) {
		t.Errorf("a second Bind returned %v", err)
	}
	if err := other.Connect("nonsense"); err == nil || !strings.Contains(err.Error(), `connect "nonsense" on socket "second"`) {
		t.Errorf("Connect returned %v", err)
	}
	must(t, other.Bind("tcp://127.0.0.1:*"))
	must(t, other.Bind("inproc://other"))
	if got := r.Report().Sockets[1].Endpoints; len(got) != 2 || got[1] != "inproc://other" || other.Endpoint() != got[1] {
		t.Errorf("the endpoints are %q, the last is %q", got, other.Endpoint())
	}
}

func TestAdoptTakesOverWhatTheContextMade(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	raw, err := r.Context().NewSocket(zmq4.REP)
	must(t, err)
	must(t, raw.Bind("tcp://127.0.0.1:*"))
	s, err := r.Adopt(raw, WithName("adopted"))
	must(t, err)
	if s.Raw() != raw || s.Name() != "adopted" || !strings.HasPrefix(s.Endpoint(), "tcp://127.0.0.1:") {
		t.Errorf("the socket is %q at %q", s.Name(), s.Endpoint())
	}
	if linger, err := raw.GetLinger(); err != nil || linger != DefaultLinger {
		t.Errorf("its linger is %v, %v", linger, err)
	}
	if _, err := r.Adopt(raw); err == nil {
		t.Error("it was adopted twice")
	}
	running := start(t, r, echo)
	client := dial(t, zmq4.REQ, s.Endpoint())
	if got := request(t, client, "hello"); got[0] != "hello" {
		t.Errorf("the answer is %q", got)
	}
	if rep := running.ended(); rep.Sockets[0].Handled != 1 {
		t.Errorf("the report is %v", rep)
	}
}

func TestAdoptRefusesWhatItCantServe(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	refuse := func(what string, raw *zmq4.Socket, opts ...SocketOption) {
		t.Helper()
		if s, err := r.Adopt(raw, opts...); err == nil || s != nil || !strings.HasPrefix(err.Error(), "zmqgrace: adopt: ") {
			t.Errorf("%s: Adopt returned %v, %v", what, s, err)
		}
	}
	refuse("nil", nil)
	refuse("a socket of another context", peer(t, zmq4.REP))
	closed, err := r.Context().NewSocket(zmq4.REP)
	must(t, err)
	must(t, closed.Close())
	refuse("a closed socket", closed)
	stream, err := r.Context().NewSocket(zmq4.STREAM)
	must(t, err)
	defer stream.Close()
	refuse("a STREAM", stream)
	rep, err := r.Context().NewSocket(zmq4.REP)
	must(t, err)
	defer rep.Close()
	refuse("a bad option", rep, WithName(""))
	if n := len(r.Report().Sockets); n != 0 {
		t.Errorf("%d were adopted all the same", n)
	}
}

func TestRunRefusesASocketWithoutAHandler(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	if _, err := r.NewSocket(zmq4.PUSH); err != nil {
		t.Fatal(err)
	}
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	if err := r.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), `"front"`) {
		t.Fatalf("Run returned %v", err)
	}
	if r.Phase() != Idle {
		t.Errorf("the phase is %v", r.Phase())
	}
	// The Runner stays as it was, so that can be mended.
	rep.Handle(echo)
	s := start(t, r, nil)
	if got := request(t, dial(t, zmq4.REQ, rep.Endpoint()), "hello"); got[0] != "hello" {
		t.Errorf("the answer is %q", got)
	}
	s.ended()
}

func TestASocketsOwnHandlerGoesBeforeRuns(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	first := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	second := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	second.Handle(func(_ context.Context, m *Message) error { return m.Reply([]byte("its own")) })
	s := start(t, r, func(_ context.Context, m *Message) error { return m.Reply([]byte("Run's")) })
	if got := request(t, dial(t, zmq4.REQ, first.Endpoint()), "?"); got[0] != "Run's" {
		t.Errorf("the answer is %q", got)
	}
	if got := request(t, dial(t, zmq4.REQ, second.Endpoint()), "?"); got[0] != "its own" {
		t.Errorf("the answer is %q", got)
	}
	s.ended()
}

func TestRouterEnvelopesComeBackAsTheyWent(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	type seen struct{ envelope, body [][]byte }
	got := make(chan seen, 100)
	s := start(t, r, func(_ context.Context, m *Message) error {
		got <- seen{slices.Clone(m.Envelope()), m.Frames}
		return m.Reply(m.Frames...)
	})
	named := func(id string) func(*zmq4.Socket) error {
		return func(s *zmq4.Socket) error { return s.SetIdentity(id) }
	}
	req := dial(t, zmq4.REQ, router.Endpoint(), named("req"))
	dealer := dial(t, zmq4.DEALER, router.Endpoint(), named("dealer"))
	for _, c := range []struct {
		client         *zmq4.Socket
		says           []string
		envelope, body []string
	}{
		{req, []string{"hello"}, []string{"req", ""}, []string{"hello"}},
		{req, []string{""}, []string{"req", ""}, []string{""}},
		{req, []string{"", "a"}, []string{"req", ""}, []string{"", "a"}},
		{dealer, []string{"hello"}, []string{"dealer"}, []string{"hello"}},
		{dealer, []string{""}, []string{"dealer"}, []string{""}},
		{dealer, []string{"", "hello"}, []string{"dealer", ""}, []string{"hello"}},
		{dealer, []string{"", ""}, []string{"dealer", ""}, []string{""}},
		{dealer, []string{"client", "", "hello"}, []string{"dealer"}, []string{"client", "", "hello"}}, // as behind a broker
		{dealer, []string{"b1", "client", "", "x"}, []string{"dealer"}, []string{"b1", "client", "", "x"}},
	} {
		if answer := request(t, c.client, c.says); !slices.Equal(answer, c.says) {
			t.Errorf("%q was answered with %q", c.says, answer)
		}
		g := next(t, "the message", got)
		expectFrames(t, "the envelope", g.envelope, c.envelope...)
		expectFrames(t, "the body", g.body, c.body...)
	}
	s.ended()
}

func TestABrokersChainLeadsBackToTheClient(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	s := start(t, r, func(_ context.Context, m *Message) error {
		if len(m.Frames) != 3 {
			return fmt.Errorf("the body is %q", m.Frames)
		}
		// Behind a broker the body begins with the next routing id and the client's delimiter.
		return m.Reply(m.Frames[0], m.Frames[1], append([]byte("re: "), m.Frames[2]...))
	})
	front := peer(t, zmq4.ROUTER)
	must(t, front.Bind("tcp://127.0.0.1:*"))
	at, err := front.GetLastEndpoint()
	must(t, err)
	back := dial(t, zmq4.DEALER, router.Endpoint())
	client := dial(t, zmq4.REQ, at)
	for _, word := range []string{"one", "two"} {
		tell(t, client, word)
		for _, way := range [][2]*zmq4.Socket{{front, back}, {back, front}} {
			m, err := way[0].RecvMessageBytes(0)
			must(t, err)
			tell(t, way[1], m)
		}
		expectMessage(t, client, "re: "+word)
	}
	s.ended()
}

func TestASecondReplyIsAnErrorAndIsNotSent(t *testing.T) {
	t.Parallel()
	for _, typ := range []zmq4.Type{zmq4.REP, zmq4.ROUTER} {
		r := newTestRunner(t, briefly)
		own := bound(t, r, typ, "tcp://127.0.0.1:*")
		second := make(chan error, 10)
		s := start(t, r, func(_ context.Context, m *Message) error {
			must(t, m.Reply([]byte("first")))
			second <- m.Reply([]byte("second"))
			return nil
		})
		client := dial(t, zmq4.REQ, own.Endpoint())
		for range 2 {
			if got := request(t, client, "?"); got[0] != "first" {
				t.Errorf("%v: the answer is %q", typ, got)
			}
			if err := next(t, "the second reply", second); err == nil || !strings.Contains(err.Error(), "already replied") {
				t.Errorf("%v: a second Reply returned %v", typ, err)
			}
		}
		if rep := s.ended(); rep.Sockets[0].Sent != 2 {
			t.Errorf("%v: the report is %v", typ, rep)
		}
	}
}

func TestALateReplyOnRepIsAnErrorAndTheClientHasAnEmptyOne(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	kept := make(chan *Message, 10)
	s := start(t, r, func(_ context.Context, m *Message) error { kept <- m; return nil })
	client := dial(t, zmq4.REQ, rep.Endpoint())
	for range 2 {
		if got := request(t, client, "?"); len(got) != 1 || got[0] != "" {
			t.Errorf("the answer is %q", got)
		}
		if err := next(t, "the message", kept).Reply([]byte("late")); err == nil || !strings.Contains(err.Error(), "too late") {
			t.Errorf("a late Reply returned %v", err)
		}
	}
	if rep := s.ended(); rep.Sockets[0].Failed != 2 || rep.Sockets[0].Sent != 2 {
		t.Errorf("the report is %v", rep)
	}
}

func TestALateReplyOnRouterIsSent(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	kept := make(chan *Message, 10)
	s := start(t, r, func(_ context.Context, m *Message) error { kept <- m; return nil })
	client := dial(t, zmq4.REQ, router.Endpoint())
	for range 2 {
		tell(t, client, "?")
		body := []byte("late")
		must(t, next(t, "the message", kept).Reply(body))
		copy(body, "gone") // Reply has copied it
		expectMessage(t, client, "late")
	}
	s.ended()
}

func TestAReplyAfterTheFlushIsErrClosed(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	kept := make(chan *Message, 10)
	s := start(t, r, func(_ context.Context, m *Message) error { kept <- m; return nil })
	tell(t, dial(t, zmq4.REQ, router.Endpoint()), "?")
	m := next(t, "the message", kept)
	s.ended()
	if err := m.Reply([]byte("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("Reply returned %v", err)
	}
	if err := router.Send(t.Context(), frames("id", "x")...); !errors.Is(err, ErrClosed) {
		t.Errorf("Send returned %v", err)
	}
}

func TestReplyIsAnErrorWhereNothingLeadsBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ own, with zmq4.Type }{
		{zmq4.PULL, zmq4.PUSH}, {zmq4.SUB, zmq4.XPUB}, {zmq4.XSUB, zmq4.XPUB}, {zmq4.REQ, zmq4.REP},
	} {
		r := newTestRunner(t, briefly)
		own := bound(t, r, c.own, "tcp://127.0.0.1:*")
		with := dial(t, c.with, own.Endpoint())
		switch c.own {
		case zmq4.SUB:
			must(t, own.Raw().SetSubscribe(""))
		case zmq4.XSUB:
			must(t, own.Send(t.Context(), []byte("\x01")))
		case zmq4.REQ:
			must(t, own.Send(t.Context(), []byte("?")))
		}
		replied := make(chan error, 10)
		s := start(t, r, func(_ context.Context, m *Message) error {
			err := m.Reply([]byte("x"))
			replied <- err
			return err
		})
		if c.own != zmq4.PULL {
			_, err := with.RecvMessage(0)
			must(t, err)
		}
		tell(t, with, "hello")
		if err := next(t, "the reply", replied); err == nil || !strings.Contains(err.Error(), c.own.String()) {
			t.Errorf("%v: Reply returned %v", c.own, err)
		}
		if rep := s.ended(); rep.Sockets[0].Failed != 1 || rep.Sockets[0].Handled != 0 {
			t.Errorf("%v: the report is %v", c.own, rep)
		}
	}
}

func TestMalformedRequestsFailAndTheOthersAreAnswered(t *testing.T) {
	t.Parallel()
	malformed := errors.New("malformed")
	for _, c := range []struct {
		typ     zmq4.Type
		clients int
	}{{zmq4.REP, 1}, {zmq4.REP, 4}, {zmq4.ROUTER, 4}} {
		r := newTestRunner(t, briefly)
		own := bound(t, r, c.typ, "tcp://127.0.0.1:*")
		s := start(t, r, func(_ context.Context, m *Message) error {
			if string(m.Frames[0]) == "bad" {
				if c.typ == zmq4.ROUTER {
					m.Reply() // or its REQ would wait for ever
				}
				return malformed
			}
			return m.Reply(m.Frames...)
		})
		var wg sync.WaitGroup
		for range c.clients {
			client := dial(t, zmq4.REQ, own.Endpoint())
			wg.Go(func() {
				for i := range 1000 / c.clients {
					for _, word := range []string{"bad", fmt.Sprint("good ", i)} {
						want := word
						if word == "bad" {
							want = ""
						}
						if _, err := client.SendMessage(word); err != nil {
							t.Error(err)
							return
						}
						if got, err := client.RecvMessage(0); err != nil || got[0] != want {
							t.Errorf("%q was answered with %q, %v", word, got, err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		if rep := s.ended(); rep.Sockets[0].Failed != 1000 || rep.Sockets[0].Handled != 1000 || rep.Sockets[0].Sent != 2000 {
			t.Errorf("%v with %d clients: the report is %v", c.typ, c.clients, rep)
		}
	}
}

func TestHandlersMakeAndCloseSocketsWhileTheRunnerRuns(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	front := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithName("front"))
	var extra *Socket
	s := start(t, r, func(ctx context.Context, m *Message) error {
		var err error
		switch string(m.Frames[0]) {
		case "open":
			if extra, err = r.NewSocket(zmq4.REP, WithName("extra")); err == nil {
				err = extra.Bind("tcp://127.0.0.1:*")
			}
			extra.Handle(func(_ context.Context, m *Message) error { return m.Reply([]byte("extra")) })
			return errors.Join(err, m.Reply([]byte(extra.Endpoint())))
		case "adopt":
			raw, err := r.Context().NewSocket(zmq4.PULL)
			if err == nil {
				_, err = r.Adopt(raw)
			}
			return errors.Join(err, m.Reply())
		case "connect":
			push, err := r.NewSocket(zmq4.PUSH)
			if err == nil {
				err = errors.Join(push.Connect(string(m.Frames[1])), push.Send(ctx, []byte("from the handler")))
			}
			return errors.Join(err, m.Reply())
		case "close":
			err = errors.Join(extra.Close(), extra.Close())
			if bind := extra.Bind("tcp://127.0.0.1:*"); !errors.Is(bind, ErrClosed) {
				err = fmt.Errorf("Bind of a closed socket returned %v", bind)
			}
			return errors.Join(err, m.Reply())
		}
		return fmt.Errorf("what is %q?", m.Frames)
	})
	client := dial(t, zmq4.REQ, front.Endpoint())
	at := request(t, client, "open")[0]
	second := dial(t, zmq4.REQ, at)
	if got := request(t, second, "?"); got[0] != "extra" {
		t.Errorf("the answer is %q", got)
	}
	request(t, client, "adopt")
	pull := peer(t, zmq4.PULL)
	must(t, pull.Bind("tcp://127.0.0.1:*"))
	pullAt, err := pull.GetLastEndpoint()
	must(t, err)
	request(t, client, "connect", pullAt)
	expectMessage(t, pull, "from the handler")
	request(t, client, "close")
	rep := s.ended()
	if len(rep.Sockets) != 4 || rep.Sockets[0].Failed != 0 || rep.Sockets[1].Handled != 1 {
		t.Errorf("the report is %v", rep)
	}
}

func TestASocketClosedInAHandlerSendsWhatItHasFirst(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	pull := peer(t, zmq4.PULL)
	must(t, pull.Bind("tcp://127.0.0.1:*"))
	at, err := pull.GetLastEndpoint()
	must(t, err)
	front := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	push := connected(t, r, zmq4.PUSH, at)
	s := start(t, r, func(ctx context.Context, m *Message) error {
		for i := range 100 {
			must(t, push.Send(ctx, fmt.Append(nil, i)))
		}
		must(t, push.Close())
		if err := push.Send(ctx, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("Send on a closed socket returned %v", err)
		}
		return m.Reply()
	})
	request(t, dial(t, zmq4.REQ, front.Endpoint()), "?")
	for i := range 100 {
		expectMessage(t, pull, fmt.Sprint(i))
	}
	if rep := s.ended(); rep.Sockets[1].Sent != 100 || rep.Sockets[1].Unsent != 0 {
		t.Errorf("the report is %v", rep)
	}
}

func TestASocketClosedInAHandlerFreesThoseWhoWaitForRoom(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	push := marked(t, r, zmq4.PUSH, 1, WithSocketLinger(0))
	must(t, push.Bind("tcp://127.0.0.1:*"))
	rep.Handle(func(_ context.Context, m *Message) error { return errors.Join(push.Close(), m.Reply()) })
	pull.Handle(func(ctx context.Context, m *Message) error { return push.Send(ctx, m.Frames...) })
	s := start(t, r, nil)
	source := dial(t, zmq4.PUSH, pull.Endpoint())
	for range 3 {
		tell(t, source, "x")
	}
	until(t, "the stage is paused", func() bool { return push.report().Queued == 1 })
	blocked := make(chan error, 1)
	go func() { blocked <- push.Send(context.Background(), nil) }()
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "close")
	if err := next(t, "Send returns", blocked); !errors.Is(err, ErrClosed) {
		t.Errorf("Send returned %v", err)
	}
	// The stage goes on, and fails.
	until(t, "the rest is received", func() bool { return pull.report().Failed == 2 })
	if rep := s.ended(); rep.Sockets[2].Unsent != 1 {
		t.Errorf("the report is %v", rep)
	}
}

func TestASocketMayCloseItselfInItsHandler(t *testing.T) {
	t.Parallel()
	for _, typ := range []zmq4.Type{zmq4.REP, zmq4.ROUTER} {
		r := newTestRunner(t, briefly)
		front := bound(t, r, typ, "tcp://127.0.0.1:*")
		other := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
		s := start(t, r, func(_ context.Context, m *Message) error {
			err := m.Reply([]byte("bye"))
			if m.Socket == front {
				err = errors.Join(err, front.Close())
			}
			return err
		})
		for _, own := range []*Socket{front, other} {
			if got := request(t, dial(t, zmq4.REQ, own.Endpoint()), "?"); got[0] != "bye" {
				t.Errorf("%v: the answer is %q", typ, got)
			}
		}
		if rep := s.ended(); rep.Sockets[0].Handled != 1 || rep.Sockets[0].Sent != 1 {
			t.Errorf("%v: the report is %v", typ, rep)
		}
	}
}

// With a handler that closes a socket which is ready in the same batch, pebbe's Reactor panics.
func TestAHandlerMayCloseASocketThatIsReadyToo(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	var own [4]*Socket
	gate := make(chan struct{})
	for i := range own {
		own[i] = bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	}
	control := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	held, handled := make(chan struct{}), make(chan string, 10)
	s := start(t, r, func(_ context.Context, m *Message) error {
		if m.Socket == control {
			close(held)
			<-gate // until all others have something to read
			handled <- "control"
			return nil
		}
		for _, s := range own {
			if s != m.Socket {
				must(t, s.Close())
			}
		}
		handled <- m.Socket.Name()
		return nil
	})
	tell(t, dial(t, zmq4.PUSH, control.Endpoint()), "hold")
	<-held
	for _, o := range own {
		tell(t, dial(t, zmq4.PUSH, o.Endpoint()), "x")
	}
	close(gate)
	if got := next(t, "control", handled); got != "control" {
		t.Fatalf("%s was first", got)
	}
	next(t, "one of the others", handled)
	rep := s.ended()
	sum := 0
	for _, s := range rep.Sockets {
		sum += s.Handled
	}
	if sum != 2 {
		t.Errorf("the report is %v", rep)
	}
}

func TestAnotherGoroutineMayNotTouchTheSocketsOfARunningServer(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	raw, err := r.Context().NewSocket(zmq4.PULL)
	must(t, err)
	s := start(t, r, echo)
	try := func() map[string]error {
		_, create := r.NewSocket(zmq4.REP)
		_, adopt := r.Adopt(raw)
		return map[string]error{
			"NewSocket": create, "Adopt": adopt,
			"Bind": rep.Bind("tcp://127.0.0.1:*"), "Connect": rep.Connect("tcp://127.0.0.1:9"), "Close": rep.Close(),
		}
	}
	for name, err := range try() {
		if err == nil || errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "only its inline handlers") {
			t.Errorf("while it runs %s returned %v", name, err)
		}
	}
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "still there?")
	must(t, raw.Close())
	s.ended()
	for name, err := range try() {
		switch {
		case name == "Close" && err != nil:
			t.Errorf("Close when the Runner's end has closed it returned %v", err)
		case name == "Adopt" && err == nil, name != "Close" && name != "Adopt" && !errors.Is(err, ErrClosed):
			t.Errorf("when it has run %s returned %v", name, err)
		}
	}
}

func TestASocketClosedBeforeRunIsNotServed(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	gone := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	at := gone.Endpoint()
	must(t, gone.Close())
	must(t, gone.Close())
	var again *Socket
	until(t, "the address is free", func() bool {
		var err error
		if again == nil {
			again, err = r.NewSocket(zmq4.REP)
			must(t, err)
		}
		return again.Bind(at) == nil
	})
	again.Handle(echo)
	s := start(t, r, nil) // the closed one needs no handler
	request(t, dial(t, zmq4.REQ, at), "?")
	s.ended()
}

// The end is asked for on other goroutines than the one that makes and closes sockets.
func TestTheEndMayBeAskedForWhileAHandlerMakesAndClosesSockets(t *testing.T) {
	t.Parallel()
	for range 10 {
		r := newTestRunner(t, briefly)
		pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
		now := make(chan struct{})
		s := start(t, r, func(context.Context, *Message) error {
			for i := range 200 {
				if i == 50 {
					close(now)
				}
				extra, err := r.NewSocket(zmq4.PUSH)
				if err != nil {
					return err
				}
				must(t, extra.Close())
			}
			return nil
		})
		tell(t, dial(t, zmq4.PUSH, pull.Endpoint()), "go")
		<-now
		if rep := s.ended(); rep.Sockets[0].Handled != 1 {
			t.Errorf("the report is %v", rep)
		}
	}
}

// zapHandler answers libzmq's questions for authentication (ZeroMQ RFC 27): 200 for whom allowed says.
func zapHandler(denied chan<- string, allowed func(mechanism string, credentials [][]byte) bool) Handler {
	return func(_ context.Context, m *Message) error {
		f := m.Frames // version, request id, domain, address, identity, mechanism, credentials
		code, text := "200", "OK"
		if !allowed(string(f[5]), f[6:]) {
			code, text = "400", "no"
			denied <- string(f[5])
		}
		return m.Reply(f[0], f[1], []byte(code), []byte(text), []byte("user"), nil)
	}
}

func TestRunRefusesAuthenticationThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*zmq4.Socket) error{
		"NULL":  func(s *zmq4.Socket) error { return s.SetZapDomain("test") },
		"PLAIN": func(s *zmq4.Socket) error { return s.ServerAuthPlain("test") },
		"CURVE": func(s *zmq4.Socket) error {
			_, secret, err := zmq4.NewCurveKeypair()
			return errors.Join(err, s.ServerAuthCurve("test", secret))
		},
		"CURVE, of a server that was given a server's key as well": func(s *zmq4.Socket) error {
			public, secret, err := zmq4.NewCurveKeypair()
			return errors.Join(err, s.SetCurveServerkey(public), s.ServerAuthCurve("test", secret))
		},
	} {
		if strings.HasPrefix(name, "CURVE") && !zmq4.HasCurve() {
			t.Log("libzmq was built without CURVE")
			continue
		}
		if strings.HasPrefix(name, "CURVE, ") && portable != "" {
			continue // pebbe's calls can't tell it from a client
		}
		r := newTestRunner(t, briefly)
		rep, err := r.NewSocket(zmq4.REP, WithName("front"))
		must(t, err)
		must(t, set(rep.Raw()))
		must(t, rep.Bind("tcp://127.0.0.1:*"))
		if err := refusal(t, r); err == nil || !strings.Contains(err.Error(), `"front"`) || !strings.Contains(err.Error(), zapEndpoint) {
			t.Fatalf("%s: Run returned %v", name, err)
		}
		// The look for one has left nothing at the endpoint.
		zap := bound(t, r, zmq4.REP, zapEndpoint)
		zap.Handle(zapHandler(make(chan string, 100), func(string, [][]byte) bool { return true }))
		s := start(t, r, echo)
		s.ended()
	}
}

// refusal is what Run says at once, where it refuses to run.
func refusal(t testing.TB, r *Runner) error {
	t.Helper()
	s := run(t, r, echo)
	until(t, "the Runner runs, or has returned", func() bool { return r.Phase() != Idle || len(s.result) > 0 })
	if r.Phase() != Idle {
		r.Close()
	}
	return next(t, "Run returns", s.result)
}

// Whoever is accepted at an endpoint is treated as the socket's options were when it was bound.
func TestRunRefusesAuthenticationThatWasAskedForAfterBind(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	zap.Handle(zapHandler(make(chan string, 100), func(string, [][]byte) bool { return false }))
	late := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*", WithName("front"))
	must(t, late.Raw().SetZapDomain("test"))
	if err := refusal(t, r); !errors.Is(err, errLateZAP) || !strings.Contains(err.Error(), `"front"`) {
		t.Errorf("Run returned %v", err)
	}
	// To bind it again does not shut the first door.
	must(t, late.Bind("tcp://127.0.0.1:*"))
	if err := refusal(t, r); !errors.Is(err, errLateZAP) {
		t.Errorf("bound again, Run returned %v", err)
	}
	must(t, late.Close())
	start(t, r, echo).ended()
}

func TestRunDoesNotAskForAuthenticationOfThoseWhoNeedNone(t *testing.T) {
	t.Parallel()
	if !zmq4.HasCurve() {
		t.Skip("libzmq was built without CURVE")
	}
	serverPublic, _, err := zmq4.NewCurveKeypair()
	must(t, err)
	public, secret, err := zmq4.NewCurveKeypair()
	must(t, err)
	for name, set := range map[string]func(*zmq4.Socket) error{
		"a server without a domain": func(s *zmq4.Socket) error {
			return errors.Join(s.SetCurveServer(1), s.SetCurveSecretkey(secret))
		},
		"a CURVE client": func(s *zmq4.Socket) error {
			return errors.Join(s.ClientAuthCurve(serverPublic, public, secret), s.SetZapDomain("test"))
		},
		"a PLAIN client": func(s *zmq4.Socket) error {
			return errors.Join(s.ClientAuthPlain("me", "secret"), s.SetZapDomain("test"))
		},
	} {
		r := newTestRunner(t, briefly)
		own, err := r.NewSocket(zmq4.DEALER)
		must(t, err)
		must(t, set(own.Raw()))
		must(t, own.Bind("tcp://127.0.0.1:*"))
		s := run(t, r, echo)
		until(t, "the Runner runs, or has returned", func() bool { return r.Phase() != Idle || len(s.result) > 0 })
		if r.Phase() == Idle {
			t.Errorf("%s: Run returned %v", name, <-s.result)
			continue
		}
		s.ended()
	}
}

func TestACurveClientNeedsTheRightKey(t *testing.T) {
	t.Parallel()
	if !zmq4.HasCurve() {
		t.Skip("libzmq was built without CURVE")
	}
	serverPublic, serverSecret, err := zmq4.NewCurveKeypair()
	must(t, err)
	keys := func() (public, secret string) {
		public, secret, err := zmq4.NewCurveKeypair()
		must(t, err)
		return public, secret
	}
	goodPublic, goodSecret := keys()
	badPublic, badSecret := keys()

	r := newTestRunner(t, briefly)
	rep, err := r.NewSocket(zmq4.REP)
	must(t, err)
	must(t, rep.Raw().ServerAuthCurve("test", serverSecret))
	must(t, rep.Bind("tcp://127.0.0.1:*"))
	denied := make(chan string, 1000)
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	goodKey := zmq4.Z85decode(goodPublic)
	zap.Handle(zapHandler(denied, func(mechanism string, credentials [][]byte) bool {
		return mechanism == "CURVE" && len(credentials) == 1 && string(credentials[0]) == goodKey
	}))
	s := start(t, r, echo)

	bad := dial(t, zmq4.REQ, rep.Endpoint(), func(s *zmq4.Socket) error {
		return s.ClientAuthCurve(serverPublic, badPublic, badSecret)
	})
	tell(t, bad, "let me in")
	next(t, "the wrong key is denied", denied)
	good := dial(t, zmq4.REQ, rep.Endpoint(), func(s *zmq4.Socket) error {
		return s.ClientAuthCurve(serverPublic, goodPublic, goodSecret)
	})
	if got := request(t, good, "hello"); got[0] != "hello" {
		t.Errorf("the answer is %q", got)
	}
	if _, err := bad.RecvMessage(zmq4.DONTWAIT); err == nil {
		t.Error("the wrong key was answered")
	}
	if rep := s.ended(); rep.Sockets[0].Received != 1 {
		t.Errorf("the report is %v", rep)
	}
}

func TestAHandlerCantOpenADoorThatNobodyGuards(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	tried := make(chan error, 2)
	s := start(t, r, func(_ context.Context, m *Message) error {
		door, err := r.NewSocket(zmq4.REP)
		must(t, err)
		must(t, door.Raw().SetZapDomain("test"))
		tried <- door.Bind("tcp://127.0.0.1:*")
		raw, err := r.Context().NewSocket(zmq4.REP)
		must(t, err)
		must(t, raw.SetZapDomain("test"))
		must(t, raw.Bind("tcp://127.0.0.1:*"))
		_, err = r.Adopt(raw)
		tried <- err
		return errors.Join(door.Close(), raw.Close(), m.Reply())
	})
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
	for _, what := range []string{"Bind", "Adopt"} {
		if err := next(t, what, tried); err == nil || !strings.Contains(err.Error(), zapEndpoint) {
			t.Errorf("%s returned %v", what, err)
		}
	}
	s.ended()
}

func TestWhoConnectsBeforeRunWaitsForTheAuthentication(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep, err := r.NewSocket(zmq4.REP)
	must(t, err)
	must(t, rep.Raw().ServerAuthPlain("test"))
	must(t, rep.Bind("tcp://127.0.0.1:*"))
	early := dial(t, zmq4.REQ, rep.Endpoint(), func(s *zmq4.Socket) error { return s.ClientAuthPlain("stranger", "?") })
	tell(t, early, "let me in")
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	denied := make(chan string, 1000)
	zap.Handle(zapHandler(denied, func(_ string, credentials [][]byte) bool { return string(credentials[0]) == "me" }))
	s := start(t, r, echo)
	good := dial(t, zmq4.REQ, rep.Endpoint(), func(s *zmq4.Socket) error { return s.ClientAuthPlain("me", "secret") })
	if got := request(t, good, "hello"); got[0] != "hello" {
		t.Errorf("the answer is %q", got)
	}
	if rep := s.ended(); rep.Sockets[0].Received != 1 {
		t.Errorf("the report is %v", rep)
	}
}

func TestADoorThatNeverOpenedIsShutAgain(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	rep, err := r.NewSocket(zmq4.REP)
	must(t, err)
	must(t, rep.Raw().SetZapDomain("test"))
	must(t, rep.Bind("tcp://127.0.0.1:*"))
	must(t, r.Shutdown(t.Context()))
}

func TestASocketMadeInAHandlerNeedsAHandlerBeforeItCanBeReached(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	tried := make(chan error, 1)
	rep.Handle(func(_ context.Context, m *Message) error {
		extra, err := r.NewSocket(zmq4.PULL, WithName("extra"))
		must(t, err)
		tried <- extra.Bind("tcp://127.0.0.1:*")
		extra.Handle(func(context.Context, *Message) error { return nil })
		return errors.Join(extra.Bind("tcp://127.0.0.1:*"), m.Reply())
	})
	s := start(t, r, nil)
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "?")
	if err := next(t, "Bind", tried); err == nil || !strings.Contains(err.Error(), `"extra"`) || !strings.Contains(err.Error(), "handler") {
		t.Errorf("Bind returned %v", err)
	}
	if rep := s.ended(); rep.Sockets[0].Failed != 0 {
		t.Errorf("the report is %v", rep)
	}
}

func TestWithoutRoomForMoreSocketsEverythingSaysSoAndCanBeEnded(t *testing.T) {
	t.Parallel()
	for _, end := range []func(*Runner) error{(*Runner).Close, func(r *Runner) error { return r.Shutdown(context.Background()) }} {
		r := newTestRunner(t)
		must(t, r.Context().SetMaxSockets(2))
		var sockets int
		var err error
		for ; err == nil; sockets++ {
			_, err = r.NewSocket(zmq4.PUSH)
		}
		if !strings.Contains(err.Error(), "new PUSH socket") {
			t.Errorf("NewSocket returned %v", err)
		}
		if n := len(r.Report().Sockets); n != sockets-1 {
			t.Errorf("the report has %d sockets, %d were made", n, sockets-1)
		}
		if err := r.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "PAIR") {
			t.Errorf("Run returned %v", err)
		}
		must(t, end(r))
		if r.Phase() != Done {
			t.Errorf("the phase is %v", r.Phase())
		}
	}
}

// While what is queued still waits for a peer, nobody answers libzmq's questions any more: then nobody is let in.
func TestNobodyGetsInUnaskedWhileTheServerEnds(t *testing.T) {
	t.Parallel()
	if !zmq4.HasCurve() {
		t.Skip("libzmq was built without CURVE")
	}
	serverPublic, serverSecret, err := zmq4.NewCurveKeypair()
	must(t, err)
	public, secret, err := zmq4.NewCurveKeypair()
	must(t, err)
	r := newTestRunner(t, briefly, WithLinger(1500*ms))
	push, err := r.NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Raw().ServerAuthCurve("test", serverSecret))
	must(t, push.Bind("tcp://127.0.0.1:*"))
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	denied := make(chan string, 1000)
	zap.Handle(zapHandler(denied, func(string, [][]byte) bool { return false }))
	s := start(t, r, nil)
	for range 5 {
		must(t, push.Send(t.Context(), []byte("a secret")))
	}
	go s.Shutdown(context.Background())
	until(t, "the end", func() bool { return r.Phase() == Closing })
	stranger := dial(t, zmq4.PULL, push.Endpoint(), func(s *zmq4.Socket) error {
		return errors.Join(s.SetRcvtimeo(time.Second), s.ClientAuthCurve(serverPublic, public, secret))
	})
	if got, err := stranger.Recv(0); err == nil {
		t.Errorf("a stranger received %q", got)
	}
	if rep, err := s.returned(); err == nil || rep.Sockets[0].Sent != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

func TestARunnerMayBeEndedWhileSomebodySetsItUp(t *testing.T) {
	t.Parallel()
	for i := range 100 {
		r := newTestRunner(t)
		var made sync.WaitGroup
		begun := make(chan struct{})
		made.Go(func() {
			for n := range 500 { // a context has no more than 1023, and whoever ends it may be slow
				s, err := r.NewSocket(zmq4.ROUTER)
				if err == nil {
					err = s.Bind("tcp://127.0.0.1:*")
				}
				if n == i%5 {
					close(begun)
				}
				if err != nil {
					if !errors.Is(err, ErrClosed) && !strings.Contains(err.Error(), "only its inline handlers") {
						t.Error(err)
					}
					return
				}
			}
		})
		<-begun
		if i%2 == 0 {
			must(t, r.Close())
		} else {
			must(t, r.Shutdown(t.Context()))
		}
		made.Wait()
	}
}

func TestARepThatIsAdoptedHasNoMarkAtWhichItDrops(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	raw, err := r.Context().NewSocket(zmq4.REP)
	must(t, err)
	_, err = r.Adopt(raw)
	must(t, err)
	if mark, err := raw.GetSndhwm(); err != nil || mark != 0 {
		t.Errorf("the send high-water mark is %d, %v", mark, err)
	}
}

// With XPUB_MANUAL, SetSubscribe is for the subscriber whose message was received last.
func TestAHandlerSubscribesThePeerWhoseSubscriptionItHandles(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t, briefly)
	xpub, err := r.NewSocket(zmq4.XPUB)
	must(t, err)
	must(t, errors.Join(xpub.Raw().SetXpubManual(1), xpub.Bind("inproc://topics")))
	const subscribers = 5
	var peers []*zmq4.Socket
	for i := range subscribers { // inproc all the subscriptions are there at once
		p := peerIn(t, r.Context(), zmq4.SUB)
		must(t, errors.Join(p.SetRcvtimeo(patience), p.SetSubscribe(fmt.Sprint("topic ", i)), p.Connect("inproc://topics")))
		peers = append(peers, p)
	}
	s := start(t, r, func(_ context.Context, m *Message) error {
		return m.Socket.Raw().SetSubscribe(strings.TrimPrefix(string(m.Frames[0]), "\x01"))
	})
	until(t, "all are subscribed", func() bool { return xpub.report().Handled == subscribers })
	for i := range subscribers {
		must(t, xpub.Send(t.Context(), fmt.Append(nil, "topic ", i)))
	}
	for i, p := range peers {
		expectMessage(t, p, fmt.Sprint("topic ", i))
		must(t, p.Close())
	}
	s.ended()
}
