package zmqgrace

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

func TestNewNamesEveryBadOptionInOneError(t *testing.T) {
	r, err := New(
		WithContext(nil),
		WithSignals(syscall.SIGINT, os.Kill),
		WithGrace(-time.Second),
		WithReadyDelay(-1),
		nil,
		WithDrainQuiet(-2),
		WithDrainLimit(-3),
		WithLinger(-4),
		WithPollTimeout(0),
		WithWorkers(-1),
		WithLogger(nil),
		WithPhaseHook(nil),
	)
	if err == nil || r != nil {
		t.Fatalf("New returned %v, %v", r, err)
	}
	for _, want := range []string{
		"WithContext(nil)", "WithSignals(killed)", "WithGrace(-1s)", "WithReadyDelay(-1ns)", "option 5 is nil",
		"WithDrainQuiet(-2ns)", "WithDrainLimit(-3ns)", "WithLinger(-4ns)", "WithPollTimeout(0)", "WithWorkers(-1)", "WithLogger(nil)", "WithPhaseHook(nil)",
	} {
		if strings.Count(err.Error(), want) != 1 {
			t.Errorf("the error does not name %s once: %v", want, err)
		}
	}
	if !strings.HasPrefix(err.Error(), "zmqgrace: New: ") {
		t.Errorf("the error does not say where it is from: %v", err)
	}
}

func TestEachBadOptionIsRefusedOnItsOwn(t *testing.T) {
	for name, option := range map[string]Option{
		"nil option":                nil,
		"nil context":               WithContext(nil),
		"signal that is nil":        WithSignals(nil),
		"signal that can't be had":  WithSignals(syscall.SIGKILL),
		"grace of zero":             WithGrace(0),
		"negative grace":            WithGrace(-1),
		"negative ready delay":      WithReadyDelay(-1),
		"ready delay like grace":    WithReadyDelay(DefaultGrace),
		"ready delay beyond grace":  WithReadyDelay(DefaultGrace + 1),
		"grace below a ready delay": func(o *options) { WithReadyDelay(2)(o); WithGrace(1)(o) },
		"negative quiet":            WithDrainQuiet(-1),
		"negative drain limit":      WithDrainLimit(-1),
		"linger of -1 ms":           WithLinger(-time.Millisecond),
		"linger of -2 ns":           WithLinger(-2),
		"poll timeout of zero":      WithPollTimeout(0),
		"nil logger":                WithLogger(nil),
		"nil hook":                  WithPhaseHook(nil),
	} {
		if r, err := New(option); err == nil {
			t.Errorf("%s: New accepted it", name)
			r.Close()
		}
	}
}

func TestTheDefaultsAreTheExportedOnes(t *testing.T) {
	o, err := buildOptions(nil)
	must(t, err)
	for _, c := range []struct {
		name      string
		got, want time.Duration
	}{
		{"grace", o.grace, 25 * time.Second},
		{"ready delay", o.readyDelay, 0},
		{"drain quiet", o.drainQuiet, 250 * time.Millisecond},
		{"drain limit", o.drainLimit, 5 * time.Second},
		{"linger", o.linger, 5 * time.Second},
		{"poll timeout", o.pollTimeout, time.Second},
	} {
		if c.got != c.want {
			t.Errorf("the default of %s is %v, not %v", c.name, c.got, c.want)
		}
	}
	if want := []os.Signal{syscall.SIGINT, syscall.SIGTERM}; !slices.Equal(o.signals, want) {
		t.Errorf("the default signals are %v", o.signals)
	}
	if o.logger != slog.Default() || o.context != nil || o.hook != nil {
		t.Errorf("a default is not what the documentation says: %+v", o)
	}
}

func TestOptionsTakeTheValuesAtTheirLimits(t *testing.T) {
	o, err := buildOptions([]Option{
		WithSignals(), WithGrace(1), WithReadyDelay(0), WithDrainQuiet(0), WithDrainLimit(0), WithLinger(-1), WithPollTimeout(-5),
	})
	must(t, err)
	if len(o.signals) != 0 || o.grace != 1 || o.drainQuiet != 0 || o.drainLimit != 0 || o.linger != -1 || o.pollTimeout != -5 {
		t.Errorf("an option did not arrive: %+v", o)
	}
	o, err = buildOptions([]Option{
		WithGrace(math.MaxInt64), WithReadyDelay(math.MaxInt64 - 1), WithDrainQuiet(math.MaxInt64),
		WithDrainLimit(math.MaxInt64), WithLinger(0), WithPollTimeout(math.MaxInt64),
	})
	must(t, err)
	if o.linger != 0 || o.readyDelay != math.MaxInt64-1 {
		t.Errorf("an option did not arrive: %+v", o)
	}
}

func TestWithSignalsKeepsItsOwnCopy(t *testing.T) {
	signals := []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2}
	option := WithSignals(signals...)
	o, err := buildOptions([]Option{option})
	must(t, err)
	signals[0] = syscall.SIGHUP
	if want := []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2}; !slices.Equal(o.signals, want) {
		t.Errorf("the signals are %v", o.signals)
	}
}

func TestAGivenContextBecomesTheRunners(t *testing.T) {
	t.Parallel()
	ctx, err := zmq4.NewContext()
	must(t, err)
	r := newTestRunner(t, WithContext(ctx))
	if r.Context() != ctx {
		t.Fatal("the Runner made a context of its own")
	}
	s := start(t, r, nil)
	if _, err := s.end(); err != nil {
		t.Fatal(err)
	}
	if raw, err := ctx.NewSocket(zmq4.PUSH); err == nil {
		raw.Close()
		t.Error("the context was not terminated")
	}
}

func TestSocketOptionsNameEveryBadValueAndMakeNoSocket(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	s, err := r.NewSocket(zmq4.REP, WithName(""), WithSocketLinger(-2), nil, WithSocketQuiet(-1), WithGoodbye(nil), WithLate(nil))
	if err == nil || s != nil {
		t.Fatalf("NewSocket returned %v, %v", s, err)
	}
	for _, want := range []string{"new REP socket", `WithName("")`, "WithSocketLinger(-2ns)", "socket option 3 is nil", "WithSocketQuiet(-1ns)",
		"WithGoodbye(nil)", "WithLate(nil)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	if n := len(r.Report().Sockets); n != 0 {
		t.Errorf("%d sockets were made all the same", n)
	}
}

func TestSocketsTakeTheirLingerAndQuietFromTheRunnerAsTheirTypeNeeds(t *testing.T) {
	o, err := buildOptions([]Option{WithLinger(3 * time.Second), WithDrainQuiet(40 * time.Millisecond)})
	must(t, err)
	for _, typ := range allTypes {
		linger, quiet := 3*time.Second, 40*time.Millisecond
		switch typ {
		case zmq4.SUB, zmq4.XSUB:
			linger, quiet = 0, 0
		case zmq4.PUB, zmq4.XPUB:
			quiet = 0
		}
		so, err := buildSocketOptions(typ, &o, "given", nil)
		if err != nil || so.linger != linger || so.quiet != quiet || so.name != "given" {
			t.Errorf("%v: linger %v, quiet %v, name %q, %v", typ, so.linger, so.quiet, so.name, err)
		}
		so, err = buildSocketOptions(typ, &o, "given", []SocketOption{WithSocketLinger(time.Second), WithSocketQuiet(time.Minute), WithName("mine")})
		if err != nil || so.linger != time.Second || so.quiet != time.Minute || so.name != "mine" {
			t.Errorf("%v, overridden: linger %v, quiet %v, name %q, %v", typ, so.linger, so.quiet, so.name, err)
		}
		so, err = buildSocketOptions(typ, &o, "given", []SocketOption{WithSocketLinger(-1)})
		if err != nil || so.linger != -1 {
			t.Errorf("%v: linger %v, %v where -1 was asked", typ, so.linger, err)
		}
	}
}

// FuzzOptions asks that New either fails or leaves options that make a usable plan.
func FuzzOptions(f *testing.F) {
	f.Add(int64(DefaultGrace), int64(0), int64(DefaultDrainQuiet), int64(DefaultDrainLimit), int64(DefaultLinger), int64(DefaultPollTimeout))
	f.Add(int64(1), int64(0), int64(0), int64(0), int64(-1), int64(-1))
	f.Add(int64(0), int64(-1), int64(-1), int64(-1), int64(-2), int64(0))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64-1), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add(int64(math.MinInt64), int64(math.MinInt64), int64(math.MinInt64), int64(math.MinInt64), int64(math.MinInt64), int64(math.MinInt64))
	f.Add(int64(time.Second), int64(999*time.Millisecond), int64(time.Hour), int64(time.Hour), int64(time.Hour), int64(time.Nanosecond))
	f.Fuzz(func(t *testing.T, grace, readyDelay, drainQuiet, drainLimit, linger, pollTimeout int64) {
		o, err := buildOptions([]Option{
			WithGrace(time.Duration(grace)), WithReadyDelay(time.Duration(readyDelay)), WithDrainQuiet(time.Duration(drainQuiet)),
			WithDrainLimit(time.Duration(drainLimit)), WithLinger(time.Duration(linger)), WithPollTimeout(time.Duration(pollTimeout)),
		})
		good := grace > 0 && readyDelay >= 0 && readyDelay < grace && drainQuiet >= 0 && drainLimit >= 0 && linger >= -1 && pollTimeout != 0
		if good != (err == nil) {
			t.Fatalf("the values are good: %v, the error is %v", good, err)
		}
		if err != nil {
			return
		}
		for _, typ := range allTypes {
			so, err := buildSocketOptions(typ, &o, "x", nil)
			if err != nil || so.linger < -1 || so.quiet < 0 {
				t.Fatalf("%v: linger %v, quiet %v, %v", typ, so.linger, so.quiet, err)
			}
			checkPlan(t, o.grace, o.readyDelay, o.drainLimit, so.linger)
			if l := lingerWithin(so.linger, o.grace); l < 0 || l-ms >= o.grace {
				t.Fatalf("%v: linger %v of a grace of %v", typ, l, o.grace)
			}
		}
		if o.pollTimeout > 0 && wholeMillis(o.pollTimeout) < time.Millisecond {
			t.Fatalf("a poll timeout of %v is a busy loop", o.pollTimeout)
		}
	})
}

func TestARunnerWithTheTightestOptionsStillReturns(t *testing.T) {
	t.Parallel()
	hooked := make(chan Phase, len(phaseNames))
	r := newTestRunner(t, WithGrace(1), WithDrainQuiet(0), WithDrainLimit(0), WithLinger(0), WithPollTimeout(1),
		WithPhaseHook(func(p Phase) { hooked <- p }))
	s := start(t, r, nil)
	_, err := s.end()
	// A nanosecond is no time for anything: whether the end was complete is left open, but not what it says.
	var incomplete *ShutdownError
	if err != nil && !errors.As(err, &incomplete) {
		t.Errorf("Run returned %v", err)
	}
	if errors.Is(err, context.Canceled) {
		t.Errorf("the error has a cause that nobody gave: %v", err)
	}
}

// FuzzSocketOptions asks that a socket's options either are what was given, or an error names every bad one.
func FuzzSocketOptions(f *testing.F) {
	f.Add(0, "front", int64(0), int64(0))
	f.Add(1, "", int64(-1), int64(-1))
	f.Add(2, "x", int64(math.MinInt64), int64(math.MaxInt64))
	f.Add(3, "x", int64(-2), int64(1))
	f.Fuzz(func(t *testing.T, typ int, name string, linger, quiet int64) {
		o, err := buildOptions(nil)
		must(t, err)
		so, err := buildSocketOptions(allTypes[uint(typ)%uint(len(allTypes))], &o, "default",
			[]SocketOption{WithName(name), WithSocketLinger(time.Duration(linger)), WithSocketQuiet(time.Duration(quiet))})
		bad := map[string]bool{"WithName": name == "", "WithSocketLinger": linger < -1, "WithSocketQuiet": quiet < 0}
		wrong := false
		for option, is := range bad {
			wrong = wrong || is
			if named := err != nil && strings.Contains(err.Error(), option+"("); named != is {
				t.Errorf("%s is bad: %v, the error is %v", option, is, err)
			}
		}
		if wrong != (err != nil) || so.name != name || so.linger != time.Duration(linger) || so.quiet != time.Duration(quiet) {
			t.Errorf("the options are %+v, %v", so, err)
		}
	})
}
