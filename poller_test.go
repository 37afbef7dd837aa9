package zmqgrace

import (
	"testing"

	"github.com/pebbe/zmq4"
)

func TestARepAnswersAndEndsComplete(t *testing.T) {
	r := newTestRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := run(t, r, echo)
	client := dial(t, zmq4.REQ, rep.Endpoint())
	for range 3 {
		if got := request(t, client, "hello"); len(got) != 1 || got[0] != "hello" {
			t.Fatalf("the answer is %q", got)
		}
	}
	report, err := s.end()
	if err != nil || report.Cause != ErrShutdown || report.Sockets[0].Handled != 3 || report.Sockets[0].Sent != 3 {
		t.Errorf("Run returned %v, the report is %v", err, report)
	}
}
