module github.com/zmqgrace/zmqgrace/examples/coming-from

go 1.25

require (
	github.com/pebbe/zmq4 v1.4.0
	github.com/thinkdoggie/zmq4chan v1.2.0
	github.com/zmqgrace/zmqgrace v0.0.0
)

replace (
	github.com/thinkdoggie/zmq4chan => ./zmq4chan/declared
	github.com/zmqgrace/zmqgrace => ../..
)
