package main

const maxLatency = 1.05 // of the blocking loop's

// ping has one request at a time on its way. The differences are smaller than the noise, so the turns are short and many.
func (b *bench) ping() error {
	for _, kind := range []struct{ name, client string }{{"rep", "req"}, {"echo", "dealer"}} {
		title := map[string]string{"rep": "REP", "echo": "ROUTER"}[kind.name]
		pong := func(name, what string, command []string) *contestant {
			return &contestant{name: name, what: what, turn: func(int) (sample, error) {
				return with(command, func(server *child) (sample, error) {
					return b.load("ping", kind.client, server.endpoints[0], server.pid, b.warm(), seconds(b.turn/2), smallBody)
				})
			}}
		}
		inC := b.inC("rep")
		runner := self("rep-zmqgrace")
		if kind.name == "echo" {
			inC, runner = b.inC("echo-blocking"), self("echo-zmqgrace", 0)
		}
		c := &contest{
			name:   "Ping/type=" + title,
			title:  title + ", one request of 32 B at a time",
			rounds: 31,
			contestants: []*contestant{
				pong("zmqgrace", "Runner", runner),
				pong("portable", "Runner, pebbe's calls alone", b.portable(runner)),
				pong("blocking", "pebbe, RecvMessageBytes(0)", self(kind.name+"-blocking")),
				pong("poller", "pebbe Poller", self(kind.name+"-poller")),
				pong("c", "C, blocking", inC),
			},
		}
		c.columns = []column{of("p50 us", p50, 1e3, 1), of("p99 us", p99, 1e3, 1), of("CPU us/msg", cpuPerMsg, 1e3, 1),
			c.to("p50 to blocking", p50, "blocking"), c.to("p99 to blocking", p99, "blocking")}
		if err := b.hold(c); err != nil {
			return err
		}
		b.atMost(c, p50, "zmqgrace", "blocking", maxLatency)
		b.atMost(c, p99, "zmqgrace", "blocking", maxLatency)
	}
	return nil
}
