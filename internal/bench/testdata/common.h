/* What the C programs share. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

static void check(int ok, const char *what) {
	if (!ok) {
		fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
		exit(1);
	}
}

static double read_clock(clockid_t clock) {
	struct timespec t;
	check(clock_gettime(clock, &t) == 0, "clock_gettime");
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double now(void) { return read_clock(CLOCK_MONOTONIC); }

/* A watch takes the time, and the CPU time of one process, which is another's or, with pid 0, this one. */
struct watch {
	clockid_t clock;
	double began, cpu;
};

static struct watch watch_start(pid_t pid) {
	struct watch w;
	check(clock_getcpuclockid(pid, &w.clock) == 0, "clock_getcpuclockid");
	w.cpu = read_clock(w.clock);
	w.began = now();
	return w;
}

/* The line that the measuring program reads: names and values. The caller ends it. */
static void watch_print(struct watch *w, long messages) {
	double seconds = now() - w->began;
	printf("messages %ld seconds %.9f cpu %.9f", messages, seconds, read_clock(w->clock) - w->cpu);
}

static void end_line(void) {
	putchar('\n');
	fflush(stdout);
}

static void set(void *sock, int option, int value) {
	check(zmq_setsockopt(sock, option, &value, sizeof value) == 0, "setsockopt");
}

static void *make_socket(void *context, int type) {
	void *sock = zmq_socket(context, type);
	check(sock != NULL, "socket");
	set(sock, ZMQ_LINGER, 0);
	return sock;
}

/* Without high-water marks: a ROUTER and a PUB at theirs drop, and whoever measures would wait for what was dropped. */
static void *make_unlimited(void *context, int type) {
	void *sock = make_socket(context, type);
	set(sock, ZMQ_SNDHWM, 0);
	set(sock, ZMQ_RCVHWM, 0);
	return sock;
}
