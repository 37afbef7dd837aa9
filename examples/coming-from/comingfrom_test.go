// Package comingfrom runs the programs of docs/coming-from.md, those before and those after, with the same clients.
package comingfrom

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/program"
)

const anyPort = "tcp://127.0.0.1:*"

func TestMain(m *testing.M) { program.Main(m) }

// programs are a program before and after, each built, or found, when its turn comes.
type programs map[string]func(t *testing.T) (path string, args []string)

func goProgram(pkg string) func(t *testing.T) (string, []string) {
	return func(t *testing.T) (string, []string) {
		t.Helper()
		return program.Build(t, pkg), []string{anyPort}
	}
}

// eachServes drives all programs in the same way, ends them with SIGTERM and wants them to exit with 0. The one after
// is kept busy, too, and has to heed a second Ctrl-C.
func (ps programs) eachServes(t *testing.T, drive, busy func(t *testing.T, p *program.Process)) {
	t.Helper()
	for name, find := range ps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, args := find(t)
			p := program.Start(t, path, args...)
			drive(t, p)
			p.Signal(syscall.SIGTERM)
			if name == "before" {
				p.MustEnd()
			} else {
				p.MustEnd(`"Phase":"Done"`, `"Forced":false`, "terminated")
				p := program.Start(t, path, args...)
				busy(t, p)
				p.MustBeForced(`"Forced":true`, "interrupt")
			}
		})
	}
}

// asking keeps a server that answers busy.
func asking(t *testing.T, p *program.Process) {
	t.Helper()
	client := program.Dial(t, zmq4.DEALER, p.Endpoint())
	program.Ask(t, client, "", "a")
	program.Chatter(t, client, "", "a")
}

// answers asks a server with a client of the type REQ.
func answers(t *testing.T, endpoint, request, want string) {
	t.Helper()
	if answer := program.Ask(t, program.Dial(t, zmq4.REQ, endpoint), request); strings.Join(answer, "|") != want {
		t.Errorf("%q is answered %q, want %q", request, answer, want)
	}
}

func TestTheLoopWrittenByHand(t *testing.T) {
	t.Parallel()
	both := programs{"before": goProgram("./loop/before"), "after": goProgram("./loop/after")}
	both.eachServes(t, func(t *testing.T, p *program.Process) {
		answers(t, p.Endpoint(), "a", "done: a")
	}, asking)
}

func TestPebbesReactor(t *testing.T) {
	t.Parallel()
	both := programs{"before": goProgram("./reactor/before"), "after": goProgram("./reactor/after")}
	both.eachServes(t, func(t *testing.T, p *program.Process) {
		answers(t, p.Endpoint(), "a", "a")
	}, asking)
}

// The one before is compiled alone, against declarations: see zmq4chan/declared.
func TestZmq4chan(t *testing.T) {
	t.Parallel()
	program.Build(t, "./zmq4chan/before")
	programs{"after": goProgram("./zmq4chan/after")}.eachServes(t, func(t *testing.T, p *program.Process) {
		answers(t, p.Endpoint(), "a", "done: a")
	}, asking)
}

func TestCZMQsZloop(t *testing.T) {
	t.Parallel()
	both := programs{"before": zloop, "after": goProgram("./zloop/after")}
	both.eachServes(t, func(t *testing.T, p *program.Process) {
		found := p.Expect(`listening on (tcp://\S+) and (tcp://\S+)`)
		push, pull := program.Dial(t, zmq4.PUSH, found[1]), program.Dial(t, zmq4.PULL, found[2])
		if _, err := push.SendMessage("a job", "of two frames"); err != nil {
			t.Fatal(err)
		}
		if job, err := pull.RecvMessage(0); err != nil || strings.Join(job, "|") != "a job|of two frames" {
			t.Errorf("the job came out as %q, %v", job, err)
		}
		p.Expect(`1 jobs|jobs=1`)
	}, pushing)
}

// pushing keeps a server busy that hands on jobs, and has nobody to hand them to.
func pushing(t *testing.T, p *program.Process) {
	t.Helper()
	program.Chatter(t, program.Dial(t, zmq4.PUSH, p.Endpoint()), "a job")
	p.Expect(`jobs=[1-9]`)
}

func zloop(t *testing.T) (string, []string) {
	t.Helper()
	cc := program.Need(t, "gcc", "nobody compiles zloop/before.c")
	if exec.Command("pkg-config", "--exists", "libczmq").Run() != nil {
		program.Skip(t, "there is no CZMQ here, so nobody compiles zloop/before.c; Debian has it in the package libczmq-dev")
	}
	path := filepath.Join(t.TempDir(), "zloop")
	out, err := exec.Command(cc, "-Wall", "-Wextra", "-Wno-unused-parameter", "-o", path, "zloop/before.c", "-lczmq", "-lzmq").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	return path, []string{anyPort}
}

func TestPyzmq(t *testing.T) {
	t.Parallel()
	both := programs{"before": pyzmq, "after": goProgram("./pyzmq/after")}
	both.eachServes(t, func(t *testing.T, p *program.Process) {
		found := p.Expect(`listening on (tcp://\S+) and (tcp://\S+)`)
		answers(t, found[1], "a", "done: a")
		control := program.Dial(t, zmq4.PUSH, found[2])
		if _, err := control.Send("b", 0); err != nil {
			t.Fatal(err)
		}
		p.Expect("control: b")
	}, asking)
}

// pyzmq takes the first Python that has pyzmq. Where one has not, it compiles the program at least.
func pyzmq(t *testing.T) (string, []string) {
	t.Helper()
	python := program.Need(t, "python3", "nobody compiles pyzmq/before.py")
	for _, p := range []string{python, "/usr/bin/python3"} {
		if exec.Command(p, "-c", "import zmq").Run() == nil {
			return p, []string{"pyzmq/before.py", anyPort}
		}
	}
	compile := `import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")`
	if out, err := exec.Command(python, "-c", compile, "pyzmq/before.py").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program.Skip(t, "there is no pyzmq here, so pyzmq/before.py is compiled and not run; Debian has it in the package python3-zmq")
	return "", nil
}
