package zmqgrace

import (
	"bytes"
	"testing"
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
