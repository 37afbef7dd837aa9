package examples

import (
	"testing"

	"github.com/pebbe/zmq4"
)

func TestTheBrokerExampleWaitsForItsWorkersWhenItEnds(t *testing.T) {
	broker := start(t, "broker", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	var workers []*example
	for range 3 {
		w := start(t, "broker", "worker", endpoints[1])
		w.await("Running")
		workers = append(workers, w)
	}
	crowd := startLoad(t, clients(t, 16, zmq4.REQ, endpoints[0]), func(n string) (request, answer []string) {
		return []string{"request", n}, []string{"request", n}
	})
	crowd.more(200)
	go crowd.stop()
	output := broker.terminate()
	n, slowest := crowd.mustLoseNothing()
	t.Logf("%d requests, the slowest in %v", n, slowest)
	mustSay(t, output, `ended.*terminated`)
	if handled := reported(t, output, "frontend.handled"); handled != n {
		t.Errorf("the broker counts %d requests, the clients %d answers", handled, n)
	}
	all := 0
	for _, w := range workers {
		served := reported(t, w.terminate(), "rep-1.handled")
		if served == 0 {
			t.Error("a worker had nothing to do")
		}
		all += served
	}
	if all != n {
		t.Errorf("the workers count %d requests, the clients %d answers", all, n)
	}
}
