package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// patience is how long a server may take to start or to end.
const patience = 30 * time.Second

// A child is a server in its own process.
type child struct {
	pid       int
	endpoints []string // the first line that it printed
	command   []string
	in, out   *os.File
	lines     *bufio.Reader
	log       *os.File
}

// start starts a server and waits until it has printed its endpoints.
func start(command ...string) (*child, error) {
	// A file, where a pipe would need a goroutine here that wakes up while we measure.
	log, err := os.CreateTemp("", "bench-*.log")
	if err != nil {
		return nil, err
	}
	os.Remove(log.Name())
	c := &child{command: command, log: log}
	stdin, stdout, err := c.pipes()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // however we end, no server stays behind
	err = cmd.Start()
	stdin.Close()
	stdout.Close()
	if err != nil {
		return nil, err
	}
	c.pid = cmd.Process.Pid
	cmd.Process.Release() // end does the waiting

	line, err := c.line()
	if err != nil {
		c.end(syscall.SIGKILL)
		c.close()
		return nil, err
	}
	c.endpoints = strings.Fields(line)
	return c, nil
}

// pipes makes the pipes to the child and from it, and returns the child's ends.
func (c *child) pipes() (stdin, stdout *os.File, err error) {
	if stdin, c.in, err = os.Pipe(); err == nil {
		c.out, stdout, err = os.Pipe()
		c.lines = bufio.NewReader(c.out)
	}
	return stdin, stdout, err
}

// line is the next line that the child prints.
func (c *child) line() (string, error) {
	c.out.SetReadDeadline(time.Now().Add(patience))
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: it printed nothing: %w\n%s", strings.Join(c.command, " "), err, c.logged())
	}
	return strings.TrimSpace(line), nil
}

// measured is the next line that the child prints, where that is what it measured itself.
func (c *child) measured() (sample, error) {
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	return parse(line)
}

// with starts a server, has f measure it, and kills it: an orderly end would cost time and prove nothing here.
func with(command []string, f func(*child) (sample, error)) (s sample, err error) {
	c, err := start(command...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if _, endErr := c.end(syscall.SIGKILL); err == nil {
			err = endErr
		}
		if logged := c.logged(); err != nil && logged != "" {
			err = fmt.Errorf("%w\n%s", err, logged)
		}
		c.close()
	}()
	return f(c)
}

// end sends a signal and tells how long the process took to be gone. os.Process would wait through
// channels and the runtime's poller; a plain blocking wait adds microseconds.
func (c *child) end(sig syscall.Signal) (took time.Duration, err error) {
	// A server that hangs must not take us with it. Go programs leave their stacks behind on a SIGQUIT.
	watchdog := time.AfterFunc(patience, func() { syscall.Kill(c.pid, syscall.SIGQUIT) })
	defer watchdog.Stop()

	var status syscall.WaitStatus
	begin := time.Now()
	if err := syscall.Kill(c.pid, sig); err != nil {
		return 0, err
	}
	for {
		if _, err = syscall.Wait4(c.pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	took = time.Since(begin)

	if err == nil && sig != syscall.SIGKILL && status != 0 {
		err = fmt.Errorf("it ended after %v with wait status %#x\n%s", took, status, c.logged())
	}
	return took, err
}

func (c *child) close() {
	c.in.Close()
	c.out.Close()
	c.log.Close()
}

func (c *child) logged() string {
	text, _ := io.ReadAll(io.NewSectionReader(c.log, 0, 1<<20)) // its offset is the child's too
	return string(text)
}
