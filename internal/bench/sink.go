package main

const minSinkToC = 0.8

// sink has a PUSH send as much as the sink takes; the rate is that of what the sink received.
func (b *bench) sink() error {
	sink := func(name, what string, command []string) *contestant {
		return &contestant{name: name, what: what, turn: func(int) (sample, error) {
			return with(command, func(server *child) (sample, error) {
				if _, err := b.load("push", server.endpoints[0], b.warm(), b.timed(), smallBody); err != nil {
					return nil, err
				}
				return server.measured()
			})
		}}
	}
	c := &contest{
		name:   "Sink",
		title:  "PULL sink, 32 B, default high-water marks",
		rounds: 11,
		contestants: []*contestant{
			sink("zmqgrace", "Runner", self("sink-zmqgrace")),
			sink("portable", "Runner, pebbe's calls alone", b.portable(self("sink-zmqgrace"))),
			sink("blocking", "pebbe, RecvBytes(0)", self("sink-blocking")),
			sink("c", "C, blocking", b.inC("sink")),
		},
	}
	c.columns = append(rates(), c.to("to blocking", msgPerSec, "blocking"), c.to("to C", msgPerSec, "c"))
	if err := b.hold(c); err != nil {
		return err
	}
	b.chart(c, "PULL sink, to C", msgPerSec, "c")
	b.atLeast(c, msgPerSec, "zmqgrace", "c", minSinkToC)
	return nil
}
