package zmqgrace

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pebbe/zmq4"
)

// zapEndpoint is where libzmq asks for authentication (ZeroMQ RFC 27).
const zapEndpoint = "inproc://zeromq.zap.01"

// libzmq lets every peer in where a socket asks for authentication and nobody is there to answer
// (curve_server.cpp, null_mechanism.cpp; pebbe's AuthStart serves the default context alone). So Run refuses to start
// then. Before Run it depends on the order of the binds; to make it not, a guard that never answers is bound to
// the endpoint until the real one is: whoever connects meanwhile waits, and is not let in.

// guardZAP sees to it that nobody gets into raw, which is about to be bound or connected, unauthenticated.
func (r *Runner) guardZAP(raw *zmq4.Socket) error {
	asks, err := asksZAP(raw)
	if err != nil || !asks {
		return err
	}
	fresh := r.zapGuard == nil
	if fresh {
		guard, err := r.context.NewSocket(zmq4.REP)
		if err != nil {
			return err
		}
		guard.SetLinger(0)
		if err := guard.Bind(zapEndpoint); err != nil {
			guard.Close()
			if zmq4.AsErrno(err) == zmq4.EADDRINUSE {
				return nil // the real one is there
			}
			return err
		}
		r.zapGuard = guard
	}
	if !r.isUsed() {
		return nil // the real one may come until Run
	}
	if fresh {
		r.dropZAPGuard()
	}
	return errZAP
}

var errZAP = errors.New("it has a ZAP domain and nothing serves " + zapEndpoint + " in the Runner's context, so every peer " +
	"would be let in: bind a REP socket of this Runner there, or clear the domain")

// dropZAPGuard makes way for the real one.
func (r *Runner) dropZAPGuard() {
	if r.zapGuard != nil {
		// Unbind, not just close: an inproc name is freed at once by the one, some time later by the other.
		r.zapGuard.Unbind(zapEndpoint)
		r.zapGuard.Close()
		r.zapGuard = nil
	}
}

// checkZAP refuses to run sockets that ask for authentication where nobody answers.
func (r *Runner) checkZAP(sockets []*Socket) error {
	for _, s := range sockets {
		if err := r.guardZAP(s.raw); err != nil {
			return fmt.Errorf("socket %q: %w", s.name, err)
		}
	}
	return nil
}

// asksZAP reports whether raw has its peers authenticated: it has a ZAP domain, and it is not the client of
// its mechanism. NULL has no client: both sides ask.
func asksZAP(raw *zmq4.Socket) (bool, error) {
	domain, err := raw.GetZapDomain()
	if err != nil || domain == "" {
		return false, err
	}
	mechanism, err := raw.GetMechanism()
	if err != nil {
		return false, err
	}
	switch mechanism {
	case zmq4.PLAIN:
		server, err := raw.GetPlainServer()
		return server != 0, err
	case zmq4.CURVE:
		// pebbe has no getter for CURVE_SERVER; a client must know its server's key, and a server has none.
		key, err := raw.GetCurveServerkeyRaw()
		return strings.Trim(key, "\x00") == "", err
	case zmq4.GSSAPI:
		return raw.GetGssapiServer()
	}
	return true, nil
}

// answersZAP reports whether s is the one that authenticates the other sockets' peers.
func (s *Socket) answersZAP() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.counts.Endpoints, zapEndpoint)
}
