// Package examples runs the examples as the processes that they are, with clients that know nothing of the library.
package examples

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

const (
	anyPort  = "tcp://127.0.0.1:*"
	patience = 20 * time.Second // for anything that takes milliseconds on an idle machine
)

// bin has the examples, built once. Where the tests run with -race, so do they.
var bin string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "zmqgrace-examples-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	args := []string{"build", "-o", bin}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				args = append(args, "-race")
				os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // or each takes a second more to end
			}
		}
	}
	build := exec.Command("go", append(args, "./...")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}

// An example is a running process whose output is read line by line, stdout and stderr as one.
type example struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan string // closed when the process has closed its output
	output strings.Builder
}

func start(t *testing.T, name string, args ...string) *example {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &example{t: t, cmd: exec.Command(filepath.Join(bin, name), args...), lines: make(chan string, 1000)}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	err = p.cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait(); out.Close() })
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

// line waits for the next line; ok is false at the end of the output.
func (p *example) line() (text string, ok bool) {
	p.t.Helper()
	select {
	case text, ok = <-p.lines:
		if ok {
			p.output.WriteString(text + "\n")
		}
		return text, ok
	case <-time.After(patience):
		p.t.Fatalf("nothing more printed; so far:\n%s", &p.output)
		return "", false
	}
}

// endpoints waits for the line that says where the example listens.
func (p *example) endpoints() []string {
	p.t.Helper()
	for {
		text, ok := p.line()
		if !ok {
			p.t.Fatalf("ended before it listened:\n%s", &p.output)
		}
		if found := regexp.MustCompile(`tcp://\S+`).FindAllString(text, -1); found != nil {
			return found
		}
	}
}

func (p *example) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the process to end with exit code 0, and returns all that it printed.
func (p *example) end() string {
	p.t.Helper()
	for _, ok := p.line(); ok; {
		_, ok = p.line()
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%v; printed:\n%s", err, &p.output)
	}
	return p.output.String()
}

// client makes a socket that is not the library's.
func client(t *testing.T, kind zmq4.Type, endpoint string) *zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ctx.NewSocket(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); ctx.Term() })
	for _, err := range []error{
		s.SetLinger(0), s.SetSndhwm(0), s.SetRcvhwm(0), s.SetRcvtimeo(patience), s.SetSndtimeo(patience),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if kind == zmq4.SUB {
		if err := s.SetSubscribe(""); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s *zmq4.Socket, frames ...string) {
	t.Helper()
	if _, err := s.SendMessage(frames); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, s *zmq4.Socket, want ...string) {
	t.Helper()
	got, err := s.RecvMessage(0)
	if err != nil {
		t.Fatalf("waiting for %q: %v", want, err)
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("received %q, want %q", got, want)
	}
}

func mustSay(t *testing.T, output string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(output) {
			t.Errorf("the output does not say %q:\n%s", pattern, output)
		}
	}
}

func TestTheRepExampleAnswersAndEndsOnSIGTERM(t *testing.T) {
	rep := start(t, "rep", anyPort)
	req := client(t, zmq4.REQ, rep.endpoints()[0])
	for i := range 10 {
		send(t, req, "request "+strconv.Itoa(i))
		receive(t, req, "OK")
	}
	rep.signal(syscall.SIGTERM)
	mustSay(t, rep.end(), `(?m)^received: request 0$`, `(?m)^received: request 9$`, `ended.*terminated`)
}

func TestTheRepExampleSaysWhyItCannotBind(t *testing.T) {
	taken := start(t, "rep", anyPort).endpoints()[0]
	second := start(t, "rep", taken)
	for _, ok := second.line(); ok; {
		_, ok = second.line()
	}
	second.cmd.Wait()
	if code := second.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	mustSay(t, second.output.String(), regexp.QuoteMeta(taken), `(?i)in use`)
}

func TestTheClientExampleAsksTheRepExample(t *testing.T) {
	rep := start(t, "rep", anyPort)
	asked := start(t, "client", "-server", rep.endpoints()[0], "one", "two").end()
	mustSay(t, asked, `(?m)^one: OK$`, `(?m)^two: OK$`)
	rep.signal(syscall.SIGTERM)
	mustSay(t, rep.end(), `(?m)^received: one$`, `(?m)^received: two$`, `ended.*received=2 .*handled=2 `)
}

func TestTheClientExampleAsksAgainOnANewSocketWhereNoAnswerComes(t *testing.T) {
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	router, err := ctx.NewSocket(zmq4.ROUTER)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(router.SetLinger(0), router.Bind(anyPort)); err != nil {
		t.Fatal(err)
	}
	endpoint, err := router.GetLastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer router.Close()
		lost := "" // the routing id of the socket that gets no answer
		for {
			request, err := router.RecvMessage(0) // until the context is terminated
			switch {
			case err != nil:
				return
			case lost == "" || lost == request[0]:
				lost = request[0]
			default:
				router.SendMessage(request[0], "", "answer to "+request[2])
			}
		}
	}()
	t.Cleanup(func() { ctx.Term() })
	asked := start(t, "client", "-server", endpoint, "-timeout", "200ms", "one", "two").end()
	mustSay(t, asked, `(?m)^client: no answer within 200ms, asking again$`, `(?m)^one: answer to one$`, `(?m)^two: answer to two$`)
}

func TestTheRouterExampleAnswersEachClientAndEndsOnSIGTERM(t *testing.T) {
	router := start(t, "router", anyPort)
	endpoint := router.endpoints()[0]
	req, dealer := client(t, zmq4.REQ, endpoint), client(t, zmq4.DEALER, endpoint)
	for i := range 10 {
		body := strconv.Itoa(i)
		send(t, dealer, "from", "the DEALER", body)
		send(t, req, "from the REQ", body)
		receive(t, dealer, "from", "the DEALER", body)
		receive(t, req, "from the REQ", body)
	}
	output := router.terminate()
	mustSay(t, output, `ended.*terminated`, `report.router-1.handled=20\b`)
	if n := len(regexp.MustCompile(`(?m)^client [0-9a-f]{10}: 10 requests$`).FindAllString(output, -1)); n != 2 {
		t.Errorf("%d clients with 10 requests, want 2:\n%s", n, output)
	}
}

func TestThePipelineExampleHandsOnAllThatItTookWhenItEndsInTheMiddle(t *testing.T) {
	const count = 20_000 // far beyond the high-water marks of both its sockets
	pipeline := start(t, "pipeline", anyPort, anyPort)
	endpoints := pipeline.endpoints()
	push, pull := client(t, zmq4.PUSH, endpoints[0]), client(t, zmq4.PULL, endpoints[1])
	for i := range count {
		send(t, push, "line "+strconv.Itoa(i))
	}
	receive(t, pull, "LINE 0") // it is in the middle of its work
	pipeline.signal(syscall.SIGTERM)
	for i := 1; i < count; i++ {
		receive(t, pull, "LINE "+strconv.Itoa(i))
	}
	mustSay(t, pipeline.end(), `ended.*terminated`)
}

func TestThePublisherExampleHandsOverAllThatItPublished(t *testing.T) {
	publisher := start(t, "publisher", "-every", "1ms", anyPort)
	sub := client(t, zmq4.SUB, publisher.endpoints()[0])
	var last int
	next := func() {
		message, err := sub.RecvMessage(0)
		if err != nil {
			t.Fatalf("after message %d: %v", last, err)
		}
		n, err := strconv.Atoi(message[1])
		if err != nil || message[0] != "count" || last > 0 && n != last+1 {
			t.Fatalf("received %q after message %d", message, last)
		}
		last = n
	}
	for range 20 {
		next()
	}
	publisher.signal(syscall.SIGTERM)
	output := publisher.end()
	mustSay(t, output, `ended.*terminated`)
	said := regexp.MustCompile(`(?m)^published (\d+)$`).FindStringSubmatch(output)
	if said == nil {
		t.Fatalf("the output does not say how many it published:\n%s", output)
	}
	for published, _ := strconv.Atoi(said[1]); last < published; {
		next()
	}
}

func TestTheRollingRestartLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some ten seconds")
	}
	demo := start(t, "rolling-restart")
	mustSay(t, demo.end(), `requests sent +10,000 +10,000`, `lost +[\d,]+ +0\n`, `Draining`)
}
