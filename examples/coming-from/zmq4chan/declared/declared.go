// Package zmq4chan declares what ../before uses of github.com/thinkdoggie/zmq4chan v1.2.0, so that it compiles without
// that module, which has no part in the rest. It does nothing: to run ../before, take the replace line out of go.mod.
package zmq4chan

import (
	"context"

	"github.com/pebbe/zmq4"
)

// A ChanAdapter makes channels of a socket.
type ChanAdapter struct{}

// NewChanAdapter takes the lengths of the two channels.
func NewChanAdapter(socket *zmq4.Socket, rxChanSize, txChanSize int) *ChanAdapter {
	return &ChanAdapter{}
}

// Start starts the adapter's goroutines.
func (*ChanAdapter) Start(ctx context.Context) {}

// Close ends them.
func (*ChanAdapter) Close() {}

// RxChan has what the socket received.
func (*ChanAdapter) RxChan() <-chan [][]byte { return nil }

// TxChan takes what the socket shall send.
func (*ChanAdapter) TxChan() chan<- [][]byte { return nil }
