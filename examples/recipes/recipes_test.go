// Package recipes runs the recipes as the processes that they are.
package recipes

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/program"
)

const anyPort = "tcp://127.0.0.1:*"

func TestMain(m *testing.M) {
	program.Main(m, "./httpserver", "./errgroup", "./oklogrun", "./fx", "./ownsignals", "./several")
}

// serves drives a recipe that answers OK until SIGTERM, and checks its end.
func serves(t *testing.T, cause, name string, args ...string) {
	t.Helper()
	p := program.Start(t, name, args...)
	client := program.Dial(t, zmq4.REQ, p.Endpoint())
	for range 3 {
		if answer := program.Ask(t, client, "hello"); answer[0] != "OK" {
			t.Errorf("the answer is %q", answer)
		}
	}
	p.Signal(syscall.SIGTERM)
	p.MustEnd("report.phase=Done", "handled=3", "abandoned=0", cause)
}

// forces has an impatient user end a recipe that answers, while a client goes on asking.
func forces(t *testing.T, name string, args ...string) {
	t.Helper()
	p := program.Start(t, name, args...)
	client := program.Dial(t, zmq4.DEALER, p.Endpoint())
	program.Ask(t, client, "", "hello")
	program.Chatter(t, client, "", "hello")
	p.MustBeForced("report.forced=true")
}

func TestInAnErrgroupASignalEndsBoth(t *testing.T) {
	t.Parallel()
	serves(t, "terminated", "errgroup", anyPort)
	forces(t, "errgroup", anyPort)
}

func TestInOklogRunASignalEndsTheGroup(t *testing.T) {
	t.Parallel()
	serves(t, "terminated", "oklogrun", anyPort)
	forces(t, "oklogrun", anyPort)
}

func TestFxStopsTheRunner(t *testing.T) {
	t.Parallel()
	serves(t, "Shutdown was called", "fx", anyPort)
	forces(t, "fx", anyPort)
}

// Built without -race, see there.
func TestAManagerOfControllerRuntimeRunsIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "controllerruntime")
	if out, err := exec.Command("go", "build", "-o", path, "./controllerruntime").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	serves(t, "context canceled", path, "-zmq", anyPort)
	forces(t, path, "-zmq", anyPort)
}

func TestOwnSignalsReloadEndAndForce(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "ownsignals", anyPort)
	client := program.Dial(t, zmq4.REQ, p.Endpoint())
	if answer := program.Ask(t, client, "which"); answer[0] != "0" {
		t.Errorf("before SIGHUP the answer is %q", answer)
	}
	p.Signal(syscall.SIGHUP)
	p.Expect("reloaded 1")
	if answer := program.Ask(t, client, "which"); answer[0] != "1" {
		t.Errorf("after SIGHUP the answer is %q", answer)
	}
	p.Signal(syscall.SIGTERM)
	p.MustEnd("report.phase=Done", "report.forced=false", "handled=2")
}

func TestASecondSignalOfOnesOwnForcesTheEnd(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "ownsignals", anyPort)
	client := program.Dial(t, zmq4.DEALER, p.Endpoint())
	program.Ask(t, client, "", "which")
	program.Chatter(t, client, "", "wait")
	p.MustBeForced("report.forced=true")
}

func TestBesideAnHTTPServerNoJobIsLost(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "httpserver", "-http", "127.0.0.1:0", "-zmq", anyPort)
	found := p.Expect(`listening on (tcp://\S+) and on (http://\S+)`)
	worker := program.Dial(t, zmq4.PULL, found[1])
	post := func(job string) {
		t.Helper()
		response, err := http.Post(found[2], "text/plain", strings.NewReader(job))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusAccepted {
			t.Fatalf("job %s: %s", job, response.Status)
		}
	}
	const jobs = 20
	for i := range jobs {
		post(fmt.Sprint("job ", i))
	}
	p.Signal(syscall.SIGTERM)
	for i := range jobs {
		if job, err := worker.Recv(0); err != nil || job != fmt.Sprint("job ", i) {
			t.Fatalf("job %d is %q, %v", i, job, err)
		}
	}
	p.MustEnd("report.phase=Done", fmt.Sprintf("sent=%d", jobs), "unsent=0")
}

func TestOfSeveralRunnersTheFrontEndsFirst(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "several", anyPort, "ipc://"+filepath.Join(t.TempDir(), "s"))
	client := program.Dial(t, zmq4.PUSH, p.Endpoint())
	const jobs = 20
	for i := range jobs {
		if _, err := client.Send(fmt.Sprint("job ", i), 0); err != nil {
			t.Fatal(err)
		}
	}
	p.Expect("done: job 0") // the front has a connection and has begun
	p.Signal(syscall.SIGTERM)
	p.MustEnd(fmt.Sprintf("done: job %d", jobs-1), "front.phase=Done", "back.phase=Done")
}

func TestASecondSignalEndsTheRunnerBehindAsWell(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "several", anyPort, "ipc://"+filepath.Join(t.TempDir(), "s"))
	program.Chatter(t, program.Dial(t, zmq4.PUSH, p.Endpoint()), "job")
	p.Expect("done: job")
	p.MustBeForced("front.forced=true", "back.forced=true")
}

func TestASecondSignalDoesNotWaitForARequestOverHTTP(t *testing.T) {
	t.Parallel()
	p := program.Start(t, "httpserver", "-http", "127.0.0.1:0", "-zmq", anyPort)
	address := p.Expect(`http://(\S+)`)[1]
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(program.Patience))
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", address)
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(answer, "100 Continue") {
		t.Fatalf("the answer is %q, %v", answer, err) // otherwise the handler has it, and waits for the body
	}
	p.MustBeForced("report.forced=true", "was still running")
}
