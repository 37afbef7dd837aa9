package main

import "fmt"

const (
	subscribers = 10
	perSecond   = 500_000 // messages of a publisher for each second that a turn is to take, at least
)

// fanout has ten subscribers in one process take what is published; nothing may be dropped, so there are no high-water marks.
func (b *bench) fanout() error {
	messages := max(100, int(perSecond*b.turn.Seconds()))
	publisher := func(name, what string, command []string) *contestant {
		return &contestant{name: name, what: what, turn: func(int) (sample, error) {
			return with(command, func(server *child) (sample, error) {
				return with([]string{b.program("load"), "subscribe", server.endpoints[0], fmt.Sprint(server.pid),
					fmt.Sprint(subscribers), fmt.Sprint(messages), fmt.Sprint(smallBody)}, func(load *child) (sample, error) {
					if _, err := server.in.WriteString("go\n"); err != nil {
						return nil, err
					}
					return load.measured()
				})
			})
		}}
	}
	c := &contest{
		name:   "Fanout",
		title:  fmt.Sprintf("PUB to %d subscribers, 32 B; all that they received", subscribers),
		rounds: 7,
		contestants: []*contestant{
			publisher("zmqgrace", "Socket.Send in a function of Runner.Go", self("publish-runner", messages, smallBody)),
			publisher("pebbe", "SendBytes", self("publish-pebbe", messages, smallBody)),
			publisher("c", "zmq_send", b.inC("publish", messages, smallBody)),
		},
	}
	c.columns = append(rates(), c.to("to pebbe", msgPerSec, "pebbe"), c.to("to C", msgPerSec, "c"))
	if err := b.hold(c); err != nil {
		return err
	}
	b.chart(c, "PUB to 10, to C", msgPerSec, "c")
	return nil
}
