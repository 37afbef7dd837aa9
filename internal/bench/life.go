package main

const livesATurn = 50

// life has servers begin and end, again and again in one process.
func (b *bench) life() error {
	live := func(name, what string, command []string) *contestant {
		return &contestant{name: name, what: what, turn: func(int) (sample, error) {
			s, err := with(command, (*child).measured)
			delete(s, msgPerSec) // there are no messages
			return s, err
		}}
	}
	c := &contest{
		name:   "Life",
		title:  "A whole life with one bound REP",
		rounds: 7,
		contestants: []*contestant{
			live("zmqgrace", "New, NewSocket, Bind, Run until Done; WithDrainQuiet(0)", self("life-zmqgrace", livesATurn)),
			live("pebbe", "NewContext, NewSocket, Bind, Close, Term", self("life-pebbe", livesATurn)),
			live("c", "the same in C", b.inC("life", livesATurn)),
		},
	}
	c.columns = []column{of("ms", nsPerOp, 1e6, 3), of("CPU ms", cpuPerMsg, 1e6, 3), c.to("to pebbe", nsPerOp, "pebbe"), c.to("to C", nsPerOp, "c")}
	return b.hold(c)
}
