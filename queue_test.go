package zmqgrace

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/zmqgrace/zmqgrace/internal/libzmq"
)

// A queue that never runs empty gives up, now and then, the places of the chunks that have left.
func TestAQueueThatNeverRunsEmptyKeepsItsOrderAndNoPlacesOfWhatHasLeft(t *testing.T) {
	t.Parallel()
	const n, ahead = 4 * chunkFrames, 3
	var q queue
	body := make([]byte, chunkBytes) // a chunk each
	for i := range n + ahead {
		if i < n {
			q.add(envelope{}, [][]byte{countedBody(i), body}, nil, false)
		}
		if i < ahead {
			continue
		}
		if first := q.firstPart(); !bytes.Equal(first, countedBody(i-ahead)) {
			t.Fatalf("message %d is %x", i-ahead, first)
		}
		q.dropFirst()
		if len(q.chunks) > chunkFrames+ahead+1 {
			t.Fatalf("%d messages keep %d places", q.messages, len(q.chunks))
		}
	}
	if !q.empty() || len(q.chunks) != 0 {
		t.Errorf("%d messages are left in %d places", q.messages, len(q.chunks))
	}
}

// A message of very many empty frames takes memory, too, and a client may choose how many come back to it.
func TestTheSizeOfAMessageIsWhatItsFramesAndTheirBytesTake(t *testing.T) {
	const frames, frame = 1000, int(unsafe.Sizeof(libzmq.Frame{}))
	var q queue
	q.add(envelope{id: []byte("me"), delimited: true}, make([][]byte, frames), nil, false)
	if got, want := q.firstSize(), len("me")+(2+frames)*frame; got != want {
		t.Errorf("%d empty frames take %d bytes, not %d", frames, got, want)
	}
	q.dropFirst()
	large := [][]byte{make([]byte, 2*aloneBytes)}
	q.add(envelope{}, large, copyLarge(large), false)
	if got, want := q.firstSize(), 2*aloneBytes+frame; got != want {
		t.Errorf("a large frame takes %d bytes, not %d", got, want)
	}
	q.dropAll()
}
