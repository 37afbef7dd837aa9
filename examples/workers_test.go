package examples

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pebbe/zmq4"
)

func TestTheWorkersExampleWorksInParallelAndAnswersAllWhenItEndsInTheMiddle(t *testing.T) {
	const each, work = 50, 10 * time.Millisecond
	server := start(t, "workers", "-work", work.String(), anyPort)
	dealers := clients(t, 20, zmq4.DEALER, server.endpoints()[0])
	begin := time.Now()
	for i := range each {
		for _, dealer := range dealers {
			send(t, dealer, "request "+strconv.Itoa(i))
		}
	}
	first, err := dealers[0].RecvMessage(0)
	if err != nil {
		t.Fatal(err)
	}
	server.signal(syscall.SIGTERM)
	for i, dealer := range dealers {
		missing := map[string]bool{}
		for n := range each {
			missing["request "+strconv.Itoa(n)] = true
		}
		if i == 0 {
			delete(missing, first[0])
		}
		for len(missing) > 0 {
			answer, err := dealer.RecvMessage(0)
			if err != nil {
				t.Fatalf("%d of %d answers did not come: %v", len(missing), each, err)
			}
			if len(answer) != 1 || !missing[answer[0]] {
				t.Fatalf("received %q, which nobody asked for", answer)
			}
			delete(missing, answer[0])
		}
	}
	took, alone := time.Since(begin), time.Duration(len(dealers)*each)*work
	t.Logf("%d requests of %v in %v", len(dealers)*each, work, took)
	if took > alone/3 {
		t.Errorf("eight workers took %v; one alone takes %v", took, alone)
	}
	output := server.end()
	mustSay(t, output, `ended.*terminated`)
	if n := reported(t, output, "router-1.handled"); n != len(dealers)*each {
		t.Errorf("handled %d", n)
	}
}
