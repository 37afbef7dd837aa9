package zmqgrace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

func sampleReport() Report {
	return Report{
		Phase: Done,
		Cause: &SignalError{syscall.SIGTERM},
		Busy:  true,
		Phases: []PhaseReport{
			{Running, 90 * time.Second},
			{Draining, 250 * time.Millisecond},
		},
		Sockets: []SocketReport{{
			Name: "front", Type: zmq4.ROUTER, Endpoints: []string{"tcp://127.0.0.1:5555"},
			Received: 10, Handled: 6, Failed: 1, Rejected: 2, Abandoned: 1, Drained: 3,
			Sent: 9, Queued: 0, Unroutable: 1, Dropped: 2, Unsent: 3, Backlog: true,
			linger: time.Second, droppedBefore: 1,
		}},
	}
}

func TestTheReportMarshalsToReadableJSON(t *testing.T) {
	const want = `{"Phase":"Done","Forced":false,"Busy":true,"LingerExpired":false,` +
		`"Phases":[{"Phase":"Running","Duration":"1m30s"},{"Phase":"Draining","Duration":"250ms"}],` +
		`"Sockets":[{"Name":"front","Type":"ROUTER","Endpoints":["tcp://127.0.0.1:5555"],` +
		`"Received":10,"Handled":6,"Failed":1,"Rejected":2,"InFlight":0,"Abandoned":1,"Drained":3,` +
		`"Sent":9,"Queued":0,"Unroutable":1,"Dropped":2,"Unsent":3,"Backlog":true}],` +
		`"Cause":"zmqgrace: ended by signal: terminated"}`
	rep := sampleReport()
	b, err := json.Marshal(rep)
	must(t, err)
	if string(b) != want {
		t.Errorf("the JSON is\n%s\nwant\n%s", b, want)
	}
	if rep.String() != want || fmt.Sprint(rep) != want || fmt.Sprint(&rep) != want {
		t.Errorf("as a string it is\n%s", rep)
	}
}

func TestAReportOfNothingMarshalsToo(t *testing.T) {
	var back map[string]any
	must(t, json.Unmarshal([]byte(Report{}.String()), &back))
	if back["Phase"] != "Idle" || back["Cause"] != "" || back["Forced"] != false {
		t.Errorf("the report of nothing is %v", back)
	}
}

func TestTheReportLogsAsGroups(t *testing.T) {
	var buf bytes.Buffer
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("ended", "report", sampleReport())
	var line struct {
		Report struct {
			Phase, Cause  string
			Forced, Busy  bool
			LingerExpired bool `json:"linger_expired"`
			Phases        map[string]string
			Front         struct {
				Type                                                                                                                  string
				Received, Handled, Failed, Rejected, Abandoned, Drained, Sent, Queued, Unroutable, Dropped, Unsent, InFlight, Backlog any
			}
		}
	}
	must(t, json.Unmarshal(buf.Bytes(), &line))
	r := line.Report
	if r.Phase != "Done" || r.Cause != "zmqgrace: ended by signal: terminated" || r.Forced || !r.Busy || r.LingerExpired ||
		r.Phases["Running"] != "1m30s" || r.Phases["Draining"] != "250ms" {
		t.Errorf("the log line is %s", &buf)
	}
	f := r.Front
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"type", f.Type, "ROUTER"}, {"received", f.Received, 10.0}, {"handled", f.Handled, 6.0}, {"failed", f.Failed, 1.0},
		{"rejected", f.Rejected, 2.0}, {"abandoned", f.Abandoned, 1.0}, {"drained", f.Drained, 3.0}, {"sent", f.Sent, 9.0},
		{"queued", f.Queued, 0.0}, {"unroutable", f.Unroutable, 1.0}, {"dropped", f.Dropped, 2.0}, {"unsent", f.Unsent, 3.0},
		{"backlog", f.Backlog, true},
	} {
		if c.got != c.want {
			t.Errorf("%s is %v in the log line %s", c.name, c.got, &buf)
		}
	}
}

func TestPhasesHaveNames(t *testing.T) {
	want := []string{"Idle", "Running", "Announced", "Draining", "Closing", "Done"}
	for i, name := range want {
		p := Phase(i)
		text, err := p.MarshalText()
		if p.String() != name || string(text) != name || err != nil {
			t.Errorf("phase %d is %v, as text %s, %v", i, p, text, err)
		}
	}
	var zero Phase
	if zero != Idle {
		t.Error("the zero value is not Idle")
	}
	for _, p := range []Phase{-1, Phase(len(want))} {
		if got := p.String(); got != fmt.Sprintf("Phase(%d)", int(p)) {
			t.Errorf("a phase that does not exist is called %s", got)
		}
	}
}

func TestTheShutdownErrorSaysWhatWasLeftAndWhere(t *testing.T) {
	e := &ShutdownError{
		Phase: Draining,
		Sockets: []SocketReport{
			{Name: "jobs", Type: zmq4.PULL, Abandoned: 7, Backlog: true, linger: time.Second},
			{Name: "front", Type: zmq4.ROUTER, Unsent: 3, Dropped: 5, droppedBefore: 3, linger: time.Second},
		},
		Running: []RunningHandler{
			{Socket: "jobs", For: 1500*time.Millisecond + 200*time.Microsecond},
			{Socket: "front", RoutingID: "00c0ffee", For: time.Second},
		},
		Leaked: true,
		Err:    context.DeadlineExceeded,
	}
	const want = `zmqgrace: incomplete end, seen while Draining: context deadline exceeded` +
		`; a handler of socket "jobs" was still running after 1.5s` +
		`; a handler of socket "front" was still running after 1s (routing id 00c0ffee)` +
		`; socket "jobs" (PULL) abandoned 7, left a backlog unread` +
		`; socket "front" (ROUTER) could not send 3, dropped 2` +
		`; a socket that the Runner does not know was left open in its context: close it before the end, or Adopt it`
	if e.Error() != want {
		t.Errorf("the text is\n%s\nwant\n%s", e, want)
	}
	if !errors.Is(e, context.DeadlineExceeded) || errors.Is(e, ErrForced) {
		t.Error("it does not unwrap to what ended the budget")
	}
	forced := &ShutdownError{Phase: Closing, Err: ErrForced}
	if !errors.Is(forced, ErrForced) || errors.Is(forced, context.DeadlineExceeded) {
		t.Error("a forced end does not unwrap to ErrForced alone")
	}
	if got := forced.Error(); got != "zmqgrace: incomplete end, seen while Closing: zmqgrace: the end was forced" {
		t.Errorf("the text of a forced end is %s", got)
	}
}

// A socket may be named because its linger expired, while nothing of it can be counted.
func TestTheShutdownErrorReadsWellWhereNothingCanBeCounted(t *testing.T) {
	e := &ShutdownError{
		Phase:   Closing,
		Sockets: []SocketReport{{Name: "out", Type: zmq4.PUSH, Sent: 100, linger: time.Second, lingerExpired: true}},
		Err:     context.DeadlineExceeded,
	}
	if text := e.Error(); strings.HasSuffix(text, " ") || !strings.Contains(text, `socket "out" (PUSH) `) || !strings.Contains(text, "linger") {
		t.Errorf("the text does not say that the linger expired: %q", text)
	}
}

func TestWhatTheUserChoseToDropIsNotLeft(t *testing.T) {
	s := SocketReport{Unsent: 5, Dropped: 5, linger: 0}
	if got := s.left(); got != "" {
		t.Errorf("with a linger of 0 it left %q", got)
	}
	s = SocketReport{Unsent: 5, Dropped: 5, droppedBefore: 5, linger: -1}
	if got := s.left(); got != "could not send 5" {
		t.Errorf("with a linger of -1 it left %q", got)
	}
}

func TestASignalErrorNamesTheSignal(t *testing.T) {
	var err error = &SignalError{syscall.SIGINT}
	if err.Error() != "zmqgrace: ended by signal: interrupt" {
		t.Errorf("the text is %s", err)
	}
	var as *SignalError
	if !errors.As(fmt.Errorf("wrapped: %w", err), &as) || as.Signal != syscall.SIGINT {
		t.Error("errors.As does not find it")
	}
}
