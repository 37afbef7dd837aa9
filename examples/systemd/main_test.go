package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
	"github.com/zmqgrace/zmqgrace/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, ".") }

// A service is the server as systemd starts it, and the socket on which it tells how it is.
type service struct {
	*program.Process
	t        *testing.T
	socket   *net.UnixConn
	endpoint string
	told     []string // in order
}

func startService(t *testing.T, watchdog time.Duration) *service {
	t.Helper()
	dir, err := os.MkdirTemp("", "") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	env := []string{"NOTIFY_SOCKET=" + path, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds())}
	s := &service{Process: program.StartEnv(t, env, "systemd", "tcp://127.0.0.1:*"), t: t, socket: socket}
	s.endpoint = s.Endpoint()
	return s
}

// expect reads what the service tells until a datagram has a line that matches.
func (s *service) expect(expr string) string {
	s.t.Helper()
	re := regexp.MustCompile("(?m)^" + expr + "$")
	s.socket.SetReadDeadline(time.Now().Add(program.Patience))
	for {
		text, err := s.read()
		if err != nil {
			s.t.Fatalf("the service did not tell %s, but %q: %v", expr, s.told, err)
		}
		if found := re.FindString(text); found != "" {
			return found
		}
	}
}

func (s *service) read() (string, error) {
	buf := make([]byte, 4096)
	n, err := s.socket.Read(buf)
	s.told = append(s.told, string(buf[:n]))
	return string(buf[:n]), err
}

// has reports whether the service has told something so far.
func (s *service) has(what string) bool {
	return strings.Contains("\n"+strings.Join(s.told, "\n")+"\n", "\n"+what+"\n")
}

func TestItTellsReadyThenAliveThenStoppingAndEveryPhase(t *testing.T) {
	t.Parallel()
	s := startService(t, 200*time.Millisecond)
	if s.expect("READY=1"); !s.has("STATUS=Running") {
		t.Errorf("it was ready without a status: %q", s.told)
	}
	s.expect("WATCHDOG=1")
	s.expect("WATCHDOG=1")
	if answer := program.Ask(t, program.Dial(t, zmq4.REQ, s.endpoint), "hello"); answer[0] != "hello" {
		t.Errorf("the answer is %q", answer)
	}
	if s.has("STOPPING=1") {
		t.Errorf("it stops before SIGTERM: %q", s.told)
	}
	s.Signal(syscall.SIGTERM)
	s.expect("STOPPING=1")
	for _, phase := range []string{"Draining", "Closing", "Done"} {
		s.expect("STATUS=" + phase)
	}
	s.MustEnd(`report.phase=Done`)
}

func TestALongDrainAsksForMoreTime(t *testing.T) {
	t.Parallel()
	s := startService(t, time.Minute)
	s.expect("READY=1")
	// More work than two extensions' intervals take, one request after the other.
	client := program.Dial(t, zmq4.DEALER, s.endpoint)
	const requests = 30
	work := 3 * extendEvery / requests
	for range requests {
		if _, err := client.Send(work.String(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Recv(0); err != nil { // it has them
		t.Fatal(err)
	}
	s.Signal(syscall.SIGTERM)
	s.expect("STATUS=Draining")
	for range 2 {
		s.expect(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
		if last := s.told[len(s.told)-1]; !strings.Contains(last, "\nSTATUS=Draining: ") {
			t.Errorf("it asks for more time without saying how far it is: %q", last)
		}
	}
	s.expect(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", closingTime.Microseconds()))
	s.MustEnd(fmt.Sprintf("handled=%d", requests), "abandoned=0")
}

func TestAStuckHandlerStarvesTheWatchdog(t *testing.T) {
	t.Parallel()
	const interval = 200 * time.Millisecond
	s := startService(t, interval)
	s.expect("WATCHDOG=1")
	client := program.Dial(t, zmq4.DEALER, s.endpoint)
	program.Ask(t, client, "0s")
	if _, err := client.SendMessage("1h"); err != nil {
		t.Fatal(err)
	}
	// It is stuck when a second passes, five watchdog times, without a word. A loop that beats on never gets there.
	for deadline := time.Now().Add(program.Patience); ; {
		s.socket.SetReadDeadline(time.Now().Add(5 * interval))
		if _, err := s.read(); os.IsTimeout(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the watchdog is fed though the handler is stuck: %q", s.told)
		}
	}
}

func TestWithoutSystemdItServesAllTheSame(t *testing.T) {
	t.Parallel()
	p := program.StartEnv(t, []string{"NOTIFY_SOCKET=", "WATCHDOG_USEC="}, "systemd", "tcp://127.0.0.1:*")
	client := program.Dial(t, zmq4.REQ, p.Endpoint())
	program.Ask(t, client, "hello")
	p.Signal(syscall.SIGTERM)
	p.MustEnd("handled=1")
}

func TestASecondCtrlCForcesTheEnd(t *testing.T) {
	t.Parallel()
	s := startService(t, time.Minute)
	client := program.Dial(t, zmq4.DEALER, s.endpoint)
	program.Ask(t, client, "hello")
	program.Chatter(t, client, "hello")
	s.MustBeForced("report.forced=true", "interrupt")
	s.expect("STATUS=Done")
}

// unitOptions are those of the section [Service].
func unitOptions(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open("zmqgrace.service")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	options, err := unit.DeserializeOptions(file)
	if err != nil {
		t.Fatal(err)
	}
	service := make(map[string]string)
	for _, o := range options {
		if o.Section == "Service" {
			service[o.Name] = o.Value
		}
	}
	return service
}

func TestTheUnitsTimesFitTheServers(t *testing.T) {
	options := unitOptions(t)
	seconds := func(name string) time.Duration {
		n, err := strconv.Atoi(options[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return time.Duration(n) * time.Second
	}
	stop := seconds("TimeoutStopSec")
	if stop < 2*extendEvery || extension < 2*extendEvery {
		t.Errorf("more time is asked for every %v: too late for a timeout of %v or an extension of %v", extendEvery, stop, extension)
	}
	if grace <= stop {
		t.Errorf("a grace of %v needs no more time than %v", grace, stop)
	}
	if closingTime <= zmqgrace.DefaultLinger {
		t.Errorf("Closing gets %v, and may linger for %v", closingTime, zmqgrace.DefaultLinger)
	}
	if watchdog := seconds("WatchdogSec"); watchdog < 2*time.Second {
		t.Errorf("a watchdog of %v takes a slow handler for a stuck one", watchdog)
	}
	for name, want := range map[string]string{"Type": "notify", "NotifyAccess": "main"} {
		if options[name] != want {
			t.Errorf("%s is %q, want %q", name, options[name], want)
		}
	}
}

func TestSystemdAnalyzeFindsNothingWrongWithTheUnit(t *testing.T) {
	analyze := program.Need(t, "systemd-analyze", "nobody verifies the unit; Debian has it in the package systemd")
	if out := verify(t, analyze, "", ""); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	// It says so, and exits with 0 all the same, where it finds something.
	if out := verify(t, analyze, "WatchdogSec=", "WatchdogSecs="); !strings.Contains(out, "WatchdogSecs") {
		t.Errorf("systemd-analyze verify finds nothing wrong with WatchdogSecs, but says %q", out)
	}
}

// verify has systemd-analyze look at the unit with a text replaced, and returns what it says about it. The program is put
// where it is, since systemd-analyze looks for it.
func verify(t *testing.T, analyze, from, to string) string {
	t.Helper()
	text, err := os.ReadFile("zmqgrace.service")
	if err != nil {
		t.Fatal(err)
	}
	installed := "/usr/local/bin/zmqgrace-systemd"
	if !strings.Contains(string(text), "ExecStart="+installed+" ") {
		t.Fatalf("the unit does not start %s", installed)
	}
	changed := strings.Replace(strings.Replace(string(text), installed, program.Path("systemd"), 1), from, to, 1)
	path := filepath.Join(t.TempDir(), "zmqgrace.service")
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", path).CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	var about []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "zmqgrace") { // a system may have units of its own that are not in order
			about = append(about, line)
		}
	}
	return strings.Join(about, "")
}
