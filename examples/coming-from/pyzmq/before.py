"""A server in Python: a poller over two sockets, and a flag that a signal handler sets."""

import signal
import sys

import zmq

running = True


def stop(signum, frame):
    global running
    running = False


def main(endpoint):
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)

    context = zmq.Context()
    requests = context.socket(zmq.REP)
    requests.bind(endpoint)
    control = context.socket(zmq.PULL)
    control.bind(endpoint)
    print("listening on", requests.last_endpoint.decode(), "and", control.last_endpoint.decode(), flush=True)

    poller = zmq.Poller()
    poller.register(requests, zmq.POLLIN)
    poller.register(control, zmq.POLLIN)
    while running:
        events = dict(poller.poll(1000))  # to look at the flag
        if requests in events:
            requests.send(b"done: " + requests.recv())
        if control in events:
            print("control:", control.recv().decode(), flush=True)

    requests.close(linger=0)
    control.close(linger=0)
    context.term()


main(sys.argv[1])
