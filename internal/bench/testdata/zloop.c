/* The echo on a reactor of CZMQ, whose handler takes one message a call. Prints its endpoint and serves until it is killed. */
#include <czmq.h>

static int on_message(zloop_t *loop, zsock_t *sock, void *arg) {
	zmsg_t *msg = zmsg_recv(sock);
	return msg == NULL ? -1 : zmsg_send(&msg, sock);
}

int main(void) {
	zsock_t *sock = zsock_new(ZMQ_ROUTER);
	zsock_set_unbounded(sock);
	if (zsock_bind(sock, "tcp://127.0.0.1:*") < 0) {
		perror("zloop: bind");
		return 1;
	}
	puts(zsock_endpoint(sock));
	fflush(stdout);
	zloop_t *loop = zloop_new();
	zloop_reader(loop, sock, on_message, NULL);
	return zloop_start(loop);
}
