package zmqgrace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

// inside makes a peer in the Runner's own context: what it sends to an inproc endpoint is there at once. It must be
// closed before the Runner ends.
func inside(t testing.TB, r *Runner, typ zmq4.Type, endpoint string) *zmq4.Socket {
	t.Helper()
	s, err := r.Context().NewSocket(typ)
	must(t, err)
	must(t, errors.Join(s.SetLinger(0), s.SetSndhwm(0), s.SetRcvhwm(0), s.SetRcvtimeo(patience), s.SetSndtimeo(patience), s.Connect(endpoint)))
	return s
}

// frugal is a client that allocates nothing in Go, whose messages are counted with the server's otherwise.
type frugal struct {
	t      testing.TB
	handle libzmq.Handle
	poller libzmq.Poller
	batch  *libzmq.Batch
	frames []libzmq.Frame
	data   []byte
}

func newFrugal(t testing.TB, s *zmq4.Socket, messages, size int) *frugal {
	f := &frugal{t: t, handle: libzmq.HandleOf(s), batch: libzmq.NewBatch(batchBytes), data: make([]byte, messages*size)}
	t.Cleanup(f.batch.Clear)
	f.poller.Add(f.handle)
	f.poller.Want(0, zmq4.POLLIN)
	for range messages {
		f.frames = append(f.frames, libzmq.NewFrame(size, true))
	}
	return f
}

func (f *frugal) send() {
	if sent, err := libzmq.Send(f.handle, true, f.frames, f.data); err != nil {
		f.t.Fatalf("%d of %d messages were sent: %v", sent.Messages, len(f.frames), err)
	}
}

// take receives as many answers as messages were sent.
func (f *frugal) take() {
	for got := 0; got < len(f.frames); {
		if found, err := f.poller.Poll(patience); found != 1 || err != nil {
			f.t.Fatalf("after %d of %d answers: %v", got, len(f.frames), err)
		}
		n, err := f.batch.Receive(f.handle, len(f.frames), aloneBytes)
		if err != nil && !isAgain(err) {
			f.t.Fatal(err)
		}
		got += n
	}
}

func TestABatchCostsTwoAllocationsAndWhatItsHandlersMake(t *testing.T) {
	if portable != "" {
		t.Skip("pebbe's calls allocate for every message")
	}
	const each, rounds = 1000, 100
	for _, made := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d a handler", made), func(t *testing.T) {
			r := newTestRunner(t)
			router := bound(t, r, zmq4.ROUTER, "inproc://server")
			batches, messages, last := 0, 0, -1
			begin := make(chan struct{})
			var keep []byte
			s := start(t, r, func(_ context.Context, m *Message) error {
				if messages%each == 0 {
					<-begin // and all of the round waits in libzmq
				}
				messages++
				if b := m.Socket.batch.begun; b != last {
					batches++
					last = b
				}
				for range made {
					keep = make([]byte, 64)
				}
				return m.Reply(m.Frames...)
			})
			client := inside(t, r, zmq4.DEALER, "inproc://server")
			load := newFrugal(t, client, each, 32)
			round := func() {
				load.send()
				begin <- struct{}{}
				load.take()
			}
			for range 10 {
				round() // what is made once is made
			}
			batches = 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rounds {
				round()
			}
			runtime.ReadMemStats(&after)
			_ = keep
			mallocs := int(after.Mallocs-before.Mallocs) - made*each*rounds
			perBatch := float64(mallocs) / float64(batches)
			t.Logf("%d batches of %d messages on average: %.2f allocations each", batches, each*rounds/batches, perBatch)
			// The runtime itself allocates now and then.
			if perBatch > 2.25 {
				t.Errorf("a batch costs %.2f allocations, not 2", perBatch)
			}
			if batches > rounds*each/100 {
				t.Errorf("%d messages came in %d batches: they are not large", rounds*each, batches)
			}
			must(t, client.Close())
			if got := s.ended().Sockets[0]; got.Name != router.Name() || got.Handled != messages {
				t.Errorf("handled %d of %d", got.Handled, messages)
			}
		})
	}
}

func TestAFrameIsItsHandlersForEver(t *testing.T) {
	for _, workers := range []int{0, 2} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			r := newTestRunner(t, briefly, WithWorkers(workers))
			router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
			const messages, rounds = 500, 8
			type kept struct{ frames, envelope, copies [][]byte }
			all := make(chan kept, messages*rounds)
			s := start(t, r, func(_ context.Context, m *Message) error {
				k := kept{frames: m.Frames, envelope: m.Envelope()}
				for _, f := range slices.Concat(k.envelope, k.frames) {
					k.copies = append(k.copies, bytes.Clone(f))
				}
				all <- k
				// What a handler puts behind a frame of its own is none of the next one's.
				_ = append(m.Frames[0], "spoilt, spoilt, spoilt"...)
				return m.Reply(m.Frames[0])
			})
			client := dial(t, zmq4.DEALER, router.Endpoint())
			for round := range rounds {
				for i := range messages {
					n := []int{1, 33, 700, aloneBytes - 1, aloneBytes, 2 * aloneBytes}[i%6]
					fill := bytes.Repeat([]byte{byte(round*messages + i)}, n)
					tell(t, client, fill, fill[:i%2], fill[:n/2])
				}
				for range messages {
					_, err := client.RecvMessageBytes(0)
					must(t, err)
				}
				runtime.GC() // what it took for garbage is used for the next round
			}
			s.ended()
			close(all)
			n := 0
			for k := range all {
				n++
				for i, f := range slices.Concat(k.envelope, k.frames) {
					if !bytes.Equal(f, k.copies[i]) {
						t.Fatalf("a frame of %d bytes changed after its handler had it", len(f))
					}
				}
				if len(k.frames) != 3 || bytes.Count(k.frames[0], k.frames[0][:1]) != len(k.frames[0]) {
					t.Fatalf("a message of %d frames is not what was sent", len(k.frames))
				}
			}
			if n != messages*rounds {
				t.Errorf("%d of %d messages were kept", n, messages*rounds)
			}
		})
	}
}

// heapNow is how much of the heap is in use when what can be collected is.
func heapNow(t testing.TB) int64 { return memoryNow(t).heap }

func TestASmallFrameThatIsKeptKeepsItsBatchAtMost(t *testing.T) {
	r := newTestRunner(t)
	bound(t, r, zmq4.PULL, "inproc://server")
	const rounds, each, beside, promised = 15, 250, 4<<10 - 1, 256 << 10
	begin, finished := make(chan struct{}), make(chan struct{})
	var keep [][]byte
	count := 0
	s := start(t, r, func(_ context.Context, m *Message) error {
		count++
		switch len(m.Frames[0]) {
		case 0:
			<-begin
		case 1:
			keep = append(keep, m.Frames[0])
		case 2:
			finished <- struct{}{}
		}
		return nil
	})
	client := inside(t, r, zmq4.PUSH, "inproc://server")
	large, huge := make([]byte, beside), make([]byte, 4<<20)
	before := heapNow(t)
	for range rounds {
		tell(t, client, "")
		for i := range each {
			tell(t, client, large)
			if i%50 == 0 {
				tell(t, client, "x")
				tell(t, client, huge) // which has memory of its own
			}
		}
		tell(t, client, "xx")
		begin <- struct{}{}
		<-finished
	}
	grown := heapNow(t) - before
	most := int64(len(keep)) * (promised + 16<<10)
	t.Logf("%d frames of one byte keep %.1f KiB each", len(keep), float64(grown)/1024/float64(len(keep)))
	if len(keep) != 5*rounds || grown > most+(4<<20) {
		t.Errorf("%d frames of one byte keep %d KiB", len(keep), grown>>10)
	}
	runtime.KeepAlive(keep)
	keep = nil
	must(t, client.Close())
	s.ended()
}

func TestAnIdleSocketKeepsNothingOfItsLastMessage(t *testing.T) {
	const size = 32 << 20
	for _, workers := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			r := newTestRunner(t, briefly, WithWorkers(workers))
			router := bound(t, r, zmq4.ROUTER, "tcp://127.0.0.1:*")
			pull := bound(t, r, zmq4.PULL, "tcp://127.0.0.1:*")
			heard := make(chan int, 10)
			pull.Handle(func(_ context.Context, m *Message) error {
				heard <- len(m.Frames[0])
				return nil
			})
			s := start(t, r, echo)
			asker, pusher := dial(t, zmq4.DEALER, router.Endpoint()), dial(t, zmq4.PUSH, pull.Endpoint())
			talk := func(body []byte) {
				tell(t, pusher, body)
				tell(t, asker, body, body)
				if n := next(t, "the message", heard); n != len(body) {
					t.Errorf("%d bytes arrived", n)
				}
				answer, err := asker.RecvMessageBytes(0)
				must(t, err)
				if len(answer) != 2 || len(answer[1]) != len(body) {
					t.Errorf("an answer of %d frames arrived", len(answer))
				}
			}
			talk([]byte("small"))
			before := heapNow(t)
			talk(make([]byte, size))
			end := time.Now().Add(patience)
			for {
				now := heapNow(t)
				if now-before < size/8 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("idle after messages of %d MiB it keeps %d MiB of heap", size>>20, (now-before)>>20)
				}
			}
			s.ended()
		})
	}
}
