package zmqgrace

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"unsafe"

	"github.com/pebbe/zmq4"
)

// A Handler serves one message. It runs on the loop goroutine, so while it runs nothing else is received
// or sent, or, with [WithWorkers], on one of the workers. Its ctx carries the values of Run's ctx and is not cancelled by a signal: the handler has the
// drain to finish. It is cancelled, with the cause of the end, when the drain has used up its time or the
// end is forced.
//
// An error concerns this message alone: it is counted and logged, and the server goes on, because bad
// input must not stop a server; what its client hears of it is up to the handler. [ErrStop] ends the server gracefully. [ErrDeferred] leaves the message in flight until
// its [Message.Reply], which another handler or goroutine calls later. On REP a handler that returns
// without a reply has an empty one sent for it, since the socket would be stuck otherwise.
//
// A panic is not recovered: the replies already given are flushed, for at most a second, and then the
// process dies with the original value and stack.
type Handler func(ctx context.Context, m *Message) error

// A Message is what arrived on a socket. Messages that arrived together share memory: who keeps a small part of them for long
// should keep a copy ([bytes.Clone]) and not the message.
type Message struct {
	_ noCopy // has one reply

	Socket *Socket  // where it arrived
	Frames [][]byte // the body, at least one frame; the handler owns it for ever

	few [1][]byte // the Frames of most messages, which so need no memory of their own

	// There are many messages, so the rest is packed.
	id        *byte  // ROUTER: the routing id of the peer; nil on all other types
	idSize    uint32 // how long it is
	delimited bool   // a REQ's empty frame follows it
	late      bool   // the message goes to the socket's Late
	reply     replyState
}

// noCopy has go vet complain about copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// envelope is what goes before a reply.
type envelope struct {
	id        []byte // nil but for ROUTER
	delimited bool
}

func (m *Message) envelope() envelope { return envelope{unsafe.Slice(m.id, m.idSize), m.delimited} }

// The states of a message's reply.
type replyState uint8 // the socket's mutex guards it

const (
	replyOpen     replyState = iota
	replyDeferred            // the handler has returned, Reply is to come
	replyGiven               // by Reply
	replyLate                // REP: the handler has returned, and an empty reply went out in its place
)

// add adds the next part that arrived, which tells what a ROUTER put before a message, and what its peer put there for
// the way back, from the message itself. The routing id is always envelope. An empty frame directly behind it is the
// delimiter of a REQ, unless it is the last: then it is what a DEALER sent. Behind another broker the
// body begins with the next routing id.
func (m *Message) add(part []byte, last bool) {
	switch {
	case len(m.Frames) > 0:
		m.Frames = append(m.Frames, part)
	case m.id == nil && m.Socket.typ == zmq4.ROUTER:
		m.id, m.idSize = unsafe.SliceData(part), uint32(len(part))
	case m.id != nil && !m.delimited && len(part) == 0 && !last:
		m.delimited = true
	case m.Frames == nil:
		m.Frames = append(m.few[:0], part)
	default:
		m.Frames = append(m.Frames, part)
	}
}

// Envelope returns what Reply puts in front of its frames: on ROUTER the routing id of the peer, and the
// empty delimiter if there was one. It is empty on all other types. The frames must not be changed.
func (m *Message) Envelope() [][]byte {
	e := m.envelope()
	switch {
	case e.id == nil:
		return nil
	case e.delimited:
		return [][]byte{e.id, {}}
	}
	return [][]byte{e.id}
}

// Reply sends frames back the way the message came; without frames, one empty frame. It copies them, puts
// them on the socket's outbox and returns: it never blocks, and any goroutine may call it. REP, ROUTER,
// DEALER, PAIR and XPUB can reply; on an XPUB the reply is published.
//
// A reply belongs to its message: it is an error, and nothing is sent, to reply a second time, on a REP
// after the handler has returned, or once the flush has begun ([ErrClosed]).
func (m *Message) Reply(frames ...[]byte) error {
	s := m.Socket
	if s == nil {
		return errors.New("zmqgrace: reply: the message did not arrive on a socket")
	}
	if !canReply(s.typ) {
		return fmt.Errorf("zmqgrace: reply on socket %q: a %v can't reply", s.name, s.typ)
	}
	large := s.copyLarge(frames)
	s.mu.Lock()
	was := m.reply
	err := m.mayReply()
	if err == nil {
		s.outbox.queue.add(m.envelope(), frames, large, true)
		s.added(1, s)
	}
	s.mu.Unlock()
	if err == nil {
		s.r.loop.notice(s)
	} else {
		freeAll(large)
	}
	if was == replyDeferred {
		s.r.loop.crew.replied(m, err)
	}
	if err != nil {
		return fmt.Errorf("zmqgrace: reply on socket %q: %w", s.name, err)
	}
	return nil
}

// mayReply takes the one reply that the message has. The caller holds the socket's mutex.
func (m *Message) mayReply() error {
	switch m.reply {
	case replyGiven:
		return errors.New("the message was already replied to")
	case replyLate:
		return errors.New("too late, the handler had returned and a REP can't wait")
	}
	m.reply = replyGiven
	if m.Socket.outbox.shut {
		return ErrClosed
	}
	return nil
}

// turnReply changes the state of the reply if it is open, and reports whether it was.
func (m *Message) turnReply(to replyState) bool {
	m.Socket.mu.Lock()
	defer m.Socket.mu.Unlock()
	open := m.reply == replyOpen
	if open {
		m.reply = to
	}
	return open
}

// routingID is the peer's, in hex; empty where there is none.
func (m *Message) routingID() string { return hex.EncodeToString(m.envelope().id) }

func canReceive(t zmq4.Type) bool { return t != zmq4.PUSH && t != zmq4.PUB }

func canSend(t zmq4.Type) bool { return t != zmq4.PULL && t != zmq4.SUB && t != zmq4.REP }

func canReply(t zmq4.Type) bool {
	switch t {
	case zmq4.REP, zmq4.ROUTER, zmq4.DEALER, zmq4.PAIR, zmq4.XPUB:
		return true
	}
	return false
}
