package zmqgrace

import (
	"cmp"
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The table of phase.go, walked row by row on a clock that is not real.

// A walk is one row of the table.
type walk struct {
	from, event string
	engine      *fakeEngine
	reach       func(w *walker) // brings a Runner from Idle to where the row begins
	happen      func(w *walker) // the event
	path        []Phase         // that the Runner has entered by then
	check       promise         // what the row promises besides, when all is over
}

type promise func(w *walker, err error) // err is what Run returned, or the end where it did not run

const (
	walkDelay = 2 * time.Second
	walkGrace = 20 * time.Second
)

// walker is a Runner that walks.
type walker struct {
	*staged
	walk   *walk
	cancel context.CancelCauseFunc // of Run's context
	ran    bool
	seen   []Phase // by the phase hook
}

func newWalker(t *testing.T, row *walk) *walker {
	w := &walker{walk: row}
	w.staged = newStaged(t, cmp.Or(row.engine, &fakeEngine{}), WithReadyDelay(walkDelay), WithGrace(walkGrace),
		WithPhaseHook(func(p Phase) { w.seen = append(w.seen, p) }))
	return w
}

func (w *walker) expect(p Phase) {
	w.t.Helper()
	synctest.Wait()
	if got := w.Phase(); got != p {
		w.t.Fatalf("the phase is %v, not %v", got, p)
	}
}

// What walkers do.

func stays(*walker) {}

func runs(w *walker) {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	w.cancel, w.ran = cancel, true
	w.run(ctx)
}

func hears(w *walker) { w.signals <- syscall.SIGTERM }

func shutsDown(w *walker) { go w.Shutdown(w.t.Context()) }

func closes(w *walker) { must(w.t, w.Close()) }

func waits(d time.Duration) func(*walker) { return func(*walker) { time.Sleep(d) } }

func isAnnounced(w *walker) {
	runs(w)
	hears(w)
	w.expect(Announced)
}

func drains(w *walker) {
	isAnnounced(w)
	time.Sleep(walkDelay)
	w.expect(Draining)
}

func isClosing(w *walker) {
	drains(w)
	time.Sleep(w.engine.drainTakes)
	w.expect(Closing)
}

func isDone(w *walker) {
	drains(w)
	time.Sleep(w.engine.drainTakes)
	w.expect(Done)
}

// What a row may promise.

func complete(w *walker, err error) {
	w.t.Helper()
	if rep := w.Report(); err != nil || rep.Forced || rep.Busy || rep.LingerExpired {
		w.t.Errorf("the end returned %v, the report is %v", err, rep)
	}
}

func completeBecauseOf(cause error) promise {
	return func(w *walker, err error) {
		w.t.Helper()
		complete(w, err)
		if got := w.Report().Cause; got != cause {
			w.t.Errorf("the cause is %v, not %v", got, cause)
		}
	}
}

// cutIn is an end that was not complete in that phase.
func cutIn(p Phase, more func(w *walker, e *ShutdownError)) promise {
	return func(w *walker, err error) {
		w.t.Helper()
		e := incomplete(w.t, err)
		if e.Phase != p || e.Err != context.DeadlineExceeded {
			w.t.Errorf("the error is %v", e)
		}
		more(w, e)
	}
}

func forcedIn(p Phase) promise {
	return func(w *walker, err error) {
		w.t.Helper()
		checkForced(w.t, w.staged, err, p)
	}
}

var errWalk = errors.New("the walk said so")

func walks() []walk {
	toAnnounced := []Phase{Running, Announced}
	toDraining := append(slices.Clone(toAnnounced), Draining)
	toClosing := append(slices.Clone(toDraining), Closing)
	toDone := append(slices.Clone(toClosing), Done)
	const second = time.Second
	return []walk{
		{from: "Idle", event: "Run", reach: stays, happen: runs, path: []Phase{Running}, check: complete},
		{from: "Idle", event: "Run is refused", reach: stays, path: nil, engine: &fakeEngine{openErr: errWalk},
			happen: func(w *walker) {
				if err := w.Run(w.t.Context(), nil); !errors.Is(err, errWalk) {
					w.t.Errorf("Run returned %v", err)
				}
				w.engine.openErr = nil // so that it can be ended
			}, check: complete},
		{from: "Idle", event: "Shutdown", reach: stays, happen: shutsDown, path: []Phase{Closing, Done}, check: completeBecauseOf(ErrShutdown)},
		{from: "Idle", event: "Close", reach: stays, happen: closes, path: []Phase{Closing, Done},
			engine: &fakeEngine{closeTakes: never}, check: forcedIn(Idle)},

		{from: "Running", event: "a signal", reach: runs, happen: hears, path: toAnnounced, check: func(w *walker, err error) {
			complete(w, err)
			var cause *SignalError
			if !errors.As(w.Report().Cause, &cause) || cause.Signal != syscall.SIGTERM {
				w.t.Errorf("the cause is %v", w.Report().Cause)
			}
		}},
		{from: "Running", event: "the end of ctx", reach: runs, happen: func(w *walker) { w.cancel(errWalk) },
			path: toAnnounced, check: completeBecauseOf(errWalk)},
		{from: "Running", event: "Shutdown", reach: runs, happen: shutsDown, path: toAnnounced, check: completeBecauseOf(ErrShutdown)},
		{from: "Running", event: "ErrStop", reach: runs, happen: func(w *walker) { w.stop(ErrStop) },
			path: toAnnounced, check: completeBecauseOf(ErrStop)},
		{from: "Running", event: "Close", reach: runs, happen: closes, path: []Phase{Running, Closing, Done}, check: forcedIn(Running)},

		{from: "Announced", event: "the ready delay is over", reach: isAnnounced, happen: waits(walkDelay), path: toDraining,
			engine: &fakeEngine{drainTakes: second}, check: func(w *walker, err error) {
				complete(w, err)
				expectOrder(w.t, w.engine, draining, walkDelay)
			}},
		{from: "Announced", event: "the loop has failed", reach: isAnnounced, path: toDone,
			happen: func(w *walker) {
				w.stop(errWalk)
				w.engine.tell(closing) // it goes on by itself
			},
			check: func(w *walker, err error) {
				if err != errWalk || !w.ended.Equal(w.began) {
					w.t.Errorf("Run returned %v after %v", err, w.ended.Sub(w.began))
				}
			}},
		{from: "Announced", event: "a second signal", reach: isAnnounced, happen: hears,
			path: []Phase{Running, Announced, Closing, Done}, check: forcedIn(Announced)},
		{from: "Announced", event: "Close", reach: isAnnounced, happen: closes,
			path: []Phase{Running, Announced, Closing, Done}, check: forcedIn(Announced)},

		{from: "Draining", event: "drained", reach: drains, happen: waits(3 * second), path: toClosing,
			engine: &fakeEngine{drainTakes: 3 * second, closeTakes: second}, check: complete},
		{from: "Draining", event: "an empty moment past the drain limit", reach: drains, happen: waits(5 * second), path: toClosing,
			engine: &fakeEngine{drainTakes: 5 * second, closeTakes: second, noQuiet: true}, check: func(w *walker, err error) {
				if err != nil || !w.Report().Busy {
					w.t.Errorf("Run returned %v, the report is %v", err, w.Report())
				}
			}},
		{from: "Draining", event: "the hard end", happen: waits(15*second - walkDelay), path: toClosing,
			reach: func(w *walker) {
				runs(w)
				w.owns(5 * second) // which is the reserve
				hears(w)
				time.Sleep(walkDelay)
				w.expect(Draining)
			},
			engine: &fakeEngine{drainTakes: never, handlers: slowHandler, closeTakes: second},
			check: cutIn(Draining, func(w *walker, e *ShutdownError) {
				expectOrder(w.t, w.engine, abandoning, 15*second)
				if len(e.Running) != 1 || context.Cause(w.base) == nil {
					w.t.Errorf("the error is %v", e)
				}
			})},
		{from: "Draining", event: "a second signal", reach: drains, happen: hears, path: toDone,
			engine: &fakeEngine{drainTakes: never}, check: forcedIn(Draining)},
		{from: "Draining", event: "Close", reach: drains, happen: closes, path: toDone,
			engine: &fakeEngine{drainTakes: never}, check: forcedIn(Draining)},

		{from: "Closing", event: "Term is back", reach: isClosing, happen: waits(2 * second), path: toDone,
			engine: &fakeEngine{drainTakes: second, closeTakes: second, termTakes: second, linger: 3 * second}, check: complete},
		{from: "Closing", event: "Term is back when the linger is over", reach: isClosing, happen: waits(4 * second), path: toDone,
			engine: &fakeEngine{drainTakes: second, closeTakes: second, termTakes: 3 * second, linger: 3 * second},
			check: cutIn(Closing, func(w *walker, e *ShutdownError) {
				if e.Leaked || !w.Report().LingerExpired {
					w.t.Errorf("the error is %v, the report is %v", e, w.Report())
				}
			})},
		{from: "Closing", event: "Term is not back a second after that", reach: isClosing, happen: waits(4*second + termSlack), path: toDone,
			engine: &fakeEngine{drainTakes: second, closeTakes: second, termTakes: never, linger: 3 * second},
			check: cutIn(Closing, func(w *walker, e *ShutdownError) {
				if !e.Leaked {
					w.t.Errorf("the error is %v", e)
				}
			})},
		{from: "Closing", event: "the loop is not back before the end", happen: waits(minReserve), path: toDone,
			reach: func(w *walker) {
				drains(w)
				time.Sleep(walkGrace - walkDelay - minReserve)
				w.expect(Closing)
			},
			engine: &fakeEngine{stuckFor: never, handlers: slowHandler},
			check: cutIn(Draining, func(w *walker, e *ShutdownError) {
				expectOrder(w.t, w.engine, orderTerm, walkGrace-minReserve/2)
				if e.Leaked || len(e.Running) != 1 || w.ended.Sub(w.began) != walkGrace {
					w.t.Errorf("after %v the error is %v", w.ended.Sub(w.began), e)
				}
			})},
		{from: "Closing", event: "a second signal", reach: isClosing, path: toDone, engine: &fakeEngine{drainTakes: second, closeTakes: never},
			happen: func(w *walker) { hears(w); time.Sleep(forcedWait) }, check: forcedIn(Closing)},
		{from: "Closing", event: "Close", reach: isClosing, path: toDone, engine: &fakeEngine{drainTakes: second, termTakes: never},
			happen: closes, check: forcedIn(Closing)},

		{from: "Done", event: "Run", reach: isDone, path: toDone, engine: &fakeEngine{drainTakes: second},
			happen: func(w *walker) {
				if err := w.Run(w.t.Context(), nil); !errors.Is(err, ErrClosed) {
					w.t.Errorf("Run returned %v", err)
				}
			}, check: complete},
		{from: "Done", event: "Shutdown", path: toDone, engine: &fakeEngine{drainTakes: second, termTakes: never},
			reach: func(w *walker) {
				isClosing(w)
				time.Sleep(termSlack)
				w.expect(Done)
			},
			happen: func(w *walker) {
				if err := w.Shutdown(w.t.Context()); err == nil || err != w.finalErr {
					w.t.Errorf("Shutdown returned %v, Run %v", err, w.finalErr)
				}
			},
			check: cutIn(Closing, func(w *walker, e *ShutdownError) {
				if !e.Leaked {
					w.t.Errorf("the error is %v", e)
				}
			})},
		{from: "Done", event: "Close", reach: isDone, happen: closes, path: toDone, engine: &fakeEngine{drainTakes: second}, check: complete},
	}
}

func TestEveryTransitionOfTheTableIsAsItSays(t *testing.T) {
	for _, row := range walks() {
		t.Run(row.from+", "+row.event, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWalker(t, &row)
				w.expect(Idle)
				row.reach(w)
				happened := time.Now()
				row.happen(w)
				synctest.Wait()
				if !slices.Equal(w.seen, row.path) {
					t.Errorf("the phases were %v, not %v", w.seen, row.path)
				}
				err := w.walkToTheEnd()
				row.check(w, err)
				if w.Report().Forced && time.Since(happened) > forcedWait {
					t.Errorf("the forced end took %v", time.Since(happened))
				}
			})
		})
	}
}

// walkToTheEnd ends the Runner, unless it is doing so, and returns what its end returned.
func (w *walker) walkToTheEnd() error {
	if p := w.Phase(); p == Idle || p == Running {
		shutsDown(w)
	}
	<-w.done
	if w.ran {
		<-w.result
	}
	return w.finalErr
}

// elsewhere are the rows that can't be walked here, since no process survives them, and the tests that do.
var elsewhere = map[string]func(*testing.T){
	"any, a panic": TestAPanicInAnyPhaseHasTheLoopFlushAndKillsTheProcess,
}

func TestTheTableHasEveryTransitionThatIsWalked(t *testing.T) {
	source, err := os.ReadFile("phase.go")
	must(t, err)
	var table []string
	for _, row := range regexp.MustCompile(`(?m)^//\t(\w+) +\| ([^|]+?) +\| `).FindAllStringSubmatch(string(source), -1) {
		if row[1] != "from" {
			table = append(table, row[1]+", "+row[2])
		}
	}
	var walked []string
	for _, row := range walks() {
		walked = append(walked, row.from+", "+row.event)
	}
	for row := range elsewhere {
		walked = append(walked, row)
	}
	slices.Sort(table)
	slices.Sort(walked)
	if !slices.Equal(table, walked) {
		t.Errorf("the table of phase.go has the rows\n%q\nwalked are\n%q", table, walked)
	}
}
