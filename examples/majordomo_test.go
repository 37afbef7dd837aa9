package examples

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// restarts is how often a worker is restarted: three times, or what the environment says.
func restarts(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("ZMQGRACE_RESTARTS"))
	if err != nil {
		return 3
	}
	return n
}

// mdp is an exchange of MDP/Client, as a REQ sees it.
func mdp(n string) (request, answer []string) {
	return []string{"MDPC01", "echo", "request", n}, []string{"MDPC01", "echo", "request", n}
}

// number returns what the group of pattern matches.
func number(t *testing.T, output, pattern string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(output)
	if found == nil {
		t.Fatalf("the output does not say %q:\n%s", pattern, output)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func count(output, pattern string) int {
	return len(regexp.MustCompile(pattern).FindAllString(output, -1))
}

func TestTheMajordomoExampleLosesNothingWhenAWorkerSaysDisconnect(t *testing.T) {
	t.Run("at once", func(t *testing.T) { restartMajordomoWorkers(t, 0) })
	t.Run("with a round trip of 40 ms", func(t *testing.T) { restartMajordomoWorkers(t, 20*time.Millisecond) })
}

func restartMajordomoWorkers(t *testing.T, delay time.Duration) {
	broker := start(t, "majordomo", "-beat", "1s", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	forWorkers := endpoints[1]
	if delay > 0 {
		forWorkers = slowLink(t, forWorkers, delay)
	}
	worker := func() *example {
		w := start(t, "majordomo", "-beat", "1s", "-work", "5ms", "worker", forWorkers)
		broker.await("ready for echo")
		return w
	}
	workers := []*example{worker(), worker()}
	crowd := startLoad(t, clients(t, 8, zmq4.REQ, endpoints[0]), mdp)
	served, drained := 0, 0 // the latter after the signal
	end := func(w *example) {
		output := w.terminate()
		mustSay(t, output, `ended.*terminated`)
		served += number(t, output, `(?m)^(\d+) requests$`)
		drained += reported(t, output, "dealer-1.drained")
	}
	for range restarts(t) {
		crowd.more(25)
		end(workers[0])
		crowd.more(5)
		workers = append(workers[1:], worker())
	}
	n, slowest := crowd.mustLoseNothing()
	for _, w := range workers {
		end(w)
	}
	output := broker.terminate()
	t.Logf("%d requests, %d of them answered by a worker that had said DISCONNECT, the slowest in %v", n, drained, slowest)
	mustSay(t, output, `ended.*terminated`)
	if handled := reported(t, output, "frontend.handled"); handled != n || served != n {
		t.Errorf("the clients count %d answers, the broker %d requests, and the workers %d", n, handled, served)
	}
	if silent := count(output, `silent`); silent > 0 {
		t.Errorf("DISCONNECT was not enough, the heartbeats were needed %d times:\n%s", silent, output)
	}
}

func TestTheMajordomoExampleWaitsForALeavingWorkerThatIsStillHeard(t *testing.T) {
	const beat, work = 250 * time.Millisecond, 1500 * time.Millisecond // more heartbeats than a worker may miss
	broker := start(t, "majordomo", "-beat", beat.String(), "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	worker := func(work time.Duration) *example {
		w := start(t, "majordomo", "-beat", beat.String(), "-work", work.String(), "worker", endpoints[1])
		broker.await("ready for echo")
		return w
	}
	slow := worker(work)
	crowd := startLoad(t, clients(t, 2, zmq4.REQ, endpoints[0]), mdp)
	crowd.more(1) // and with that answer the worker has the other client's request
	quick := worker(time.Millisecond)
	output := slow.terminate()
	n, _ := crowd.mustLoseNothing()
	mustSay(t, output, `(?m)^2 requests$`, `ended.*terminated`)
	mustSay(t, quick.terminate(), fmt.Sprintf(`(?m)^%d requests$`, n-2), `ended.*terminated`)
	output = broker.terminate()
	mustSay(t, output, `ended.*terminated`)
	if count(output, `silent`) > 0 {
		t.Errorf("a worker was given up:\n%s", output)
	}
}

func TestTheMajordomoExamplesBrokerAnswersAllThatItHasWhenItEnds(t *testing.T) {
	broker := start(t, "majordomo", "-beat", "250ms", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	worker := start(t, "majordomo", "-beat", "250ms", "-work", "20ms", "worker", endpoints[1])
	crowd := startLoad(t, clients(t, 16, zmq4.REQ, endpoints[0]), mdp)
	crowd.more(20)
	go crowd.stop()
	output := broker.terminate()
	n, slowest := crowd.mustLoseNothing()
	t.Logf("%d requests, the slowest in %v", n, slowest)
	mustSay(t, output, `ended.*terminated`, `report.busy=false`)
	if handled := reported(t, output, "frontend.handled"); handled != n {
		t.Errorf("the clients count %d answers, the broker %d requests", n, handled)
	}
	// The worker finds the next broker by itself.
	broker = start(t, "majordomo", "-beat", "250ms", "broker", endpoints[0], endpoints[1])
	broker.await("ready for echo")
	mustSay(t, worker.terminate(), `the broker is lost`, `ended.*terminated`)
	mustSay(t, broker.terminate(), `leaves`, `ended.*terminated`)
}

func TestTheMajordomoExampleGivesTheRequestOfAKilledWorkerToAnother(t *testing.T) {
	broker := start(t, "majordomo", "-beat", "250ms", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	worker := func() *example {
		w := start(t, "majordomo", "-beat", "250ms", "-work", "20ms", "worker", endpoints[1])
		broker.await("ready for echo")
		return w
	}
	killed, left := worker(), worker()
	crowd := startLoad(t, clients(t, 8, zmq4.REQ, endpoints[0]), mdp) // they never send a request again
	crowd.more(20)
	killed.kill()
	broker.await("silent, another one gets its request")
	crowd.more(20)
	n, slowest := crowd.mustLoseNothing()
	t.Logf("%d requests, the slowest in %v", n, slowest)
	if slowest < 500*time.Millisecond {
		t.Errorf("the slowest request took %v: it did not wait for the heartbeats", slowest)
	}
	mustSay(t, left.terminate(), `ended.*terminated`)
	mustSay(t, broker.terminate(), `ended.*terminated`)
}

func TestTheMajordomoExamplesClientAsksAgainWhenItsRequestWentToAKilledWorker(t *testing.T) {
	broker := start(t, "majordomo", "-beat", "500ms", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	stuck := start(t, "majordomo", "-beat", "500ms", "-work", "1h", "worker", endpoints[1])
	broker.await("ready for echo")
	client := start(t, "majordomo", "-n", "1", "-timeout", "200ms", "client", endpoints[0])
	client.await("asking again")
	stuck.kill()
	start(t, "majordomo", "-beat", "500ms", "worker", endpoints[1])
	output := client.end()
	mustSay(t, output, `(?m)^1 answered, [1-9]\d* retries$`)
	t.Log(regexp.MustCompile(`.*retries`).FindString(output))
	// Only now, at the latest, the broker hears that the worker is silent. Nobody waits for that answer any more.
	broker.await("silent, another one gets its request")
	output = broker.terminate()
	mustSay(t, output, `ended.*terminated`)
	if n := reported(t, output, "frontend.unroutable"); n == 0 {
		t.Error("all answers found their clients, though one had been given up")
	}
}

func TestTheMajordomoExampleGoesOnWithTheNextBrokerWhenOneIsKilled(t *testing.T) {
	broker := start(t, "majordomo", "-beat", "250ms", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	client := start(t, "majordomo", "-n", "20", "-timeout", "300ms", "client", endpoints[0])
	client.await("asking again")
	worker := start(t, "majordomo", "-beat", "250ms", "-work", "50ms", "worker", endpoints[1])
	broker.await("ready for echo")
	broker.kill()
	broker = start(t, "majordomo", "-beat", "250ms", "broker", endpoints[0], endpoints[1])
	broker.await("ready for echo")
	output := client.end()
	mustSay(t, output, `(?m)^20 answered, [1-9]\d* retries$`)
	t.Log(regexp.MustCompile(`.*retries`).FindString(output))
	mustSay(t, worker.terminate(), `the broker is lost`, `ended.*terminated`)
	mustSay(t, broker.terminate(), `ended.*terminated`)
}

func TestTheMajordomoExamplesClientEndsWithTheAnswerToItsLastRequest(t *testing.T) {
	broker := start(t, "majordomo", "broker", anyPort, anyPort)
	endpoints := broker.endpoints()
	start(t, "majordomo", "worker", endpoints[1])
	broker.await("ready for echo")
	client := start(t, "majordomo", "-n", "1000000", "client", endpoints[0])
	client.await("Running") // from now on it heeds signals
	output := client.terminate()
	mustSay(t, output, `ended.*terminated`)
	answered := number(t, output, `(?m)^(\d+) answered, 0 retries$`)
	if sent := reported(t, output, "req-1.sent"); sent != answered {
		t.Errorf("%d requests were sent, %d answered", sent, answered)
	}
}
