package zmqgrace

import (
	"unsafe"

	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

const (
	chunkFrames = 1024     // a chunk that has so many takes no more messages
	chunkBytes  = 64 << 10 // or so many
	spareChunks = 4        // that a queue keeps for use again: a turn's replies of 1 KiB
)

// copyLarge copies the large ones of a message's frames to libzmq's memory: once for all, and before anybody's mutex is held. It
// returns nil where there are none.
func copyLarge(body [][]byte) (large []libzmq.Frame) {
	for i, f := range body {
		if len(f) < aloneBytes {
			continue
		}
		if large == nil {
			large = make([]libzmq.Frame, len(body))
		}
		large[i].Own(f)
	}
	return large
}

func freeAll(frames []libzmq.Frame) {
	for i := range frames {
		frames[i].Free()
	}
}

// queue holds messages on their way out, in order, and in the form in which libzmq takes them by the batch.
type queue struct {
	chunks   []*chunk
	gone     int // of the chunks, in front
	messages int
	spare    []*chunk // empty ones, whose memory is used again
}

// chunk is a run of messages in one piece of memory.
type chunk struct {
	frames []libzmq.Frame
	data   []byte // of those frames that do not own theirs
	frame  int    // the first that has not left
	at     int    // where its bytes are
}

func (q *queue) empty() bool { return q.messages == 0 }

func (c *chunk) hasRoom() bool { return len(c.frames) < chunkFrames && len(c.data) < chunkBytes }

func (c *chunk) add(part []byte, last bool) {
	c.frames = append(c.frames, libzmq.NewFrame(len(part), last))
	c.data = append(c.data, part...)
}

// addFrames adds what is in that form already; what the frames own becomes the chunk's.
func (c *chunk) addFrames(frames []libzmq.Frame, data []byte) {
	for i := range frames {
		c.frames = append(c.frames, frames[i].Move(frames[i].Last()))
	}
	c.data = append(c.data, data...)
}

// first is the first message that has not left: its frames and their bytes.
func (c *chunk) first() ([]libzmq.Frame, []byte) {
	n, size := c.frame, 0
	for {
		f := &c.frames[n]
		if n++; !f.Owns() {
			size += f.Size()
		}
		if f.Last() {
			return c.frames[c.frame:n], c.data[c.at : c.at+size]
		}
	}
}

// firstParts is the first message that has not left, part by part, and how many bytes of data that is.
func (c *chunk) firstParts() (parts [][]byte, size int) {
	frames, data := c.first()
	size = len(data)
	for i := range frames {
		part := bytesOf(&frames[i], data)
		if parts = append(parts, part); !frames[i].Owns() {
			data = data[len(part):]
		}
	}
	return parts, size
}

// end returns a chunk to add a message to.
func (q *queue) end() *chunk {
	if n := len(q.chunks); n > q.gone && q.chunks[n-1].hasRoom() {
		return q.chunks[n-1]
	}
	var c *chunk
	if n := len(q.spare); n > 0 {
		c, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		c = &chunk{}
	}
	q.chunks = append(q.chunks, c)
	return c
}

// add copies a message, and takes over those of its frames that copyLarge has copied. A reply is marked, since its peer may go
// on with another request when it leaves.
func (q *queue) add(to envelope, body [][]byte, large []libzmq.Frame, reply bool) {
	q.messages++
	c := q.end()
	if to.id != nil {
		c.add(to.id, false)
		if to.delimited {
			c.add(nil, false)
		}
	}
	if len(body) == 0 {
		c.add(nil, true)
	}
	for i, f := range body {
		if large != nil && large[i].Owns() {
			c.frames = append(c.frames, large[i].Move(i == len(body)-1))
		} else {
			c.add(f, i == len(body)-1)
		}
	}
	if reply {
		c.frames[len(c.frames)-1].Mark()
	}
}

// addFrames adds one message that is in that form already.
func (q *queue) addFrames(frames []libzmq.Frame, data []byte) {
	q.messages++
	q.end().addFrames(frames, data)
}

// takeAll moves all messages of another queue, which nothing has left yet, to the end of this one, and gives it memory for more.
func (q *queue) takeAll(from *queue) {
	for _, c := range from.chunks {
		if n := len(q.chunks); n > q.gone && q.chunks[n-1].hasRoom() {
			q.chunks[n-1].addFrames(c.frames, c.data)
			from.reuse(c)
		} else {
			q.chunks = append(q.chunks, c)
		}
	}
	q.messages += from.messages
	clear(from.chunks)
	from.chunks, from.messages = from.chunks[:0], 0
	if len(from.spare) == 0 {
		from.spare, q.spare = q.spare, from.spare
	}
}

// moveFirst moves the first message to the end of another queue.
func (q *queue) moveFirst(to *queue) {
	frames, data := q.first()
	to.addFrames(frames, data)
	q.passed(libzmq.Progress{Frames: len(frames), Bytes: len(data), Messages: 1})
}

// dropFirst forgets the first message.
func (q *queue) dropFirst() {
	frames, data := q.first()
	freeAll(frames)
	q.passed(libzmq.Progress{Frames: len(frames), Bytes: len(data), Messages: 1})
}

// dropAll forgets all messages.
func (q *queue) dropAll() {
	for _, c := range q.chunks[q.gone:] {
		freeAll(c.frames[c.frame:])
	}
	*q = queue{}
}

func (q *queue) first() ([]libzmq.Frame, []byte) { return q.chunks[q.gone].first() }

// firstPart returns the first part of the first message: on a ROUTER the routing id.
func (q *queue) firstPart() []byte {
	c := q.chunks[q.gone]
	return bytesOf(&c.frames[c.frame], c.data[c.at:])
}

// firstSize is how much memory the first message takes: its bytes, and its frames, of which a message may have very many that are empty.
func (q *queue) firstSize() int {
	frames, _ := q.first()
	size := len(frames) * int(unsafe.Sizeof(frames[0]))
	for i := range frames {
		size += frames[i].Size()
	}
	return size
}

// bytesOf returns the bytes of a frame that come first in data, unless it owns them.
func bytesOf(f *libzmq.Frame, data []byte) []byte {
	if f.Owns() {
		return f.Bytes()
	}
	return data[:f.Size():f.Size()]
}

// send has libzmq take messages in order: only one, or as many as it takes. The error is of the message that is the first then.
func (q *queue) send(s *Socket, one bool) (sent libzmq.Progress, err error) {
	for !q.empty() && err == nil && !(one && sent.Messages > 0) {
		c := q.chunks[q.gone]
		frames, data := c.frames[c.frame:], c.data[c.at:]
		if one {
			frames, data = c.first()
		}
		var p libzmq.Progress
		p, err = s.sendAll(frames, data)
		q.passed(p)
		sent.Messages += p.Messages
		sent.Marked += p.Marked
	}
	return sent, err
}

// passed notes what has left. The rest is not moved: a long queue leaves in many small steps.
func (q *queue) passed(p libzmq.Progress) {
	c := q.chunks[q.gone]
	c.frame += p.Frames
	c.at += p.Bytes
	q.messages -= p.Messages
	if c.frame < len(c.frames) {
		return
	}
	q.reuse(c)
	q.chunks[q.gone] = nil
	if q.gone++; q.gone == len(q.chunks) {
		q.chunks, q.gone = q.chunks[:0], 0
	} else if q.gone > chunkFrames && q.gone > len(q.chunks)/2 {
		q.chunks, q.gone = append(q.chunks[:0], q.chunks[q.gone:]...), 0
	}
}

// reuse keeps the memory of a chunk for the next one.
func (q *queue) reuse(c *chunk) {
	if len(q.spare) < spareChunks && cap(c.data) <= 4*chunkBytes && cap(c.frames) <= 4*chunkFrames {
		*c = chunk{frames: c.frames[:0], data: c.data[:0]}
		q.spare = append(q.spare, c)
	}
}
