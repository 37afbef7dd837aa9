package zmqgrace

import (
	"bytes"
	"context"
	"flag"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

var eager = flag.Duration("eager", time.Second, "how long a server is under load whose garbage collector hardly ever rests; 1m for the whole promise")

func init() { children["eager"] = serveEagerly }

// serveEagerly echoes what it gets, and holds on to some of it. GOGC and GODEBUG come with the environment.
func serveEagerly() {
	r, err := New(quietLog)
	check(err)
	router, err := r.NewSocket(zmq4.ROUTER)
	check(err)
	check(router.Bind("tcp://127.0.0.1:*"))
	say("endpoint", router.Endpoint())
	var kept [1000]struct{ frame, copy []byte }
	n := 0
	check(r.Run(context.Background(), func(ctx context.Context, m *Message) error {
		k := &kept[n%len(kept)]
		n++
		if !bytes.Equal(k.frame, k.copy) {
			say("spoilt", n)
			os.Exit(4)
		}
		k.frame, k.copy = m.Frames[0], bytes.Clone(m.Frames[0])
		return echo(ctx, m)
	}))
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	say("handled", r.Report().Sockets[0].Handled)
	say("collections", stats.NumGC)
}

// What libzmq and Go hold of each other's memory stands a garbage collector that runs all the time and checks its own marks.
func TestAnEagerGarbageCollectorSpoilsNothing(t *testing.T) {
	server := startChild(t, "eager", "GOGC=1", "GODEBUG=gccheckmark=1")
	client := dial(t, zmq4.DEALER, server.expect("endpoint"))
	handle, batch := libzmq.HandleOf(client), libzmq.NewBatch(4<<20)
	defer batch.Clear()
	var poller libzmq.Poller
	poller.Add(handle)
	poller.Want(0, zmq4.POLLIN)

	const burst = 200
	var frames []libzmq.Frame
	var data []byte
	for i := range burst {
		parts := 1 + i%3
		for j := range parts {
			part := bytes.Repeat([]byte{byte(i)}, []int{1, 0, 32, 1000, aloneBytes, 3 * aloneBytes}[(i+j)%6])
			frames = append(frames, libzmq.NewFrame(len(part), j == parts-1))
			data = append(data, part...)
		}
	}
	messages := 0
	for end := time.Now().Add(*eager); messages < 20*burst || time.Now().Before(end); messages += burst { // on a busy machine, too
		sent, err := libzmq.Send(handle, true, frames, data)
		if err != nil || sent.Messages != burst {
			t.Fatalf("%d messages were sent: %v", sent.Messages, err)
		}
		var answers []byte
		for n := 0; n < burst; {
			if found, err := poller.Poll(patience); found != 1 || err != nil {
				t.Fatalf("no answer to message %d: %v; the server says:\n%s", messages+n, err, server.stderr.String())
			}
			got, err := batch.Receive(handle, burst-n, 1<<30)
			if err != nil && !isAgain(err) {
				t.Fatal(err)
			}
			n += got
			for _, f := range batch.Frames() {
				if f.Owns() {
					t.Fatal("a part did not fit into the room for all")
				}
			}
			answers = append(answers, batch.Data()...)
		}
		if !bytes.Equal(answers, data) {
			t.Fatalf("after %d messages the answers are not what was sent", messages)
		}
	}
	server.signal(syscall.SIGTERM)
	handled, collections := server.expect("handled"), server.expect("collections")
	t.Logf("%s messages, %s collections", handled, collections)
	if handled != strconv.Itoa(messages) {
		t.Errorf("%s of %d messages were handled", handled, messages)
	}
	if n, _ := strconv.Atoi(collections); n < 10 {
		t.Errorf("only %s collections", collections)
	}
	if state, stderr := server.exit(); !state.Success() {
		t.Errorf("the server: %v\n%s", state, stderr)
	}
}
