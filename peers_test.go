package zmqgrace

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// What can go wrong with a peer and on the way to it, in every phase. The peers are processes.

// A debtor is a held Runner that owes a peer more than its pipe and two kernels take.
type debtor struct {
	*held
	peer *process
}

// owe has the front's handler answer the peer's one request with 48 MB, which the peer does not read.
func (h *held) owe(ctx context.Context, m *Message) error { return flood(ctx, m, 3000, 16<<10) }

// indebted brings a Runner into a phase, and has it owe a peer since then; in Closing since before, and in Idle as soon
// as it runs.
func indebted(t *testing.T, h *held, start func(h *held) *process) *debtor {
	t.Helper()
	d := &debtor{held: h}
	owe := func() {
		d.errands <- d.owe
		d.peer = start(d.held)
		over(t, "it owes", d.did)
	}
	switch h.phase {
	case Idle:
		d.peer = start(d.held)
		until(t, "the request is there", func() bool { return readable(d.front.raw) })
	case Closing:
		d.before = owe
		d.proceed()
	default:
		d.proceed()
		owe()
	}
	return d
}

func neverReads(h *held) *process { return startFrozenClient(h.t, h.front.Endpoint(), "a request") }

// outlives has the Runner go on after the fault, serve another client, and end in time.
func (d *debtor) outlives() (Report, error) {
	d.t.Helper()
	if d.phase == Idle {
		d.errands <- d.owe
		d.proceed()
		over(d.t, "it owes", d.did)
	}
	if d.phase != Closing {
		d.serves()
	}
	asked := time.Now()
	rep, err := d.letGo()
	took := time.Since(asked)
	d.t.Logf("Run returned after %v: %v; %v", took.Round(time.Millisecond), err, rep)
	if took > atOnce {
		d.t.Errorf("Run returned after %v", took)
	}
	return rep, err
}

func TestAPeerThatIsKilledInAnyPhaseIsUnroutableAndHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		d := indebted(t, prepareHeld(t, phase), neverReads)
		d.peer.signal(syscall.SIGKILL)
		d.peer.exit()
		rep, err := d.outlives()
		// Where the machine took a second for the kill, the rest was dropped before.
		front := rep.Sockets[0]
		if front.Unroutable+front.Dropped == 0 || front.Unsent != 0 || rep.LingerExpired {
			t.Errorf("the report is %v", rep)
		}
		if err != nil && front.Dropped == 0 {
			t.Errorf("Run returned %v", err)
		}
	}, Idle, Running, Announced, Draining, Closing)
}

func TestAPeerThatIsFrozenInAnyPhaseCostsASecondAndItsLingerAndIsReported(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		d := indebted(t, prepareHeld(t, phase), neverReads)
		d.peer.signal(syscall.SIGSTOP)
		rep, err := d.outlives()
		e := incomplete(t, err)
		if e.Leaked || len(e.Sockets) == 0 || e.Sockets[0].Name != "front" || !rep.LingerExpired {
			t.Errorf("Run returned %v, the report is %v", err, rep)
		}
	}, Idle, Running, Announced, Draining, Closing)
}

func TestAPeerThatIsSlowInAnyPhaseGetsEverything(t *testing.T) {
	t.Parallel()
	const count, size = 400, 16 << 10
	inPhases(t, func(t *testing.T, phase Phase) {
		h := prepareHeld(t, phase, WithLinger(patience/2))
		slow := dial(t, zmq4.DEALER, h.front.Endpoint(), func(s *zmq4.Socket) error { return s.SetRcvhwm(1) },
			func(s *zmq4.Socket) error { return s.SetRcvbuf(32 << 10) })
		answer := func(ctx context.Context, m *Message) error { return flood(ctx, m, count, size) }
		asks := func() {
			h.errands <- answer
			tell(t, slow, "a request")
			if phase != Idle {
				over(t, "it has answered", h.did)
			}
		}
		if phase == Closing {
			h.before = asks
			h.proceed()
		} else {
			if phase != Idle {
				h.proceed()
			}
			asks()
		}
		if phase == Idle {
			h.proceed()
			over(t, "it has answered", h.did)
		}
		got := make(chan int, 1)
		go func() {
			n := 0
			for n < count {
				if _, err := slow.RecvBytes(0); err != nil {
					break
				}
				n++
				time.Sleep(time.Millisecond) // that is what a slow peer does
			}
			got <- n
		}()
		if phase != Closing {
			h.serves()
		}
		h.letGoComplete()
		if n := next(t, "the peer has read", got); n != count {
			t.Errorf("the peer received %d of %d", n, count)
		}
	}, Idle, Running, Announced, Draining, Closing)
}

const otherNamespaceVariable = "ZMQGRACE_TEST_OTHER_NAMESPACE"

// A network that is cut says nothing: no connection ends. The servers are in one namespace, each in another phase, their
// peers in another one; then the cable between them is pulled.
func TestANetworkThatIsCutInAnyPhaseCostsASecondAndTheLingerAndIsReported(t *testing.T) {
	if os.Getenv(aloneVariable) == "" {
		one, two, _ := namespaces(t)
		ip, err := exec.LookPath("ip")
		must(t, err)
		alone(t, ip, "netns", "exec", one, "env", otherNamespaceVariable+"="+two)
		return
	}
	var debtors []*debtor
	for _, phase := range []Phase{Idle, Running, Announced, Draining, Closing} {
		debtors = append(debtors, indebted(t, inReach(t, phase), fromAfar))
	}
	little := inReach(t, Running)
	little.proceed()
	little.errands <- func(_ context.Context, m *Message) error { return m.Reply() }
	fromAfar(little)
	over(t, "it has answered", little.did)

	if out, err := exec.Command("ip", "link", "set", "veth0", "down").CombinedOutput(); err != nil {
		t.Fatalf("pull the cable: %v: %s", err, out)
	}
	for _, d := range debtors {
		t.Run(d.phase.String(), func(t *testing.T) {
			t.Parallel()
			d.t = t
			rep, err := d.outlives()
			if e := incomplete(t, err); e.Leaked || len(e.Sockets) == 0 || e.Sockets[0].Name != "front" || !rep.LingerExpired {
				t.Errorf("Run returned %v, the report is %v", err, rep)
			}
		})
	}
	// What the kernel has taken is beyond anybody's knowledge.
	t.Run("with no more than the kernel takes", func(t *testing.T) {
		t.Parallel()
		little.t = t
		little.letGoComplete()
	})
}

// inReach is prepareHeld for peers in the other namespace.
func inReach(t *testing.T, phase Phase) *held {
	t.Helper()
	h := prepareHeld(t, phase)
	must(t, h.front.Bind("tcp://192.0.2.1:*"))
	return h
}

// fromAfar is neverReads in the other namespace.
func fromAfar(h *held) *process {
	return startChild(h.t, "in a namespace",
		"ZMQGRACE_TEST_NAMESPACE="+os.Getenv(otherNamespaceVariable), "ZMQGRACE_TEST_PROGRAM=frozen client",
		"ZMQGRACE_TEST_ENDPOINT="+h.front.Endpoint(), "ZMQGRACE_TEST_REQUEST=a request")
}
