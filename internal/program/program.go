// Package program builds the programs that tests of the satellite modules are about, and runs them as the processes
// that they are. It is for tests.
package program

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pebbe/zmq4"

	// The programs have it in them. So have the tests, then, and go test does not take an old result for a new library's.
	_ "github.com/zmqgrace/zmqgrace"
)

// Patience is for anything that takes milliseconds on an idle machine. It is never what a test measures.
const Patience = 20 * time.Second

var bin string // has the programs that Main built

// Main is what a TestMain calls: it builds the packages, runs the tests and exits. Where the tests run with -race, so
// do the programs.
func Main(m *testing.M, packages ...string) { os.Exit(buildAndRun(m, packages)) }

func buildAndRun(m *testing.M, packages []string) int {
	var err error
	if bin, err = os.MkdirTemp("", "zmqgrace-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	if raced() {
		os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // or each takes a second more to end
	}
	if len(packages) > 0 {
		if err := build(bin+string(filepath.Separator), packages...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

func build(output string, packages ...string) error {
	args := []string{"build", "-o", output}
	if raced() {
		args = append(args, "-race")
	}
	command := exec.Command("go", append(args, packages...)...)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", command, err, out)
	}
	return nil
}

// Build builds one more package, for this test, and returns the program's path.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(pkg))
	if err := build(path, pkg); err != nil {
		t.Fatal(err)
	}
	return path
}

// lookAtSources makes go test know what the result depends on: it keeps an account of the files that the tests look at, once
// they run, but not of those that the build does.
var lookAtSources = sync.OnceValue(func() error {
	return filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			_, err = os.Stat(path)
		}
		return err
	})
})

func raced() bool {
	info, ok := debug.ReadBuildInfo()
	for i := 0; ok && i < len(info.Settings); i++ {
		if s := info.Settings[i]; s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// Path is where Main put the program of that name.
func Path(name string) string { return filepath.Join(bin, name) }

// A Process is a running program whose standard output and error are read as one, line by line.
type Process struct {
	t      testing.TB
	cmd    *exec.Cmd
	lines  chan string // closed when the process has closed its output
	output strings.Builder
}

// Start runs a program that Main built, or, where name is a path, that one. It is killed with the test.
func Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	return StartEnv(t, nil, name, args...)
}

// StartEnv is Start with more environment ("KEY=value").
func StartEnv(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	if err := lookAtSources(); err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(name) {
		name = Path(name)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, cmd: exec.Command(name, args...), lines: make(chan string, 1000)}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	p.cmd.Env = append(os.Environ(), env...)
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

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Expect waits for a line that matches the regular expression, and returns its submatches, the whole match first.
func (p *Process) Expect(expr string) []string {
	p.t.Helper()
	re := regexp.MustCompile(expr)
	timeout := time.After(Patience)
	for {
		select {
		case text, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("%s ended before it printed %q:\n%s", p.cmd, expr, &p.output)
			}
			p.output.WriteString(text + "\n")
			if found := re.FindStringSubmatch(text); found != nil {
				return found
			}
		case <-timeout:
			p.t.Fatalf("%s did not print %q; so far:\n%s", p.cmd, expr, &p.output)
		}
	}
}

// Endpoint waits for the line that says where the program listens.
func (p *Process) Endpoint() string {
	p.t.Helper()
	return p.Expect(`tcp://\S+`)[0]
}

// Signal sends s.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Exit waits for the end, and returns the exit code and all that was printed.
func (p *Process) Exit() (code int, output string) {
	p.t.Helper()
	timeout := time.After(2 * Patience)
	for open := true; open; {
		select {
		case text, ok := <-p.lines:
			if open = ok; ok {
				p.output.WriteString(text + "\n")
			}
		case <-timeout:
			p.t.Fatalf("%s did not end; so far:\n%s", p.cmd, &p.output)
		}
	}
	var failed *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &failed) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode(), p.output.String()
}

// MustEnd waits for the end, and fails the test if its exit code is not 0, or the output lacks one of the words.
func (p *Process) MustEnd(words ...string) {
	p.t.Helper()
	code, output := p.Exit()
	if code != 0 {
		p.t.Fatalf("%s ended with code %d:\n%s", p.cmd, code, output)
	}
	for _, w := range words {
		if !strings.Contains(output, w) {
			p.t.Errorf("%s did not print %q:\n%s", p.cmd, w, output)
		}
	}
}

// MustBeForced does as an impatient user at a terminal: Ctrl-C, and, when the program has said what it does, once more. It
// fails the test if that does not end the program with an error, or it does not say why, or the output lacks one of the words. The log may
// lack its last lines: a forced end waits for the logger for a moment only.
func (p *Process) MustBeForced(words ...string) {
	p.t.Helper()
	p.Signal(os.Interrupt)
	p.Expect(`zmqgrace: Draining`)
	p.Expect(`zmqgrace: the end waits.* for=\S.* at_most=\S+ forced_by=`)
	p.Signal(os.Interrupt)
	code, output := p.Exit()
	if code != 1 {
		p.t.Errorf("%s ended with code %d, want 1:\n%s", p.cmd, code, output)
	}
	for _, w := range append(words, "the end was forced") {
		if !strings.Contains(output, w) {
			p.t.Errorf("%s did not print %q:\n%s", p.cmd, w, output)
		}
	}
}

// Need returns the path of a program that a test needs, or skips the test with what it would have shown. Where
// ZMQGRACE_NO_SKIP is set, as in continuous integration, that is a failure.
func Need(t testing.TB, name, otherwise string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, fmt.Sprintf("there is no %s here, so %s", name, otherwise))
	}
	return path
}

// Skip skips the test, or fails it where nothing may be skipped.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("ZMQGRACE_NO_SKIP") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Dial makes a client that knows nothing of the library, in a context of its own. It is closed with the test.
func Dial(t testing.TB, typ zmq4.Type, endpoint string) *zmq4.Socket {
	t.Helper()
	client := socket(t, typ)
	if err := client.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return client
}

func socket(t testing.TB, typ zmq4.Type) *zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ctx.NewSocket(typ)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.SetLinger(0); s.Close(); ctx.Term() })
	// A linger without an end would go to each connection at Bind, and can be the last word.
	if err := errors.Join(s.SetLinger(Patience/4), s.SetRcvtimeo(Patience), s.SetSndtimeo(Patience)); err != nil {
		t.Fatal(err)
	}
	return s
}

// Listen makes a peer that a program connects to, as Dial makes one that connects, and returns where it listens.
func Listen(t testing.TB, typ zmq4.Type) (peer *zmq4.Socket, endpoint string) {
	t.Helper()
	peer = socket(t, typ)
	err := peer.Bind("tcp://127.0.0.1:*")
	if err == nil {
		endpoint, err = peer.GetLastEndpoint()
	}
	if err != nil {
		t.Fatal(err)
	}
	return peer, endpoint
}

// Chatter has a client send the message again and again, and not listen, until hush is called, or the test ends: a server
// that drains hears no silence meanwhile. The client is Chatter's until then.
func Chatter(t testing.TB, client *zmq4.Socket, message ...any) (hush func()) {
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				client.SendMessageDontwait(message...) // what is too much is dropped
			}
		}
	}()
	hush = sync.OnceFunc(func() { close(stop); <-stopped })
	t.Cleanup(hush)
	return hush
}

// Ask sends one request and returns the answer's frames.
func Ask(t testing.TB, client *zmq4.Socket, request ...any) []string {
	t.Helper()
	if _, err := client.SendMessage(request...); err != nil {
		t.Fatal(err)
	}
	answer, err := client.RecvMessage(0)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}
