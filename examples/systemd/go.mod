module github.com/zmqgrace/zmqgrace/examples/systemd

go 1.25

require (
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/pebbe/zmq4 v1.4.0
	github.com/zmqgrace/zmqgrace v0.0.0
)

require golang.org/x/sys v0.1.0 // indirect

replace github.com/zmqgrace/zmqgrace => ../..
