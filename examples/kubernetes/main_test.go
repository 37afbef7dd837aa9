package main

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, ".") }

// A pod is the server as a process, on free ports.
type pod struct {
	*program.Process
	t         *testing.T
	zmq, http string
}

func startPod(t *testing.T, args ...string) *pod {
	t.Helper()
	args = append([]string{"-listen", "tcp://127.0.0.1:*", "-http", "127.0.0.1:0"}, args...)
	p := &pod{Process: program.Start(t, "kubernetes", args...), t: t}
	found := p.Expect(`listening on (tcp://\S+) and on (http://\S+)`)
	p.zmq, p.http = found[1], found[2]
	return p
}

func (p *pod) get(path string) (status int, body string) {
	p.t.Helper()
	response, err := http.Get(p.http + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

// until gets the path until it has the status, and returns the body.
func (p *pod) until(path string, want int) string {
	p.t.Helper()
	for deadline := time.Now().Add(program.Patience); ; time.Sleep(time.Millisecond) {
		status, body := p.get(path)
		if status == want {
			return body
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s says %d %q, want %d", path, status, body, want)
		}
	}
}

func (p *pod) metric(series string) string {
	p.t.Helper()
	_, body := p.get("/metrics")
	found := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(body)
	if found == nil {
		p.t.Fatalf("/metrics has no %s:\n%s", series, body)
	}
	return found[1]
}

// documentedSeries are those that docs/metrics.md shows, with values, before, during and after a drain.
func documentedSeries(t *testing.T) (all []string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`(?m)^(zmqgrace_\S+\{.*\}) [\d.]+$`).FindAllStringSubmatch(string(page), -1) {
		all = append(all, found[1])
	}
	if len(all) == 0 {
		t.Fatal("docs/metrics.md shows no scrape")
	}
	return all
}

func TestReadinessFailsFromTheSignalOnWhileClientsAreServed(t *testing.T) {
	p := startPod(t, "-ready-delay", "200ms")
	p.until(readyPath, http.StatusOK)
	client := program.Dial(t, zmq4.DEALER, p.zmq)
	if answer := program.Ask(t, client, "before"); answer[0] != "OK" {
		t.Fatalf("before the signal a request is answered %q", answer)
	}

	p.Signal(syscall.SIGTERM)
	if phase := p.until(readyPath, http.StatusServiceUnavailable); phase == "Running\n" {
		t.Errorf("the readiness probe fails in phase %s", phase)
	}
	// The connection outlives the endpoint: requests come on, and are answered.
	answer := program.Ask(t, client, "after")[0]
	if _, phase := p.get(readyPath); phase == "Announced\n" && answer != "OK" {
		t.Errorf("during the ready delay a request is answered %q", answer)
	}
	// The drain is open as long as somebody sends.
	hush := program.Chatter(t, program.Dial(t, zmq4.DEALER, p.zmq), "chatter")
	for program.Ask(t, client, "again")[0] != "LATE" {
	}
	if status, body := p.get(livePath); status != http.StatusOK {
		t.Errorf("the liveness probe fails during the drain: %d %s", status, body)
	}
	if status, body := p.get(readyPath); status != http.StatusServiceUnavailable || body != "Draining\n" {
		t.Errorf("during the drain the readiness probe says %d %q", status, body)
	}
	if n := p.metric(`zmqgrace_messages_total{outcome="rejected",socket="requests",type="ROUTER"}`); n == "0" {
		t.Error("/metrics counts no rejected messages")
	}
	if is := p.metric(`zmqgrace_phase{phase="Draining"}`); is != "1" {
		t.Errorf("/metrics says %s to the phase Draining", is)
	}
	for _, series := range documentedSeries(t) {
		p.metric(series)
	}
	hush()
	p.MustEnd("report.phase=Done", "report.requests.abandoned=0", "terminated")
	if response, err := http.Get(p.http + readyPath); err == nil {
		response.Body.Close()
		t.Errorf("after the end the readiness probe says %s", response.Status)
	}
}

func TestAStuckHandlerFailsTheLivenessProbe(t *testing.T) {
	p := startPod(t, "-stuck-after", "1500ms")
	client := program.Dial(t, zmq4.DEALER, p.zmq)
	program.Ask(t, client, "quick")
	p.until(livePath, http.StatusOK)
	if _, err := client.Send("1h", 0); err != nil {
		t.Fatal(err)
	}
	if body := p.until(livePath, http.StatusServiceUnavailable); !strings.Contains(body, "last beat") {
		t.Errorf("the liveness probe says %q", body)
	}
	// Readiness says nothing of it: that is what liveness is for.
	p.until(readyPath, http.StatusOK)
}

func TestASecondCtrlCForcesTheEnd(t *testing.T) {
	p := startPod(t, "-ready-delay", "0")
	client := program.Dial(t, zmq4.DEALER, p.zmq)
	program.Ask(t, client, "hello")
	program.Chatter(t, client, "hello")
	p.MustBeForced("report.forced=true", "interrupt")
}
