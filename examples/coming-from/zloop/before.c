// A stage of a pipeline on CZMQ's zloop: jobs in, results out, and a count every second.
// cc before.c -lczmq -lzmq
#include <czmq.h>

static int count = 0;

static int s_job(zloop_t *loop, zsock_t *pull, void *push) {
    zmsg_t *job = zmsg_recv(pull);
    if (!job)
        return -1; // interrupted
    count++;
    return zmsg_send(&job, (zsock_t *) push); // blocks the loop while nobody takes it
}

static int s_tick(zloop_t *loop, int timer, void *arg) {
    zsys_info("%d jobs", count);
    return 0;
}

int main(int argc, char **argv) {
    zsock_t *pull = zsock_new(ZMQ_PULL);
    zsock_t *push = zsock_new(ZMQ_PUSH);
    assert(argc > 1 && pull && push);
    if (zsock_attach(pull, argv[1], true) == -1 || zsock_attach(push, argv[1], true) == -1)
        return 1;
    printf("listening on %s and %s\n", zsock_endpoint(pull), zsock_endpoint(push));
    fflush(stdout);

    zloop_t *loop = zloop_new();
    zloop_reader(loop, pull, s_job, push);
    zloop_timer(loop, 1000, 0, s_tick, NULL);
    zloop_start(loop); // until SIGINT or SIGTERM, which CZMQ catches

    zloop_destroy(&loop);
    zsock_set_linger(push, 1000);
    zsock_destroy(&pull); // with the jobs that it holds
    zsock_destroy(&push);
    return 0;
}
