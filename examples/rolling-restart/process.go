package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A server is this program, started again as a server process.
type server struct {
	cmd      *exec.Cmd
	lines    chan string // that it printed; closed at the end of its output
	endpoint string
}

// An ending is what the end of a server took.
type ending struct {
	took   time.Duration // from the signal until the process was gone
	report report        // of the Runner
	err    error         // it did not end as it should
}

// A report is what the demo reads of the Runner's report.
type report struct {
	Phases  []struct{ Phase, Duration string }
	Sockets []struct{ Handled int }
}

// startServer returns when the server listens. When ctx ends, the server is killed.
func startServer(ctx context.Context, kind, endpoint string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// A pipe of our own, not StdoutPipe: the end is measured with Wait, before the output is read.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.CommandContext(ctx, self, "serve", kind, endpoint), lines: make(chan string, 2)}
	s.cmd.Stdout, s.cmd.Stderr = in, os.Stderr
	// The server ends when this pipe does, so that it can't outlive the demo.
	if _, err = s.cmd.StdinPipe(); err == nil {
		err = s.cmd.Start()
	}
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	go func() {
		defer out.Close()
		defer close(s.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	var ok bool
	if s.endpoint, ok = <-s.lines; !ok {
		return nil, fmt.Errorf("the server on %s did not start: %w", endpoint, s.cmd.Wait())
	}
	return s, nil
}

// end sends SIGTERM and waits until the process is gone.
func (s *server) end() (e ending) {
	signalled := time.Now()
	if e.err = s.cmd.Process.Signal(syscall.SIGTERM); e.err != nil {
		return e
	}
	e.err = s.cmd.Wait()
	e.took = time.Since(signalled)
	for line := range s.lines {
		if err := json.Unmarshal([]byte(line), &e.report); err != nil && e.err == nil {
			e.err = fmt.Errorf("reading the report: %w", err)
		}
	}
	if e.err != nil {
		e.err = fmt.Errorf("the server on %s ended with: %w", s.endpoint, e.err)
	}
	return e
}
