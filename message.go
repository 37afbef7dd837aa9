package zmqgrace

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync/atomic"

	"github.com/pebbe/zmq4"
)

// A Handler serves one message. It runs on the loop goroutine, so while it runs nothing else is received
// or sent, or, with [WithWorkers], on one of the workers. Its ctx carries the values of Run's ctx and is not cancelled by a signal: the handler has the
// drain to finish. It is cancelled, with the cause of the end, when the drain has used up its time or the
// end is forced.
//
// An error concerns this message alone: it is counted and logged, and the server goes on, because bad
// input must not stop a server. [ErrStop] ends the server gracefully. [ErrDeferred] leaves the message in flight until
// its [Message.Reply], which another handler or goroutine calls later. On REP a handler that returns
// without a reply has an empty one sent for it, since the socket would be stuck otherwise.
//
// A panic is not recovered: the replies already given are flushed, for at most a second, and then the
// process dies with the original value and stack.
type Handler func(ctx context.Context, m *Message) error

// A Message is what arrived on a socket.
type Message struct {
	Socket *Socket  // where it arrived
	Frames [][]byte // the body; the handler owns it for ever

	from  sender
	reply atomic.Int32 // one of the reply states
	late  bool         // it goes to the socket's Late
	few   [2][]byte    // the Frames of most messages, which so need no memory of their own
}

// sender is the envelope of a ROUTER's message: who it came from.
type sender struct {
	id        []byte // the routing id, which is never empty; nil on all other types
	delimited bool   // a REQ's empty frame follows it
}

// The states of a message's reply.
const (
	replyOpen     = iota
	replyDeferred // the handler has returned, Reply is to come
	replyGiven    // by Reply
	replyLate     // REP: the handler has returned, and an empty reply went out in its place
)

// add adds the next part that arrived, which tells what a ROUTER put before a message, and what its peer put there for
// the way back, from the message itself. The routing id is always envelope. An empty frame directly behind it is the
// delimiter of a REQ, unless it is the last: then it is what a DEALER sent. Behind another broker the
// body begins with the next routing id.
func (m *Message) add(part []byte, last bool) {
	switch {
	case m.Frames == nil && m.from.id == nil && m.Socket.typ == zmq4.ROUTER:
		m.from.id = part
	case m.Frames == nil && m.from.id != nil && !m.from.delimited && len(part) == 0 && !last:
		m.from.delimited = true
	case m.Frames == nil:
		m.Frames = append(m.few[:0], part)
	default:
		m.Frames = append(m.Frames, part)
	}
}

// Envelope returns what Reply puts in front of its frames: on ROUTER the routing id of the peer, and the
// empty delimiter if there was one. It is empty on all other types. The frames must not be changed.
func (m *Message) Envelope() [][]byte {
	switch {
	case m.from.id == nil:
		return nil
	case m.from.delimited:
		return [][]byte{m.from.id, {}}
	}
	return [][]byte{m.from.id}
}

// Reply sends frames back the way the message came; without frames, one empty frame. It copies them, puts
// them on the socket's outbox and returns: it never blocks, and any goroutine may call it. REP, ROUTER,
// DEALER, PAIR and XPUB can reply; on an XPUB the reply is published.
//
// A reply belongs to its message: it is an error, and nothing is sent, to reply a second time, on a REP
// after the handler has returned, or once the flush has begun ([ErrClosed]).
func (m *Message) Reply(frames ...[]byte) error {
	s := m.Socket
	if !canReply(s.typ) {
		return fmt.Errorf("zmqgrace: reply on socket %q: a %v can't reply", s.name, s.typ)
	}
	deferred := m.reply.CompareAndSwap(replyDeferred, replyGiven)
	if !deferred && !m.reply.CompareAndSwap(replyOpen, replyGiven) {
		if m.reply.Load() == replyLate {
			return fmt.Errorf("zmqgrace: reply on socket %q: too late, the handler had returned and a REP can't wait", s.name)
		}
		return fmt.Errorf("zmqgrace: reply on socket %q: the message was already replied to", s.name)
	}
	err := s.push(outgoing{to: m.from, frames: frames, reply: true}, s)
	if deferred {
		s.r.loop.crew.replied(m, err)
	}
	if err != nil {
		return fmt.Errorf("zmqgrace: reply on socket %q: %w", s.name, err)
	}
	return nil
}

// routingID is the peer's, in hex; empty where there is none.
func (m *Message) routingID() string { return hex.EncodeToString(m.from.id) }

func canReceive(t zmq4.Type) bool { return t != zmq4.PUSH && t != zmq4.PUB }

func canSend(t zmq4.Type) bool { return t != zmq4.PULL && t != zmq4.SUB && t != zmq4.REP }

func canReply(t zmq4.Type) bool {
	switch t {
	case zmq4.REP, zmq4.ROUTER, zmq4.DEALER, zmq4.PAIR, zmq4.XPUB:
		return true
	}
	return false
}
