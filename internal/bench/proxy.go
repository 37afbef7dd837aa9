package main

const minProxyToC = 0.9

// proxy has the Runner forward what zmq_proxy forwards, with the same C programs before and behind it.
func (b *bench) proxy() error {
	for _, kind := range []struct {
		name, chart, title string
		runner, inC        []string
		measure            func(proxy *child) (sample, error)
	}{
		{"Proxy/kind=router-dealer", "proxy ROUTER-DEALER", "Proxy, ROUTER and DEALER, 32 B, window 1000, a worker in C that echoes",
			self("proxy-zmqgrace"), b.inC("proxy"), b.throughWorker},
		{"Proxy/kind=pull-push", "proxy PULL-PUSH", "Proxy, PULL and PUSH, 32 B, default high-water marks, a sink in C",
			self("pipe-zmqgrace"), b.inC("pull-push"), b.throughPipe},
	} {
		proxy := func(name, what string, command []string) *contestant {
			return &contestant{name: name, what: what, turn: func(int) (sample, error) { return with(command, kind.measure) }}
		}
		c := &contest{
			name:   kind.name,
			title:  kind.title,
			rounds: 11,
			contestants: []*contestant{
				proxy("zmqgrace", "Runner.Proxy", kind.runner),
				proxy("portable", "Runner.Proxy, pebbe's calls alone", b.portable(kind.runner)),
				proxy("c", "zmq_proxy", kind.inC),
			},
		}
		c.columns = append(rates(), c.to("to C", msgPerSec, "c"))
		if err := b.hold(c); err != nil {
			return err
		}
		b.chart(c, kind.chart+", to zmq_proxy", msgPerSec, "c")
		b.atLeast(c, msgPerSec, "zmqgrace", "c", minProxyToC)
	}
	return nil
}

func (b *bench) throughWorker(proxy *child) (sample, error) {
	return with(b.inC("worker", proxy.endpoints[1]), func(*child) (sample, error) {
		s, err := b.load("echo", proxy.endpoints[0], proxy.pid, b.warm(), b.timed(), window, smallBody)
		delete(s, "served")
		return s, err
	})
}

func (b *bench) throughPipe(proxy *child) (sample, error) {
	return with(b.inC("sink-behind", proxy.endpoints[1], proxy.pid), func(sink *child) (sample, error) {
		if _, err := b.load("push", proxy.endpoints[0], b.warm(), b.timed(), smallBody); err != nil {
			return nil, err
		}
		return sink.measured()
	})
}
