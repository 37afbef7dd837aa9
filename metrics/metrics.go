// Package metrics has Prometheus watch a [zmqgrace.Runner]. It is a module of its own, so that the library itself
// needs no Prometheus.
//
//	collector := metrics.New(runner)
//	prometheus.MustRegister(collector)
//	err = runner.Run(ctx, collector.Time(handle))
//
// What it collects:
//
//	zmqgrace_messages_received_total{socket,type}           messages taken from the socket
//	zmqgrace_messages_total{socket,type,outcome}            handled, failed, rejected (by Late), abandoned
//	zmqgrace_messages_drained_total{socket,type}            of the handled, those after the end was asked for
//	zmqgrace_messages_in_flight{socket,type}                whose handler, or deferred reply, is to come
//	zmqgrace_messages_sent_total{socket,type,outcome}       sent, unroutable, dropped, unsent
//	zmqgrace_queue_length{socket,type}                      replies and sends that libzmq has not taken yet
//	zmqgrace_phase{phase}                                   1 for the phase that the Runner is in, 0 for the others
//	zmqgrace_phase_duration_seconds{phase}                  how long each phase lasted; the current one so far
//	zmqgrace_handler_duration_seconds{socket}               histogram, of handlers wrapped by Time
//
// A scrape takes one snapshot of the Runner's report; it never touches the sockets, and the loop does not notice it.
package metrics

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/zmqgrace/zmqgrace"
)

// A Collector is a [prometheus.Collector] over one Runner. With several Runners in one process, register each
// collector through [prometheus.WrapRegistererWith] and a label of its own.
type Collector struct {
	runner  *zmqgrace.Runner
	latency *prometheus.HistogramVec
}

// An Option changes what a Collector does.
type Option func(*prometheus.HistogramOpts)

// WithBuckets sets the upper bounds of the handler histogram's buckets, in seconds. The default is
// [prometheus.DefBuckets], 5 ms to 10 s: give it smaller ones where handlers take microseconds.
func WithBuckets(buckets ...float64) Option {
	return func(o *prometheus.HistogramOpts) { o.Buckets = buckets }
}

// New makes a Collector over r.
func New(r *zmqgrace.Runner, opts ...Option) *Collector {
	histogram := prometheus.HistogramOpts{
		Name: "zmqgrace_handler_duration_seconds",
		Help: "How long handlers took, by the socket where the message arrived.",
	}
	for _, opt := range opts {
		opt(&histogram)
	}
	return &Collector{runner: r, latency: prometheus.NewHistogramVec(histogram, []string{"socket"})}
}

// Time returns h with its time measured: from its call until it returns, also by a panic. The time that a deferred
// reply takes after that is not in it.
func (c *Collector) Time(h zmqgrace.Handler) zmqgrace.Handler {
	return func(ctx context.Context, m *zmqgrace.Message) error {
		start := time.Now()
		defer func() {
			if m.Socket != nil { // a test made the message
				c.latency.WithLabelValues(label(m.Socket.Name())).Observe(time.Since(start).Seconds())
			}
		}()
		return h(ctx, m)
	}
}

var (
	perSocket = []string{"socket", "type"}
	byOutcome = []string{"socket", "type", "outcome"}

	received = describe("messages_received_total", "Messages taken from the socket.", perSocket)
	messages = describe("messages_total", "Messages by what became of them.", byOutcome)
	drained  = describe("messages_drained_total", "Messages handled after the end was asked for.", perSocket)
	inFlight = describe("messages_in_flight", "Messages whose handler, or deferred reply, is to come.", perSocket)
	sent     = describe("messages_sent_total", "Replies and sends by what became of them.", byOutcome)
	queue    = describe("queue_length", "Replies and sends that libzmq has not taken yet.", perSocket)
	phase    = describe("phase", "1 for the phase that the Runner is in, 0 for the others.", []string{"phase"})
	duration = describe("phase_duration_seconds", "How long the phase lasted, the current one so far.", []string{"phase"})
)

func describe(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc("zmqgrace_"+name, help, labels, nil)
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{received, messages, drained, inFlight, sent, queue, phase, duration} {
		ch <- d
	}
	c.latency.Describe(ch)
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	report := c.runner.Report()
	for _, s := range bySocket(report.Sockets) {
		s.collect(ch)
	}
	collectPhases(ch, report)
	c.latency.Collect(ch)
}

// totals are the counts of all sockets of one name and type: two may have the same name, and a scrape with the same
// series twice is refused as a whole.
type totals struct {
	name, kind string
	counts     zmqgrace.SocketReport
}

// bySocket adds up the counts by name and type, in order of creation. Sockets that are closed stay in the report, so
// that the counters never fall.
func bySocket(sockets []zmqgrace.SocketReport) []*totals {
	type key struct{ name, kind string }
	index := make(map[key]*totals)
	var all []*totals
	for _, s := range sockets {
		k := key{label(s.Name), s.Type.String()}
		t := index[k]
		if t == nil {
			t = &totals{name: k.name, kind: k.kind}
			index[k] = t
			all = append(all, t)
		}
		t.add(s)
	}
	return all
}

func (t *totals) add(s zmqgrace.SocketReport) {
	c := &t.counts
	c.Received += s.Received
	c.Handled += s.Handled
	c.Failed += s.Failed
	c.Rejected += s.Rejected
	c.InFlight += s.InFlight
	c.Abandoned += s.Abandoned
	c.Drained += s.Drained
	c.Sent += s.Sent
	c.Queued += s.Queued
	c.Unroutable += s.Unroutable
	c.Dropped += s.Dropped
	c.Unsent += s.Unsent
}

func (t *totals) collect(ch chan<- prometheus.Metric) {
	emit := func(d *prometheus.Desc, kind prometheus.ValueType, n int, outcome ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(n), append([]string{t.name, t.kind}, outcome...)...)
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	emit(received, counter, t.counts.Received)
	emit(messages, counter, t.counts.Handled, "handled")
	emit(messages, counter, t.counts.Failed, "failed")
	emit(messages, counter, t.counts.Rejected, "rejected")
	emit(messages, counter, t.counts.Abandoned, "abandoned")
	emit(drained, counter, t.counts.Drained)
	emit(inFlight, gauge, t.counts.InFlight)
	emit(sent, counter, t.counts.Sent, "sent")
	emit(sent, counter, t.counts.Unroutable, "unroutable")
	emit(sent, counter, t.counts.Dropped, "dropped")
	emit(sent, counter, t.counts.Unsent, "unsent")
	emit(queue, gauge, t.counts.Queued)
}

func collectPhases(ch chan<- prometheus.Metric, report zmqgrace.Report) {
	for p := zmqgrace.Idle; p <= zmqgrace.Done; p++ {
		is := 0.0
		if p == report.Phase {
			is = 1
		}
		ch <- prometheus.MustNewConstMetric(phase, prometheus.GaugeValue, is, p.String())
	}
	for _, p := range report.Phases {
		ch <- prometheus.MustNewConstMetric(duration, prometheus.GaugeValue, p.Duration.Seconds(), p.Phase.String())
	}
}

// label makes a socket's name, which may be any string, what Prometheus takes.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }
