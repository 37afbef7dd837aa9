/* The same echo without Go: poll, then take up to 256 messages before the next poll. It is what the library could cost at
 * best. Prints its endpoint and serves until it is killed. */
#include <stdio.h>
#include <zmq.h>

enum { burst = 256 };

int main(void) {
	void *sock = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);
	int unlimited = 0;
	zmq_setsockopt(sock, ZMQ_SNDHWM, &unlimited, sizeof unlimited);
	zmq_setsockopt(sock, ZMQ_RCVHWM, &unlimited, sizeof unlimited);
	if (zmq_bind(sock, "tcp://127.0.0.1:*") != 0) {
		perror("server: bind");
		return 1;
	}
	char endpoint[256];
	size_t size = sizeof endpoint;
	zmq_getsockopt(sock, ZMQ_LAST_ENDPOINT, endpoint, &size);
	puts(endpoint);
	fflush(stdout);

	zmq_pollitem_t item = {sock, 0, ZMQ_POLLIN, 0};
	for (;;) {
		zmq_poll(&item, 1, 1000);
		for (int i = 0; i < burst; i++) {
			zmq_msg_t id, body;
			zmq_msg_init(&id);
			if (zmq_msg_recv(&id, sock, ZMQ_DONTWAIT) < 0)
				break;
			zmq_msg_init(&body);
			zmq_msg_recv(&body, sock, 0);
			zmq_msg_send(&id, sock, ZMQ_SNDMORE);
			zmq_msg_send(&body, sock, 0);
		}
	}
}
