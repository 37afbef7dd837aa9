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
		envelope, body := splitEnvelope(zmq4.ROUTER, c.message)
		if !sameFrames(envelope, c.envelope) || !sameFrames(body, c.body) {
			t.Errorf("%s: the envelope is %q, the body %q", c.name, envelope, body)
		}
	}
	for _, typ := range allTypes {
		if typ == zmq4.ROUTER {
			continue
		}
		if envelope, body := splitEnvelope(typ, frames("a", "", "b")); len(envelope) != 0 || len(body) != 3 {
			t.Errorf("%v: the envelope is %q, the body %q", typ, envelope, body)
		}
	}
}

func TestAppendingToTheEnvelopeLeavesTheBodyAlone(t *testing.T) {
	for _, typ := range []zmq4.Type{zmq4.ROUTER, zmq4.DEALER} {
		envelope, body := splitEnvelope(typ, frames("id", "", "hello"))
		want := slices.Clone(body)
		_ = append(envelope, []byte("intruder"))
		if !sameFrames(body, want) {
			t.Errorf("%v: the body became %q", typ, body)
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
		envelope, body := splitEnvelope(typ, message)
		if !sameFrames(append(slices.Clone(envelope), body...), whole) {
			t.Fatalf("%q became envelope %q and body %q", whole, envelope, body)
		}
		if cap(envelope) != len(envelope) {
			t.Fatal("the envelope has room that is the body's")
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
		if reply := copyFrames(envelope, body); !sameFrames(reply, whole) {
			t.Fatalf("%q was copied as %q", whole, reply)
		}
	})
}

func TestCopiedFramesShareNothing(t *testing.T) {
	envelope, body := frames("id", ""), frames("hello", "", "world")
	got := copyFrames(envelope, body)
	for _, f := range append(envelope, body...) {
		for i := range f {
			f[i] = 'X'
		}
	}
	if !sameFrames(got, frames("id", "", "hello", "", "world")) {
		t.Errorf("the copy changed to %q", got)
	}
	_ = append(got[0], "intruder"...)
	if !sameFrames(got, frames("id", "", "hello", "", "world")) {
		t.Errorf("appending to one frame changed the next: %q", got)
	}
	if got := copyFrames(nil, nil); len(got) != 0 {
		t.Errorf("a copy of nothing is %q", got)
	}
}
