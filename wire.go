package zmqgrace

import (
	"bytes"
	"time"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

// This file is the narrow place through which every message comes in and goes out. There are two ways: whole batches with one
// call into C each, and pebbe's own calls, one part at a time, for a socket whose C handle can't be found. All that is
// above sees no difference.

const (
	// batchBytes is how much one call receives, but for what the last message is beyond. A peer whose messages are large does not wait
	// longer for its replies than it takes to make so many: at four times as much an echo of 1 KiB is slower by a tenth.
	batchBytes = 64 << 10

	// aloneBytes is the size from which a frame has memory of its own, both ways: it is copied once then.
	aloneBytes = 4 << 10

	// pieceBytes is how much memory frames share at the most, and so what one that is kept keeps. It is far from the size from
	// which Go takes pages from the heap.
	pieceBytes = 16 << 10
)

// portable, if not empty, has the Runner use pebbe's own calls throughout. It is for comparison, and set by the linker:
// go test -ldflags '-X github.com/zmqgrace/zmqgrace.portable=yes'.
var portable string

// handleOf finds what the fast way needs of a socket.
func handleOf(raw *zmq4.Socket) libzmq.Handle {
	if portable != "" {
		return libzmq.Handle{}
	}
	return libzmq.HandleOf(raw)
}

// isGone reports whether somebody else has closed the socket. pebbe's calls ask that themselves.
func isGone(raw *zmq4.Socket) bool {
	_, err := raw.Context()
	return err != nil
}

// inbox holds what was received with one call and nobody has handled yet. It counts as if it were still in libzmq.
type inbox struct {
	messages []Message
	dry      bool // libzmq had nothing more then
}

// next takes the next message out.
func (in *inbox) next() *Message {
	m := &in.messages[0]
	in.messages = in.messages[1:]
	return m
}

// fill sees to it that there is a message in the inbox: if need be it receives, at most that many.
func (s *Socket) fill(most int) error {
	switch {
	case len(s.inbox.messages) > 0:
		return nil
	case s.inbox.dry:
		s.inbox.dry = false
		return eagain
	}
	switch s.typ {
	case zmq4.REP, zmq4.REQ: // there is no second one before something is done about the first
		most = 1
	case zmq4.XPUB: // with XPUB_MANUAL a handler's SetSubscribe is for whoever sent what was received last
		most = 1
	}
	return s.receive(most)
}

// receive fills the inbox, without blocking, with at most that many. A message is all there or not at all (libzmq makes it
// readable when its last part has arrived), so only the first part can be missing.
func (s *Socket) receive(most int) error {
	if !s.handle.Valid() {
		frames, err := receivePortable(s.raw, s.typ)
		if err != nil {
			return err
		}
		messages := make([]Message, 1)
		messages[0].Socket = s
		for i, f := range frames {
			messages[0].add(f, i == len(frames)-1)
		}
		s.took(messages, false)
		return nil
	}
	if isGone(s.raw) {
		return zmq4.ErrorSocketClosed
	}
	batch := s.r.loop.batch
	n, err := batch.Receive(s.handle, most, aloneBytes)
	if n == 0 {
		return err
	}
	s.took(s.unpack(batch, n), isAgain(err)) // any other error will come again
	return nil
}

// took puts messages into the inbox.
func (s *Socket) took(messages []Message, dry bool) {
	// In the drain an empty moment has consequences, and there was none: the messages were there.
	s.inbox = inbox{messages, dry && !s.r.loop.drain}
	s.mu.Lock()
	s.batch, s.ended = batch{messages, s.begun}, s.begun
	s.mu.Unlock()
}

// unpack copies the messages that were received to where the handlers own them for ever: two pieces of memory for all, where
// they are small and have one frame.
func (s *Socket) unpack(batch *libzmq.Batch, n int) []Message {
	messages := make([]Message, n)
	frames, data := batch.Frames(), batch.Data()
	var piece []byte  // of the data, what the next parts are in
	var many [][]byte // for the Frames of messages that have several
	for i := range messages {
		m := &messages[i]
		m.Socket = s
		parts := 1
		for !frames[parts-1].Last() {
			parts++
		}
		body := parts
		if s.typ == zmq4.ROUTER {
			if body--; body > 1 && frames[1].Size() == 0 {
				body--
			}
		}
		if body > len(m.few) {
			if many == nil {
				many = make([][]byte, len(frames))
			}
			m.Frames, many = many[:0:body], many[body:]
		}
		for j := range parts {
			f := &frames[j]
			size := f.Size()
			var part []byte
			if f.Owns() {
				part = bytes.Clone(f.Bytes())
				f.Free()
			} else {
				if piece == nil || len(piece) < size {
					piece = append([]byte{}, data[:min(len(data), pieceBytes)]...)
				}
				part, piece, data = piece[:size:size], piece[size:], data[size:]
			}
			m.add(part, j == parts-1)
		}
		frames = frames[parts:]
	}
	return messages
}

// sendAll hands messages to libzmq, in order and without blocking, until one can't be sent; the error is that one's. EAGAIN means that
// nothing of it was taken.
func (s *Socket) sendAll(frames []libzmq.Frame, data []byte) (sent libzmq.Progress, err error) {
	if s.handle.Valid() {
		if isGone(s.raw) {
			return sent, zmq4.ErrorSocketClosed
		}
		return libzmq.Send(s.handle, swallows(s.typ), frames, data)
	}
	for sent.Frames < len(frames) {
		one := chunk{frames: frames, data: data, frame: sent.Frames, at: sent.Bytes}
		parts, size := one.firstParts()
		if err := sendPortable(s.raw, s.typ, parts); err != nil {
			return sent, err
		}
		sent.Frames += len(parts)
		sent.Bytes += size
		sent.Messages++
		if frames[sent.Frames-1].Marked() {
			sent.Marked++
		}
	}
	return sent, nil
}

// swallows reports whether sockets of the type lose the rest of a message whose peer goes away, as sendPortable says.
func swallows(t zmq4.Type) bool { return t == zmq4.PUSH || t == zmq4.DEALER }

// receivePortable takes one whole message.
func receivePortable(raw *zmq4.Socket, t zmq4.Type) ([][]byte, error) {
	part, err := raw.RecvBytes(zmq4.DONTWAIT)
	if err != nil {
		return nil, err
	}
	frames := make([][]byte, 0, 3) // routing id, delimiter, body
	for {
		frames = append(frames, part)
		if t != zmq4.ROUTER || len(frames) > 1 { // a routing id never comes alone
			more, err := raw.GetRcvmore()
			if err != nil {
				return nil, err
			}
			if !more {
				return frames, nil
			}
		}
		if part, err = raw.RecvBytes(zmq4.DONTWAIT); err != nil {
			return nil, err
		}
	}
}

// sendPortable sends one whole message.
//
// The parts go back to back, and not through pebbe's SendMessage, which hides the part that failed. Where a
// peer goes away in the middle of a message, PUSH and DEALER roll back what they have and swallow the
// remaining parts (lb.cpp): those must be sent, into nowhere, or the next whole message would be
// swallowed in their place. Then the message is sent anew. PAIR and the others just begin anew; for a REQ
// there is no way to do it right, since its delimiter is gone and it does not write another (req.cpp).
func sendPortable(raw *zmq4.Socket, t zmq4.Type, frames [][]byte) error {
	last := len(frames) - 1
	for i := 0; i <= last; i++ {
		err := sendPart(raw, frames[i], i < last)
		if err == nil {
			continue
		}
		if i == 0 || !isAgain(err) {
			return err
		}
		if swallows(t) {
			for j := i + 1; j <= last; j++ {
				if err := sendPart(raw, frames[j], j < last); err != nil {
					return err
				}
			}
		}
		i = -1
	}
	return nil
}

func sendPart(raw *zmq4.Socket, part []byte, more bool) error {
	flags := zmq4.DONTWAIT
	if more {
		flags |= zmq4.SNDMORE
	}
	_, err := raw.SendBytes(part, flags)
	return err
}

// readable reports whether the socket has something to read. Asking has libzmq process what its peers did meanwhile.
func (s *Socket) readable() bool { return len(s.inbox.messages) > 0 || readable(s.raw) }

func readable(raw *zmq4.Socket) bool {
	events, err := raw.GetEvents()
	return err == nil && events&zmq4.POLLIN != 0
}

func isAgain(err error) bool { return err == eagain }

// eagain as pebbe returns it: comparing interfaces is what the hot path can afford. The number is C's: on Windows Go's is
// another.
var eagain error = zmq4.Errno(libzmq.EAGAIN)

// poller looks at sockets by their places: the doorbell's is 0.
type poller interface {
	want(place int, events zmq4.State)
	poll(timeout time.Duration) error // less than 0: for ever
	found(place int) zmq4.State       // by the last poll
}

// newPoller makes the fast one, or, where one socket has no handle, pebbe's.
func newPoller(doorbell *zmq4.Socket, sockets []*Socket) poller {
	fast := &fastPoller{sockets: sockets}
	bell := handleOf(doorbell)
	fast.poller.Add(bell)
	valid := bell.Valid()
	for _, s := range sockets {
		fast.poller.Add(s.handle)
		valid = valid && s.handle.Valid()
	}
	if valid {
		fast.want(0, zmq4.POLLIN)
		return fast
	}
	slow := &portablePoller{poller: zmq4.NewPoller()}
	slow.poller.Add(doorbell, zmq4.POLLIN)
	for _, s := range sockets {
		slow.poller.Add(s.raw, 0)
	}
	return slow
}

type fastPoller struct {
	poller  libzmq.Poller
	sockets []*Socket
}

func (p *fastPoller) want(place int, events zmq4.State) { p.poller.Want(place, events) }
func (p *fastPoller) found(place int) zmq4.State        { return p.poller.Found(place) }

func (p *fastPoller) poll(timeout time.Duration) error {
	for _, s := range p.sockets {
		if isGone(s.raw) {
			return zmq4.ErrorSocketClosed
		}
	}
	_, err := p.poller.Poll(timeout)
	return err
}

type portablePoller struct {
	poller *zmq4.Poller
	all    []zmq4.Polled
}

func (p *portablePoller) want(place int, events zmq4.State) { p.poller.Update(place, events) }
func (p *portablePoller) found(place int) zmq4.State        { return p.all[place].Events }

func (p *portablePoller) poll(timeout time.Duration) (err error) {
	p.all, err = p.poller.PollAll(timeout)
	return err
}
