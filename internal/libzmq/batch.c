/* Whole messages by the batch, where binding calls would cross into C for every part of every message. Nothing here blocks
 * but zg_poll. Every call is tried again after a signal (EINTR): Go's own preemption signals reach C code too. All return 0
 * or an error number. */
#include "batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	few_parts = 8,
	many_frames = 1 << 16, /* that are kept from call to call */
};

static int receive_part(zmq_msg_t *part, void *socket, int *more) {
	int rc;
	do
		rc = zmq_msg_recv(part, socket, ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	if (rc < 0)
		return zmq_errno();
	*more = zmq_msg_more(part);
	return 0;
}

/* keep moves a message to the C heap, where it stays until zg_free. */
static zmq_msg_t *keep(zmq_msg_t *msg) {
	zmq_msg_t *own = malloc(sizeof *own);
	if (own == NULL)
		abort(); /* as libzmq does where memory is out */
	zmq_msg_init(own);
	zmq_msg_move(own, msg);
	return own;
}

static zg_frame *add_frame(zg_batch *batch) {
	if (batch->frame_count == batch->frame_room) {
		batch->frame_room = batch->frame_room ? 2 * batch->frame_room : 64;
		batch->frames = realloc(batch->frames, batch->frame_room * sizeof *batch->frames);
		if (batch->frames == NULL)
			abort();
	}
	return &batch->frames[batch->frame_count++];
}

/* add puts a part into the batch: its bytes, or, where they are many or there is no room, the zmq_msg_t itself, so that they
 * are copied once, to where they stay. */
static void add(zg_batch *batch, zmq_msg_t *part, int more, size_t alone) {
	zg_frame *frame = add_frame(batch);
	frame->size = zmq_msg_size(part);
	frame->more = more;
	frame->mark = 0;
	frame->own = 0;
	if (frame->size >= alone || frame->size > batch->room - batch->used) {
		frame->own = (uintptr_t)keep(part);
	} else {
		memcpy(batch->data + batch->used, zmq_msg_data(part), frame->size);
		batch->used += frame->size;
	}
}

/* add_copy is add for a part that is still needed, and counts as the only one. */
static void add_copy(zg_batch *batch, zmq_msg_t *part) {
	size_t size = zmq_msg_size(part);
	if (size <= batch->room - batch->used) {
		*add_frame(batch) = (zg_frame){.size = size};
		memcpy(batch->data + batch->used, zmq_msg_data(part), size);
		batch->used += size;
		return;
	}
	zmq_msg_t copy;
	zmq_msg_init(&copy);
	zmq_msg_copy(&copy, part);
	add(batch, &copy, 0, SIZE_MAX);
	zmq_msg_close(&copy);
}

static void cut(zg_batch *batch, size_t frames, size_t used) {
	while (batch->frame_count > frames) {
		zg_frame *frame = &batch->frames[--batch->frame_count];
		if (frame->own)
			zg_free((zmq_msg_t *)frame->own);
	}
	batch->used = used;
}

/* begin empties the batch, and gives back what a message of very many parts needed. */
static void begin(zg_batch *batch) {
	cut(batch, 0, 0);
	if (batch->frame_room > many_frames) {
		free(batch->frames);
		batch->frames = NULL;
		batch->frame_room = 0;
	}
}

/* zg_receive takes at most that many messages, and no more when the batch's room is used up. Parts of `alone` bytes and more
 * are not put into the batch's data. The error is why it stopped; 0 where there may be more. What is in the batch
 * is good in any case: a message whose later parts could not be had (ETERM) is cut off. */
int zg_receive(void *socket, zg_batch *batch, int most, size_t alone, int *messages) {
	int error = 0;
	size_t taken = 0;
	zmq_msg_t part;
	zmq_msg_init(&part);
	begin(batch);
	for (*messages = 0; error == 0 && *messages < most && taken < batch->room; ++*messages) {
		size_t frames = batch->frame_count, used = batch->used;
		int more = 1;
		while (more) {
			error = receive_part(&part, socket, &more);
			if (error != 0) {
				cut(batch, frames, used);
				zmq_msg_close(&part);
				return error;
			}
			add(batch, &part, more, alone);
			taken += sizeof(zg_frame) + batch->frames[batch->frame_count - 1].size;
		}
	}
	zmq_msg_close(&part);
	return error;
}

static int send_message(void *socket, zmq_msg_t *own, int flags) {
	if (!(flags & ZMQ_SNDMORE))
		return zmq_msg_send(own, socket, flags);
	/* A copy, which shares the bytes: if a later part fails, this one must be sent again. */
	zmq_msg_t copy;
	zmq_msg_init(&copy);
	zmq_msg_copy(&copy, own);
	int rc = zmq_msg_send(&copy, socket, flags);
	if (rc < 0) {
		int error = zmq_errno();
		zmq_msg_close(&copy);
		errno = error;
	}
	return rc;
}

static int send_part(void *socket, const zg_frame *frame, const char *data) {
	int flags = ZMQ_DONTWAIT | (frame->more ? ZMQ_SNDMORE : 0), rc;
	do {
		if (frame->own)
			rc = send_message(socket, (zmq_msg_t *)frame->own, flags);
		else
			rc = zmq_send(socket, data, frame->size, flags);
	} while (rc < 0 && zmq_errno() == EINTR);
	return rc < 0 ? zmq_errno() : 0;
}

static size_t in_data(const zg_frame *frame) { return frame->own ? 0 : frame->size; }

/* send_whole sends one message, of which libzmq takes all or nothing.
 *
 * Where a peer goes away in the middle of a message, PUSH and DEALER roll back what they have and swallow the remaining
 * parts (lb.cpp): those must be sent, into nowhere, or the next whole message would be swallowed in their place. Then the
 * message is sent anew. PAIR and the others just begin anew; for a REQ there is no way to do it right, since its delimiter
 * is gone and it does not write another (req.cpp). */
static int send_whole(void *socket, int swallows, const zg_frame *frames, const char *data) {
	const zg_frame *frame = frames;
	const char *at = data;
	for (;;) {
		int error = send_part(socket, frame, at);
		if (error == 0 && !frame->more)
			return 0;
		if (error != 0 && (frame == frames || error != EAGAIN))
			return error;
		if (error == 0) {
			at += in_data(frame++);
			continue;
		}
		while (swallows && frame->more) {
			/* An empty one in its place: the last part would be gone, since it is not a copy that is sent of it. */
			zg_frame empty = {.more = (++frame)->more};
			error = send_part(socket, &empty, "");
			if (error != 0)
				return error;
		}
		frame = frames;
		at = data;
	}
}

/* zg_send sends messages in order until one can't be; the error is that one's. What has left is freed. */
int zg_send(void *socket, int swallows, zg_frame *frames, size_t count, const char *data, zg_progress *sent) {
	memset(sent, 0, sizeof *sent);
	while (sent->frames < count) {
		int error = send_whole(socket, swallows, frames + sent->frames, data + sent->bytes);
		if (error != 0)
			return error;
		int more = 1;
		while (more) {
			zg_frame *frame = &frames[sent->frames++];
			sent->bytes += in_data(frame);
			sent->marked += frame->mark;
			if (frame->own)
				zg_free((zmq_msg_t *)frame->own);
			frame->own = 0;
			more = frame->more;
		}
		sent->messages++;
	}
	return 0;
}

/* pass_on sends the parts of one message, as send_whole does. The last one is empty then, if the message has left. */
static int pass_on(void *socket, int swallows, zmq_msg_t *parts, int count) {
	zg_frame frames[few_parts];
	for (int i = 0; i < count; i++)
		frames[i] = (zg_frame){.own = (uintptr_t)&parts[i], .more = i < count - 1};
	return send_whole(socket, swallows, frames, NULL);
}

/* zg_forward passes messages on from one socket to another, without a copy of what is in them. If first_parts is set, those
 * of the messages that have left are in the batch, one each, without `more`. A message that could not be sent ends it: then all of
 * its parts are in the batch, behind the first parts, and the error is the send's. Where nothing more was there to receive the
 * error is EAGAIN, and no message is left in the batch. */
int zg_forward(void *from, void *to, int swallows, zg_batch *batch, int first_parts, int most, int *messages) {
	int error = 0;
	zmq_msg_t parts[few_parts];
	for (int i = 0; i < few_parts; i++)
		zmq_msg_init(&parts[i]);
	begin(batch);
	*messages = 0;
	while (error == 0 && *messages < most) {
		size_t frames = batch->frame_count, used = batch->used;
		int count = 0, more = 1, received = 0;
		while (more && count < few_parts) {
			received = receive_part(&parts[count], from, &more);
			if (received != 0)
				break;
			count++;
		}
		error = received;
		if (error == 0 && !more) {
			if (first_parts)
				add_copy(batch, &parts[0]);
			error = pass_on(to, swallows, parts, count);
			if (error == 0) {
				++*messages;
				continue;
			}
			cut(batch, frames, used);
		}
		if (received != 0) /* nothing, or not all of it (ETERM) */
			break;
		for (int i = 0; i < count; i++)
			add(batch, &parts[i], more || i < count - 1, 0);
		while (more) { /* a message of many parts: somebody else may send it */
			error = receive_part(&parts[0], from, &more);
			if (error != 0) {
				cut(batch, frames, used);
				break;
			}
			add(batch, &parts[0], more, 0);
		}
		break;
	}
	for (int i = 0; i < few_parts; i++)
		zmq_msg_close(&parts[i]);
	return error;
}

int zg_poll(zmq_pollitem_t *items, int count, long milliseconds, int *ready) {
	*ready = zmq_poll(items, count, milliseconds);
	return *ready < 0 ? zmq_errno() : 0;
}

int zg_type(void *socket, int *type) {
	size_t size = sizeof *type;
	return zmq_getsockopt(socket, ZMQ_TYPE, type, &size) < 0 ? zmq_errno() : 0;
}

int zg_curve_server(void *socket, int *server) {
	size_t size = sizeof *server;
	return zmq_getsockopt(socket, ZMQ_CURVE_SERVER, server, &size) < 0 ? zmq_errno() : 0;
}

/* zg_enforce_zap has libzmq let nobody in where a socket has a ZAP domain and nobody answers. The header has the option's name
 * among the drafts; the library knows it without them, from 4.2.3 on (options.cpp). */
int zg_enforce_zap(void *socket) {
	const int zap_enforce_domain = 93, on = 1;
	return zmq_setsockopt(socket, zap_enforce_domain, &on, sizeof on) < 0 ? zmq_errno() : 0;
}

/* zg_new makes a message for zg_frame's own; its bytes are for the caller to fill. */
zmq_msg_t *zg_new(size_t size) {
	zmq_msg_t *own = malloc(sizeof *own);
	if (own == NULL || zmq_msg_init_size(own, size) != 0)
		abort();
	return own;
}

void zg_free(zmq_msg_t *own) {
	zmq_msg_close(own);
	free(own);
}

/* zg_clear frees what the batch holds, and its memory. */
void zg_clear(zg_batch *batch) {
	cut(batch, 0, 0);
	free(batch->frames);
	free(batch->data);
	memset(batch, 0, sizeof *batch);
}
