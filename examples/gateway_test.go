package examples

import (
	"strconv"
	"testing"

	"github.com/pebbe/zmq4"
)

func TestTheGatewayExampleWaitsForItsBackendsWhenItEnds(t *testing.T) {
	fast := start(t, "gateway", "-work", "1ms", "backend", anyPort)
	slow := start(t, "gateway", "-work", "7ms", "backend", anyPort)
	gateway := start(t, "gateway", "frontend", anyPort, fast.endpoints()[0], slow.endpoints()[0])
	endpoint := gateway.endpoints()[0]

	crowd := startLoad(t, clients(t, 8, zmq4.REQ, endpoint), func(n string) (request, answer []string) {
		return []string{"from a REQ", n}, []string{"200", "from a REQ", n}
	})
	burst := client(t, zmq4.DEALER, endpoint)
	for i := range 100 {
		send(t, burst, "", strconv.Itoa(i))
	}
	crowd.more(50)
	go crowd.stop()
	output := gateway.terminate()
	n, slowest := crowd.mustLoseNothing()
	t.Logf("%d requests, the slowest in %v", n+100, slowest)
	missing := map[string]bool{}
	for i := range 100 {
		missing[strconv.Itoa(i)] = true
	}
	for range 100 {
		answer, err := burst.RecvMessage(0)
		if err != nil {
			t.Fatal(err)
		}
		if len(answer) != 3 || answer[0] != "" || answer[1] != "200" || !missing[answer[2]] {
			t.Fatalf("received %q, which nobody asked for", answer)
		}
		delete(missing, answer[2])
	}
	mustSay(t, output, `ended.*terminated`)
	if handled := reported(t, output, "frontend.handled"); handled != n+100 {
		t.Errorf("the gateway counts %d requests, the clients %d answers", handled, n+100)
	}
	if all := reported(t, fast.terminate(), "rep-1.handled") + reported(t, slow.terminate(), "rep-1.handled"); all != n+100 {
		t.Errorf("the backends count %d requests, the clients %d answers", all, n+100)
	}
}

func TestTheGatewayExampleIsNotHeldUpByABackendThatDies(t *testing.T) {
	backend := start(t, "gateway", "-work", "1h", "backend", anyPort)
	gateway := start(t, "gateway", "-timeout", "500ms", "frontend", anyPort, backend.endpoints()[0])
	req := client(t, zmq4.REQ, gateway.endpoints()[0])
	send(t, req, "is anybody there?")
	gateway.await("Running") // from now on it heeds signals
	output := gateway.terminate()
	receive(t, req, "504")
	mustSay(t, output, `ended.*terminated`, `report.frontend.handled=1\b`)
}
