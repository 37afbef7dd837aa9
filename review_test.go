package zmqgrace

import (
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

// What a batch must not do that a single message does not.

// A PUSH that loses its peer in the middle of a message sends it anew, all of it.
func TestAMessageThatIsSentAnewIsWhole(t *testing.T) {
	t.Parallel()
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
	connect := func(s *zmq4.Socket) error { return s.Connect("inproc://anew") }
	handle := libzmq.HandleOf(push)
	if !handle.Valid() {
		t.Skip("there is no fast way")
	}
	for tries := 0; ; tries++ {
		if tries == 100 {
			t.Skip("no peer went away in the middle of a message")
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
			continue // it was through before
		}
		if !isAgain(err) {
			t.Fatal(err)
		}
		second := socket(zmq4.PULL, connect)
		_, err = push.GetEvents() // it hears of the second
		must(t, err)
		sent, err = libzmq.Send(handle, true, frames, make([]byte, parts))
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
		second.Close()
		break
	}
	push.Close()
	must(t, ctx.Term())
}
