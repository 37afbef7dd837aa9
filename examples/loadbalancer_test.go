package examples

import (
	"os"
	"testing"

	"github.com/pebbe/zmq4"
)

func TestTheLoadbalancerExampleLosesNothingWhenItsWorkersLeaveAndWhenItEnds(t *testing.T) {
	broker := start(t, "loadbalancer", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	worker := func() *example {
		w := start(t, "loadbalancer", "worker", endpoints[1])
		w.await("Running") // from now on it heeds signals
		return w
	}
	worker()
	leaving := worker()
	crowd := startLoad(t, clients(t, 8, zmq4.REQ, endpoints[0]), func(n string) (request, answer []string) {
		return []string{"request", n}, []string{"request", n}
	})
	for range 3 {
		crowd.more(50)
		mustSay(t, leaving.terminate(), `ended.*terminated`)
		crowd.more(10)
		leaving = worker()
	}
	crowd.more(50)
	go crowd.stop()
	output := broker.terminate()
	n, slowest := crowd.mustLoseNothing()
	t.Logf("%d requests, the slowest in %v", n, slowest)
	mustSay(t, output, `ended.*terminated`)
	if handled := reported(t, output, "frontend.handled"); handled != n {
		t.Errorf("the broker counts %d requests, the clients %d answers", handled, n)
	}
	if passed := reported(t, output, "backend.sent"); passed != n {
		t.Errorf("the broker passed on %d requests, the clients count %d answers", passed, n)
	}
}

func TestTheLoadbalancerExampleTakesNoMoreThanItsWorkersCan(t *testing.T) {
	broker := start(t, "loadbalancer", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	dealer := client(t, zmq4.DEALER, endpoints[0])
	for _, body := range []string{"1", "2", "3", "4", "5"} { // more than its workers, which are the Guide's, can take
		send(t, dealer, body)
	}
	var jobs [2][]string // the address of the client, an empty frame, the body
	workers := clients(t, 2, zmq4.REQ, endpoints[1])
	takes := func(w int, body string) {
		t.Helper()
		var err error
		if jobs[w], err = workers[w].RecvMessage(0); err != nil {
			t.Fatal(err)
		}
		if len(jobs[w]) != 3 || jobs[w][2] != body {
			t.Fatalf("worker %d was sent %q, want request %s", w, jobs[w], body)
		}
	}
	answers := func(w int) {
		t.Helper()
		send(t, workers[w], jobs[w]...)
		receive(t, dealer, jobs[w][2])
	}
	for w, body := range []string{"1", "2"} {
		send(t, workers[w], "\x01")
		takes(w, body)
	}
	answers(1)
	takes(1, "3")
	broker.signal(os.Interrupt)
	broker.await("Draining")
	answers(0)
	takes(0, "4")
	answers(0)
	takes(0, "5")
	answers(0)
	answers(1)
	output := broker.end()
	mustSay(t, output, `ended.*interrupt`)
	handled, passed := reported(t, output, "frontend.handled"), reported(t, output, "backend.sent")
	if handled != 5 || passed != 5 {
		t.Errorf("the broker counts %d requests, and %d that it passed on, want 5", handled, passed)
	}
}
