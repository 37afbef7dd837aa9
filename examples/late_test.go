package examples

import (
	"slices"
	"testing"
	"time"
)

func TestTheLateExamplesClientsLoseNothingWhenBothServersAreRestarted(t *testing.T) {
	t.Run("at once", func(t *testing.T) { restartLateServers(t, 0) })
	t.Run("with a round trip of 40 ms", func(t *testing.T) { restartLateServers(t, 20*time.Millisecond) })
}

func restartLateServers(t *testing.T, delay time.Duration) {
	servers := []*example{start(t, "late", "server", anyPort), start(t, "late", "server", anyPort)}
	endpoints := []string{servers[0].endpoints()[0], servers[1].endpoints()[0]}
	seen := slices.Clone(endpoints) // by the clients
	if delay > 0 {
		for i, endpoint := range endpoints {
			seen[i] = slowLink(t, endpoint, delay)
		}
	}
	var crowd []*example
	for range 8 {
		crowd = append(crowd, start(t, "late", append([]string{"client"}, seen...)...))
	}
	for _, c := range crowd {
		c.await("100 answered")
	}
	handled, rejected := 0, 0
	end := func(server *example) {
		output := server.terminate()
		mustSay(t, output, `ended.*terminated`, `report.busy=false`)
		handled += reported(t, output, "router-1.handled")
		rejected += reported(t, output, "router-1.rejected")
	}
	for i, endpoint := range endpoints {
		end(servers[i])
		servers[i] = start(t, "late", "server", endpoint)
		servers[i].endpoints()
	}
	sent, answered, resent := 0, 0, 0
	for _, c := range crowd {
		output := c.terminate()
		mustSay(t, output, `ended.*terminated`)
		sent += number(t, output, `(?m)^(\d+) sent,`)
		answered += number(t, output, `sent, (\d+) answered,`)
		resent += number(t, output, `(\d+) resent\n`)
	}
	for _, server := range servers {
		end(server)
	}
	t.Logf("%d sent, %d answered, %d of them resent", sent, answered, resent)
	if answered != sent || handled != sent {
		t.Errorf("sent %d requests, %d were answered; the servers count %d", sent, answered, handled)
	}
	if rejected == 0 || resent != rejected {
		t.Errorf("the servers said LATE %d times, the clients heeded it %d times", rejected, resent)
	}
}
