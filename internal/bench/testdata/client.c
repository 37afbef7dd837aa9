/* The load of the throughput table: a DEALER that keeps a window of requests open.
 *
 *     client ENDPOINT MESSAGES WINDOW BYTES
 *
 * First an untimed tenth of the messages, so that connection and buffers are warm, then all of them, timed. Prints the
 * number of all messages, warm-up included, and the seconds that the timed ones took. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <zmq.h>

static void *sock;
static char *request, *reply;
static int bytes;

static void check(int ok, const char *what) {
	if (!ok) {
		fprintf(stderr, "client: %s: %s\n", what, zmq_strerror(zmq_errno()));
		exit(1);
	}
}

static void set(int option, int value) {
	check(zmq_setsockopt(sock, option, &value, sizeof value) == 0, "setsockopt");
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static int take(int flags) {
	int n = zmq_recv(sock, reply, bytes, flags);
	if (n < 0 && (flags & ZMQ_DONTWAIT) && zmq_errno() == EAGAIN)
		return 0;
	check(n >= 0, "recv");
	if (n != bytes) {
		fprintf(stderr, "client: a reply of %d bytes to a request of %d\n", n, bytes);
		exit(1);
	}
	return 1;
}

static void exchange(long messages, long window) {
	long sent = 0, received = 0;
	while (received < messages) {
		for (; sent < messages && sent - received < window; sent++)
			check(zmq_send(sock, request, bytes, 0) == bytes, "send");
		received += take(0);
		while (received < sent && take(ZMQ_DONTWAIT))
			received++;
	}
}

int main(int argc, char **argv) {
	if (argc != 5) {
		fprintf(stderr, "usage: %s endpoint messages window bytes\n", argv[0]);
		return 2;
	}
	long messages = atol(argv[2]), window = atol(argv[3]), warm = messages / 10;
	bytes = atoi(argv[4]);
	request = calloc(1, bytes);
	reply = malloc(bytes);

	void *context = zmq_ctx_new();
	sock = zmq_socket(context, ZMQ_DEALER);
	check(sock != NULL, "socket");
	set(ZMQ_SNDHWM, 0);
	set(ZMQ_RCVHWM, 0);
	set(ZMQ_LINGER, 0);
	set(ZMQ_RCVTIMEO, 10000); /* a server that lost a message must not hang the benchmark */
	check(zmq_connect(sock, argv[1]) == 0, "connect");

	exchange(warm, window);
	double start = now();
	exchange(messages, window);
	printf("%ld %.9f\n", warm + messages, now() - start);

	zmq_close(sock);
	zmq_ctx_term(context);
	return 0;
}
