#ifndef ZMQGRACE_BATCH_H
#define ZMQGRACE_BATCH_H

#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

/* One part of a message. libzmq.go has the same structure. */
typedef struct {
	uint64_t size;
	uintptr_t own; /* a zmq_msg_t on the C heap that holds the bytes; 0: they are in the batch's data */
	uint32_t more; /* another part of the same message follows */
	uint32_t mark; /* the sender's own, on a message's last part: how many have left is counted */
} zg_frame;

/* What one call received. The memory is kept from call to call. */
typedef struct {
	char *data; /* the bytes of all parts that have no zmq_msg_t of their own, one after the other */
	size_t room, used;
	zg_frame *frames;
	size_t frame_room, frame_count;
} zg_batch;

typedef struct {
	size_t frames, bytes, messages, marked;
} zg_progress;

int zg_receive(void *socket, zg_batch *batch, int most, size_t alone, int *messages);
int zg_send(void *socket, int swallows, zg_frame *frames, size_t count, const char *data, zg_progress *sent);
int zg_forward(void *from, void *to, int swallows, zg_batch *batch, int first_parts, int most, int *messages);
int zg_poll(zmq_pollitem_t *items, int count, long milliseconds, int *ready);
int zg_type(void *socket, int *type);
int zg_curve_server(void *socket, int *server);
int zg_enforce_zap(void *socket);

zmq_msg_t *zg_new(size_t size);
void zg_free(zmq_msg_t *own);
void zg_clear(zg_batch *batch);

#endif
