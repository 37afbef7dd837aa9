// Package interop restarts zmqgrace servers under clients, and before servers, that no one here wrote: pyzmq, CZMQ, the
// bare API of pebbe/zmq4, and go-zeromq/zmq4, which is Go alone.
//
// A peer is a process. As a client it gets a type, an endpoint and how it lives. For every number that it reads from
// standard input it does so many rounds, and says "done" and how many requests it has lost so far. A round is one request for
// a REQ, eight at once for a DEALER, and ends when all are answered. An answer that ends in "late" means that the server is
// on its way out: then the client waits for LATE_PAUSE and sends the request again. What has no answer within its patience is
// lost, and the client begins with a new socket. At the end of its input it says "result" and its figures. As a server, a peer
// is a REP that sends back what it gets.
package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pure "github.com/go-zeromq/zmq4"
	pebbe "github.com/pebbe/zmq4"
)

const (
	patience  = 10 * time.Second       // of a client, where nothing may be lost
	haste     = time.Second            // and of one that never pauses
	latePause = 600 * time.Millisecond // longer than the quiet time of a server that says "late"
	window    = 8                      // requests of a round of a DEALER
)

// A peer knows how to start clients and servers of its make.
type peer struct {
	name string
	find func() (argv []string, err error) // once; the error says what is missing
}

var peers = []peer{
	{"pyzmq", sync.OnceValues(findPython)},
	{"CZMQ", sync.OnceValues(buildCZMQ)},
	{"pebbe", sync.OnceValues(func() ([]string, error) { return self("pebbe") })},
	{"go-zeromq", sync.OnceValues(func() ([]string, error) { return self("go-zeromq") })},
}

// scratch is for what is built, as long as the tests run.
var scratch string

func findPython() ([]string, error) {
	python := os.Getenv("INTEROP_PYTHON")
	if python == "" {
		python = "/usr/bin/python3"
	}
	if out, err := exec.Command(python, "-c", "import zmq").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s has no pyzmq: %v: %s", python, err, out)
	}
	script, err := filepath.Abs("testdata/peer.py")
	return []string{python, script}, err
}

func buildCZMQ() ([]string, error) {
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "libczmq").Output()
	if err != nil {
		return nil, fmt.Errorf("pkg-config does not find libczmq: %w", err)
	}
	program := filepath.Join(scratch, "peer")
	args := append([]string{"-O2", "-Wall", "-o", program, "testdata/peer.c"}, strings.Fields(string(flags))...)
	// Debian has libczmq ask for libzmq only where it is linked statically.
	if out, err := exec.Command("cc", append(args, "-lzmq")...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cc: %w: %s", err, out)
	}
	return []string{program}, nil
}

// self is this test binary, executed again.
func self(name string) ([]string, error) {
	program, err := os.Executable()
	return []string{program, childMark, name}, err
}

// available returns the peers that are here. Those that are not are skipped, each with a word; with ZMQGRACE_NO_SKIP set, as the
// Makefile and .ci/run do, they are failures.
func available(t *testing.T) (here []peer) {
	t.Helper()
	for _, p := range peers {
		if _, err := p.find(); err == nil {
			here = append(here, p)
		} else if os.Getenv("ZMQGRACE_NO_SKIP") != "" {
			t.Errorf("%s: %v", p.name, err)
		} else {
			t.Run(p.name, func(t *testing.T) { t.Skipf("%v; make interop installs it", err) })
		}
	}
	return here
}

const childMark = "interop-child"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == childMark {
		if err := children[os.Args[2]](os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "interop"); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

var children = map[string]func(args []string) error{
	"pebbe":     func(args []string) error { return live(args, pebbeKind{}) },
	"go-zeromq": func(args []string) error { return live(args, pureKind{}) },
	"graceful":  serveGracefully,
	"gateway":   serveAsGateway,
}

// A kind is what the two peers written in Go differ in.
type kind interface {
	dial(typ, endpoint string) (conversation, error)
	serve(endpoint string, served *atomic.Int64) (at string, err error) // goes on until the process ends
	forgetful() bool                                                    // a pause costs it the connection without a word
}

// A conversation is a client's socket.
type conversation interface {
	send(body string) error
	receive(timeout time.Duration) (body string, err error)
	close()
}

func live(args []string, k kind) error {
	if args[0] == "server" {
		var served atomic.Int64
		at, err := k.serve(args[1], &served)
		if err != nil {
			return err
		}
		fmt.Println("bound", at)
		io.Copy(io.Discard, os.Stdin)
		fmt.Println("served", served.Load())
		return nil
	}
	c := client{kind: k, typ: args[1], endpoint: args[2], patience: patience, each: 1}
	if args[3] == "hasty" {
		c.patience = haste
	}
	if c.typ == "DEALER" {
		c.each = window
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var rounds int
		if _, err := fmt.Sscan(in.Text(), &rounds); err != nil {
			return err
		}
		if c.socket != nil && args[3] == "pausing" && k.forgetful() {
			c.hangUp()
		}
		for range rounds {
			if err := c.round(); err != nil {
				return err
			}
		}
		fmt.Println("done", c.lost)
	}
	fmt.Println("result", c.sent, c.answered, c.lost, c.retried, c.twice, c.worst.Milliseconds())
	return nil
}

type client struct {
	kind     kind
	typ      string
	endpoint string
	patience time.Duration
	each     int
	socket   conversation

	sent, answered, lost, retried, twice int
	worst                                time.Duration
}

func (c *client) hangUp() {
	if c.socket != nil {
		c.socket.close()
		c.socket = nil
	}
}

// round has c.each requests answered, however often that takes.
func (c *client) round() error {
	began := time.Now()
	var ids []string
	for range c.each {
		c.sent++
		ids = append(ids, fmt.Sprint(c.sent))
	}
	for len(ids) > 0 {
		again, err := c.try(ids, began)
		if err != nil {
			return err
		}
		if len(again) > 0 {
			c.retried += len(again)
			if c.kind.forgetful() {
				c.hangUp()
			}
			time.Sleep(latePause)
		}
		ids = again
	}
	return nil
}

// try sends the requests and waits for their answers. It returns those that are to be tried again.
func (c *client) try(ids []string, began time.Time) (again []string, err error) {
	if c.socket == nil {
		if c.socket, err = c.kind.dial(c.typ, c.endpoint); err != nil {
			return nil, err
		}
	}
	waiting := slices.Clone(ids)
	giveUp := func() ([]string, error) {
		c.lost += len(waiting)
		c.hangUp()
		return nil, nil // what was late and lost its companions was answered all the same
	}
	for _, id := range ids {
		if err := c.socket.send(id); err != nil {
			return giveUp()
		}
	}
	deadline := time.Now().Add(c.patience)
	for len(waiting) > 0 {
		body, err := c.socket.receive(time.Until(deadline))
		if err != nil {
			return giveUp()
		}
		id, late, _ := strings.Cut(body, " ")
		i := slices.Index(waiting, id)
		if i < 0 {
			c.twice++
			continue
		}
		waiting = slices.Delete(waiting, i, i+1)
		if late != "" {
			again = append(again, id)
			continue
		}
		c.answered++
		c.worst = max(c.worst, time.Since(began))
	}
	return again, nil
}

// pebbeKind is pebbe's socket API.
type pebbeKind struct{}

type pebbeSocket struct{ *pebbe.Socket }

func (pebbeKind) forgetful() bool { return false }

func (pebbeKind) dial(typ, endpoint string) (conversation, error) {
	t := pebbe.REQ
	if typ == "DEALER" {
		t = pebbe.DEALER
	}
	s, err := pebbe.NewSocket(t)
	if err != nil {
		return nil, err
	}
	return pebbeSocket{s}, errors.Join(s.SetLinger(0), s.Connect(endpoint))
}

func (s pebbeSocket) send(body string) error {
	_, err := s.Socket.Send(body, 0)
	return err
}

func (s pebbeSocket) receive(timeout time.Duration) (string, error) {
	s.SetRcvtimeo(max(timeout, time.Millisecond))
	return s.Recv(0)
}

func (s pebbeSocket) close() { s.Socket.Close() }

func (pebbeKind) serve(endpoint string, served *atomic.Int64) (string, error) {
	s, err := pebbe.NewSocket(pebbe.REP)
	if err == nil {
		err = s.Bind(endpoint)
	}
	if err != nil {
		return "", err
	}
	at, err := s.GetLastEndpoint()
	go func() {
		for {
			m, err := s.RecvMessage(0)
			if err != nil {
				return
			}
			served.Add(1)
			s.SendMessage(m)
		}
	}()
	return at, err
}

// pureKind is go-zeromq/zmq4. It does not hold messages back while nobody is connected: what is written to a connection that
// the server has closed is gone, and a DEALER without a connection throws away and says nothing. So after a pause a
// client of this kind begins with a new socket.
type pureKind struct{}

type pureSocket struct {
	pure.Socket
	answers chan answer
}

type answer struct {
	body string
	err  error
}

func (pureKind) forgetful() bool { return true }

func (pureKind) dial(typ, endpoint string) (conversation, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		create := pure.NewReq
		if typ == "DEALER" {
			create = pure.NewDealer
		}
		s := create(context.Background(), pure.WithLogger(log.New(io.Discard, "", 0)), pure.WithDialerMaxRetries(0))
		err := s.Dial(endpoint)
		if err == nil {
			return &pureSocket{s, make(chan answer, 2*window)}, nil
		}
		s.Close()
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// send also receives, since there is no receive with a timeout: one answer for each request.
func (s *pureSocket) send(body string) error {
	if err := s.Socket.Send(pure.NewMsgString(body)); err != nil {
		return err
	}
	go func() {
		m, err := s.Socket.Recv()
		a := answer{err: err}
		if err == nil {
			a.body = string(m.Frames[len(m.Frames)-1])
		}
		s.answers <- a
	}()
	return nil
}

func (s *pureSocket) receive(timeout time.Duration) (string, error) {
	select {
	case a := <-s.answers:
		return a.body, a.err
	case <-time.After(timeout):
		return "", context.DeadlineExceeded
	}
}

func (s *pureSocket) close() { s.Socket.Close() }

func (pureKind) serve(endpoint string, served *atomic.Int64) (string, error) {
	s := pure.NewRep(context.Background(), pure.WithLogger(log.New(io.Discard, "", 0)))
	if err := s.Listen(strings.Replace(endpoint, ":*", ":0", 1)); err != nil {
		return "", err
	}
	go func() {
		for {
			m, err := s.Recv()
			if err != nil {
				continue // of one connection
			}
			served.Add(1)
			s.SendMulti(m)
		}
	}()
	if strings.HasPrefix(endpoint, "ipc") {
		return endpoint, nil
	}
	return "tcp://" + s.Addr().String(), nil
}

// process is a peer or a server of ours.
type process struct {
	*exec.Cmd
	name  string
	in    io.WriteCloser
	lines chan string
}

// start starts one. It is killed with the test.
func start(t *testing.T, name string, argv []string, args ...string) (*process, error) {
	argv = append(slices.Clone(argv), args...)
	p := &process{Cmd: exec.Command(argv[0], argv[1:]...), name: name, lines: make(chan string, 1000)}
	p.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	p.Stderr = os.Stderr
	out, err := p.StdoutPipe()
	if err == nil {
		p.in, err = p.StdinPipe()
	}
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			p.lines <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		p.Process.Kill()
		for range p.lines {
		}
		<-read
		p.Wait()
	})
	return p, nil
}

// expect returns the rest of the next line that begins with word.
func (p *process) expect(word string) (string, error) {
	timeout := time.After(6 * patience)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				return "", fmt.Errorf("%s ended before it said %q", p.name, word)
			}
			if rest, ok := strings.CutPrefix(line, word); ok {
				return strings.TrimSpace(rest), nil
			}
		case <-timeout:
			return "", fmt.Errorf("%s did not say %q", p.name, word)
		}
	}
}
