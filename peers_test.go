package zmqgrace

import (
	"context"
	"errors"
	"fmt"
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
	peer  *process
	clock stallWatch
	since time.Time // it owes
}

const debt = 3000 // messages

// owe has the front's handler answer the peer's one request with 48 MB, which the peer does not read unless it is ordered to. Nothing
// is sent before the handler returns.
func (d *debtor) owe(ctx context.Context, m *Message) error {
	defer func() {
		d.since = time.Now()
		d.clock.restart()
	}()
	return flood(ctx, m, debt, 16<<10)
}

// indebted brings a Runner into a phase, and has it owe a peer since then; in Closing since before, and in Idle as soon
// as it runs.
func indebted(t *testing.T, h *held, start func(h *held) *process) *debtor {
	t.Helper()
	d := &debtor{held: h}
	go d.clock.watch(t.Context().Done())
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

func reluctant(h *held) *process { return startFrozenClient(h.t, h.front.Endpoint(), "a request") }

// late reports whether that is more than so much, on a machine that does not stand still.
func (d *debtor) late(took, most time.Duration) bool { return took > most+2*d.clock.longest() }

// outlives has the Runner go on after the fault, serve another client, and end in time.
func (d *debtor) outlives(most time.Duration) (Report, error) {
	d.t.Helper()
	if d.phase == Idle {
		d.errands <- d.owe
		d.proceed()
		over(d.t, "it owes", d.did)
	}
	if d.phase != Closing {
		d.servesMeanwhile()
		d.serves()
	}
	asked := time.Now()
	rep, err := d.letGo()
	took := time.Since(asked)
	d.t.Logf("Run returned after %v: %v; %v", took.Round(time.Millisecond), err, rep)
	if d.late(took, most) {
		d.t.Errorf("Run returned after %v, the machine stood still for %v", took, d.clock.longest())
	}
	front := rep.Sockets[0]
	if sum := front.Sent + front.Unroutable + front.Dropped + front.Unsent; sum != debt+d.answers {
		d.t.Errorf("it owed %d and gave %d other answers, the report is %v", debt, d.answers, rep)
	}
	return rep, err
}

// servesMeanwhile fails the test if the peer is waited for longer than it may, or holds up the others: if nobody else is answered
// meanwhile.
func (d *debtor) servesMeanwhile() {
	d.t.Helper()
	if !d.isWaitedFor() { // as where others are prepared meanwhile, or it was killed
		return
	}
	before, answered := time.Since(d.since), 0
	for d.isWaitedFor() {
		d.serves()
		if d.isWaitedFor() {
			answered++
		}
	}
	waited, c := time.Since(d.since), d.front.report()
	if c.Dropped > 0 && answered == 0 && max(before, d.clock.longest()) < peerPatience/4 {
		d.t.Errorf("nobody was answered while the peer was waited for, from %v to %v: %+v", before, waited, c)
	}
	if d.late(waited, 2*peerPatience) || c.Dropped > 0 && waited < peerPatience {
		d.t.Errorf("the peer was waited for for %v", waited)
	}
}

// isWaitedFor reports whether what the peer is owed is held for it.
func (d *debtor) isWaitedFor() bool {
	c := d.front.report()
	return c.Queued > 0 && c.Dropped == 0
}

func TestAPeerThatIsKilledInAnyPhaseIsUnroutableAndHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		d := indebted(t, prepareHeld(t, phase), reluctant)
		d.peer.signal(syscall.SIGKILL)
		d.peer.exit()
		inTime := phase == Idle || time.Since(d.since) < peerPatience/2
		rep, err := d.outlives(heldLinger * 3 / 4)
		front := rep.Sockets[0]
		switch {
		case !inTime || d.clock.longest() > peerPatience/4:
			t.Log("the machine took so long for the kill that the peer may have been given up before")
		case err != nil || front.Unroutable == 0 || front.Dropped != 0:
			t.Errorf("Run returned %v, the report is %v", err, rep)
		}
		if front.Unroutable+front.Dropped == 0 || front.Unsent != 0 || rep.LingerExpired {
			t.Errorf("the report is %v", rep)
		}
	}, Idle, Running, Announced, Draining, Closing)
}

func TestAPeerThatIsFrozenInAnyPhaseCostsASecondAndItsLingerAndIsReported(t *testing.T) {
	t.Parallel()
	inPhases(t, func(t *testing.T, phase Phase) {
		d := indebted(t, prepareHeld(t, phase), reluctant)
		d.peer.signal(syscall.SIGSTOP)
		d.peer.order("read") // which shows that it is frozen: otherwise it would
		rep, err := d.outlives(costOfSilence(phase))
		droppedAndLingered(t, rep, err)
	}, Idle, Running, Announced, Draining, Closing)
}

// costOfSilence is what a peer costs the end that takes nothing: where it was not given up before, a second, and the linger.
func costOfSilence(phase Phase) time.Duration {
	linger := heldLinger
	if phase == Closing {
		linger = heldFlush
	}
	return linger + 2*peerPatience
}

// droppedAndLingered holds an end to what a peer costs that took nothing any more.
func droppedAndLingered(t *testing.T, rep Report, err error) {
	t.Helper()
	e := incomplete(t, err)
	if e.Leaked || len(e.Sockets) == 0 || e.Sockets[0].Name != "front" || !rep.LingerExpired {
		t.Errorf("Run returned %v, the report is %v", err, rep)
	}
	if front := rep.Sockets[0]; front.Dropped == 0 || front.Unroutable != 0 {
		t.Errorf("the report is %v", rep)
	}
}

func TestAPeerThatIsSlowInAnyPhaseGetsEverything(t *testing.T) {
	t.Parallel()
	const count, size = 1500, 16 << 10
	inPhases(t, func(t *testing.T, phase Phase) {
		h := prepareHeld(t, phase, WithLinger(patience/2))
		// libzmq tells what it takes in steps of half the mark.
		must(t, errors.Join(h.front.Raw().SetSndhwm(6), h.front.Bind("tcp://127.0.0.1:*")))
		slow := dial(t, zmq4.DEALER, h.front.Endpoint(), func(s *zmq4.Socket) error {
			return errors.Join(s.SetRcvhwm(1), s.SetRcvbuf(32<<10), s.SetRcvtimeo(patience/4))
		})
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
	var asked *Message
	little.errands <- func(_ context.Context, m *Message) error { asked = m; return ErrDeferred }
	far := fromAfar(little)
	over(t, "it is asked", little.did)

	if out, err := exec.Command("ip", "link", "set", "veth0", "down").CombinedOutput(); err != nil {
		t.Fatalf("pull the cable: %v: %s", err, out)
	}
	for _, d := range debtors {
		t.Run(d.phase.String(), func(t *testing.T) {
			t.Parallel()
			d.t, d.peer.t = t, t
			d.peer.order("read")
			rep, err := d.outlives(costOfSilence(d.phase))
			droppedAndLingered(t, rep, err)
			if sent, read := rep.Sockets[0].Sent, hasRead(d.peer); read >= sent {
				t.Errorf("the peer has read %d, the report is %v", read, rep)
			}
		})
	}
	// What the kernel has taken is beyond anybody's knowledge.
	t.Run("with no more than the kernel takes", func(t *testing.T) {
		t.Parallel()
		little.t, far.t = t, t
		far.order("read")
		must(t, asked.Reply())
		if rep := little.letGoComplete(); rep.Sockets[0].Sent != 1 || rep.Sockets[0].Handled != 1 {
			t.Errorf("the report is %v", rep)
		}
		if read := hasRead(far); read != 0 {
			t.Errorf("the peer has read %d", read)
		}
	})
}

// hasRead is what a peer has read since it was ordered to.
func hasRead(peer *process) (n int) {
	peer.t.Helper()
	peer.order("enough")
	_, err := fmt.Sscan(peer.expect("read"), &n)
	must(peer.t, err)
	return n
}

// inReach is prepareHeld for peers in the other namespace.
func inReach(t *testing.T, phase Phase) *held {
	t.Helper()
	h := prepareHeld(t, phase)
	must(t, h.front.Bind("tcp://192.0.2.1:*"))
	return h
}

// fromAfar is reluctant in the other namespace.
func fromAfar(h *held) *process {
	return startChild(h.t, "in a namespace",
		"ZMQGRACE_TEST_NAMESPACE="+os.Getenv(otherNamespaceVariable), "ZMQGRACE_TEST_PROGRAM=frozen client",
		"ZMQGRACE_TEST_ENDPOINT="+h.front.Endpoint(), "ZMQGRACE_TEST_REQUEST=a request")
}
