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
	// A second lock, where libzmq has it and the handle is found: for the moments between the guard and the real one, and for one
	// that is closed behind the Runner's back. A domain that is set stays (options.cpp), so the lock may too.
	if handle := handleOf(raw); handle.Valid() {
		handle.EnforceZAP()
	}
	fresh := r.zapGuard == nil
	if fresh {
		guard, err := r.makeSocket(zmq4.REP)
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
	if fresh && r.hasRun() {
		r.dropZAPGuard()
	}
	return errZAP
}

var errZAP = errors.New("it has a ZAP domain and nothing serves " + zapEndpoint + " in the Runner's context, so every peer " +
	"would be let in: bind a REP socket of this Runner there, or set no domain")

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
		err := r.guardZAP(s.raw)
		if err == nil && s.openDoor && s.needsZAP() {
			err = errLateZAP
		}
		if err != nil {
			return fmt.Errorf("socket %q: %w", s.name, err)
		}
	}
	return nil
}

var errLateZAP = errors.New("its ZAP domain was set after Bind or Connect, which have taken over the options as they were, so that every peer " +
	"would be let in: close it, and set the domain of a new one first")

// noteDoor notes whether whoever comes through the endpoint, which s has just been bound or connected to, is let in unasked. Everybody is where
// there is no wire.
func (s *Socket) noteDoor(endpoint string) {
	s.openDoor = s.openDoor || !strings.HasPrefix(endpoint, "inproc://") && !s.needsZAP()
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
		if handle := handleOf(raw); handle.Valid() {
			return handle.CurveServer()
		}
		// Without a handle: a client must know its server's key, and a server needs none. One that was given a key all the same, perhaps
		// its own, is taken for a client.
		key, err := raw.GetCurveServerkeyRaw()
		return strings.Trim(key, "\x00") == "", err
	case zmq4.GSSAPI:
		return raw.GetGssapiServer()
	}
	return true, nil
}

// mayServeZAP refuses what libzmq does not bear at that endpoint: the first peer that is to be authenticated aborts the process
// (session_base.cpp, zap_connect).
func mayServeZAP(t zmq4.Type) error {
	if t != zmq4.REP && t != zmq4.ROUTER {
		return fmt.Errorf("only a REP or ROUTER can authenticate, not a %v", t)
	}
	return nil
}

// bindZAP is Bind at that endpoint.
func (s *Socket) bindZAP(endpoint string) error {
	if err := mayServeZAP(s.typ); err != nil {
		return err
	}
	s.r.dropZAPGuard()
	if err := s.raw.Bind(endpoint); err != nil {
		return errors.Join(err, s.r.checkZAP(s.r.openSockets())) // with a guard, as before
	}
	s.servesZAP()
	return nil
}

// servesZAP notes that s authenticates the other sockets' peers. Strangers must not make its silence.
func (s *Socket) servesZAP() {
	s.atZAP = true
	if !s.quietly {
		s.quiet = 0
	}
}

// answersZAP reports whether s is the one that authenticates the other sockets' peers. Of one that was adopted only the last endpoint is
// known: where none is known to be it, one of that kind may be.
func (s *Socket) answersZAP() bool { return s.atZAP || s.maybeZAP }

// suspectZAP finds the sockets that may be it.
func suspectZAP(sockets []*Socket) {
	unknown := !slices.ContainsFunc(sockets, func(s *Socket) bool { return s.atZAP }) && slices.ContainsFunc(sockets, (*Socket).needsZAP)
	for _, s := range sockets {
		s.maybeZAP = unknown && s.adopted && mayServeZAP(s.typ) == nil
	}
}

// needsZAP reports whether libzmq has the peers of s authenticated.
func (s *Socket) needsZAP() bool {
	asks, _ := asksZAP(s.raw)
	return asks
}

// mayLeave refuses to close the socket that authenticates the peers of others, while there are such: libzmq would let strangers in.
func (s *Socket) mayLeave() error {
	if mayServeZAP(s.typ) != nil || !s.atZAP && !s.adopted {
		return nil
	}
	open := s.r.openSockets()
	suspectZAP(open)
	if s.answersZAP() && slices.ContainsFunc(open, func(other *Socket) bool { return other != s && other.needsZAP() }) {
		return errors.New("it authenticates the peers of other sockets, or may, and without it every peer would be let in: close those first")
	}
	return nil
}
