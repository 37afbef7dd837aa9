package zmqgrace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// A server whose clients must have the right key, and its end. socket_test.go has when such a server does not start.

// keys are of one side of a CURVE connection.
type keys struct{ public, secret string }

func newKeys(t testing.TB) (k keys) {
	t.Helper()
	if !zmq4.HasCurve() {
		t.Skip("libzmq was built without CURVE")
	}
	var err error
	k.public, k.secret, err = zmq4.NewCurveKeypair()
	must(t, err)
	return k
}

// clientOf has a client with these keys ask for a server with that public key.
func (k keys) clientOf(server keys) func(*zmq4.Socket) error {
	return func(s *zmq4.Socket) error { return s.ClientAuthCurve(server.public, k.public, k.secret) }
}

// peerContext is for peers that come and go.
func peerContext(t testing.TB) *zmq4.Context {
	t.Helper()
	ctx, err := zmq4.NewContext()
	must(t, err)
	t.Cleanup(func() { ctx.Term() })
	return ctx
}

// guarded is a server that lets in whom it knows.
type guarded struct {
	*running
	front, zap *Socket
	denied     chan string
}

func newGuarded(t testing.TB, endpoint string, own keys, known []keys, quiet []SocketOption, opts ...Option) *guarded {
	t.Helper()
	r := newTestRunner(t, opts...)
	g := &guarded{denied: make(chan string, 100_000)}
	var err error
	g.front, err = r.NewSocket(zmq4.ROUTER, WithName("front"))
	must(t, err)
	must(t, g.front.Raw().ServerAuthCurve("test", own.secret))
	g.zap = bound(t, r, zmq4.REP, zapEndpoint, append(quiet, WithName("zap"))...)
	g.zap.Handle(zapHandler(g.denied, func(mechanism string, credentials [][]byte) bool {
		for _, k := range known {
			if mechanism == "CURVE" && string(credentials[0]) == zmq4.Z85decode(k.public) {
				return true
			}
		}
		return false
	}))
	must(t, g.front.Bind(endpoint))
	g.running = start(t, r, echo)
	return g
}

func TestAClientWithTheRightKeyIsServedAcrossARestart(t *testing.T) {
	t.Parallel()
	server, known := newKeys(t), newKeys(t)
	endpoint := ownPort(t)
	client := dial(t, zmq4.DEALER, endpoint, known.clientOf(server))
	for range 3 {
		g := newGuarded(t, endpoint, server, []keys{known}, nil, briefly)
		stranger := dial(t, zmq4.DEALER, endpoint, newKeys(t).clientOf(server))
		tell(t, stranger, "let me in")
		for range 100 {
			if got := request(t, client, "hello"); got[0] != "hello" {
				t.Errorf("the answer is %q", got)
			}
		}
		next(t, "the stranger is denied", g.denied)
		rep := g.ended()
		if front := rep.Sockets[0]; front.Received != 100 || front.Sent != 100 || front.Unroutable != 0 {
			t.Errorf("the report is %v", rep)
		}
		if got, err := stranger.Recv(zmq4.DONTWAIT); err == nil {
			t.Errorf("the stranger received %q", got)
		}
	}
}

// A client with the wrong key for the server can't even ask, nor one that has none.
func TestWhoDoesNotKnowTheServersKeyGetsNothingIn(t *testing.T) {
	t.Parallel()
	server, known := newKeys(t), newKeys(t)
	g := newGuarded(t, "tcp://127.0.0.1:*", server, []keys{known}, nil, briefly)
	for name, set := range map[string]func(*zmq4.Socket) error{
		"another server's key": known.clientOf(newKeys(t)),
		"no key":               func(*zmq4.Socket) error { return nil },
		"a password":           func(s *zmq4.Socket) error { return s.ClientAuthPlain("me", "secret") },
	} {
		stranger := peer(t, zmq4.DEALER, set)
		events := handshakes(t, stranger)
		must(t, stranger.Connect(g.front.Endpoint()))
		tell(t, stranger, name)
		if got, _, _, err := events.RecvEvent(0); err != nil || got == zmq4.EVENT_HANDSHAKE_SUCCEEDED {
			t.Errorf("%s: the handshake has ended with %v, %v", name, got, err)
		}
	}
	client := dial(t, zmq4.DEALER, g.front.Endpoint(), known.clientOf(server))
	for range 100 {
		request(t, client, "hello")
	}
	if rep := g.ended(); rep.Sockets[0].Received != 100 || len(g.denied) != 0 {
		t.Errorf("%d were asked for, the report is %v", len(g.denied), rep)
	}
}

// libzmq's own clients give up when they are denied; others may try again and again. If each time began the quiet anew,
// strangers could decide how long the end takes. With a quiet time of its own for ZAP it takes the drain limit then.
func TestStrangersWhoTryAgainAndAgainDoNotHoldUpTheEndWhereZAPHasNoQuietTime(t *testing.T) {
	t.Parallel()
	server, known := newKeys(t), newKeys(t)
	const limit = 2 * time.Second
	for _, test := range []struct {
		name  string
		quiet []SocketOption
		busy  bool
	}{
		{"by default", nil, false},
		{"a quiet time of its own", []SocketOption{WithSocketQuiet(time.Second)}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := newGuarded(t, "tcp://127.0.0.1:*", server, []keys{known}, test.quiet, WithDrainLimit(limit))
			request(t, dial(t, zmq4.DEALER, g.front.Endpoint(), known.clientOf(server)), "hello")
			enough := make(chan struct{})
			var strangers sync.WaitGroup
			defer strangers.Wait()
			defer close(enough)
			ctx := peerContext(t)
			strangers.Go(func() {
				for !isClosed(enough) {
					s := peerIn(t, ctx, zmq4.DEALER)
					newKeys(t).clientOf(server)(s)
					s.Connect(g.front.Endpoint())
					select {
					case <-g.denied:
					case <-enough:
					case <-time.After(patience):
					}
					s.Close()
				}
			})
			until(t, "strangers are denied", func() bool { return g.zap.report().Handled > 10 })
			asked := time.Now()
			rep := g.ended()
			took := time.Since(asked)
			t.Logf("ended after %v, %d strangers denied", took.Round(time.Millisecond), rep.Sockets[1].Handled)
			if rep.Busy != test.busy || took > 2*limit {
				t.Errorf("ended after %v, the report is %v", took, rep)
			}
		})
	}
}

// Connections in the middle of their handshake, some of which wait for an answer of ZAP that never comes.
func TestTheEndDoesNotWaitForThoseWhoAreNotInYet(t *testing.T) {
	t.Parallel()
	server, known := newKeys(t), newKeys(t)
	r := newTestRunner(t, briefly, WithWorkers(1), WithGrace(2*time.Second))
	front, err := r.NewSocket(zmq4.ROUTER, WithName("front"))
	must(t, err)
	must(t, front.Raw().ServerAuthCurve("test", server.secret))
	zap := bound(t, r, zmq4.REP, zapEndpoint, WithName("zap"))
	asked := make(chan struct{}, 100)
	zap.Handle(func(ctx context.Context, m *Message) error {
		asked <- struct{}{}
		<-ctx.Done() // the directory of users does not answer
		return ctx.Err()
	})
	must(t, front.Bind("tcp://127.0.0.1:*"))
	s := start(t, r, echo)
	for range 5 {
		tell(t, dial(t, zmq4.DEALER, front.Endpoint(), known.clientOf(server)), "let me in")
	}
	half, err := net.Dial("tcp", strings.TrimPrefix(front.Endpoint(), "tcp://"))
	must(t, err)
	defer half.Close()
	_, err = half.Write([]byte("\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01CURVE"))
	must(t, err)
	over(t, "ZAP is asked", asked)
	began := time.Now()
	rep, err := s.end()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Run returned after %v: %v", took, err)
	}
	if e := incomplete(t, err); e.Leaked || len(e.Running) != 1 || e.Running[0].Socket != "zap" || rep.Sockets[0].Received != 0 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// What is asked while the server drains is answered: a client that knows the key is served to the end.
func TestWhoComesInTheDrainIsAskedForItsKeyToo(t *testing.T) {
	t.Parallel()
	server, known := newKeys(t), newKeys(t)
	h := make(chan struct{})
	g := newGuarded(t, "tcp://127.0.0.1:*", server, []keys{known}, nil, briefly)
	g.Go(func(ctx context.Context) error { <-h; return nil })
	go g.Shutdown(context.Background())
	until(t, "it drains", func() bool { return g.Phase() == Draining })
	stranger := dial(t, zmq4.DEALER, g.front.Endpoint(), newKeys(t).clientOf(server))
	tell(t, stranger, "let me in")
	next(t, "the stranger is denied", g.denied)
	if got := request(t, dial(t, zmq4.DEALER, g.front.Endpoint(), known.clientOf(server)), "hello"); got[0] != "hello" {
		t.Errorf("the answer is %q", got)
	}
	close(h)
	rep, err := g.returned()
	if err != nil || rep.Sockets[0].Received != 1 {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
}

// Every handshake asks whoever answers for authentication: that is not the kind of message that a drain waits for.
func TestTheSocketThatAnswersForAuthenticationHasNoQuietTime(t *testing.T) {
	r := newTestRunner(t, WithDrainQuiet(patience))
	zap, err := r.NewSocket(zmq4.REP)
	must(t, err)
	must(t, zap.Bind(zapEndpoint))
	if zap.quiet != 0 {
		t.Errorf("it has %v", zap.quiet)
	}
	other := newTestRunner(t)
	zap, err = other.NewSocket(zmq4.REP, WithSocketQuiet(time.Second))
	must(t, err)
	must(t, zap.Bind(zapEndpoint))
	if zap.quiet != time.Second {
		t.Errorf("it has %v, where a second was asked for", zap.quiet)
	}
}

func TestTheSocketThatAuthenticatesStaysAsLongAsThoseThatAsk(t *testing.T) {
	t.Parallel()
	server, known := newKeys(t), newKeys(t)
	g := newGuarded(t, "tcp://127.0.0.1:*", server, []keys{known}, nil, briefly)
	tried := make(chan error, 1)
	var closed atomic.Bool
	g.Every(ms, func(context.Context) error {
		if !closed.Swap(true) {
			tried <- g.zap.Close()
		}
		return nil
	})
	if err := next(t, "it is tried", tried); err == nil || !strings.Contains(err.Error(), `"zap"`) || !strings.Contains(err.Error(), "close those first") {
		t.Errorf("Close returned %v", err)
	}
	stranger := dial(t, zmq4.DEALER, g.front.Endpoint(), newKeys(t).clientOf(server))
	tell(t, stranger, "let me in")
	next(t, "the stranger is denied", g.denied)
	request(t, dial(t, zmq4.DEALER, g.front.Endpoint(), known.clientOf(server)), "hello")
	if rep := g.ended(); rep.Sockets[0].Received != 1 {
		t.Errorf("the report is %v", rep)
	}

	// Where nobody asks any more, it may go.
	r := newTestRunner(t)
	front, err := r.NewSocket(zmq4.ROUTER)
	must(t, err)
	must(t, front.Raw().ServerAuthCurve("test", server.secret))
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	if zap.Close() == nil {
		t.Error("before Run it could be closed")
	}
	must(t, errors.Join(front.Close(), zap.Close()))
}

// The flush closes none where the end is forced.
func TestTheSocketThatAuthenticatesIsClosedLastInAForcedEndToo(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	must(t, zap.Bind("tcp://127.0.0.1:*"))
	zap.Handle(zapHandler(make(chan string, 10), func(string, [][]byte) bool { return true }))
	server := newKeys(t)
	var last *Socket
	for range 300 { // it takes a while to close them
		var err error
		last, err = r.NewSocket(zmq4.PUSH)
		must(t, err)
		must(t, last.Raw().ServerAuthCurve("test", server.secret))
	}
	must(t, last.Bind("tcp://127.0.0.1:*"))
	atZAP, atLast := newStranger(t, zap.Endpoint()), newStranger(t, last.Endpoint())
	for _, conn := range []stranger{atZAP, atLast} {
		_, err := io.ReadFull(conn, make([]byte, 10)) // a signature (ZeroMQ RFC 23); for the rest it waits
		must(t, err)
	}
	for _, s := range []*Socket{zap, last} {
		_, err := s.Raw().GetEvents() // and now it knows its session (socket_base.cpp, process_commands)
		must(t, err)
	}
	s := start(t, r, nil)
	go r.Close()
	// libzmq closes the connections in the order in which the sockets were closed: one thread each for both.
	if _, err := atZAP.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection to the one that authenticates has ended with %v", err)
	}
	raw, err := atLast.Conn.(*net.TCPConn).SyscallConn()
	must(t, err)
	must(t, raw.Read(func(fd uintptr) bool {
		if n, err := syscall.Read(int(fd), make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("one that asks was still open: %d, %v", n, err)
		}
		return true
	}))
	s.returned()
}

// Of a socket that was adopted only its last endpoint is known.
func TestNobodyGetsInUnaskedWhereAnAdoptedSocketAuthenticates(t *testing.T) {
	for _, typ := range []zmq4.Type{zmq4.REP, zmq4.ROUTER} {
		t.Run(typ.String(), func(t *testing.T) {
			t.Parallel()
			server := newKeys(t)
			r := newTestRunner(t, briefly, WithLinger(patience), WithGrace(2*patience))
			raw, err := r.Context().NewSocket(typ)
			must(t, err)
			must(t, errors.Join(raw.Bind(zapEndpoint), raw.Bind("inproc://elsewhere")))
			zap, err := r.Adopt(raw)
			must(t, err)
			zap.Handle(func(_ context.Context, m *Message) error {
				f := m.Frames
				return m.Reply(f[0], f[1], []byte("400"), []byte("no"), nil, nil)
			})
			push, err := r.NewSocket(zmq4.PUSH)
			must(t, err)
			must(t, errors.Join(push.Raw().ServerAuthCurve("test", server.secret), push.Bind("tcp://127.0.0.1:*")))
			s := start(t, r, nil)
			must(t, push.Send(t.Context(), []byte("secret")))
			go r.Shutdown(context.Background())
			until(t, "it flushes", func() bool { return errors.Is(push.Send(t.Context(), nil), ErrClosed) })
			stranger := dial(t, zmq4.PULL, push.Endpoint(), newKeys(t).clientOf(server), func(s *zmq4.Socket) error { return s.SetRcvtimeo(300 * ms) })
			if got, err := stranger.Recv(0); err == nil {
				t.Errorf("the stranger received %q", got)
			}
			must(t, r.Close())
			s.returned()
		})
	}
}

func TestNobodyGetsIntoAnAdoptedServerBeforeThereIsSomebodyToAsk(t *testing.T) {
	for _, refused := range []bool{false, true} {
		t.Run(fmt.Sprint("Run was refused: ", refused), func(t *testing.T) {
			t.Parallel()
			adoptBeforeZAP(t, refused)
		})
	}
}

func adoptBeforeZAP(t *testing.T, refused bool) {
	server, known := newKeys(t), newKeys(t)
	r := newTestRunner(t, briefly)
	raw, err := r.Context().NewSocket(zmq4.ROUTER)
	must(t, err)
	must(t, errors.Join(raw.ServerAuthCurve("test", server.secret), raw.Bind("tcp://127.0.0.1:*")))
	front, err := r.Adopt(raw)
	must(t, err)
	if refused {
		if err := r.Run(t.Context(), echo); !errors.Is(err, errZAP) {
			t.Errorf("Run returned %v", err)
		}
	}
	stranger := dial(t, zmq4.DEALER, front.Endpoint(), newKeys(t).clientOf(server))
	tell(t, stranger, "let me in")
	// Whoever is let in unasked is in by now.
	<-time.After(200 * ms)
	if readable(raw) {
		t.Error("somebody is in before there is anybody to ask")
	}
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	zap.Handle(zapHandler(make(chan string, 1000), func(_ string, credentials [][]byte) bool {
		return string(credentials[0]) == zmq4.Z85decode(known.public)
	}))
	s := start(t, r, echo)
	request(t, dial(t, zmq4.DEALER, front.Endpoint(), known.clientOf(server)), "hello again")
	if got, err := stranger.Recv(zmq4.DONTWAIT); err == nil {
		t.Errorf("the stranger received %q", got)
	}
	s.ended()
}

// What the Runner can't prevent, libzmq itself must: there is nobody left to ask, and the server is served on.
func TestNobodyGetsInWhereTheSocketThatAuthenticatesWasClosedBehindTheRunnersBack(t *testing.T) {
	t.Parallel()
	if portable != "" {
		t.Skip("pebbe can't set ZMQ_ZAP_ENFORCE_DOMAIN")
	}
	server, known := newKeys(t), newKeys(t)
	r := newTestRunner(t, briefly)
	front, err := r.NewSocket(zmq4.ROUTER)
	must(t, err)
	must(t, errors.Join(front.Raw().ServerAuthCurve("test", server.secret), front.Bind("tcp://127.0.0.1:*")))
	zap := bound(t, r, zmq4.REP, zapEndpoint)
	zap.Handle(zapHandler(make(chan string, 10), func(string, [][]byte) bool { return true }))
	gone, release := make(chan struct{}), make(chan struct{})
	s := start(t, r, func(context.Context, *Message) error {
		must(t, zap.Raw().Close())
		next, err := r.Context().NewSocket(zmq4.REP)
		must(t, err)
		until(t, "its place is free", func() bool { return next.Bind(zapEndpoint) == nil })
		must(t, errors.Join(next.Unbind(zapEndpoint), next.Close()))
		close(gone)
		<-release
		return nil
	})
	tell(t, dial(t, zmq4.DEALER, front.Endpoint(), known.clientOf(server)), "hello")
	over(t, "nobody authenticates any more", gone)

	stranger := peer(t, zmq4.DEALER, newKeys(t).clientOf(server))
	events := handshakes(t, stranger)
	must(t, stranger.Connect(front.Endpoint()))
	if got, _, _, err := events.RecvEvent(0); got != zmq4.EVENT_HANDSHAKE_FAILED_NO_DETAIL {
		t.Errorf("the stranger's handshake has ended with %v, %v", got, err)
	}
	close(release)
	if _, err := s.returned(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Run returned %v", err)
	}
}

// handshakes tells how a peer's handshakes end.
func handshakes(t *testing.T, s *zmq4.Socket) (events *zmq4.Socket) {
	t.Helper()
	const endpoint = "inproc://handshakes"
	must(t, s.Monitor(endpoint, zmq4.EVENT_HANDSHAKE_SUCCEEDED|zmq4.EVENT_HANDSHAKE_FAILED_NO_DETAIL|
		zmq4.EVENT_HANDSHAKE_FAILED_PROTOCOL|zmq4.EVENT_HANDSHAKE_FAILED_AUTH))
	ctx, err := s.Context()
	must(t, err)
	events = peerIn(t, ctx, zmq4.PAIR)
	t.Cleanup(func() {
		s.Monitor("", 0)
		events.Close()
	})
	must(t, events.Connect(endpoint))
	return events
}

func TestWhoDoesNotAuthenticateMayBeClosed(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	raw, err := r.Context().NewSocket(zmq4.REP)
	must(t, err)
	must(t, raw.Bind("inproc://innocent"))
	innocent, err := r.Adopt(raw)
	must(t, err)
	front, err := r.NewSocket(zmq4.ROUTER)
	must(t, err)
	must(t, errors.Join(front.Raw().ServerAuthCurve("test", newKeys(t).secret), front.Bind("tcp://127.0.0.1:*")))
	if innocent.Close() == nil {
		t.Error("it was closed while nobody else is known to authenticate")
	}
	bound(t, r, zmq4.REP, zapEndpoint)
	must(t, innocent.Close())
}
