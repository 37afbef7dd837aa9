module github.com/zmqgrace/zmqgrace/internal/bench

go 1.25

require (
	github.com/pebbe/zmq4 v1.4.0
	github.com/zmqgrace/zmqgrace v0.0.0
)

replace github.com/zmqgrace/zmqgrace => ../..
