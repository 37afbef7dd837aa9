package zmqgrace

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// A logLine is what docs/logs.md promises of a line.
type logLine struct {
	level, message string
	keys           []string
}

// documentedLines are the rows of the table in docs/logs.md.
func documentedLines(t *testing.T) map[string]logLine {
	t.Helper()
	lines := make(map[string]logLine)
	row := regexp.MustCompile("(?m)^\\| (INFO|WARN|ERROR) \\| `([^`]+)` \\|([^|]*)\\|")
	for _, found := range row.FindAllStringSubmatch(logPage(t), -1) {
		lines[found[2]] = logLine{found[1], found[2], quoted(found[3])}
	}
	return lines
}

func logPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("docs/logs.md")
	must(t, err)
	return string(text)
}

func quoted(text string) (all []string) {
	for _, found := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		all = append(all, found[1])
	}
	return all
}

// recorder is a slog.Handler that keeps the lines.
type recorder struct {
	mu    sync.Mutex
	lines []logLine
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	line := logLine{level: record.Level.String(), message: record.Message}
	record.Attrs(func(a slog.Attr) bool {
		line.keys = append(line.keys, a.Key)
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	return nil
}

// check holds what was logged to the page, and returns the messages.
func (r *recorder) check(t *testing.T) (messages []string) {
	t.Helper()
	documented := documentedLines(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, got := range r.lines {
		want, ok := documented[got.message]
		if !ok {
			t.Errorf("docs/logs.md does not have the line %q", got.message)
		} else if got.level != want.level || !slices.Equal(got.keys, want.keys) {
			t.Errorf("%q is logged at %s with the keys %q, docs/logs.md says %s and %q", got.message, got.level, got.keys, want.level, want.keys)
		}
		messages = append(messages, strings.TrimPrefix(got.message, "zmqgrace: "))
	}
	return messages
}

func newLoggedRunner(t *testing.T, opts ...Option) (*Runner, *recorder) {
	t.Helper()
	log := new(recorder)
	return newTestRunner(t, append([]Option{WithLogger(slog.New(log))}, opts...)...), log
}

func checkLogged(t *testing.T, messages []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(messages, func(m string) bool { return strings.HasPrefix(m, w) }) {
			t.Errorf("nothing was logged that begins with %q, but %q", w, messages)
		}
	}
}

func TestEachPhaseIsOneLineOfTheLog(t *testing.T) {
	r, log := newLoggedRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := run(t, r, echo)
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "a")
	_, err := s.end()
	must(t, err)
	want := []string{"Running", "Announced", "Draining", "Closing", "Done"}
	waiting := func(message string) bool { return message == "the end waits" } // on a machine that is slow today
	if got := slices.DeleteFunc(log.check(t), waiting); !slices.Equal(got, want) {
		t.Errorf("a server that was asked to end has logged %q, want %q", got, want)
	}
}

func TestWhatGoesWrongIsLoggedWithTheDocumentedKeys(t *testing.T) {
	oops := errors.New("oops")
	r, log := newLoggedRunner(t, WithDrainQuiet(time.Minute), WithDrainLimit(0))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*", WithGoodbye(func(context.Context, *Socket) error { return oops }))
	ticked := make(chan bool, 1)
	r.Every(time.Millisecond, func(context.Context) error {
		offer(ticked, true)
		return oops
	})
	s := run(t, r, func(_ context.Context, m *Message) error { return errors.Join(m.Reply(), oops) })
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "a")
	<-ticked
	_, err := s.end()
	must(t, err)
	r.Go(func(context.Context) error { return nil })
	checkLogged(t, log.check(t), "a handler failed", "a timer failed", "Goodbye failed", "no quiet came", "Go: ")
}

func TestAnEndThatTakesLongSaysWhatItWaitsFor(t *testing.T) {
	var out lockedBuffer
	r := newTestRunner(t, WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	entered, leave := make(chan bool), make(chan bool)
	s := run(t, r, func(ctx context.Context, m *Message) error {
		close(entered)
		<-leave
		return m.Reply()
	})
	_, err := dial(t, zmq4.REQ, rep.Endpoint()).Send("a", 0)
	must(t, err)
	<-entered
	go r.Shutdown(context.Background())
	line := regexp.MustCompile(`msg="zmqgrace: the end waits" for="1 in flight on socket \\"rep-1\\"; a handler of socket \\"rep-1\\", for \S+" at_most=\S+ forced_by=`)
	for deadline := time.Now().Add(20 * time.Second); !line.MatchString(out.String()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing says what the end waits for:\n%s", out.String())
		}
	}
	close(leave)
	_, err = s.end()
	must(t, err)
}

func TestAnIncompleteEndIsLoggedWithItsError(t *testing.T) {
	r, log := newLoggedRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	entered := make(chan bool)
	s := run(t, r, func(ctx context.Context, m *Message) error {
		close(entered)
		<-ctx.Done()
		return nil
	})
	client := dial(t, zmq4.REQ, rep.Endpoint())
	_, err := client.Send("a", 0)
	must(t, err)
	<-entered
	must(t, r.Close())
	if _, err := s.returned(); !errors.Is(err, ErrForced) {
		t.Errorf("Run returned %v", err)
	}
	checkLogged(t, log.check(t), "the end was not complete")
}

// Some lines need a libzmq that fails: that the page has all of them, and no more, is read in the code.
func TestTheDocumentedLinesAreThoseOfTheCode(t *testing.T) {
	var documented []string
	for message := range documentedLines(t) {
		documented = append(documented, message)
	}
	for _, p := range []Phase{Running, Announced, Draining, Closing, Done} {
		documented = slices.DeleteFunc(documented, func(m string) bool { return m == "zmqgrace: "+p.String() })
	}
	slices.Sort(documented)
	if got := loggedMessages(t); !slices.Equal(got, documented) {
		t.Errorf("the code logs\n%s\ndocs/logs.md has\n%s", strings.Join(got, "\n"), strings.Join(documented, "\n"))
	}
}

// loggedMessages are the literal messages of all calls that log, sorted.
func loggedMessages(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	must(t, err)
	var all []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && logs(call) {
				if message, ok := firstText(call); ok {
					all = append(all, "zmqgrace: "+strings.TrimPrefix(message, "zmqgrace: "))
				}
			}
			return true
		})
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func logs(call *ast.CallExpr) bool {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"warn", "tell", "Warn", "Info", "Error"}, fun.Sel.Name)
}

// firstText is the message: the first literal of more than a word. Keys are one word, and where a variable is the
// message, it is the literal of another call.
func firstText(call *ast.CallExpr) (string, bool) {
	for _, arg := range call.Args {
		if literal, ok := arg.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil && strings.Contains(text, " ") {
				return text, true
			}
		}
	}
	return "", false
}

func TestTheKeysOfALoggedReportAreTheDocumentedOnes(t *testing.T) {
	r := newTestRunner(t)
	rep := bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	s := run(t, r, echo)
	request(t, dial(t, zmq4.REQ, rep.Endpoint()), "a")
	report, err := s.end()
	must(t, err)
	_, table, _ := strings.Cut(logPage(t), "## The report")
	_, table, _ = strings.Cut(table, "|---|---|")
	var documented []string
	for row := range strings.Lines(table) {
		if cells := strings.Split(row, "|"); len(cells) > 1 {
			documented = append(documented, quoted(cells[1])...)
		}
	}
	slices.Sort(documented)
	got := keysOf("", report.LogValue())
	slices.Sort(got)
	if !slices.Equal(got, documented) {
		t.Errorf("a report is logged with the keys\n%q\ndocs/logs.md says\n%q", got, documented)
	}
}

func keysOf(prefix string, v slog.Value) (keys []string) {
	for _, a := range v.Group() {
		if a.Value.Kind() == slog.KindGroup {
			keys = append(keys, keysOf(prefix+a.Key+".", a.Value)...)
		} else {
			keys = append(keys, prefix+a.Key)
		}
	}
	return keys
}

func TestCloseOfARunnerThatNeverRanLogsNoError(t *testing.T) {
	r, log := newLoggedRunner(t)
	bound(t, r, zmq4.REP, "tcp://127.0.0.1:*")
	must(t, r.Close())
	for _, line := range log.check(t) {
		if strings.Contains(line, "not complete") {
			t.Error(line)
		}
	}
}

func TestWhatTheEndWaitsForIsNotSaidWhereTheLoggerBlocks(t *testing.T) {
	t.Parallel()
	r := newTestRunner(t)
	said := make(chan struct{})
	go func() {
		defer close(said)
		for range cap(r.told) + 1 { // nobody reads them: the announcer is in a call of the logger
			r.sayWaiting("silence")
		}
	}()
	over(t, "all is said", said)
}

func TestWhatIsDroppedForAPeerIsLogged(t *testing.T) {
	t.Parallel()
	r, log := newLoggedRunner(t, briefly)
	router := lowRouter(t, r)
	s := start(t, r, fountain(400, 64<<10))
	tell(t, greedy(t, router.Endpoint(), "slow"), "flood")
	until(t, "what the peer is owed is dropped", func() bool { return router.report().Dropped > 0 })
	must(t, r.Close())
	s.returned()
	checkLogged(t, log.check(t), "a peer takes nothing")
}
