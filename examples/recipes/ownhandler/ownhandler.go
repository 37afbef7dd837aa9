// Package ownhandler has handlers to be tested; its tests show how.
package ownhandler

import (
	"bytes"
	"context"
	"errors"

	"github.com/zmqgrace/zmqgrace"
)

// Upper answers with the request in capitals. The work is in a function that knows no sockets, so that it can be tested
// without any.
func Upper(ctx context.Context, m *zmqgrace.Message) error {
	answer, err := upper(m.Frames)
	if err != nil {
		return err
	}
	return m.Reply(answer...)
}

func upper(request [][]byte) ([][]byte, error) {
	if len(request) != 1 {
		return nil, errors.New("a request is one frame")
	}
	return [][]byte{bytes.ToUpper(request[0])}, nil
}

// A Counter counts what it is sent. It gives no reply, so a message made by hand will do for its test.
type Counter struct{ Frames int }

// Handle implements a [zmqgrace.Handler].
func (c *Counter) Handle(ctx context.Context, m *zmqgrace.Message) error {
	c.Frames += len(m.Frames)
	return nil
}
