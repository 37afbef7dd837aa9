package zmqgrace_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// The examples have client and server in one Runner, so that each of them is a whole. Whose answers all came, and has nobody
// far away, needs no quiet time.

// newRunner makes a Runner that says nothing and ends at its first empty moment, unless opts have it otherwise.
func newRunner(opts ...zmqgrace.Option) *zmqgrace.Runner {
	quick := []zmqgrace.Option{zmqgrace.WithLogger(slog.New(slog.DiscardHandler)), zmqgrace.WithDrainQuiet(0)}
	runner, err := zmqgrace.New(append(quick, opts...)...)
	check(err)
	return runner
}

// listen makes a socket that is bound.
func listen(runner *zmqgrace.Runner, t zmq4.Type, endpoint string, opts ...zmqgrace.SocketOption) *zmqgrace.Socket {
	socket, err := runner.NewSocket(t, opts...)
	check(err)
	check(socket.Bind(endpoint))
	return socket
}

// dial makes a socket that is connected.
func dial(runner *zmqgrace.Runner, t zmq4.Type, endpoint string, opts ...zmqgrace.SocketOption) *zmqgrace.Socket {
	socket, err := runner.NewSocket(t, opts...)
	check(err)
	check(socket.Connect(endpoint))
	return socket
}

// ask makes a client that sends one request, prints the answer, and then ends the server.
func ask(runner *zmqgrace.Runner, endpoint, request string) {
	client := dial(runner, zmq4.REQ, endpoint)
	client.Handle(printAndStop)
	check(client.Send(context.Background(), []byte(request)))
}

func printAndStop(_ context.Context, m *zmqgrace.Message) error {
	fmt.Printf("%s\n", m.Frames[0])
	return zmqgrace.ErrStop
}

func echo(_ context.Context, m *zmqgrace.Message) error { return m.Reply(m.Frames...) }

// ended is a context that ends a server as soon as it has handled what it has.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	runner, err := zmqgrace.New(zmqgrace.WithLogger(slog.New(slog.DiscardHandler)))
	check(err)
	rep, err := runner.NewSocket(zmq4.REP)
	check(err)
	check(rep.Bind("inproc://server"))

	client, err := runner.NewSocket(zmq4.REQ)
	check(err)
	check(client.Connect("inproc://server"))
	client.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		fmt.Printf("answer: %s\n", m.Frames[0])
		return zmqgrace.ErrStop // as Ctrl-C would
	})
	check(client.Send(context.Background(), []byte("hello")))

	err = runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		fmt.Printf("request: %s\n", m.Frames[0])
		return m.Reply([]byte("OK"))
	})
	fmt.Println("error:", err)
	// Output:
	// request: hello
	// answer: OK
	// error: <nil>
}

func ExampleNew() {
	_, err := zmqgrace.New(zmqgrace.WithGrace(-time.Second), zmqgrace.WithWorkers(-1))
	fmt.Println(err)
	// Output:
	// zmqgrace: New: WithGrace(-1s): the grace must be positive
	// WithWorkers(-1): the number must not be negative; 0 runs handlers inline
}

func ExampleRunner_Run() {
	runner := newRunner()
	listen(runner, zmq4.REP, "inproc://server")
	ask(runner, "inproc://server", "hello")
	err := runner.Run(context.Background(), echo)
	fmt.Println("error:", err)

	fmt.Println(errors.Is(runner.Run(context.Background(), echo), zmqgrace.ErrClosed)) // a Runner runs once
	// Output:
	// hello
	// error: <nil>
	// true
}

func ExampleRunner_NewSocket() {
	runner := newRunner()
	defer runner.Close()
	router, err := runner.NewSocket(zmq4.ROUTER)
	check(err)
	fmt.Println(router.Name())

	_, err = runner.NewSocket(zmq4.STREAM)
	fmt.Println(err)
	// Output:
	// router-1
	// zmqgrace: new STREAM socket: the type is not served
}

func ExampleRunner_Adopt() {
	runner := newRunner()
	raw, err := runner.Context().NewSocket(zmq4.REP)
	check(err)
	check(raw.Bind("inproc://server"))
	rep, err := runner.Adopt(raw) // from here on it is the Runner's
	check(err)
	fmt.Println(rep.Name(), rep.Endpoint())

	ask(runner, "inproc://server", "hello")
	check(runner.Run(context.Background(), echo))
	// Output:
	// rep-1 inproc://server
	// hello
}

func ExampleRunner_Context() {
	runner := newRunner()
	defer runner.Close()
	check(runner.Context().SetIoThreads(4)) // before the first socket
	n, err := runner.Context().GetIoThreads()
	check(err)
	fmt.Println(n)
	// Output: 4
}

func ExampleRunner_Shutdown() {
	runner := newRunner()
	listen(runner, zmq4.PULL, "inproc://jobs")
	runner.Go(func(ctx context.Context) error {
		return runner.Shutdown(ctx) // with a ctx of the Runner it only asks; with another it waits for the end
	})
	err := runner.Run(context.Background(), echo)
	fmt.Println("error:", err)
	fmt.Println("cause:", runner.Report().Cause)
	// Output:
	// error: <nil>
	// cause: zmqgrace: Shutdown was called
}

func ExampleRunner_Close() {
	runner := newRunner()
	listen(runner, zmq4.PULL, "inproc://jobs")
	runner.Go(func(ctx context.Context) error { return runner.Close() }) // as a second Ctrl-C
	err := runner.Run(context.Background(), echo)
	fmt.Println(errors.Is(err, zmqgrace.ErrForced))
	// Output: true
}

func ExampleRunner_Go() {
	runner := newRunner()
	pull := listen(runner, zmq4.PULL, "inproc://jobs")
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	pull.Handle(printAndStop)
	runner.Go(func(ctx context.Context) error {
		if err := push.Send(ctx, []byte("from a goroutine")); err != nil {
			return err
		}
		<-ctx.Done() // the drain has begun, and waits for this function
		fmt.Println("the end")
		return nil
	})
	check(runner.Run(context.Background(), nil))
	// Output:
	// from a goroutine
	// the end
}

func ExampleRunner_Every() {
	runner := newRunner()
	ticks := 0 // timers run on the loop goroutine, as inline handlers do: no lock
	runner.Every(time.Millisecond, func(ctx context.Context) error {
		if ticks++; ticks == 3 {
			return zmqgrace.ErrStop
		}
		return nil
	})
	check(runner.Run(context.Background(), nil))
	fmt.Println(ticks >= 3)
	// Output: true
}

func ExampleRunner_Proxy() {
	runner := newRunner()
	frontend := listen(runner, zmq4.ROUTER, "inproc://clients")
	backend := listen(runner, zmq4.DEALER, "inproc://workers")
	check(runner.Proxy(frontend, backend))

	dial(runner, zmq4.REP, "inproc://workers").Handle(echo)
	ask(runner, "inproc://clients", "through the proxy")
	check(runner.Run(context.Background(), nil))
	// Output: through the proxy
}

func ExampleRunner_Phase() {
	runner := newRunner()
	fmt.Println(runner.Phase())
	runner.Go(func(ctx context.Context) error {
		if runner.Phase() == zmqgrace.Running { // what a readiness probe asks
			fmt.Println("ready")
		}
		return zmqgrace.ErrStop
	})
	check(runner.Run(context.Background(), nil))
	fmt.Println(runner.Phase())
	// Output:
	// Idle
	// ready
	// Done
}

func ExampleRunner_Report() {
	runner := newRunner()
	listen(runner, zmq4.REP, "inproc://server")
	ask(runner, "inproc://server", "hello")
	check(runner.Run(context.Background(), echo))
	for _, s := range runner.Report().Sockets {
		fmt.Println(s.Name, "received", s.Received, "handled", s.Handled, "sent", s.Sent)
	}
	// Output:
	// hello
	// rep-1 received 1 handled 1 sent 1
	// req-1 received 1 handled 1 sent 1
}

func ExampleMessage_Reply() {
	runner := newRunner()
	listen(runner, zmq4.REP, "inproc://server")
	ask(runner, "inproc://server", "hello")
	check(runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		if err := m.Reply([]byte("the reply")); err != nil {
			return err
		}
		fmt.Println(m.Reply([]byte("another one")))
		return nil
	}))
	// Output:
	// zmqgrace: reply on socket "rep-1": the message was already replied to
	// the reply
}

func ExampleMessage_Envelope() {
	runner := newRunner()
	listen(runner, zmq4.ROUTER, "inproc://server")
	client, err := runner.NewSocket(zmq4.REQ)
	check(err)
	check(client.Raw().SetIdentity("client 1"))
	check(client.Connect("inproc://server"))
	check(client.Send(context.Background(), []byte("hello")))
	client.Handle(printAndStop)
	check(runner.Run(context.Background(), func(ctx context.Context, m *zmqgrace.Message) error {
		fmt.Printf("%q %q\n", m.Envelope(), m.Frames)
		return m.Reply(m.Frames...)
	}))
	// Output:
	// ["client 1" ""] ["hello"]
	// hello
}

func ExampleSocket_Bind() {
	runner := newRunner()
	defer runner.Close()
	rep, err := runner.NewSocket(zmq4.REP)
	check(err)
	check(rep.Bind("inproc://server"))
	fmt.Println(rep.Bind("nowhere"))
	// Output: zmqgrace: bind "nowhere" on socket "rep-1": invalid argument
}

func ExampleSocket_Connect() {
	runner := newRunner()
	listen(runner, zmq4.REP, "inproc://server")
	client, err := runner.NewSocket(zmq4.REQ)
	check(err)
	check(client.Connect("inproc://server")) // with tcp also where nobody listens yet
	client.Handle(printAndStop)
	check(client.Send(context.Background(), []byte("hello")))
	check(runner.Run(context.Background(), echo))
	// Output: hello
}

func ExampleSocket_Close() {
	runner := newRunner()
	defer runner.Close()
	rep := listen(runner, zmq4.REP, "inproc://server")
	fmt.Println(rep.Close())
	fmt.Println(errors.Is(rep.Bind("inproc://another"), zmqgrace.ErrClosed))
	// Output:
	// <nil>
	// true
}

func ExampleSocket_Endpoint() {
	runner := newRunner()
	defer runner.Close()
	rep := listen(runner, zmq4.REP, "tcp://127.0.0.1:*")
	var port int
	n, err := fmt.Sscanf(rep.Endpoint(), "tcp://127.0.0.1:%d", &port)
	fmt.Println(n, err, port > 0)
	// Output: 1 <nil> true
}

func ExampleSocket_Handle() {
	runner := newRunner()
	upper := listen(runner, zmq4.REP, "inproc://a")
	upper.Handle(func(ctx context.Context, m *zmqgrace.Message) error { return m.Reply([]byte("from a")) })
	lower := listen(runner, zmq4.REP, "inproc://b")
	lower.Handle(func(ctx context.Context, m *zmqgrace.Message) error { return m.Reply([]byte("from b")) })
	ask(runner, "inproc://b", "hello")
	check(runner.Run(context.Background(), nil)) // no handler for the others: there are none
	// Output: from b
}

func ExampleSocket_Name() {
	runner := newRunner()
	defer runner.Close()
	first, err := runner.NewSocket(zmq4.PULL)
	check(err)
	second, err := runner.NewSocket(zmq4.PULL)
	check(err)
	fmt.Println(first.Name(), second.Name())
	// Output: pull-1 pull-2
}

func ExampleSocket_Raw() {
	runner := newRunner()
	defer runner.Close()
	router, err := runner.NewSocket(zmq4.ROUTER)
	check(err)
	check(router.Raw().SetMaxmsgsize(1 << 20)) // before Bind
	n, err := router.Raw().GetMaxmsgsize()
	fmt.Println(n, err)
	// Output: 1048576 <nil>
}

func ExampleSocket_Send() {
	runner := newRunner()
	pull := listen(runner, zmq4.PULL, "inproc://jobs")
	pull.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		fmt.Printf("%q\n", m.Frames)
		return nil
	})
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	check(push.Send(context.Background(), []byte("a job"), []byte("of two frames")))
	fmt.Println(pull.Send(context.Background(), []byte("no")))
	check(runner.Run(ended(), nil)) // what was sent arrives all the same
	// Output:
	// zmqgrace: send on socket "pull-1": a PULL only receives
	// ["a job" "of two frames"]
}

func ExampleSocket_Pause() {
	runner := newRunner()
	pull := listen(runner, zmq4.PULL, "inproc://jobs")
	pull.Handle(printAndStop)
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	check(push.Send(context.Background(), []byte("a job")))
	pull.Pause()
	runner.Every(10*time.Millisecond, func(ctx context.Context) error {
		if waiting := runner.Report().Sockets[0].Received == 0; waiting { // in libzmq
			fmt.Println("paused")
			pull.Resume()
		}
		return nil
	})
	check(runner.Run(context.Background(), nil))
	// Output:
	// paused
	// a job
}

func ExampleSocket_Resume() {
	runner := newRunner()
	pull := listen(runner, zmq4.PULL, "inproc://jobs")
	pull.Handle(printAndStop)
	pull.Pause() // no worker yet
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	check(push.Send(context.Background(), []byte("a job")))
	runner.Go(func(ctx context.Context) error {
		fmt.Println("a worker has come")
		pull.Resume() // any goroutine may
		return nil
	})
	check(runner.Run(context.Background(), nil))
	// Output:
	// a worker has come
	// a job
}

func ExampleWithContext() {
	own, err := zmq4.NewContext()
	check(err)
	runner := newRunner(zmqgrace.WithContext(own))
	fmt.Println(runner.Context() == own)
	check(runner.Close())
	_, err = own.NewSocket(zmq4.REP) // the Runner has terminated it
	fmt.Println(err != nil)
	// Output:
	// true
	// true
}

func ExampleWithSignals() {
	runner := newRunner(zmqgrace.WithSignals(os.Interrupt))
	runner.Go(func(ctx context.Context) error {
		self, err := os.FindProcess(os.Getpid())
		if err != nil {
			return err
		}
		return self.Signal(os.Interrupt) // what Ctrl-C does
	})
	err := runner.Run(context.Background(), nil)
	fmt.Println("error:", err)
	fmt.Println("cause:", runner.Report().Cause)
	// Output:
	// error: <nil>
	// cause: zmqgrace: ended by signal: interrupt
}

func ExampleWithGrace() {
	runner := newRunner(zmqgrace.WithGrace(200 * time.Millisecond))
	listen(runner, zmq4.PULL, "inproc://jobs")
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	check(push.Send(context.Background(), []byte("a job that hangs")))
	never := make(chan struct{})
	began := time.Now()
	err := runner.Run(ended(), func(ctx context.Context, m *zmqgrace.Message) error {
		<-never
		return nil
	})
	fmt.Println(errors.Is(err, context.DeadlineExceeded), time.Since(began) < 10*time.Second)
	// Output: true true
}

func ExampleWithReadyDelay() {
	runner := newRunner(zmqgrace.WithReadyDelay(20 * time.Millisecond))
	began := time.Now()
	check(runner.Run(ended(), nil))
	fmt.Println(time.Since(began) >= 20*time.Millisecond, runner.Report().Phases[1].Phase)
	// Output: true Announced
}

func ExampleWithDrainQuiet() {
	runner := newRunner(zmqgrace.WithDrainQuiet(50 * time.Millisecond)) // for a LAN
	listen(runner, zmq4.PULL, "inproc://jobs")
	began := time.Now()
	check(runner.Run(ended(), echo))
	fmt.Println(time.Since(began) >= 50*time.Millisecond, runner.Report().Busy)
	// Output: true false
}

func ExampleWithDrainLimit() {
	runner := newRunner(zmqgrace.WithDrainQuiet(time.Second), zmqgrace.WithDrainLimit(50*time.Millisecond))
	pull := listen(runner, zmq4.PULL, "inproc://jobs")
	pull.Handle(func(ctx context.Context, m *zmqgrace.Message) error { return nil })
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	runner.Every(5*time.Millisecond, func(ctx context.Context) error { // a client that never pauses
		return push.Send(ctx, []byte("a job"))
	})
	check(runner.Run(ended(), nil))
	fmt.Println("busy:", runner.Report().Busy)
	// Output: busy: true
}

func ExampleWithLinger() {
	runner := newRunner(zmqgrace.WithLinger(50 * time.Millisecond))
	push := dial(runner, zmq4.PUSH, "tcp://127.0.0.1:1") // nobody is there
	check(push.Send(context.Background(), []byte("a job")))
	err := runner.Run(ended(), nil)
	var incomplete *zmqgrace.ShutdownError
	fmt.Println(errors.As(err, &incomplete))
	// Output: true
}

func ExampleWithPollTimeout() {
	runner := newRunner(zmqgrace.WithPollTimeout(-1)) // no timeout; a message, a send and a signal wake the loop at once
	listen(runner, zmq4.REP, "inproc://server")
	ask(runner, "inproc://server", "hello")
	check(runner.Run(context.Background(), echo))
	// Output: hello
}

func ExampleWithWorkers() {
	runner := newRunner(zmqgrace.WithWorkers(2))
	listen(runner, zmq4.PULL, "inproc://jobs")
	push := dial(runner, zmq4.PUSH, "inproc://jobs")
	for range 2 {
		check(push.Send(context.Background(), []byte("a job")))
	}
	var both sync.WaitGroup
	both.Add(2)
	check(runner.Run(ended(), func(ctx context.Context, m *zmqgrace.Message) error {
		both.Done()
		both.Wait() // inline, the first would wait for ever
		return nil
	}))
	fmt.Println(runner.Report().Sockets[0].Handled)
	// Output: 2
}

func ExampleWithLogger() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	runner := newRunner(zmqgrace.WithLogger(logger))
	check(runner.Run(ended(), nil))
	// Output:
	// level=INFO msg="zmqgrace: Running"
	// level=INFO msg="zmqgrace: Announced" cause="context canceled"
	// level=INFO msg="zmqgrace: Draining" cause="context canceled"
	// level=INFO msg="zmqgrace: Closing" cause="context canceled"
	// level=INFO msg="zmqgrace: Done" cause="context canceled"
}

func ExampleWithPhaseHook() {
	runner := newRunner(zmqgrace.WithPhaseHook(func(p zmqgrace.Phase) { fmt.Println(p) }))
	check(runner.Run(ended(), nil))
	// Output:
	// Running
	// Announced
	// Draining
	// Closing
	// Done
}

func ExampleWithName() {
	runner := newRunner()
	defer runner.Close()
	router, err := runner.NewSocket(zmq4.ROUTER, zmqgrace.WithName("frontend"))
	check(err)
	fmt.Println(router.Name())
	// Output: frontend
}

func ExampleWithSocketLinger() {
	runner := newRunner()
	push := dial(runner, zmq4.PUSH, "tcp://127.0.0.1:1", zmqgrace.WithSocketLinger(0)) // nobody is there
	check(push.Send(context.Background(), []byte("not worth waiting for")))
	fmt.Println(runner.Run(ended(), nil)) // what was to be dropped is no loss
	// Output: <nil>
}

func ExampleWithSocketQuiet() {
	runner := newRunner(zmqgrace.WithDrainQuiet(time.Hour), zmqgrace.WithDrainLimit(time.Hour), zmqgrace.WithGrace(4*time.Hour))
	listen(runner, zmq4.PULL, "inproc://heartbeats", zmqgrace.WithSocketQuiet(0))
	fmt.Println(runner.Run(ended(), echo)) // in less than an hour
	// Output: <nil>
}

func ExampleWithGoodbye() {
	runner := newRunner()
	broker := listen(runner, zmq4.PULL, "inproc://broker")
	broker.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		fmt.Printf("the broker hears: %s\n", m.Frames[0])
		return nil
	})
	dial(runner, zmq4.PUSH, "inproc://broker", zmqgrace.WithGoodbye(func(ctx context.Context, s *zmqgrace.Socket) error {
		return s.Send(ctx, []byte("no more work for me"))
	}))
	check(runner.Run(ended(), nil))
	// Output: the broker hears: no more work for me
}

func ExampleWithLate() {
	runner := newRunner(zmqgrace.WithDrainLimit(0)) // so that all that comes in the drain is late
	listen(runner, zmq4.REP, "inproc://server", zmqgrace.WithLate(func(ctx context.Context, m *zmqgrace.Message) error {
		return m.Reply([]byte("try another server"))
	}))
	client := dial(runner, zmq4.REQ, "inproc://server", zmqgrace.WithGoodbye(func(ctx context.Context, s *zmqgrace.Socket) error {
		return s.Send(ctx, []byte("hello")) // in the drain
	}))
	client.Handle(printAndStop)
	check(runner.Run(ended(), echo))
	fmt.Println("rejected:", runner.Report().Sockets[0].Rejected)
	// Output:
	// try another server
	// rejected: 1
}

func ExamplePhase_String() {
	fmt.Println(zmqgrace.Draining.String())
	// Output: Draining
}

func ExamplePhase_MarshalText() {
	text, err := zmqgrace.Closing.MarshalText()
	fmt.Printf("%s %v\n", text, err)
	// Output: Closing <nil>
}

func ExamplePhaseReport_MarshalJSON() {
	text, err := json.Marshal(zmqgrace.PhaseReport{Phase: zmqgrace.Draining, Duration: 1500 * time.Millisecond})
	fmt.Printf("%s %v\n", text, err)
	// Output: {"Phase":"Draining","Duration":"1.5s"} <nil>
}

func ExampleSocketReport_MarshalJSON() {
	text, err := json.MarshalIndent(zmqgrace.SocketReport{Name: "rep-1", Type: zmq4.REP, Received: 3, Handled: 3, Sent: 3}, "", " ")
	fmt.Printf("%s %v\n", text, err)
	// Output:
	// {
	//  "Name": "rep-1",
	//  "Type": "REP",
	//  "Endpoints": null,
	//  "Received": 3,
	//  "Handled": 3,
	//  "Failed": 0,
	//  "Rejected": 0,
	//  "InFlight": 0,
	//  "Abandoned": 0,
	//  "Drained": 0,
	//  "Sent": 3,
	//  "Queued": 0,
	//  "Unroutable": 0,
	//  "Dropped": 0,
	//  "Unsent": 0,
	//  "Backlog": false
	// } <nil>
}

func ExampleReport_String() {
	fmt.Println(zmqgrace.Report{Phase: zmqgrace.Done, Cause: zmqgrace.ErrShutdown})
	// Output: {"Phase":"Done","Forced":false,"Busy":false,"LingerExpired":false,"Phases":null,"Sockets":null,"Cause":"zmqgrace: Shutdown was called"}
}

func ExampleReport_MarshalJSON() {
	text, err := json.MarshalIndent(zmqgrace.Report{Phase: zmqgrace.Done, Cause: &zmqgrace.SignalError{Signal: os.Interrupt}}, "", " ")
	fmt.Printf("%s %v\n", text, err)
	// Output:
	// {
	//  "Phase": "Done",
	//  "Forced": false,
	//  "Busy": false,
	//  "LingerExpired": false,
	//  "Phases": null,
	//  "Sockets": null,
	//  "Cause": "zmqgrace: ended by signal: interrupt"
	// } <nil>
}

func ExampleReport_LogValue() {
	report := zmqgrace.Report{Phase: zmqgrace.Done, Phases: []zmqgrace.PhaseReport{{Phase: zmqgrace.Draining, Duration: time.Second}}}
	fmt.Println(report.LogValue())
	// Output: [phase=Done cause= forced=false busy=false linger_expired=false phases=[Draining=1s]]
}

func ExampleSignalError_Error() {
	fmt.Println(&zmqgrace.SignalError{Signal: os.Interrupt})
	// Output: zmqgrace: ended by signal: interrupt
}

func ExampleShutdownError_Error() {
	fmt.Println(&zmqgrace.ShutdownError{
		Phase:   zmqgrace.Draining,
		Err:     context.DeadlineExceeded,
		Running: []zmqgrace.RunningHandler{{Socket: "rep-1", For: 25 * time.Second}},
		Sockets: []zmqgrace.SocketReport{{Name: "rep-1", Type: zmq4.REP, Abandoned: 1}},
	})
	// Output: zmqgrace: incomplete end, seen while Draining: context deadline exceeded; a handler of socket "rep-1" was still running after 25s; socket "rep-1" (REP) abandoned 1
}

func ExampleShutdownError_Unwrap() {
	err := error(&zmqgrace.ShutdownError{Err: zmqgrace.ErrForced})
	fmt.Println(errors.Is(err, zmqgrace.ErrForced))
	// Output: true
}
