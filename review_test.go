package zmqgrace

import (
	"context"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

// What a batch must not do that a single message does not.

// A PUSH that loses its peer in the middle of a message sends it anew, all of it.
func TestAMessageThatIsSentAnewIsWhole(t *testing.T) {
	t.Parallel()
	for range 100 {
		if cutOffAndSentAnew(t) {
			return
		}
	}
	t.Fatal("no peer went away in the middle of a message, or what was cut off counts as sent")
}

// cutOffAndSentAnew has a peer go away, and reports whether that was before it had the message. It has a context of its own: with
// one peer more that goes away libzmq 4.3.4 can itself send the rest of a message to another one (lb.cpp, pipe_terminated).
func cutOffAndSentAnew(t *testing.T) bool {
	const parts, size = 400_000, 2 * aloneBytes
	ctx, err := zmq4.NewContext()
	must(t, err)
	socket := func(typ zmq4.Type, attach func(*zmq4.Socket) error) *zmq4.Socket {
		s, err := ctx.NewSocket(typ)
		must(t, err)
		must(t, s.SetLinger(0))
		must(t, s.SetRcvtimeo(patience))
		must(t, attach(s))
		return s
	}
	push := socket(zmq4.PUSH, func(s *zmq4.Socket) error { return s.Bind("inproc://anew") })
	defer func() {
		push.Close()
		must(t, ctx.Term())
	}()
	connect := func(s *zmq4.Socket) error { return s.Connect("inproc://anew") }
	handle := libzmq.HandleOf(push)
	if !handle.Valid() {
		t.Skip("there is no fast way")
	}
	first := socket(zmq4.PULL, connect)
	frames := make([]libzmq.Frame, parts+1)
	for i := range parts {
		frames[i] = libzmq.NewFrame(1, false)
	}
	frames[parts].Own(make([]byte, size))
	closed := make(chan struct{})
	go func() {
		time.Sleep(2 * time.Millisecond)
		first.Close()
		close(closed)
	}()
	sent, err := libzmq.Send(handle, true, frames, make([]byte, parts))
	<-closed
	if sent.Messages == 1 {
		return false // it was through before
	}
	if !isAgain(err) {
		t.Fatal(err)
	}
	second := socket(zmq4.PULL, connect)
	defer second.Close()
	_, err = push.GetEvents() // it hears of the second
	must(t, err)
	_, err = libzmq.Send(handle, true, frames, make([]byte, parts))
	must(t, err)
	var last []byte
	n := 0
	for more := true; more; n++ {
		last, err = second.RecvBytes(0)
		must(t, err)
		more, err = second.GetRcvmore()
		must(t, err)
	}
	if n != parts+1 || len(last) != size {
		t.Errorf("it has %d parts, and the last one %d bytes; want %d and %d", n, len(last), parts+1, size)
	}
	return true
}

// zmtpReadyAs is zmtpReady of a DEALER that gives itself a routing id, of any length: libzmq (mechanism.cpp) looks at
// none.
func zmtpReadyAs(id string) string {
	body := "\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity" + string(binary.BigEndian.AppendUint32(nil, uint32(len(id)))) + id
	return string(binary.BigEndian.AppendUint64([]byte{6}, uint64(len(body)))) + body
}

func TestARoutingIDLargerThanABatchGoesThroughABroker(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	front := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
	back := bound(t, r, zmq4.DEALER, "tcp://127.0.0.1:*")
	must(t, r.Proxy(front, back))
	s := start(t, r, nil)
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	id := strings.Repeat("i", batchBytes+1)
	c := newStranger(t, front.Endpoint())
	c.say(zmtpGreeting)
	_, err := io.ReadFull(c, make([]byte, len(zmtpGreeting)))
	must(t, err)
	const n = 50 // some of them in one batch
	c.say(zmtpReadyAs(id), strings.Repeat("\x00\x02hi", n))
	for range n {
		m, err := worker.RecvMessage(0)
		must(t, err)
		if len(m) != 2 || m[0] != id || m[1] != "hi" {
			t.Fatalf("the worker gets %d parts", len(m))
		}
		_, err = worker.SendMessage(m)
		must(t, err)
	}
	until(t, "the answers are through", func() bool { return front.report().Handled == n })
	s.ended()
}

// A peer that takes again is like any other, also where what it took went past the outbox.
func TestABrokersPeerThatTakesAgainIsHeldAnewAtItsMark(t *testing.T) {
	t.Parallel()
	const n, size = 250, 64 << 10
	r := newTestRunner(t)
	front := marked(t, r, zmq4.ROUTER, 150)
	must(t, front.Bind("tcp://127.0.0.1:*"))
	back := bound(t, r, zmq4.DEALER, "tcp://127.0.0.1:*")
	must(t, r.Proxy(front, back))
	s := start(t, r, nil)
	worker := dial(t, zmq4.DEALER, back.Endpoint())
	slow, taken := greedy(t, front.Endpoint(), "slow"), 0
	serve := func(answers int) {
		t.Helper()
		m, err := worker.RecvMessage(0)
		must(t, err)
		for i := range answers {
			body := []byte(m[1])
			if answers > 1 {
				body = append(countedBody(i), make([]byte, size)...)
			}
			_, err := worker.SendMessage(m[0], body)
			must(t, err)
		}
	}
	takeTheRest := func(answers int) { // of all answers so far
		t.Helper()
		until(t, "nothing is held any more", func() bool { rep := front.report(); return rep.Queued == 0 && rep.Sent+rep.Dropped == answers })
		for range answers - front.report().Dropped - taken {
			_, err := slow.RecvMessageBytes(0)
			must(t, err)
			taken++
		}
	}
	tell(t, slow, "flood")
	serve(n)
	until(t, "what the peer is owed is dropped", func() bool { return front.report().Dropped > 0 })
	takeTheRest(n)
	dropped := front.report().Dropped
	const more = 3
	for range more {
		tell(t, slow, "hello again")
		serve(1)
		m, err := slow.RecvMessage(0)
		must(t, err)
		if len(m) != 1 || m[0] != "hello again" {
			t.Fatalf("the answer is %q", m)
		}
		taken++
	}
	begun := time.Now()
	tell(t, slow, "flood")
	serve(n)
	until(t, "the peer is at its mark", func() bool { rep := front.report(); return rep.Queued > 0 || rep.Dropped > dropped })
	switch rep := front.report(); {
	case rep.Dropped == dropped:
		expectCounted(t, slow, n)
	case time.Since(begun) < peerPatience:
		t.Errorf("%d were dropped at once", rep.Dropped-dropped)
	default:
		t.Log("the machine is so slow that what the peer had not taken was dropped by right")
		takeTheRest(2*n + more)
	}
	s.ended()
}

// What came while the message before it was handled is backlog: there was no moment without any.
func TestWhatComesWhileTheBacklogIsHandledIsNotLate(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	var late atomic.Int32
	router := bound(t, r, zmq4.ROUTER, "inproc://backlog", WithLate(func(context.Context, *Message) error { late.Add(1); return nil }))
	client, err := r.Context().NewSocket(zmq4.DEALER)
	must(t, err)
	must(t, client.Connect("inproc://backlog"))
	const n = 10
	i := 0
	s := start(t, r, func(ctx context.Context, m *Message) error {
		if i++; i == 1 {
			go r.Shutdown(context.Background())
			until(t, "the drain has begun", func() bool { return r.Phase() == Draining })
			time.Sleep(50 * time.Millisecond)
		}
		if i <= n {
			_, err := client.SendMessage(i) // the next comes before this one is done
			must(t, err)
		}
		if i == n+1 {
			client.Close()
		}
		return nil
	})
	_, err = client.SendMessage(0)
	must(t, err)
	until(t, "all have come", func() bool { return router.report().Received == n+1 || late.Load() > 0 })
	if late.Load() > 0 {
		t.Errorf("%d were late", late.Load())
		client.SetLinger(0)
		client.Close()
	}
	s.returned()
}

// However fast the messages before were, slow ones end their socket's turn.
func TestSlowMessagesAfterFastOnesEndTheTurn(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	bound(t, r, zmq4.PULL, "inproc://mixed")
	push, err := r.Context().NewSocket(zmq4.PUSH)
	must(t, err)
	must(t, push.Connect("inproc://mixed"))
	for i := range 200 {
		_, err := push.SendMessage(i)
		must(t, err)
	}
	must(t, push.Close())
	var turns, longest int // slow messages between two timers
	r.Every(time.Millisecond, func(context.Context) error { turns = 0; return nil })
	i := 0
	s := start(t, r, func(context.Context, *Message) error {
		if i++; i > 130 && i <= 160 {
			time.Sleep(5 * time.Millisecond)
			turns++
			longest = max(longest, turns)
		}
		return nil
	})
	until(t, "all are handled", func() bool { return r.Report().Sockets[0].Handled == 200 })
	s.ended()
	if longest > 4 {
		t.Errorf("%d messages of 5 ms each were handled in one turn", longest)
	}
}

// A stream that goes on with gaps shorter than the quiet time is forwarded to its end, also where pebbe's own calls have to do.
func TestAForwarderIsNotQuietBetweenTwoMessages(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"fast", "portable"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			r := newTestRunner(t, WithDrainQuiet(400*ms))
			in := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
			out := bound(t, r, zmq4.PUSH, "tcp://127.0.0.1:*")
			if way == "portable" {
				in.handle, out.handle = libzmq.Handle{}, libzmq.Handle{}
			}
			must(t, r.Proxy(in, out))
			s := start(t, r, nil)
			push := dial(t, zmq4.PUSH, in.Endpoint())
			pull := dial(t, zmq4.PULL, out.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvtimeo(2 * time.Second) })
			for i := range 10 {
				_, err := push.SendMessage(i)
				must(t, err)
				if _, err := pull.RecvMessage(0); err != nil {
					t.Fatalf("message %d does not come through: %v", i, err)
				}
				if i == 0 {
					go r.Shutdown(context.Background())
				}
				time.Sleep(100 * ms)
			}
			_, err := s.returned()
			must(t, err)
		})
	}
}

// A handler owns its frames for ever, so keeping a few must not keep all that they came with.
func TestAFrameThatIsKeptKeepsLittleElse(t *testing.T) {
	const n, size, every = 50_000, 1000, 250
	r := newTestRunner(t)
	in := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
	var kept [][]byte
	s := start(t, r, func(_ context.Context, m *Message) error {
		if m.Frames[0][0] == 1 {
			kept = append(kept, m.Frames[0])
		}
		return nil
	})
	push := dial(t, zmq4.PUSH, in.Endpoint())
	heap := func() int {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc)
	}
	before := heap()
	for i := range n {
		body := make([]byte, size)
		if i%every == 0 {
			body[0] = 1
		}
		_, err := push.SendBytes(body, 0)
		must(t, err)
	}
	until(t, "all are handled", func() bool { return in.report().Handled == n })
	grown := heap() - before
	s.ended()
	if limit := len(kept) * 2 * pieceBytes; grown > limit {
		t.Errorf("%d frames of %d bytes keep %d KiB, want at most %d", len(kept), size, grown>>10, limit>>10)
	}
	runtime.KeepAlive(kept)
}
