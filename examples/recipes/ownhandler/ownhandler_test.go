package ownhandler

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

func TestTheWorkWithoutSockets(t *testing.T) {
	for request, want := range map[string]string{"hello": "HELLO", "": "", "é": "É"} {
		answer, err := upper([][]byte{[]byte(request)})
		if err != nil || string(answer[0]) != want {
			t.Errorf("upper(%q) = %q, %v, want %q", request, answer, err, want)
		}
	}
	if _, err := upper(nil); err == nil {
		t.Error("a request without frames is not refused")
	}
}

func TestAHandlerThatDoesNotReplyWithAMessageMadeByHand(t *testing.T) {
	var c Counter
	m := &zmqgrace.Message{Frames: [][]byte{[]byte("a"), []byte("b")}}
	if err := c.Handle(context.Background(), m); err != nil || c.Frames != 2 {
		t.Errorf("counted %d frames, %v", c.Frames, err)
	}
}

func TestAHandlerOverInproc(t *testing.T) {
	client, end := serve(t, Upper)
	if _, err := client.Send("hello", 0); err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Recv(0); err != nil || answer != "HELLO" {
		t.Errorf("the answer is %q, %v", answer, err)
	}
	if _, err := client.SendMessage("two", "frames"); err != nil {
		t.Fatal(err)
	}
	if answer, err := client.Recv(0); err != nil || answer != "" {
		t.Errorf("a bad request is answered %q, %v", answer, err)
	}
	if s := end(); s.Handled != 1 || s.Failed != 1 {
		t.Errorf("handled %d and failed %d", s.Handled, s.Failed)
	}
}

// serve has h serve a REP, and returns a client of it in the same context, and what ends both.
func serve(t *testing.T, h zmqgrace.Handler) (client *zmq4.Socket, end func() zmqgrace.SocketReport) {
	t.Helper()
	runner, err := zmqgrace.New(
		zmqgrace.WithSignals(),     // Ctrl-C ends the test, not the server
		zmqgrace.WithDrainQuiet(0), // whoever has all answers need not wait for silence
		zmqgrace.WithLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runner.Close() }) // where the test ends before the server
	rep, err := runner.NewSocket(zmq4.REP)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Bind("inproc://server"); err != nil {
		t.Fatal(err)
	}
	if client, err = runner.Context().NewSocket(zmq4.REQ); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() }) // first: the server's end waits for every socket of its context
	if err := client.Connect("inproc://server"); err != nil {
		t.Fatal(err)
	}
	client.SetRcvtimeo(10 * time.Second) // a test that fails is better than one that hangs
	result := make(chan error, 1)
	go func() { result <- runner.Run(context.Background(), h) }()
	return client, func() zmqgrace.SocketReport {
		client.Close()
		runner.Shutdown(context.Background())
		if err := <-result; err != nil {
			t.Error(err)
		}
		return runner.Report().Sockets[0]
	}
}
