package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/zmqgrace/zmqgrace"
	"github.com/zmqgrace/zmqgrace/metrics"
)

// The paths that kubernetes.yaml probes.
const (
	readyPath = "/readyz"
	livePath  = "/livez"
)

func routes(runner *zmqgrace.Runner, collector *metrics.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)

	mux := http.NewServeMux()
	mux.HandleFunc(readyPath, ready(runner))
	mux.HandleFunc(livePath, live(runner))
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// ready says yes while the Runner is Running: from the signal on nobody new shall come.
func ready(runner *zmqgrace.Runner) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		phase := runner.Phase()
		say(w, phase == zmqgrace.Running, phase.String())
	}
}

// live says no when the loop has not beaten for too long: a handler is stuck, and nothing is served.
func live(runner *zmqgrace.Runner) http.HandlerFunc {
	var last atomic.Int64
	beat := func(context.Context) error {
		last.Store(time.Now().UnixNano())
		return nil
	}
	beat(nil)
	runner.Every(heartbeat, beat)

	return func(w http.ResponseWriter, _ *http.Request) {
		silent := time.Since(time.Unix(0, last.Load()))
		// While it closes there are no timers any more: then the grace sees to the end.
		alive := silent < *stuck || runner.Phase() >= zmqgrace.Closing
		say(w, alive, "the loop's last beat was "+silent.Round(time.Millisecond).String()+" ago")
	}
}

func say(w http.ResponseWriter, ok bool, why string) {
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	w.Write([]byte(why + "\n"))
}
