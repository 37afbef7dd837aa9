# A peer that is no part of zmqgrace: pyzmq. See peer_test.go for what a peer does.
import sys
import time

import zmq

PATIENCE = {"hasty": 1.0}
LATE_PAUSE = 0.6


class Client:
    def __init__(self, kind, endpoint, mode):
        self.kind = getattr(zmq, kind)
        self.endpoint = endpoint
        self.patience = PATIENCE.get(mode, 10.0)
        self.context = zmq.Context()
        self.sent = self.answered = self.lost = self.retried = self.twice = 0
        self.worst = 0.0
        self.socket = None

    def connect(self):
        self.socket = self.context.socket(self.kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(self.endpoint)

    def round(self, n):
        if self.socket is None:
            self.connect()
        began = time.monotonic()
        waiting = set()
        for _ in range(n):
            self.sent += 1
            waiting.add(self.sent)
        again = waiting
        while again:
            waiting, again = again, set()
            for i in sorted(waiting):
                self.socket.send(b"%d" % i)
            deadline = time.monotonic() + self.patience
            while waiting:
                left = max(0, deadline - time.monotonic())
                if not self.socket.poll(left * 1000):
                    self.lost += len(waiting)
                    self.socket.close()
                    self.socket = None
                    return
                word = self.socket.recv().split()
                i = int(word[0])
                if i not in waiting:
                    self.twice += 1
                    continue
                waiting.remove(i)
                if len(word) > 1:
                    again.add(i)
                    continue
                self.answered += 1
                self.worst = max(self.worst, time.monotonic() - began)
            if again:
                self.retried += len(again)
                time.sleep(LATE_PAUSE)


def client(kind, endpoint, mode):
    c = Client(kind, endpoint, mode)
    each = 8 if kind == "DEALER" else 1
    for line in sys.stdin:
        rounds = int(line)
        for _ in range(rounds):
            c.round(each)
        print("done", c.lost, flush=True)
    print("result", c.sent, c.answered, c.lost, c.retried, c.twice, int(c.worst * 1000), flush=True)


def server(endpoint):
    s = zmq.Context().socket(zmq.REP)
    s.bind(endpoint)
    print("bound", s.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    poller = zmq.Poller()
    poller.register(s, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    served = 0
    while True:
        ready = dict(poller.poll())
        if s in ready:
            s.send(s.recv())
            served += 1
        elif ready:
            break
    print("served", served, flush=True)


if sys.argv[1] == "server":
    server(sys.argv[2])
else:
    client(*sys.argv[2:])
