package examples

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/program"
)

// A role is an example as a user starts it, and what keeps it from its end: it must be at that when busy returns. The
// first word of its name is the example's.
type role struct {
	name string
	args []string
	busy func(t *testing.T, p *program.Process)
}

// listening is a role that listens for the client that keeps it busy.
func listening(name, args string, message ...any) role {
	return role{name, strings.Fields(args), func(t *testing.T, p *program.Process) {
		chatter(t, program.Dial(t, zmq4.DEALER, p.Endpoint()), message...)
	}}
}

// broking is a broker of the role's example, with one of its workers.
func broking(name string, message ...any) role {
	return role{name + " broker", []string{"broker", anyPort, anyPort}, func(t *testing.T, p *program.Process) {
		found := p.Expect(`(tcp://\S+) .*(tcp://\S+)`)
		program.Start(t, filepath.Join(bin, name), "worker", found[2])
		chatter(t, program.Dial(t, zmq4.DEALER, found[1]), message...)
	}}
}

// connecting is a role that connects to a peer, which keeps it busy.
func connecting(t *testing.T, name, args string, typ zmq4.Type, busy func(t *testing.T, peer *zmq4.Socket)) role {
	peer, endpoint := program.Listen(t, typ)
	return role{name, append(strings.Fields(args), endpoint), func(t *testing.T, _ *program.Process) { busy(t, peer) }}
}

// chatter asks once, and when that is answered, again and again.
func chatter(t *testing.T, client *zmq4.Socket, message ...any) {
	t.Helper()
	program.Ask(t, client, message...)
	program.Chatter(t, client, message...)
}

// dealt is a worker that is dealt requests.
func dealt(t *testing.T, peer *zmq4.Socket) { chatter(t, peer, "", "x") }

// employed is a worker that has said that it is ready, and is sent requests.
func employed(request ...any) func(t *testing.T, peer *zmq4.Socket) {
	return func(t *testing.T, peer *zmq4.Socket) {
		ready := hear(t, peer)
		chatter(t, peer, append([]any{ready[0], ""}, request...)...)
	}
}

// unanswered is a client whose request nobody answers.
func unanswered(t *testing.T, peer *zmq4.Socket) { hear(t, peer) }

func hear(t *testing.T, peer *zmq4.Socket) []string {
	t.Helper()
	message, err := peer.RecvMessage(0)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// fed is a stage of a pipeline with somebody at either end.
func fed(t *testing.T, p *program.Process) {
	found := p.Expect(`(tcp://\S+) .*(tcp://\S+)`)
	program.Chatter(t, program.Dial(t, zmq4.PUSH, found[1]), "line")
	hear(t, program.Dial(t, zmq4.PULL, found[2]))
}

// known is a server with a client whose key it knows.
func known(t *testing.T) role {
	public, secret, err := zmq4.NewCurveKeypair()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{filepath.Join(t.TempDir(), "key"), anyPort, public}
	return role{"curve", args, func(t *testing.T, p *program.Process) {
		found := p.Expect(`(tcp://\S+) with the public key (\S{40})$`)
		chatter(t, curveClient(t, public, secret, found[2], found[1]), "x")
	}}
}

func TestEveryExampleSaysWhatItLeavesOnAnImpatientSecondCtrlC(t *testing.T) {
	roles := []role{
		listening("rep", anyPort, "", "x"),
		listening("router", anyPort, "x"),
		listening("workers", anyPort, "x"),
		listening("late server", "server "+anyPort, "x"),
		listening("gateway backend", "backend "+anyPort, "", "1", "x"),
		{"pipeline", []string{anyPort, anyPort}, fed},
		broking("broker", "", "x"),
		broking("loadbalancer", "", "x"),
		broking("majordomo", "", "MDPC01", "echo", "x"),
		connecting(t, "broker worker", "worker", zmq4.DEALER, dealt),
		connecting(t, "loadbalancer worker", "worker", zmq4.ROUTER, employed("client", "", "x")),
		connecting(t, "majordomo worker", "worker", zmq4.ROUTER, employed("MDPW01", "\x02", "client", "", "x")),
		connecting(t, "majordomo client", "client", zmq4.ROUTER, unanswered),
		connecting(t, "late client", "client", zmq4.ROUTER, unanswered),
		owed(t),
	}
	if zmq4.HasCurve() {
		roles = append(roles, known(t))
	}
	tried := map[string]bool{
		"publisher":       true, // has nothing to wait for
		"curve":           !zmq4.HasCurve(),
		"rolling-restart": true, // drops everything on the first Ctrl-C
		"client":          true, // likewise: it has no Runner
	}
	for _, r := range roles {
		example, _, _ := strings.Cut(r.name, " ")
		tried[example] = true
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			p := program.Start(t, filepath.Join(bin, example), r.args...)
			r.busy(t, p)
			p.MustBeForced("interrupt", "report.forced=true")
		})
	}
	programs, err := filepath.Glob(filepath.Join(bin, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range programs {
		if name := filepath.Base(path); !tried[name] {
			t.Errorf("nobody has tried %s", name)
		}
	}
}

// owed is a gateway whose backend does not answer.
func owed(t *testing.T) role {
	peer, endpoint := program.Listen(t, zmq4.DEALER)
	return role{"gateway frontend", []string{"-timeout", "1h", "frontend", anyPort, endpoint}, func(t *testing.T, p *program.Process) {
		client := program.Dial(t, zmq4.DEALER, p.Endpoint())
		if _, err := client.SendMessage("x"); err != nil {
			t.Fatal(err)
		}
		hear(t, peer)
	}}
}
