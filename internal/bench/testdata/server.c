/* The servers without Go: what the library could cost at best. Each prints its endpoints when it is ready.
 *
 *     server echo-blocking         ROUTER, one blocking receive after the other
 *     server echo-poll             ROUTER, one message a poll
 *     server echo-batch SOCKETS    ROUTERs, poll, then up to 256 messages; only the last one's endpoint is printed
 *     server rep                   REP, blocking
 *     server sink                  PULL; measures from the message "s" to the message "e"
 *     server sink-behind ENDPOINT PID    the same, connected; the CPU time is that of the process PID
 *     server worker ENDPOINT       DEALER, connected, echoes
 *     server publish MESSAGES BYTES    PUB; says hello until there is a line on its standard input, then publishes
 *     server proxy                 zmq_proxy, ROUTER and DEALER
 *     server pull-push             zmq_proxy, PULL and PUSH
 *     server backlog               PULL; on SIGTERM reads what there is, and ends
 *     server life TIMES            REP: context, socket, bind, close, term */
#include "common.h"
#include <signal.h>
#include <sys/resource.h>

enum { burst = 256 };

static void *context;

static void print_bound(void *sock) {
	char endpoint[256];
	size_t size = sizeof endpoint;
	check(zmq_bind(sock, "tcp://127.0.0.1:*") == 0, "bind");
	check(zmq_getsockopt(sock, ZMQ_LAST_ENDPOINT, endpoint, &size) == 0, "last endpoint");
	printf("%s ", endpoint);
}

static void *bound(int type) {
	void *sock = make_unlimited(context, type);
	print_bound(sock);
	return sock;
}

/* Sends one message back, all its parts. Returns 0 where there is none. */
static int answer(void *sock, int flags) {
	int more;
	zmq_msg_t msg;
	do {
		zmq_msg_init(&msg);
		if (zmq_msg_recv(&msg, sock, flags) < 0)
			return 0;
		flags = 0;
		more = zmq_msg_more(&msg);
		zmq_msg_send(&msg, sock, more ? ZMQ_SNDMORE : 0);
	} while (more);
	return 1;
}

static void echo_blocking(char **args) {
	void *sock = bound(ZMQ_ROUTER);
	end_line();
	for (;;)
		answer(sock, 0);
}

static void echo_poll(char **args) {
	zmq_pollitem_t item = {bound(ZMQ_ROUTER), 0, ZMQ_POLLIN, 0};
	end_line();
	for (;;)
		if (zmq_poll(&item, 1, 1000) > 0)
			answer(item.socket, 0);
}

static void echo_batch(char **args) {
	int n = atoi(args[0]);
	zmq_ctx_set(context, ZMQ_MAX_SOCKETS, n + 16);
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);

	zmq_pollitem_t *items = calloc(n, sizeof *items);
	for (int i = 0; i < n; i++) {
		void *sock = make_unlimited(context, ZMQ_ROUTER);
		items[i] = (zmq_pollitem_t){sock, 0, ZMQ_POLLIN, 0};
		if (i < n - 1)
			check(zmq_bind(sock, "tcp://127.0.0.1:*") == 0, "bind");
		else
			print_bound(sock);
	}
	end_line();
	for (;;) {
		zmq_poll(items, n, 1000);
		for (int i = 0; i < n; i++)
			if (items[i].revents & ZMQ_POLLIN)
				for (int k = 0; k < burst && answer(items[i].socket, ZMQ_DONTWAIT); k++)
					;
	}
}

static void rep(char **args) {
	void *sock = bound(ZMQ_REP);
	end_line();
	for (;;)
		answer(sock, 0);
}

static void count(void *sock, pid_t pid) {
	struct watch w;
	for (long n = 0;; n++) {
		zmq_msg_t msg;
		zmq_msg_init(&msg);
		check(zmq_msg_recv(&msg, sock, 0) >= 0, "recv");
		if (zmq_msg_size(&msg) == 1 && *(char *)zmq_msg_data(&msg) == 's') {
			n = -1;
			w = watch_start(pid);
		} else if (zmq_msg_size(&msg) == 1) {
			watch_print(&w, n);
			end_line();
		}
		zmq_msg_close(&msg);
	}
}

static void sink(char **args) {
	void *sock = make_socket(context, ZMQ_PULL);
	print_bound(sock);
	end_line();
	count(sock, 0);
}

static void sink_behind(char **args) {
	void *sock = make_socket(context, ZMQ_PULL);
	check(zmq_connect(sock, args[0]) == 0, "connect");
	puts("ready");
	fflush(stdout);
	count(sock, atoi(args[1]));
}

static void worker(char **args) {
	void *sock = make_unlimited(context, ZMQ_DEALER);
	check(zmq_connect(sock, args[0]) == 0, "connect");
	puts("ready");
	fflush(stdout);
	for (;;)
		answer(sock, 0);
}

static void publish(char **args) {
	long messages = atol(args[0]);
	int bytes = atoi(args[1]);
	char *body = calloc(1, bytes);
	void *sock = bound(ZMQ_PUB);
	end_line();
	zmq_pollitem_t go = {NULL, STDIN_FILENO, ZMQ_POLLIN, 0};
	while (zmq_poll(&go, 1, 1) == 0)
		zmq_send(sock, "h", 1, 0);
	while (messages-- > 0)
		zmq_send(sock, body, bytes, 0);
	pause();
}

static void proxy(char **args) {
	void *front = bound(ZMQ_ROUTER), *back = bound(ZMQ_DEALER);
	end_line();
	zmq_proxy(front, back, NULL);
}

static void pull_push(char **args) {
	void *front = make_socket(context, ZMQ_PULL), *back = make_socket(context, ZMQ_PUSH);
	print_bound(front);
	print_bound(back);
	end_line();
	zmq_proxy(front, back, NULL);
}

static void backlog(char **args) {
	void *sock = bound(ZMQ_PULL);
	end_line();
	sigset_t set;
	int sig;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigwait(&set, &sig);

	struct watch w = watch_start(0);
	zmq_msg_t msg;
	long n = 0;
	for (;; n++) {
		zmq_msg_init(&msg);
		if (zmq_msg_recv(&msg, sock, ZMQ_DONTWAIT) < 0)
			break;
		zmq_msg_close(&msg);
	}
	watch_print(&w, n);
	end_line();
	zmq_close(sock);
	zmq_ctx_term(context);
}

static void life(char **args) {
	long n = atol(args[0]);
	puts("ready");
	fflush(stdout);
	struct watch w = watch_start(0);
	for (long i = 0; i < n; i++) {
		void *context = zmq_ctx_new();
		void *sock = make_socket(context, ZMQ_REP);
		check(zmq_bind(sock, "tcp://127.0.0.1:*") == 0, "bind");
		zmq_close(sock);
		zmq_ctx_term(context);
	}
	watch_print(&w, n);
	end_line();
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		int args;
		void (*run)(char **);
	} servers[] = {
		{"echo-blocking", 0, echo_blocking}, {"echo-poll", 0, echo_poll}, {"echo-batch", 1, echo_batch}, {"rep", 0, rep},
		{"sink", 0, sink}, {"sink-behind", 2, sink_behind}, {"worker", 1, worker}, {"publish", 2, publish},
		{"proxy", 0, proxy}, {"pull-push", 0, pull_push}, {"backlog", 0, backlog}, {"life", 1, life},
	};
	/* Before the first thread, so that SIGTERM waits for sigwait in all of them; a SIGKILL ends the others. */
	if (argc > 1 && strcmp(argv[1], "backlog") == 0) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGTERM);
		sigprocmask(SIG_BLOCK, &set, NULL);
	}
	for (size_t i = 0; i < sizeof servers / sizeof *servers; i++) {
		if (argc != servers[i].args + 2 || strcmp(argv[1], servers[i].name) != 0)
			continue;
		context = zmq_ctx_new();
		servers[i].run(argv + 2);
		return 0;
	}
	fprintf(stderr, "usage: see server.c\n");
	return 2;
}
