package metrics_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/zmqgrace/zmqgrace"
	"github.com/zmqgrace/zmqgrace/metrics"
)

const patience = 20 * time.Second

// A server is a Runner whose metrics are served over HTTP, as a service would.
type server struct {
	t         *testing.T
	runner    *zmqgrace.Runner
	collector *metrics.Collector
	http      *httptest.Server
	result    chan error
}

func newServer(t *testing.T, opts ...zmqgrace.Option) *server {
	t.Helper()
	opts = append([]zmqgrace.Option{
		zmqgrace.WithSignals(),
		zmqgrace.WithDrainQuiet(20 * time.Millisecond),
		zmqgrace.WithLogger(slog.New(slog.DiscardHandler)),
	}, opts...)
	r, err := zmqgrace.New(opts...)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	s := &server{t: t, runner: r, collector: metrics.New(r, metrics.WithBuckets(0.001, 1, 100)), result: make(chan error, 1)}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.collector)
	s.http = httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(s.http.Close)
	return s
}

func (s *server) bind(typ zmq4.Type, opts ...zmqgrace.SocketOption) *zmqgrace.Socket {
	s.t.Helper()
	socket, err := s.runner.NewSocket(typ, opts...)
	must(s.t, err)
	must(s.t, socket.Bind("tcp://127.0.0.1:*"))
	return socket
}

func (s *server) run(h zmqgrace.Handler) {
	go func() { s.result <- s.runner.Run(context.Background(), h) }()
}

// end asks for the graceful end and waits for it.
func (s *server) end() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(s.t, s.runner.Shutdown(ctx))
	must(s.t, <-s.result)
}

// A scrape is what one GET of /metrics said.
type scrape map[string]*dto.MetricFamily

func (s *server) scrape() scrape {
	s.t.Helper()
	response, err := http.Get(s.http.URL)
	must(s.t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		s.t.Fatalf("the scrape failed: %s", response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	must(s.t, err)
	return families
}

// value is that of the only series of a family with these labels ("socket", "rep-1", ..); -1 if there is none.
func (s scrape) value(name string, labels ...string) float64 {
	m := s.find(name, labels)
	switch {
	case m == nil:
		return -1
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return m.Gauge.GetValue()
}

func (s scrape) find(name string, labels []string) *dto.Metric {
	for _, m := range s[name].GetMetric() {
		has := make(map[string]string)
		for _, pair := range m.Label {
			has[pair.GetName()] = pair.GetValue()
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && has[labels[i]] == labels[i+1]
		}
		if matches {
			return m
		}
	}
	return nil
}

// until scrapes until a series has the value.
func (s *server) until(want float64, name string, labels ...string) scrape {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		got := s.scrape()
		if got.value(name, labels...) == want {
			return got
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s%v is %v, want %v", name, labels, got.value(name, labels...), want)
		}
	}
}

func (s scrape) check(t *testing.T, want float64, name string, labels ...string) {
	t.Helper()
	if got := s.value(name, labels...); got != want {
		t.Errorf("%s%v is %v, want %v", name, labels, got, want)
	}
}

// dial makes a client in a context of its own.
func dial(t *testing.T, typ zmq4.Type, endpoint string) *zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	must(t, err)
	client, err := ctx.NewSocket(typ)
	must(t, err)
	t.Cleanup(func() { client.SetLinger(0); client.Close(); ctx.Term() })
	must(t, errors.Join(client.SetRcvtimeo(patience), client.SetSndtimeo(patience), client.Connect(endpoint)))
	return client
}

func ask(t *testing.T, client *zmq4.Socket, request string) string {
	t.Helper()
	_, err := client.Send(request, 0)
	must(t, err)
	answer, err := client.Recv(0)
	must(t, err)
	return answer
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer replies, and fails where it is asked to.
func answer(_ context.Context, m *zmqgrace.Message) error {
	err := m.Reply(m.Frames...)
	if string(m.Frames[0]) == "fail" {
		return errors.New("as asked")
	}
	return err
}

func TestAScrapeCountsMessagesBySocketAndOutcome(t *testing.T) {
	s := newServer(t)
	rep, router := s.bind(zmq4.REP, zmqgrace.WithName("orders")), s.bind(zmq4.ROUTER)
	s.run(s.collector.Time(answer))
	client := dial(t, zmq4.REQ, rep.Endpoint())
	for _, request := range []string{"a", "fail", "b"} {
		ask(t, client, request)
	}
	ask(t, dial(t, zmq4.REQ, router.Endpoint()), "c")

	// The reply is out before the handler's account is closed.
	s.until(1, "zmqgrace_messages_total", "socket", "router-1", "outcome", "handled")
	got := s.until(2, "zmqgrace_messages_total", "socket", "orders", "type", "REP", "outcome", "handled")
	got.check(t, 1, "zmqgrace_messages_total", "socket", "orders", "outcome", "failed")
	got.check(t, 3, "zmqgrace_messages_received_total", "socket", "orders")
	got.check(t, 3, "zmqgrace_messages_sent_total", "socket", "orders", "outcome", "sent")
	got.check(t, 0, "zmqgrace_messages_in_flight", "socket", "orders")
	got.check(t, 0, "zmqgrace_queue_length", "socket", "orders")
	got.check(t, 3, "zmqgrace_handler_duration_seconds", "socket", "orders")
	got.check(t, 1, "zmqgrace_handler_duration_seconds", "socket", "router-1")
	got.check(t, 1, "zmqgrace_phase", "phase", "Running")

	s.end()
	got = s.scrape()
	got.check(t, 1, "zmqgrace_phase", "phase", "Done")
	got.check(t, 0, "zmqgrace_phase", "phase", "Running")
	got.check(t, 3, "zmqgrace_messages_received_total", "socket", "orders")
	for _, phase := range []string{"Running", "Announced", "Draining", "Closing"} {
		if got.value("zmqgrace_phase_duration_seconds", "phase", phase) <= 0 {
			t.Errorf("the scrape does not say how long %s lasted", phase)
		}
	}
}

func TestAScrapeShowsWhatIsInFlightAndHowTheDrainGoes(t *testing.T) {
	s := newServer(t, zmqgrace.WithWorkers(2))
	rep := s.bind(zmq4.REP)
	entered, release := make(chan bool), make(chan bool)
	s.run(s.collector.Time(func(ctx context.Context, m *zmqgrace.Message) error {
		entered <- true
		<-release
		return m.Reply(nil)
	}))
	client := dial(t, zmq4.REQ, rep.Endpoint())
	_, err := client.Send("wait", 0)
	must(t, err)
	<-entered
	s.scrape().check(t, 1, "zmqgrace_messages_in_flight", "socket", "rep-1")

	ended := make(chan error)
	go func() { ended <- s.runner.Shutdown(context.Background()) }()
	s.until(1, "zmqgrace_phase", "phase", "Draining").check(t, 1, "zmqgrace_messages_in_flight", "socket", "rep-1")
	close(release)
	must(t, <-ended)
	got := s.scrape()
	got.check(t, 1, "zmqgrace_messages_drained_total", "socket", "rep-1")
	got.check(t, 0, "zmqgrace_messages_in_flight", "socket", "rep-1")
}

func TestAScrapeShowsTheQueueOfASocketWithoutPeer(t *testing.T) {
	s := newServer(t, zmqgrace.WithLinger(0), zmqgrace.WithDrainQuiet(0), zmqgrace.WithDrainLimit(0))
	push := s.bind(zmq4.PUSH)
	for range 5 {
		must(t, push.Send(context.Background(), []byte("job")))
	}
	s.scrape().check(t, 5, "zmqgrace_queue_length", "socket", "push-1")
	s.run(nil)
	s.until(1, "zmqgrace_phase", "phase", "Running").check(t, 5, "zmqgrace_queue_length", "socket", "push-1")
	s.end()
	got := s.scrape()
	got.check(t, 0, "zmqgrace_queue_length", "socket", "push-1")
	got.check(t, 5, "zmqgrace_messages_sent_total", "socket", "push-1", "outcome", "unsent")
}

func TestAHandlerThatIsMeasuredTakesAMessageThatATestMade(t *testing.T) {
	s := newServer(t)
	handled := false
	err := s.collector.Time(func(context.Context, *zmqgrace.Message) error { handled = true; return nil })(t.Context(), &zmqgrace.Message{})
	if err != nil || !handled {
		t.Errorf("handled %v, %v", handled, err)
	}
}

func TestTheHistogramMeasuresTheHandler(t *testing.T) {
	s := newServer(t)
	rep := s.bind(zmq4.REP)
	s.run(s.collector.Time(func(ctx context.Context, m *zmqgrace.Message) error {
		time.Sleep(2 * time.Millisecond) // the work that is measured
		return m.Reply(nil)
	}))
	ask(t, dial(t, zmq4.REQ, rep.Endpoint()), "work")
	got := s.until(1, "zmqgrace_handler_duration_seconds", "socket", "rep-1")
	h := got.find("zmqgrace_handler_duration_seconds", []string{"socket", "rep-1"}).Histogram
	if h.GetSampleSum() < 0.002 || h.GetSampleSum() > patience.Seconds() || h.Bucket[0].GetCumulativeCount() != 0 {
		t.Errorf("a handler of 2 ms was measured as %v", h)
	}
	s.end()
}

func TestSocketsOfOneNameAreOneSeries(t *testing.T) {
	s := newServer(t)
	twins := []*zmqgrace.Socket{s.bind(zmq4.REP, zmqgrace.WithName("twin")), s.bind(zmq4.REP, zmqgrace.WithName("twin"))}
	odd := s.bind(zmq4.REP, zmqgrace.WithName("not \xff UTF-8"))
	s.run(s.collector.Time(answer))
	for _, socket := range append(twins, odd) {
		ask(t, dial(t, zmq4.REQ, socket.Endpoint()), "a")
	}
	got := s.until(2, "zmqgrace_messages_total", "socket", "twin", "outcome", "handled")
	got.check(t, 1, "zmqgrace_messages_received_total", "socket", "not \uFFFD UTF-8")
	s.end()
}

func TestSeveralRunnersAreToldApartByALabel(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"front", "back"} {
		r, err := zmqgrace.New(zmqgrace.WithSignals(), zmqgrace.WithLogger(slog.New(slog.DiscardHandler)))
		must(t, err)
		defer r.Close()
		prometheus.WrapRegistererWith(prometheus.Labels{"runner": name}, registry).MustRegister(metrics.New(r))
	}
	n, err := testutil.GatherAndCount(registry, "zmqgrace_phase")
	must(t, err)
	if phases := int(zmqgrace.Done) + 1; n != 2*phases {
		t.Errorf("%d series say the phase of two Runners, want %d", n, 2*phases)
	}
}

func TestTheSeriesAreTheDocumentedOnesAndFollowConventions(t *testing.T) {
	s := newServer(t)
	rep := s.bind(zmq4.REP)
	s.run(s.collector.Time(answer))
	ask(t, dial(t, zmq4.REQ, rep.Endpoint()), "a")
	got := s.until(1, "zmqgrace_handler_duration_seconds", "socket", "rep-1")
	if documented := documentedSeries(t); !maps.Equal(got.series(), documented) {
		t.Errorf("a scrape has %v, docs/metrics.md says %v", got.series(), documented)
	}
	problems, err := testutil.CollectAndLint(s.collector)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	s.end()
}

// series are the families by name, each with its type and labels.
func (s scrape) series() map[string]string {
	all := make(map[string]string)
	for name, family := range s {
		text := strings.ToLower(family.GetType().String())
		var labels []string
		for _, pair := range family.Metric[0].Label {
			labels = append(labels, pair.GetName())
		}
		slices.Sort(labels)
		all[name] = text + " " + strings.Join(labels, " ")
	}
	return all
}

// documentedSeries are the rows of the table in docs/metrics.md.
func documentedSeries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	must(t, err)
	all := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(zmqgrace_\\w+)` \\| (\\w+) \\| ([^|]+) \\|").FindAllStringSubmatch(string(text), -1) {
		labels := strings.Fields(strings.ReplaceAll(row[3], "`", ""))
		slices.Sort(labels)
		all[row[1]] = row[2] + " " + strings.Join(labels, " ")
	}
	return all
}
