package main

// workers has handlers that do nothing but reply run elsewhere: what the way there and back costs.
func (b *bench) workers() error {
	echo := func(name, what string, workers int) *contestant {
		return &contestant{name: name, what: what, turn: b.echoTurn(self("echo-zmqgrace", workers), window, smallBody)}
	}
	c := &contest{
		name:   "Workers",
		title:  "ROUTER echo, 32 B, window 1000",
		rounds: 9,
		contestants: []*contestant{
			echo("inline", "Runner", 0),
			echo("1-worker", "WithWorkers(1)", 1),
			echo("8-workers", "WithWorkers(8)", 8),
		},
	}
	c.columns = append(rates(), c.to("to inline", msgPerSec, "inline"))
	return b.hold(c)
}
