package examples

import (
	"path/filepath"
	"regexp"
	"testing"

	"github.com/pebbe/zmq4"
)

// curveClient is a client with a key pair of its own that knows the server's public key.
func curveClient(t *testing.T, public, secret, server, endpoint string) *zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ctx.NewSocket(zmq4.DEALER)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); ctx.Term() })
	for _, err := range []error{
		s.SetLinger(0), s.SetRcvtimeo(patience), s.ClientAuthCurve(server, public, secret), s.Connect(endpoint),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestTheCurveExampleServesWhoHasTheRightKeyAlsoAfterARestart(t *testing.T) {
	if !zmq4.HasCurve() {
		t.Skip("libzmq was built without CURVE")
	}
	keys := func() (public, secret string) {
		public, secret, err := zmq4.NewCurveKeypair()
		if err != nil {
			t.Fatal(err)
		}
		return public, secret
	}
	public, secret := keys()
	strangersPublic, strangersSecret := keys()
	keyFile := filepath.Join(t.TempDir(), "key")
	endpoint := anyPort
	var known *zmq4.Socket
	for range 2 {
		server := start(t, "curve", keyFile, endpoint, public)
		text, _ := server.line()
		said := regexp.MustCompile(`(tcp://\S+) with the public key (\S{40})$`).FindStringSubmatch(text)
		if said == nil {
			t.Fatalf("it said %q", text)
		}
		endpoint = said[1]
		if known == nil {
			known = curveClient(t, public, secret, said[2], endpoint)
		}
		stranger := curveClient(t, strangersPublic, strangersSecret, said[2], endpoint)
		send(t, stranger, "let me in")
		for range 10 {
			send(t, known, "hello")
			receive(t, known, "hello")
		}
		output := server.terminate()
		mustSay(t, output, `ended.*terminated`, `report.busy=false`)
		if n := reported(t, output, "front.received"); n != 10 {
			t.Errorf("%d requests got in, want 10:\n%s", n, output)
		}
		if got, err := stranger.Recv(zmq4.DONTWAIT); err == nil {
			t.Errorf("the stranger received %q", got)
		}
	}
}
