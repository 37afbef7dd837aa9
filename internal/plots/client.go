package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/pebbe/zmq4"
)

const patience = 30 * time.Second // for a server's end

// process is this program, started again as a server.
type process struct {
	cmd      *exec.Cmd
	out      *os.File
	endpoint string
}

func start(way, endpoint string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, "serve", way, endpoint), out: out}
	p.cmd.Stdout, p.cmd.Stderr = in, os.Stderr
	if _, err = p.cmd.StdinPipe(); err == nil { // it ends when this pipe does
		err = p.cmd.Start()
	}
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return nil, fmt.Errorf("the server did not start: %w", p.cmd.Wait())
	}
	p.endpoint = lines.Text()
	return p, nil
}

// end tells the server to end, and waits until it is gone.
func (p *process) end() error {
	defer p.out.Close()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	hung := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer hung.Stop()
	return p.cmd.Wait()
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.out.Close()
}

// restart sends a burst, restarts the server in the middle of it, and returns how many requests have no reply when there
// was silence for so long.
func restart(way string, burst int, silence time.Duration) (lost int, err error) {
	first, err := start(way, "tcp://127.0.0.1:*")
	if err != nil {
		return 0, err
	}
	ctx, err := zmq4.NewContext()
	if err != nil {
		return 0, err
	}
	defer ctx.Term()
	client, err := ctx.NewSocket(zmq4.DEALER)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	// Unlimited marks: what is lost was not lost here.
	err = errors.Join(client.SetSndhwm(0), client.SetRcvhwm(0), client.SetLinger(0),
		client.SetRcvtimeo(50*time.Millisecond), client.Connect(first.endpoint))
	if err != nil {
		return 0, err
	}
	for n := range burst {
		if _, err := client.SendBytes(binary.BigEndian.AppendUint32(nil, uint32(n)), 0); err != nil {
			return 0, err
		}
	}

	type handover struct {
		successor *process
		err       error
	}
	handed := make(chan handover, 1)
	handOver := func() {
		if err := first.end(); err != nil {
			handed <- handover{err: fmt.Errorf("the server ended with: %w", err)}
			return
		}
		p, err := start(way, first.endpoint)
		handed <- handover{p, err}
	}
	var successor *process
	seen := make([]bool, burst)
	answered := 0
	for last := time.Now(); answered < burst || successor == nil; {
		select {
		case h := <-handed:
			if h.err != nil {
				return 0, h.err
			}
			successor, last = h.successor, time.Now()
			defer successor.kill()
		default:
		}
		reply, err := client.RecvBytes(0)
		if errors.Is(err, zmq4.Errno(syscall.EAGAIN)) {
			if successor != nil && time.Since(last) > silence {
				break
			}
			if answered < burst/10 && time.Since(last) > patience {
				return 0, errors.New("no replies come")
			}
			continue
		}
		if err != nil {
			return 0, err
		}
		n := binary.BigEndian.Uint32(reply)
		if seen[n] {
			return 0, fmt.Errorf("request %d was answered twice", n)
		}
		seen[n] = true
		last = time.Now()
		if answered++; answered == burst/10 {
			go handOver() // the client goes on reading
		}
	}
	return burst - answered, nil
}
