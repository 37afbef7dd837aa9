package zmqgrace

import (
	"syscall"

	"github.com/pebbe/zmq4"
)

// This file is the narrow place through which every message comes in and goes out.

// receive takes one whole message from raw without blocking. A message is all there or not at all
// (libzmq makes it readable when its last part has arrived), so only the first part can be missing.
func receive(raw *zmq4.Socket, t zmq4.Type) ([][]byte, error) {
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

// send hands one whole message to libzmq without blocking. EAGAIN means that nothing of it was taken.
//
// The parts go back to back, and not through pebbe's SendMessage, which hides the part that failed. Where a
// peer goes away in the middle of a message, PUSH and DEALER roll back what they have and swallow the
// remaining parts (lb.cpp): those must be sent, into nowhere, or the next whole message would be
// swallowed in their place. Then the message is sent anew. PAIR and the others just begin anew; for a REQ
// there is no way to do it right, since its delimiter is gone and it does not write another (req.cpp).
func send(raw *zmq4.Socket, t zmq4.Type, frames [][]byte) error {
	last := len(frames) - 1
	for i := 0; i <= last; i++ {
		err := sendPart(raw, frames[i], i < last)
		if err == nil {
			continue
		}
		if i == 0 || !isAgain(err) {
			return err
		}
		if t == zmq4.PUSH || t == zmq4.DEALER {
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

// readable reports whether raw has something to read. Asking has libzmq process what its peers did meanwhile.
func readable(raw *zmq4.Socket) bool {
	events, err := raw.GetEvents()
	return err == nil && events&zmq4.POLLIN != 0
}

func isAgain(err error) bool { return err == eagain }

// eagain as pebbe returns it: comparing interfaces is what the hot path can afford.
var eagain error = zmq4.Errno(syscall.EAGAIN)
