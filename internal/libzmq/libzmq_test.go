package libzmq

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// patience is for what must happen at once but runs on a loaded machine.
const patience = 20 * time.Second

const (
	eagain = zmq4.Errno(syscall.EAGAIN)
	never  = math.MaxInt32 // as the size from which parts own their memory
)

// transports are the endpoints at which the tests bind.
var transports = []string{"inproc://test", "tcp://127.0.0.1:*"}

// side is a socket, and its handle.
type side struct {
	t *testing.T
	*zmq4.Socket
	Handle
	poller Poller
}

// newSide makes a socket that is closed with the test, in a context that is termed with the test.
func newSide(t *testing.T, ctx *zmq4.Context, typ zmq4.Type) *side {
	t.Helper()
	s, err := ctx.NewSocket(typ)
	must(t, err)
	must(t, s.SetLinger(patience/4)) // not without an end: it goes to each connection at Bind, and can be the last word
	t.Cleanup(func() {
		s.SetLinger(0)
		s.Close()
	})
	h := HandleOf(s)
	if !h.Valid() {
		t.Fatalf("no handle of a %v", typ)
	}
	must(t, s.SetRcvtimeo(patience))
	must(t, s.SetSndtimeo(patience))
	must(t, s.SetSndhwm(0))
	must(t, s.SetRcvhwm(0))
	both := &side{t: t, Socket: s, Handle: h}
	both.poller.Add(h)
	return both
}

func newContext(t *testing.T) *zmq4.Context {
	t.Helper()
	ctx, err := zmq4.NewContext()
	must(t, err)
	t.Cleanup(func() { ctx.Term() })
	return ctx
}

// connect makes two sockets, one of which is bound and the other connected to it.
func connect(t *testing.T, binds, connects zmq4.Type, endpoint string) (bound, connected *side) {
	t.Helper()
	ctx := newContext(t)
	bound, connected = newSide(t, ctx, binds), newSide(t, ctx, connects)
	bound.join(endpoint, connected)
	return bound, connected
}

func (s *side) join(endpoint string, others ...*side) {
	s.t.Helper()
	must(s.t, s.Bind(endpoint))
	at, err := s.GetLastEndpoint()
	must(s.t, err)
	for _, o := range others {
		must(s.t, o.Connect(at))
	}
}

// newBatch makes a batch that is cleared with the test.
func newBatch(t *testing.T, room int) *Batch {
	b := NewBatch(room)
	t.Cleanup(b.Clear)
	return b
}

// tell sends whole messages, which libzmq must take, by pebbe's calls.
func (s *side) tell(messages ...[][]byte) {
	s.t.Helper()
	for _, m := range messages {
		for i, part := range m {
			var flags zmq4.Flag
			if i < len(m)-1 {
				flags = zmq4.SNDMORE
			}
			_, err := s.SendBytes(part, flags)
			must(s.t, err)
		}
	}
}

// hear receives one whole message by pebbe's calls.
func (s *side) hear() [][]byte {
	s.t.Helper()
	m, err := s.RecvMessageBytes(0)
	must(s.t, err)
	return m
}

// await waits until the socket has something to read.
func (s *side) await() {
	s.t.Helper()
	s.poller.Want(0, zmq4.POLLIN)
	if found, err := s.poller.Poll(patience); err != nil || found != 1 {
		s.t.Fatalf("nothing to read within %v: found %d, %v", patience, found, err)
	}
}

// receiveAll receives n messages, however many batches that takes: an inproc peer's are there when it has sent them, but not TCP's.
func (s *side) receiveAll(n int, b *Batch, alone int) (all [][][]byte) {
	s.t.Helper()
	for len(all) < n {
		s.await()
		got, err := b.Receive(s.Handle, n-len(all), alone)
		if err != nil && err != eagain {
			s.t.Fatal(err)
		}
		messages := take(b)
		if got != len(messages) {
			s.t.Fatalf("Receive counted %d messages, there are %d", got, len(messages))
		}
		all = append(all, messages...)
	}
	return all
}

// take copies what is in a batch, message by message, and leaves its frames as they are.
func take(b *Batch) (messages [][][]byte) {
	data, begun := b.Data(), false
	frames := b.Frames()
	for i := range frames {
		var part []byte
		if f := &frames[i]; f.Owns() {
			part = bytes.Clone(f.Bytes())
		} else {
			part, data = bytes.Clone(data[:f.Size()]), data[f.Size():]
		}
		if !begun {
			messages = append(messages, nil)
		}
		last := &messages[len(messages)-1]
		*last = append(*last, part)
		begun = !frames[i].Last()
	}
	if len(data) > 0 {
		panic(fmt.Sprintf("%d bytes of data belong to no frame", len(data)))
	}
	return messages
}

// parcel is messages as Send takes them.
type parcel struct {
	frames []Frame
	data   []byte
}

// add adds a message, whose parts of so many bytes own their memory, with a mark or without.
func (p *parcel) add(alone int, mark bool, parts ...[]byte) {
	for i, part := range parts {
		f := NewFrame(len(part), i == len(parts)-1)
		if len(part) >= alone {
			f.Own(part)
			f = f.Move(i == len(parts)-1)
		} else {
			p.data = append(p.data, part...)
		}
		p.frames = append(p.frames, f)
	}
	if mark {
		p.frames[len(p.frames)-1].Mark()
	}
}

// free frees what has not left.
func (p *parcel) free() {
	for i := range p.frames {
		p.frames[i].Free()
	}
}

// sendAll sends all of it, however often that takes.
func (p *parcel) sendAll(to *side, swallows bool) {
	to.t.Helper()
	frames, data := p.frames, p.data
	for deadline := time.Now().Add(patience); len(frames) > 0; {
		sent, err := Send(to.Handle, swallows, frames, data)
		if err != nil && err != eagain || time.Now().After(deadline) {
			to.t.Fatalf("%d frames are left: %v", len(frames), err)
		}
		frames, data = frames[sent.Frames:], data[sent.Bytes:]
	}
}

// body makes n bytes, by which they can be told from others.
func body(n int, salt uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(salt), byte(salt >> 8), byte(salt >> 16), byte(n)})
	r.Read(b)
	return b
}

func message(parts ...string) (m [][]byte) {
	for _, p := range parts {
		m = append(m, []byte(p))
	}
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expectSame compares messages part by part.
func expectSame(t testing.TB, got, want [][][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d messages, not %d", len(got), len(want))
	}
	for i := range want {
		if len(got[i]) != len(want[i]) {
			t.Fatalf("message %d of %d has %d parts, not %d", i, len(want), len(got[i]), len(want[i]))
		}
		for j, part := range want[i] {
			if !bytes.Equal(got[i][j], part) {
				t.Fatalf("message %d of %d: part %d of %d bytes is not what was sent, of %d bytes", i, len(want), j, len(got[i][j]), len(part))
			}
		}
	}
}

// end has the context of sockets terminated, which blocks until they are closed, and returns when all have heard of it.
func end(t *testing.T, sockets ...*side) {
	t.Helper()
	ctx, err := sockets[0].Context()
	must(t, err)
	go ctx.Term()
	deadline := time.Now().Add(patience)
	for _, s := range sockets {
		for err = nil; zmq4.AsErrno(err) != zmq4.ETERM; _, err = s.GetEvents() {
			if time.Now().After(deadline) {
				t.Fatal("Term does not begin")
			}
		}
	}
}

func TestEveryOpenSocketHasAHandleAndAClosedOneHasNone(t *testing.T) {
	ctx := newContext(t)
	for _, typ := range []zmq4.Type{zmq4.REQ, zmq4.REP, zmq4.DEALER, zmq4.ROUTER, zmq4.PUB, zmq4.SUB, zmq4.XPUB, zmq4.XSUB, zmq4.PUSH, zmq4.PULL, zmq4.PAIR} {
		s := newSide(t, ctx, typ)
		if again := HandleOf(s.Socket); again != s.Handle {
			t.Errorf("a %v has two handles", typ)
		}
		must(t, s.Close())
		if HandleOf(s.Socket).Valid() {
			t.Errorf("a closed %v has a handle", typ)
		}
	}
	if HandleOf(&zmq4.Socket{}).Valid() {
		t.Error("a socket that was never opened has a handle")
	}
	s := newSide(t, newContext(t), zmq4.PULL)
	end(t, s)
	if HandleOf(s.Socket).Valid() {
		t.Error("a socket that only waits to be closed has a handle")
	}
}

func TestReceiveTakesWhatWaitsAndSaysWhenNothingIsLeft(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	b := newBatch(t, 1<<10)
	sent := [][][]byte{message("one"), message("two", "parts"), message(""), message("", "", "x", ""), message("last")}
	push.tell(sent...)
	for _, step := range []struct {
		most, want int
		err        error
	}{{3, 3, nil}, {3, 2, eagain}, {3, 0, eagain}} {
		n, err := b.Receive(pull.Handle, step.most, never)
		if n != step.want || err != step.err {
			t.Fatalf("Receive of at most %d: %d, %v, not %d, %v", step.most, n, err, step.want, step.err)
		}
		expectSame(t, take(b), sent[:n])
		sent = sent[n:]
	}
	if len(b.Frames()) != 0 || len(b.Data()) != 0 {
		t.Error("what was received before is still in the batch")
	}
}

func TestReceiveStopsWhenItsBytesAreUsedUp(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	for _, alone := range []int{never, 0} { // parts with memory of their own count too
		b := newBatch(t, 1000)
		var sent [][][]byte
		for i := range 5 {
			sent = append(sent, [][]byte{body(100, uint64(i)), body(200, uint64(i))})
		}
		push.tell(sent...)
		n, err := b.Receive(pull.Handle, 100, alone)
		if n != 3 || err != nil { // three are 900 bytes, and their six frames count too
			t.Fatalf("Receive: %d, %v", n, err)
		}
		expectSame(t, take(b), sent[:3])
		expectSame(t, pull.receiveAll(2, b, alone), sent[3:])
	}
}

func TestAMessageThatDoesNotFitIsWhole(t *testing.T) {
	for _, endpoint := range transports {
		pull, push := connect(t, zmq4.PULL, zmq4.PUSH, endpoint)
		b := newBatch(t, 100)
		sent := [][][]byte{
			{body(99, 1), body(2, 2), body(1, 3), body(1<<20, 4)}, // the third fits again
			{body(1<<20, 5)},
			{body(101, 6), {}, body(100, 7), {}},
		}
		push.tell(sent...)
		expectSame(t, pull.receiveAll(len(sent), b, never), sent)
	}
}

func TestAPartFromASizeOnOwnsItsMemory(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	b := newBatch(t, 1<<20)
	small, exact, large := body(4095, 1), body(4096, 2), body(4097, 3)
	push.tell([][]byte{small, exact, large, small})
	if n, err := b.Receive(pull.Handle, 1, 4096); n != 1 || err != nil {
		t.Fatalf("Receive: %d, %v", n, err)
	}
	frames := b.Frames()
	for i, owns := range []bool{false, true, true, false} {
		if f := &frames[i]; f.Owns() != owns || f.Last() != (i == 3) || f.Marked() {
			t.Errorf("frame %d of %d bytes: owns %v, last %v, marked %v", i, f.Size(), f.Owns(), f.Last(), f.Marked())
		}
	}
	if !bytes.Equal(b.Data(), slices.Concat(small, small)) {
		t.Error("the data is not what the parts are that own none")
	}
	// What is moved out of the batch outlives it; what is left in it does not.
	kept := frames[1].Move(true)
	defer kept.Free()
	push.tell(message("next"))
	if n, err := b.Receive(pull.Handle, 1, 4096); n != 1 || err != nil {
		t.Fatalf("Receive: %d, %v", n, err)
	}
	expectSame(t, take(b), [][][]byte{message("next")})
	if !kept.Owns() || !kept.Last() || !bytes.Equal(kept.Bytes(), exact) {
		t.Error("a frame that was moved out of the batch is not what it was")
	}
	kept.Free()
	if kept.Owns() {
		t.Error("a frame that was freed owns something")
	}
}

func TestAMessageOfManyPartsIsReceived(t *testing.T) {
	for _, endpoint := range transports {
		pull, push := connect(t, zmq4.PULL, zmq4.PUSH, endpoint)
		b := newBatch(t, 1<<10)
		var many [][]byte
		for i := range 5000 {
			many = append(many, body(i%7, uint64(i)))
		}
		sent := [][][]byte{many, message("small"), many}
		push.tell(sent...)
		expectSame(t, pull.receiveAll(len(sent), b, 6), sent)
	}
}

func TestReceiveSaysThatTheContextIsTermed(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	b := newBatch(t, 1<<10)
	push.tell(message("never", "read"))
	end(t, pull, push)
	if n, err := b.Receive(pull.Handle, 1, never); n != 0 || zmq4.AsErrno(err) != zmq4.ETERM || len(b.Frames()) != 0 {
		t.Errorf("Receive: %d, %v, %d frames", n, err, len(b.Frames()))
	}
	if n, err := b.Forward(pull.Handle, push.Handle, true, false, 1); n != 0 || zmq4.AsErrno(err) != zmq4.ETERM || len(b.Frames()) != 0 {
		t.Errorf("Forward: %d, %v, %d frames", n, err, len(b.Frames()))
	}
	var p parcel
	p.add(0, false, []byte("not"), []byte("sent"))
	defer p.free()
	sent, err := Send(push.Handle, true, p.frames, p.data)
	if sent != (Progress{}) || zmq4.AsErrno(err) != zmq4.ETERM || !p.frames[0].Owns() || !p.frames[1].Owns() {
		t.Errorf("Send: %+v, %v; what it did not send it has taken all the same", sent, err)
	}
	if _, err := pull.poller.Poll(-1); zmq4.AsErrno(err) != zmq4.ETERM {
		t.Errorf("Poll: %v", err)
	}
}

func TestSendStopsAtTheHighWaterMarkAndGoesOnWhereItStopped(t *testing.T) {
	ctx := newContext(t)
	pull, push := newSide(t, ctx, zmq4.PULL), newSide(t, ctx, zmq4.PUSH)
	must(t, pull.SetRcvhwm(1))
	must(t, push.SetSndhwm(2))
	pull.join("inproc://test", push)
	var p parcel
	var want [][][]byte
	for i := range 10 {
		salt := uint64(i)
		m := [][]byte{body(10, salt), body(5000, salt), {}, body(20, salt), body(6000, salt)}
		p.add(4096, i%2 == 0, m...)
		want = append(want, m)
	}
	defer p.free()

	var got [][][]byte
	var total Progress
	deadline := time.Now().Add(patience)
	for total.Messages < len(want) {
		sent, err := Send(push.Handle, true, p.frames[total.Frames:], p.data[total.Bytes:])
		total.Frames += sent.Frames
		total.Bytes += sent.Bytes
		total.Messages += sent.Messages
		total.Marked += sent.Marked
		if done := total.Messages == len(want); done != (err == nil) || !done && err != eagain || sent.Messages == 0 && len(got) == 0 {
			t.Fatalf("Send: %+v, %v, after %d messages", sent, err, total.Messages)
		}
		if total.Frames != 5*total.Messages || total.Bytes != 30*total.Messages || total.Marked != (total.Messages+1)/2 {
			t.Fatalf("%+v does not add up", total)
		}
		for i := range p.frames {
			owned, left := i%5 == 1 || i%5 == 4, i < total.Frames
			if f := &p.frames[i]; f.Owns() != (owned && !left) {
				t.Fatalf("frame %d, with %d sent: it owns its bytes: %v", i, total.Frames, f.Owns())
			} else if f.Owns() && !bytes.Equal(f.Bytes(), want[i/5][i%5]) {
				t.Fatalf("frame %d has not left, but lost its bytes", i)
			}
		}
		if len(got) < total.Messages { // PUSH hears only now and then of what PULL has read
			got = append(got, pull.hear())
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d messages could be sent", total.Messages, len(want))
		}
	}
	for len(got) < len(want) {
		got = append(got, pull.hear())
	}
	expectSame(t, got, want)
	if total.Marked != 5 {
		t.Errorf("%d messages had a mark, not 5", total.Marked)
	}
}

func TestWhatIsRefusedAtOnceStaysWhole(t *testing.T) {
	ctx := newContext(t)
	router, alone := newSide(t, ctx, zmq4.ROUTER), newSide(t, ctx, zmq4.DEALER)
	must(t, router.SetRouterMandatory(1))
	for _, test := range []struct {
		to       *side
		swallows bool
		want     zmq4.Errno
	}{{router, false, zmq4.EHOSTUNREACH}, {alone, true, eagain}} {
		var p parcel
		m := [][]byte{[]byte("nobody"), body(5000, 1), []byte("end"), body(5000, 2)}
		p.add(100, true, m...)
		sent, err := Send(test.to.Handle, test.swallows, p.frames, p.data)
		if sent != (Progress{}) || zmq4.AsErrno(err) != test.want {
			t.Errorf("Send: %+v, %v, not %v", sent, err, test.want)
		}
		for _, i := range []int{1, 3} {
			if f := &p.frames[i]; !f.Owns() || !bytes.Equal(f.Bytes(), m[i]) {
				t.Errorf("frame %d is not what it was", i)
			}
		}
		p.free()
	}
}

// The peer of a PUSH goes away in the middle of a message, whose parts are so many that libzmq hears of it between two of them. It
// may lose a message that way, but what is refused is still there, and what arrives is whole. There is one peer at a time:
// with three, one of whom goes away, libzmq 4.3.4 itself can send the rest of a message to another one (lb.cpp,
// pipe_terminated).
func TestAPeerThatGoesInTheMiddleOfAMessageSpoilsNone(t *testing.T) {
	for _, endpoint := range transports {
		t.Run(endpoint, func(t *testing.T) {
			ctx := newContext(t)
			push := newSide(t, ctx, zmq4.PUSH)
			push.join(endpoint)
			at, err := push.GetLastEndpoint()
			must(t, err)
			parts := make([][]byte, 3000)
			for i := range parts {
				parts[i] = body(10, uint64(i))
			}
			parts[1] = body(5000, 1)
			last := len(parts) - 1
			parts[last] = body(5000, 2)

			deadline := time.Now().Add(patience)
			for range 50 {
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					pull, err := ctx.NewSocket(zmq4.PULL)
					if err != nil {
						t.Error(err)
						return
					}
					defer pull.Close()
					for _, err := range []error{pull.SetRcvhwm(0), pull.SetRcvtimeo(patience), pull.Connect(at)} {
						if err != nil {
							t.Error(err)
						}
					}
					m, err := pull.RecvMessageBytes(0)
					if err != nil || !slices.EqualFunc(m, parts, bytes.Equal) {
						t.Errorf("a message of %d parts arrived, %v", len(m), err)
					}
				}()
				for heard := false; ; {
					var p parcel
					p.add(100, false, parts...)
					sent, err := Send(push.Handle, true, p.frames, p.data)
					if err == eagain && sent.Messages == 0 && (!p.frames[1].Owns() || !bytes.Equal(p.frames[last].Bytes(), parts[last])) {
						t.Error("a message that was refused is not what it was")
					}
					p.free()
					heard = heard || sent.Messages > 0
					if heard && err == eagain { // it has gone
						break
					}
					if err != nil && err != eagain || time.Now().After(deadline) {
						t.Fatal(err)
					}
				}
				<-gone
			}
		})
	}
}

// A PUSH whose peer goes away in the middle of a message has the whole of it sent to the next one, by the same call.
func TestAMessageWhosePeerGoesInTheMiddleOfItGoesWholeToTheNext(t *testing.T) {
	const parts, tries = 200_000, 100
	data := body(10*parts, 1)
	for arrived, try := 0, 0; arrived < 3; try++ {
		if try == tries {
			t.Fatal("no peer went away in the middle of a message, or what was cut off counts as sent")
		}
		ctx := newContext(t) // with one peer more that goes away libzmq can go wrong itself, as above
		push, first, second := newSide(t, ctx, zmq4.PUSH), newSide(t, ctx, zmq4.PULL), newSide(t, ctx, zmq4.PULL)
		push.join("inproc://next", first)
		push.tell(message("the turn is the first's"))
		must(t, second.Connect("inproc://next"))
		_, err := push.GetEvents() // it hears of the second
		must(t, err)
		frames := make([]Frame, parts)
		for i := range frames {
			frames[i] = NewFrame(10, i == parts-1)
		}
		went := make(chan time.Time, 1)
		go func() {
			time.Sleep(2 * time.Millisecond) // in the middle, with luck
			defer func(now time.Time) { went <- now }(time.Now())
			first.Close()
		}()
		began := time.Now()
		sent, err := Send(push.Handle, true, frames, data)
		early := (<-went).Before(began)
		if err != nil || sent.Messages != 1 {
			t.Fatalf("%d messages were sent, %v", sent.Messages, err)
		}
		// Where the first had all of it, or libzmq has dropped the rest before anybody could know (lb.cpp, pipe_terminated), nothing comes.
		if events, err := second.GetEvents(); err != nil {
			t.Fatal(err)
		} else if events&zmq4.POLLIN == 0 {
			continue
		}
		if got := bytes.Join(second.hear(), nil); !bytes.Equal(got, data) {
			t.Fatalf("%d bytes arrived, which are not the %d that were sent", len(got), len(data))
		}
		if !early {
			arrived++
		}
	}
}

func TestForwardPassesMessagesOnAndTellsTheirFirstParts(t *testing.T) {
	for _, endpoint := range transports {
		for _, firstParts := range []bool{false, true} {
			router, client := connect(t, zmq4.ROUTER, zmq4.DEALER, endpoint)
			worker, dealer := connect(t, zmq4.REP, zmq4.DEALER, endpoint)
			must(t, worker.Close())
			pull, push := connect(t, zmq4.PULL, zmq4.PUSH, endpoint)
			_ = dealer
			var sent [][][]byte
			for i := range 20 {
				m := [][]byte{body(1, uint64(i)), {}, body(10000*i, uint64(i)), body(3, 4)}
				sent = append(sent, m[:1+i%4])
			}
			client.tell(sent...)
			b := newBatch(t, 50) // for ten of the routing ids, which have five bytes
			var got [][][]byte
			for len(got) < len(sent) {
				router.await()
				n, err := b.Forward(router.Handle, push.Handle, true, firstParts, 15)
				if n == 0 || err != nil && err != eagain {
					t.Fatalf("Forward: %d, %v", n, err)
				}
				first := take(b)
				if firstParts && len(first) != n || !firstParts && len(first) != 0 {
					t.Fatalf("Forward of %d messages left %d in the batch", n, len(first))
				}
				for i := range n {
					m := pull.hear()
					if firstParts && (len(first[i]) != 1 || len(m[0]) != 5 || !bytes.Equal(first[i][0], m[0])) {
						t.Errorf("the first part is %x, not %x", first[i], m[0])
					}
					got = append(got, m[1:])
				}
			}
			expectSame(t, got, sent)
			if n, err := b.Forward(router.Handle, push.Handle, true, firstParts, 1); n != 0 || err != eagain || len(b.Frames()) != 0 {
				t.Errorf("where nothing waits: %d, %v, %d frames", n, err, len(b.Frames()))
			}
		}
	}
}

func TestWhatForwardCannotSendComesBackWhole(t *testing.T) {
	for _, parts := range []int{1, 2, 8} {
		for _, firstParts := range []bool{false, true} {
			ctx := newContext(t)
			in, source := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
			out, sink := newSide(t, ctx, zmq4.PUSH), newSide(t, ctx, zmq4.PULL)
			must(t, out.SetSndhwm(2))
			must(t, sink.SetRcvhwm(1))
			sink.join("inproc://test", out)
			var sent [][][]byte
			for i := range 10 {
				var m [][]byte
				for j := range parts {
					m = append(m, body(j*j*1000, uint64(i)))
				}
				sent = append(sent, m)
			}
			source.tell(sent...)
			b := newBatch(t, 1<<10)
			n, err := b.Forward(in.Handle, out.Handle, true, firstParts, 100)
			if n == 0 || n == len(sent) || err != eagain {
				t.Fatalf("Forward: %d, %v", n, err)
			}
			rest := take(b)
			if firstParts {
				rest = rest[n:]
			}
			expectSame(t, rest, sent[n:n+1])
			for i := range n {
				expectSame(t, [][][]byte{sink.hear()}, sent[i:i+1])
			}
			expectSame(t, in.receiveAll(len(sent)-n-1, b, never), sent[n+1:])
		}
	}
}

func TestForwardLeavesAMessageOfManyPartsToGo(t *testing.T) {
	for _, parts := range []int{9, 10, 1000} {
		in, source := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
		sink, out := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
		var many [][]byte
		for i := range parts {
			many = append(many, body(i%20, uint64(i)))
		}
		source.tell(message("a", "x"), message("b", "y"), many, message("c"))
		b := newBatch(t, 1<<10)
		n, err := b.Forward(in.Handle, out.Handle, true, true, 100)
		if n != 2 || err != nil {
			t.Fatalf("Forward: %d, %v", n, err)
		}
		expectSame(t, take(b), [][][]byte{message("a"), message("b"), many})
		expectSame(t, [][][]byte{sink.hear(), sink.hear()}, [][][]byte{message("a", "x"), message("b", "y")})
		// What came back goes out as it is.
		frames := b.Frames()[2:]
		if sent, err := Send(out.Handle, true, frames, b.Data()[2:]); sent.Messages != 1 || err != nil {
			t.Fatalf("Send: %+v, %v", sent, err)
		}
		expectSame(t, [][][]byte{sink.hear()}, [][][]byte{many})
		if n, err := b.Forward(in.Handle, out.Handle, true, false, 100); n != 1 || err != eagain {
			t.Errorf("Forward: %d, %v", n, err)
		}
		expectSame(t, [][][]byte{sink.hear()}, [][][]byte{message("c")})
	}
}

func TestPollFindsWhatItIsAskedFor(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	var p Poller
	p.Add(pull.Handle)
	p.Add(push.Handle)
	poll := func(timeout time.Duration, pullFound, pushFound zmq4.State) {
		t.Helper()
		want := 0
		for _, state := range []zmq4.State{pullFound, pushFound} {
			if state != 0 {
				want++
			}
		}
		found, err := p.Poll(timeout)
		if found != want || err != nil || p.Found(0) != pullFound || p.Found(1) != pushFound {
			t.Errorf("found %d, %v: %v of the PULL, %v of the PUSH", found, err, p.Found(0), p.Found(1))
		}
	}
	p.Want(0, zmq4.POLLIN)
	poll(0, 0, 0)
	p.Want(1, zmq4.POLLOUT)
	poll(-1, 0, zmq4.POLLOUT)
	push.tell(message("x"))
	poll(-1, zmq4.POLLIN, zmq4.POLLOUT)
	p.Want(1, 0)
	poll(patience, zmq4.POLLIN, 0)
	p.Want(0, 0)
	poll(0, 0, 0)
}

func TestPollWaitsForItsTimeoutAndNotForLonger(t *testing.T) {
	pull, _ := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	pull.poller.Want(0, zmq4.POLLIN)
	for _, timeout := range []time.Duration{0, time.Microsecond, 30 * time.Millisecond} {
		began := time.Now()
		found, err := pull.poller.Poll(timeout)
		took := time.Since(began)
		if found != 0 || err != nil || took < timeout || took > patience {
			t.Errorf("Poll(%v): %d, %v after %v", timeout, found, err, took)
		}
	}
}

func FuzzMessagesGoThroughUnchanged(f *testing.F) {
	f.Add(uint64(1), uint16(100), uint16(300), uint16(50), uint8(3))
	f.Add(uint64(2), uint16(1), uint16(0), uint16(1), uint8(1))
	f.Add(uint64(3), uint16(300), uint16(40000), uint16(4096), uint8(255))
	f.Add(uint64(4), uint16(50), uint16(5000), uint16(65535), uint8(0))
	// Messages of all sizes are received, sent on as they were received, and received again. size is the largest part's.
	f.Fuzz(func(t *testing.T, seed uint64, count, size, alone uint16, most uint8) {
		r := rand.New(rand.NewPCG(seed, seed))
		endpoint := transports[seed%2]
		in, source := connect(t, zmq4.PULL, zmq4.PUSH, endpoint)
		sink, out := connect(t, zmq4.PULL, zmq4.PUSH, endpoint)
		var sent [][][]byte
		bytesLeft := 8 << 20
		for range count % 500 {
			m := make([][]byte, 1)
			for r.IntN(2) == 0 && len(m) < 40 {
				m = append(m, nil)
			}
			for i := range m {
				n := r.IntN(1+min(int(size), bytesLeft)) >> (r.IntN(3) * 4)
				m[i] = body(n, r.Uint64())
				bytesLeft -= n
			}
			sent = append(sent, m)
		}
		source.tell(sent...)
		b := newBatch(t, 1+r.IntN(1<<16))
		for passed := 0; passed < len(sent); {
			in.await()
			n, err := b.Receive(in.Handle, 1+int(most), int(alone))
			if n == 0 || err != nil && err != eagain {
				t.Fatalf("Receive: %d, %v", n, err)
			}
			p := parcel{frames: b.Frames(), data: b.Data()}
			p.sendAll(out, true)
			passed += n
		}
		expectSame(t, sink.receiveAll(len(sent), b, 1+int(alone)), sent)
	})
}

// Frames count as well as bytes, and what a message of very many needed is given back.
func TestABatchKeepsNoMemoryForAMessageOfManyParts(t *testing.T) {
	pull, push := connect(t, zmq4.PULL, zmq4.PUSH, "inproc://test")
	b := newBatch(t, 1000)
	push.tell(make([][]byte, 200_000), [][]byte{{1}})
	if n, err := b.Receive(pull.Handle, 100, never); n != 1 || err != nil || len(b.Frames()) != 200_000 {
		t.Fatalf("Receive: %d, %v, %d frames", n, err, len(b.Frames()))
	}
	if n, _ := b.Receive(pull.Handle, 100, never); n != 1 || b.c.frame_room > 1<<16 {
		t.Errorf("Receive: %d, and there is room for %d frames", n, b.c.frame_room)
	}
}
