package examples

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

// await waits for a line that matches pattern.
func (p *example) await(pattern string) {
	p.t.Helper()
	for re := regexp.MustCompile(pattern); ; {
		text, ok := p.line()
		if !ok {
			p.t.Fatalf("ended before it said %q:\n%s", pattern, &p.output)
		}
		if re.MatchString(text) {
			return
		}
	}
}

// terminate tells the process to end, and returns all that it printed.
func (p *example) terminate() string {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.end()
}

// kill ends the process as a crash would, and returns when it is gone.
func (p *example) kill() {
	p.t.Helper()
	p.signal(os.Kill)
	p.cmd.Wait()
}

// reported returns a number of the report that an example logged.
func reported(t *testing.T, output, name string) int {
	t.Helper()
	found := regexp.MustCompile(`report\.` + regexp.QuoteMeta(name) + `=(\d+)`).FindStringSubmatch(output)
	if found == nil {
		t.Fatalf("the report has no %s:\n%s", name, output)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// clients makes n sockets.
func clients(t *testing.T, n int, kind zmq4.Type, endpoint string) (sockets []*zmq4.Socket) {
	t.Helper()
	for range n {
		sockets = append(sockets, client(t, kind, endpoint))
	}
	return sockets
}

// A load is clients that send requests until they are told to stop. Every request must have the one answer that it
// asks for.
type load struct {
	t       *testing.T
	mu      sync.Mutex
	changed *sync.Cond
	n       int // answered
	slowest time.Duration
	stopped bool
	running int
	err     error
}

// startLoad has each of the clients send one request after the other. An exchange makes the request and its answer
// from a number that no other request has.
func startLoad(t *testing.T, clients []*zmq4.Socket, exchange func(n string) (request, answer []string)) *load {
	l := &load{t: t, running: len(clients)}
	l.changed = sync.NewCond(&l.mu)
	for i, s := range clients {
		go func() {
			var err error
			for n := 0; err == nil && l.goesOn(); n++ {
				start := time.Now()
				request, answer := exchange(fmt.Sprintf("%d.%d", i, n))
				err = roundTrip(s, request, answer)
				l.note(err, time.Since(start))
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.running--
			l.changed.Broadcast()
		}()
	}
	t.Cleanup(func() { l.stop() }) // before the sockets are closed
	return l
}

func roundTrip(s *zmq4.Socket, request, answer []string) error {
	if _, err := s.SendMessage(request); err != nil {
		return err
	}
	got, err := s.RecvMessage(0)
	if err != nil {
		return fmt.Errorf("request %q: %w", request, err)
	}
	if !slices.Equal(got, answer) {
		return fmt.Errorf("request %q: the answer is %q", request, got)
	}
	return nil
}

func (l *load) goesOn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.stopped
}

func (l *load) note(err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.n++
		l.slowest = max(l.slowest, took)
	}
	l.err = errors.Join(l.err, err)
	l.changed.Broadcast()
}

// more waits for n more answers.
func (l *load) more(n int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for n += l.n; l.n < n && l.err == nil; {
		l.changed.Wait()
	}
	if l.err != nil {
		l.t.Fatal(l.err)
	}
}

// stop has the clients send nothing more, waits for the answers that are to come, and returns how many came in all.
func (l *load) stop() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.stopped = true; l.running > 0; {
		l.changed.Wait()
	}
	return l.n
}

// mustLoseNothing stops the load. It returns the number of requests, and what the slowest of them took.
func (l *load) mustLoseNothing() (int, time.Duration) {
	l.t.Helper()
	n := l.stop()
	if l.err != nil {
		l.t.Fatalf("after %d answers: %v", n, l.err)
	}
	return n, l.slowest
}

// slowLink is a network in front of an endpoint: everything takes delay, each way. It returns its own endpoint.
func slowLink(t *testing.T, endpoint string, delay time.Duration) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	target := strings.TrimPrefix(endpoint, "tcp://")
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			go carry(near, far, delay)
			go carry(far, near, delay)
		}
	}()
	return "tcp://" + listener.Addr().String()
}

// carry brings what it reads, and the end of it, to the other side when its time has come.
func carry(from, to net.Conn, delay time.Duration) {
	type parcel struct {
		data []byte
		due  time.Time
	}
	way := make(chan parcel, 10_000)
	go func() {
		defer close(way)
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			way <- parcel{data[:n], time.Now().Add(delay)}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	to.(*net.TCPConn).CloseWrite()
	for range way { // nobody wants it any more
	}
	io.Copy(io.Discard, from)
	from.Close()
}
