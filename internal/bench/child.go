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
	pid      int
	endpoint string
	log      *os.File
}

// start starts a server and waits until it has printed its endpoint.
func start(command ...string) (*child, error) {
	// A file, where a pipe would need a goroutine here that wakes up while we measure.
	log, err := os.CreateTemp("", "bench-*.log")
	if err != nil {
		return nil, err
	}
	os.Remove(log.Name())
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()

	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = in, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // however we end, no server stays behind
	err = cmd.Start()
	in.Close()
	if err != nil {
		return nil, err
	}
	c := &child{pid: cmd.Process.Pid, log: log}
	cmd.Process.Release() // end does the waiting

	out.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		err = fmt.Errorf("%s: not ready: %w\n%s", strings.Join(command, " "), err, c.logged())
		c.end(syscall.SIGKILL)
		return nil, err
	}
	c.endpoint = strings.TrimSpace(line)
	return c, nil
}

// end sends a signal and tells how long the process took to be gone, and what it had used. os.Process would wait through
// channels and the runtime's poller; a plain blocking wait adds microseconds.
func (c *child) end(sig syscall.Signal) (took time.Duration, used syscall.Rusage, err error) {
	// A server that hangs must not take us with it. Go programs leave their stacks behind on a SIGQUIT.
	watchdog := time.AfterFunc(patience, func() { syscall.Kill(c.pid, syscall.SIGQUIT) })
	defer watchdog.Stop()

	var status syscall.WaitStatus
	begin := time.Now()
	if err := syscall.Kill(c.pid, sig); err != nil {
		return 0, used, err
	}
	for {
		if _, err = syscall.Wait4(c.pid, &status, 0, &used); err != syscall.EINTR {
			break
		}
	}
	took = time.Since(begin)

	defer c.log.Close()
	if err == nil && sig != syscall.SIGKILL && status != 0 {
		err = fmt.Errorf("it ended after %v with wait status %#x\n%s", took, status, c.logged())
	}
	return took, used, err
}

func (c *child) logged() string {
	text, _ := io.ReadAll(io.NewSectionReader(c.log, 0, 1<<20)) // its offset is the child's too
	return string(text)
}
