package main

import (
	"context"
	"slices"

	"github.com/pebbe/zmq4"
	"github.com/zmqgrace/zmqgrace"
)

// guard lets in who has one of the keys, by ZeroMQ RFC 27. It has no quiet time: strangers who try again and again must
// not hold up the end.
func guard(runner *zmqgrace.Runner, clients []string) error {
	zap, err := runner.NewSocket(zmq4.REP, zmqgrace.WithName("zap"), zmqgrace.WithSocketQuiet(0))
	if err != nil {
		return err
	}
	zap.Handle(func(ctx context.Context, m *zmqgrace.Message) error {
		f := m.Frames // version, request id, domain, address, routing id, mechanism, the client's key
		if string(f[5]) != "CURVE" || !slices.Contains(clients, zmq4.Z85encode(string(f[6]))) {
			return m.Reply(f[0], f[1], []byte("400"), []byte("unknown key"), nil, nil)
		}
		return m.Reply(f[0], f[1], []byte("200"), []byte("OK"), f[6], nil)
	})
	return zap.Bind("inproc://zeromq.zap.01")
}
