// Package libzmq receives, sends and polls whole batches with one call into C each. A binding that crosses into C for
// every part of every message, and allocates there, spends more on that than libzmq does on the messages.
//
// It needs the C handle of a [zmq4.Socket], which pebbe keeps to itself: see [HandleOf]. As with the sockets themselves, one
// goroutine at a time may use what is here, but for frames.
package libzmq

/*
#cgo !windows pkg-config: libzmq
#cgo windows LDFLAGS: -lzmq
#cgo noescape zg_receive
#cgo nocallback zg_receive
#cgo noescape zg_send
#cgo nocallback zg_send
#cgo noescape zg_forward
#cgo nocallback zg_forward
#cgo noescape zg_poll
#cgo nocallback zg_poll
#cgo noescape zg_type
#cgo nocallback zg_type
#cgo noescape zg_curve_server
#cgo nocallback zg_curve_server
#cgo nocallback zg_enforce_zap
#cgo nocallback zg_new
#cgo nocallback zg_free
#cgo nocallback zg_clear
#include <errno.h>
#include <stdlib.h>
#include "batch.h"
*/
import "C"

import (
	"reflect"
	"time"
	"unsafe"

	"github.com/pebbe/zmq4"
)

// EAGAIN is C's, which on Windows is not what Go's package syscall calls so.
const EAGAIN = C.EAGAIN

// A Handle is libzmq's own name of a socket. Whoever uses it keeps the [zmq4.Socket] referenced, whose finalizer closes the
// socket otherwise, and does not use it once that is closed.
type Handle struct{ socket unsafe.Pointer }

// Valid reports whether the handle is one.
func (h Handle) Valid() bool { return h.socket != nil }

// HandleOf finds a socket's handle. It is not valid where pebbe's Socket is not what it was in versions 1.0 to 1.4: the
// field is looked up by name, and what it holds must say that it is a socket of the same type.
func HandleOf(s *zmq4.Socket) Handle {
	field := reflect.ValueOf(s).Elem().FieldByName("soc")
	if !field.IsValid() || field.Kind() != reflect.UnsafePointer || field.IsNil() {
		return Handle{}
	}
	want, err := s.GetType()
	if err != nil {
		return Handle{}
	}
	h := Handle{field.UnsafePointer()}
	var got C.int
	if C.zg_type(h.socket, &got) != 0 || zmq4.Type(got) != want {
		return Handle{}
	}
	return h
}

// CurveServer reports whether the socket is the server of its CURVE connections, for which pebbe has no getter.
func (h Handle) CurveServer() (bool, error) {
	var server C.int
	rc := C.zg_curve_server(h.socket, &server)
	return server != 0, errno(rc)
}

// EnforceZAP has libzmq let nobody in where the socket has a ZAP domain and nobody answers, at endpoints that it is bound or
// connected to from then on. It must have a domain: else libzmq aborts when a peer comes (plain_server.cpp).
func (h Handle) EnforceZAP() error { return errno(C.zg_enforce_zap(h.socket)) }

// A Frame is one part of a message in a [Batch], or on its way to [Send].
type Frame struct {
	size uint64
	own  uintptr // the C message that holds the bytes; 0: they are in the data that goes with the frames
	more uint32
	mark uint32
}

// One is read as the other.
var _ = [1]struct{}{}[unsafe.Sizeof(Frame{})-unsafe.Sizeof(C.zg_frame{})]

// NewFrame makes the frame of a part of so many bytes, which go into the data.
func NewFrame(size int, last bool) Frame {
	f := Frame{size: uint64(size)}
	if !last {
		f.more = 1
	}
	return f
}

// Own makes the frame one of b, which is copied to memory of libzmq's, so that sending need not copy it again. The frame must be
// sent, or freed. Any goroutine may call it.
func (f *Frame) Own(b []byte) {
	msg := C.zg_new(C.size_t(len(b)))
	copy(unsafe.Slice((*byte)(C.zmq_msg_data(msg)), len(b)), b)
	*f = Frame{size: uint64(len(b)), own: uintptr(unsafe.Pointer(msg))}
}

// Owns reports whether the frame's bytes are memory of libzmq's, and not in the data.
func (f *Frame) Owns() bool { return f.own != 0 }

// Last reports whether the frame is the last of its message.
func (f *Frame) Last() bool { return f.more == 0 }

// Marked reports whether the frame has a mark.
func (f *Frame) Marked() bool { return f.mark != 0 }

// Move returns the frame, which may now be the last one of its message or not, and leaves one behind that owns nothing.
func (f *Frame) Move(last bool) Frame {
	moved := NewFrame(int(f.size), last)
	moved.own, moved.mark = f.own, f.mark
	f.own = 0
	return moved
}

// Mark marks the last frame of a message: Send counts those.
func (f *Frame) Mark() { f.mark = 1 }

// Size is how many bytes the part has.
func (f *Frame) Size() int { return int(f.size) }

// Bytes returns the bytes of a frame that owns them, until it is sent or freed.
func (f *Frame) Bytes() []byte {
	return unsafe.Slice((*byte)(C.zmq_msg_data(f.message())), f.size)
}

// Free gives back the memory of a frame that owns some. A second Free does nothing.
func (f *Frame) Free() {
	if f.own != 0 {
		C.zg_free(f.message())
		f.own = 0
	}
}

func (f *Frame) message() *C.zmq_msg_t {
	return *(**C.zmq_msg_t)(unsafe.Pointer(&f.own)) // C memory: no pointer for the garbage collector
}

// Send sends messages, given as frames and the bytes of those that own none, in order, until one can't be sent; the error is
// that one's, EAGAIN where libzmq would block, and nothing of it is taken. swallows is for the types that lose the rest
// of a message whose peer goes away (PUSH, DEALER).
func Send(to Handle, swallows bool, frames []Frame, data []byte) (sent Progress, err error) {
	var p C.zg_progress
	rc := C.zg_send(to.socket, truth(swallows), (*C.zg_frame)(unsafe.Pointer(unsafe.SliceData(frames))), C.size_t(len(frames)),
		(*C.char)(unsafe.Pointer(unsafe.SliceData(data))), &p)
	return Progress{int(p.frames), int(p.bytes), int(p.messages), int(p.marked)}, errno(rc)
}

// Progress is how much of what it was given Send has sent.
type Progress struct {
	Frames   int // of them
	Bytes    int // of the data
	Messages int
	Marked   int // messages with a mark
}

// A Batch is what one call received. Its memory is used again for the next call, and given back by Clear.
type Batch struct{ c C.zg_batch }

// NewBatch makes a batch that has room for so many bytes.
func NewBatch(room int) *Batch {
	b := &Batch{}
	b.c.data = (*C.char)(C.malloc(C.size_t(room)))
	b.c.room = C.size_t(room)
	return b
}

// Clear frees the batch's memory. It must not be used any more.
func (b *Batch) Clear() { C.zg_clear(&b.c) }

// Receive takes at most that many messages that wait, and not many more bytes than the batch has room for. Parts of `alone` bytes and more
// get memory of their own. The error says why it stopped, EAGAIN where nothing more waits; what was received
// is good all the same.
func (b *Batch) Receive(from Handle, most, alone int) (messages int, err error) {
	var n C.int
	rc := C.zg_receive(from.socket, &b.c, C.int(most), C.size_t(alone), &n)
	return int(n), errno(rc)
}

// Forward passes at most that many messages on, without a copy of what is in them. With firstParts, the batch then begins with those of
// the messages that have left. What follows in it is a message that could not be sent, for the reason that the error is: nothing
// of it was. EAGAIN without such a message says that nothing more waits.
func (b *Batch) Forward(from, to Handle, swallows, firstParts bool, most int) (messages int, err error) {
	var n C.int
	rc := C.zg_forward(from.socket, to.socket, truth(swallows), &b.c, truth(firstParts), C.int(most), &n)
	return int(n), errno(rc)
}

// Frames returns the parts of what was received. It is valid until the batch is used again.
func (b *Batch) Frames() []Frame {
	return unsafe.Slice((*Frame)(unsafe.Pointer(b.c.frames)), b.c.frame_count)
}

// Data returns the bytes of the frames that do not own theirs, one after the other. It is valid until the batch is used again.
func (b *Batch) Data() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(b.c.data)), b.c.used) }

// A Poller looks at sockets by their places, for what each is to be looked at.
type Poller struct{ items []C.zmq_pollitem_t }

// Add adds a socket. Its place is the number of those before it.
func (p *Poller) Add(h Handle) {
	p.items = append(p.items, C.zmq_pollitem_t{socket: h.socket})
}

// Want sets what the socket at a place is looked at for.
func (p *Poller) Want(place int, events zmq4.State) { p.items[place].events = C.short(events) }

// Found returns what the last Poll found at a place.
func (p *Poller) Found(place int) zmq4.State { return zmq4.State(p.items[place].revents) }

// Poll waits until something is found, at most until the timeout, which is for ever if it is negative, and counts what it
// found.
func (p *Poller) Poll(timeout time.Duration) (found int, err error) {
	deadline := time.Now().Add(timeout)
	for {
		milliseconds := C.long(-1)
		if timeout >= 0 {
			milliseconds = C.long((timeout + time.Millisecond - 1) / time.Millisecond)
		}
		var n C.int
		rc := C.zg_poll(unsafe.SliceData(p.items), C.int(len(p.items)), milliseconds, &n)
		if rc != C.EINTR {
			return int(n), errno(rc)
		}
		if timeout > 0 { // the rest of it, where libzmq would begin anew
			timeout = max(time.Until(deadline), 0)
		}
	}
}

func errno(rc C.int) error {
	if rc == 0 {
		return nil
	}
	return zmq4.Errno(rc)
}

func truth(b bool) C.int {
	if b {
		return 1
	}
	return 0
}
