/* The peers of the servers that are measured. Each prints what it measured, and for a given number of seconds first does the
 * same without measuring, so that connection, buffers and heaps are warm.
 *
 *     load echo ENDPOINT PID WARM SECONDS WINDOW BYTES   a DEALER that keeps a window of requests open
 *     load ping TYPE ENDPOINT PID WARM SECONDS BYTES     a "req" or "dealer" with one request at a time
 *     load push ENDPOINT WARM SECONDS BYTES              a PUSH; the sink measures, from the message "s" to the message "e"
 *     load fill ENDPOINT MESSAGES BYTES                  a PUSH that leaves when all is with the kernel
 *     load subscribe ENDPOINT PID SOCKETS MESSAGES BYTES SUBs that print "ready" when all have heard a hello (one byte), and
 *                                                        what they measured from then until all have that many messages
 *
 * PID is the process whose CPU time counts. */
#include "common.h"

enum { burst = 256 };

static void *context, *sock;
static char *body;
static int bytes;

static void connect_to(int type, const char *endpoint) {
	sock = make_unlimited(context, type);
	set(sock, ZMQ_RCVTIMEO, 10000); /* a server that lost a message must not hang the benchmark */
	check(zmq_connect(sock, endpoint) == 0, "connect");
}

/* The body is not copied here, and neither is what comes back: the load must not be what is slow. */
static void give(void) { check(zmq_send_const(sock, body, bytes, 0) == bytes, "send"); }

static int take(void *from, int flags) {
	zmq_msg_t msg;
	zmq_msg_init(&msg);
	int n = zmq_msg_recv(&msg, from, flags);
	zmq_msg_close(&msg);
	if (n < 0 && (flags & ZMQ_DONTWAIT) && zmq_errno() == EAGAIN)
		return -1;
	check(n >= 0, "recv");
	return n;
}

static int take_reply(int flags) {
	int n = take(sock, flags);
	if (n >= 0 && n != bytes) {
		fprintf(stderr, "a reply of %d bytes to a request of %d\n", n, bytes);
		exit(1);
	}
	return n >= 0;
}

static long sent, received, window;

static void exchange(double seconds) {
	double end = now() + seconds;
	do {
		for (; sent - received < window; sent++)
			give();
		received += take_reply(0);
		while (received < sent && take_reply(ZMQ_DONTWAIT))
			received++;
	} while (now() < end);
}

static void echo(char **args) {
	window = atol(args[4]);
	connect_to(ZMQ_DEALER, args[0]);
	exchange(atof(args[2]));
	long warm = received;
	struct watch w = watch_start(atoi(args[1]));
	exchange(atof(args[3]));
	watch_print(&w, received - warm);
	printf(" served %ld", sent);
	end_line();
	while (received < sent)
		received += take_reply(0);
}

static int by_value(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void ping(char **args) {
	connect_to(strcmp(args[0], "req") == 0 ? ZMQ_REQ : ZMQ_DEALER, args[1]);
	double warm = now() + atof(args[3]);
	while (now() < warm) {
		give();
		take_reply(0);
	}
	long n = 0, room = 1 << 20;
	double *took = malloc(room * sizeof *took);
	memset(took, 0, room * sizeof *took); /* no page faults while it counts */
	struct watch w = watch_start(atoi(args[2]));
	double end = w.began + atof(args[4]), before = w.began;
	while (before < end && n < room) {
		give();
		take_reply(0);
		double after = now();
		took[n++] = after - before;
		before = after;
	}
	watch_print(&w, n);
	qsort(took, n, sizeof *took, by_value);
	printf(" p50 %.9f p99 %.9f", took[n / 2], took[n * 99 / 100]);
	end_line();
}

static void push(char **args) {
	sock = make_socket(context, ZMQ_PUSH); /* with its high-water mark, which holds it back */
	set(sock, ZMQ_LINGER, 10000);
	check(zmq_connect(sock, args[0]) == 0, "connect");
	for (int i = 1; i <= 2; i++) {
		double end = now() + atof(args[i]);
		while (now() < end)
			for (int k = 0; k < 16; k++)
				give();
		check(zmq_send(sock, i == 1 ? "s" : "e", 1, 0) == 1, "send");
	}
}

static void fill(char **args) {
	connect_to(ZMQ_PUSH, args[0]);
	set(sock, ZMQ_LINGER, -1);
	for (long n = atol(args[1]); n > 0; n--)
		give();
}

static void subscribe(char **args) {
	int pid = atoi(args[1]), sockets = atoi(args[2]), waiting = sockets;
	long wanted = atol(args[3]), n = 0;
	zmq_pollitem_t *items = calloc(sockets, sizeof *items);
	for (int i = 0; i < sockets; i++) {
		connect_to(ZMQ_SUB, args[0]);
		check(zmq_setsockopt(sock, ZMQ_SUBSCRIBE, "", 0) == 0, "subscribe");
		items[i] = (zmq_pollitem_t){sock, 0, ZMQ_POLLIN, 0};
	}
	for (int i = 0; i < sockets; i++)
		take(items[i].socket, 0);
	puts("ready"); /* upon which the publisher begins */
	fflush(stdout);

	struct watch w = watch_start(pid);
	long *got = calloc(sockets, sizeof *got);
	while (waiting > 0) {
		int ready = zmq_poll(items, sockets, 10000);
		if (ready <= 0) {
			fprintf(stderr, "after %ld messages no more came\n", n);
			exit(1);
		}
		for (int i = 0; i < sockets; i++) {
			if (!(items[i].revents & ZMQ_POLLIN))
				continue;
			int size;
			for (int k = 0; k < burst && (size = take(items[i].socket, ZMQ_DONTWAIT)) >= 0; k++) {
				if (size != bytes)
					continue; /* a hello */
				n++;
				if (++got[i] == wanted)
					waiting--;
			}
		}
	}
	watch_print(&w, n);
	end_line();
	for (int i = 0; i < sockets; i++)
		if (items[i].socket != sock)
			zmq_close(items[i].socket);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		int args;
		void (*run)(char **);
	} loads[] = {{"echo", 6, echo}, {"ping", 6, ping}, {"push", 4, push}, {"fill", 3, fill}, {"subscribe", 5, subscribe}};
	for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
		if (argc != loads[i].args + 2 || strcmp(argv[1], loads[i].name) != 0)
			continue;
		bytes = atoi(argv[argc - 1]); /* always the last */
		body = calloc(1, bytes);
		context = zmq_ctx_new();
		loads[i].run(argv + 2);
		zmq_close(sock);
		zmq_ctx_term(context);
		return 0;
	}
	fprintf(stderr, "usage: see load.c\n");
	return 2;
}
