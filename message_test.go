package zmqgrace

import (
	"bytes"
	"slices"
	"testing"

	"github.com/pebbe/zmq4"
)

// frames makes a message of strings.
func frames(parts ...string) (all [][]byte) {
	for _, p := range parts {
		all = append(all, []byte(p))
	}
	return all
}

// arrived is the message that a socket makes of the frames that it received.
func arrived(typ zmq4.Type, frames [][]byte) *Message {
	m := &Message{Socket: &Socket{typ: typ}}
	for i, f := range frames {
		m.add(f, i == len(frames)-1)
	}
	return m
}

func sameFrames(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

func TestTheEnvelopeIsTheRoutingIDAndTheDelimiterBehindIt(t *testing.T) {
	for _, c := range []struct {
		name           string
		message        [][]byte
		envelope, body [][]byte
	}{
		{"REQ", frames("id", "", "hello"), frames("id", ""), frames("hello")},
		{"REQ, several frames", frames("id", "", "a", "b", ""), frames("id", ""), frames("a", "b", "")},
		{"REQ, an empty body", frames("id", "", ""), frames("id", ""), frames("")},
		{"DEALER", frames("id", "hello"), frames("id"), frames("hello")},
		{"DEALER, several frames", frames("id", "a", "", "b"), frames("id"), frames("a", "", "b")},
		{"DEALER, a single empty frame", frames("id", ""), frames("id"), frames("")},
		{"behind a broker", frames("broker", "client", "", "hello"), frames("broker"), frames("client", "", "hello")},
		{"behind a broker that delimits", frames("broker", "", "client", "", "hello"), frames("broker", ""), frames("client", "", "hello")},
		{"behind two brokers", frames("b2", "b1", "client", "", "hello"), frames("b2"), frames("b1", "client", "", "hello")},
		{"two delimiters", frames("id", "", "", "hello"), frames("id", ""), frames("", "hello")},
		{"nothing but the id", frames("id"), frames("id"), nil},
	} {
		m := arrived(zmq4.ROUTER, c.message)
		envelope, body := m.Envelope(), m.Frames
		if !sameFrames(envelope, c.envelope) || !sameFrames(body, c.body) {
			t.Errorf("%s: the envelope is %q, the body %q", c.name, envelope, body)
		}
	}
	for _, typ := range allTypes {
		if typ == zmq4.ROUTER {
			continue
		}
		if m := arrived(typ, frames("a", "", "b")); len(m.Envelope()) != 0 || len(m.Frames) != 3 {
			t.Errorf("%v: the envelope is %q, the body %q", typ, m.Envelope(), m.Frames)
		}
	}
}

func TestAppendingToTheEnvelopeLeavesTheBodyAlone(t *testing.T) {
	for _, typ := range []zmq4.Type{zmq4.ROUTER, zmq4.DEALER} {
		m := arrived(typ, frames("id", "", "hello"))
		want := slices.Clone(m.Frames)
		_ = append(m.Envelope(), []byte("intruder"))
		if !sameFrames(m.Frames, want) {
			t.Errorf("%v: the body became %q", typ, m.Frames)
		}
	}
}

// packed makes a message out of one string, for the fuzzer: every 0 byte ends a frame.
func packed(b []byte) [][]byte { return bytes.Split(b, []byte{0}) }

func FuzzSplitEnvelope(f *testing.F) {
	f.Add(true, []byte("id\x00\x00hello"))
	f.Add(true, []byte("id\x00"))
	f.Add(true, []byte("id"))
	f.Add(true, []byte("\x00\x00\x00\x00"))
	f.Add(false, []byte("a\x00\x00b"))
	f.Add(false, []byte(""))
	f.Fuzz(func(t *testing.T, router bool, b []byte) {
		message := packed(b)
		whole := slices.Clone(message)
		typ := zmq4.DEALER
		if router {
			typ = zmq4.ROUTER
		}
		m := arrived(typ, message)
		envelope, body := m.Envelope(), m.Frames
		if !sameFrames(append(slices.Clone(envelope), body...), whole) {
			t.Fatalf("%q became envelope %q and body %q", whole, envelope, body)
		}
		if !router && len(envelope) != 0 {
			t.Fatalf("a DEALER has the envelope %q", envelope)
		}
		if router && (len(envelope) < 1 || len(envelope) > 2 || len(envelope) == 2 && len(envelope[1]) != 0) {
			t.Fatalf("a ROUTER has the envelope %q", envelope)
		}
		if router && len(whole) > 1 && len(body) == 0 {
			t.Fatalf("%q has no body", whole)
		}
		if len(body) == 0 {
			return // a reply has at least one frame
		}
		var q queue
		q.add(m.envelope(), body, nil, true)
		if reply, _ := q.chunks[0].firstParts(); !sameFrames(reply, whole) {
			t.Fatalf("%q was copied as %q", whole, reply)
		}
	})
}

func TestQueuedFramesShareNothing(t *testing.T) {
	id, body := []byte("id"), frames("hello", "", "world")
	var q queue
	q.add(envelope{id, true}, body, nil, true)
	for _, f := range append(body, id) {
		for i := range f {
			f[i] = 'X'
		}
	}
	got, _ := q.chunks[0].firstParts()
	if want := frames("id", "", "hello", "", "world"); !sameFrames(got, want) {
		t.Errorf("the copy changed to %q", got)
	}
}

func TestAMessageThatNobodySentCantBeRepliedTo(t *testing.T) {
	m := &Message{Frames: frames("hello")}
	if err := m.Reply([]byte("hi")); err == nil {
		t.Error("the reply was taken")
	}
	if e := m.Envelope(); e != nil {
		t.Errorf("the envelope is %q", e)
	}
}
