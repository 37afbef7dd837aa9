package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/zmqgrace/zmqgrace"
)

const (
	// extendEvery is how often a drain asks for more time, and extension how much it asks for: a server whose loop is
	// stuck gets no more, and is killed when that is over.
	extendEvery = time.Second
	extension   = 5 * time.Second

	// closingTime is what Closing takes at the longest: the linger, and a little. No timer fires in it.
	closingTime = zmqgrace.DefaultLinger + extension
)

// tellPhase is the phase hook.
func tellPhase(p zmqgrace.Phase) {
	status := "STATUS=" + p.String()
	switch p {
	case zmqgrace.Running: // all sockets are bound, and signals are heard
		notify(daemon.SdNotifyReady, status)
	case zmqgrace.Announced:
		notify(daemon.SdNotifyStopping, status)
	case zmqgrace.Closing: // also where a second signal leads here straight from Running
		notify(daemon.SdNotifyStopping, status, extend(closingTime))
	default:
		notify(status)
	}
}

// keepTelling has the loop tell that it is alive, so that a stuck handler is seen: it feeds the watchdog while it serves,
// and asks for more time while it drains.
func keepTelling(r *zmqgrace.Runner) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return err
	}
	if interval > 0 {
		r.Every(interval/2, func(context.Context) error {
			notify(daemon.SdNotifyWatchdog)
			return nil
		})
	}
	r.Every(extendEvery, func(context.Context) error {
		if r.Phase() != zmqgrace.Running {
			report := r.Report()
			notify(extend(extension), fmt.Sprintf("STATUS=%v: %s", report.Phase, progress(report)))
		}
		return nil
	})
	return nil
}

func progress(report zmqgrace.Report) string {
	drained, inFlight, queued := 0, 0, 0
	for _, s := range report.Sockets {
		drained += s.Drained
		inFlight += s.InFlight
		queued += s.Queued
	}
	return fmt.Sprintf("%d drained, %d in flight, %d to send", drained, inFlight, queued)
}

func extend(by time.Duration) string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", by.Microseconds()) }

// notify does nothing where systemd is not the one who started us (there is no NOTIFY_SOCKET).
func notify(state ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(state, "\n")); err != nil {
		slog.Warn("systemd was not told", "error", err)
	}
}
