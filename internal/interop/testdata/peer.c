// A peer that is no part of zmqgrace: CZMQ. See peer_test.go for what a peer does.
#include <czmq.h>

#define LATE_PAUSE 600
#define MOST 8

typedef struct {
    int type;
    const char *endpoint;
    int patience;
    zsock_t *socket;
    long sent, answered, lost, retried, twice, worst;
} client_t;

static void s_connect (client_t *self)
{
    self->socket = zsock_new (self->type);
    assert (self->socket);
    zsock_set_linger (self->socket, 0);
    int rc = zsock_connect (self->socket, "%s", self->endpoint);
    assert (rc == 0);
}

// s_try sends the requests once and waits for their answers. It returns how many were told to try again, which it leaves
// in ids, or -1 if some were lost.
static int s_try (client_t *self, long *ids, int n, int64_t began)
{
    for (int i = 0; i < n; i++) {
        char body[32];
        snprintf (body, sizeof body, "%ld", ids[i]);
        zstr_send (self->socket, body);
    }
    long again[MOST];
    int waiting = n, n_again = 0;
    int64_t deadline = zclock_mono () + self->patience;
    while (waiting) {
        zmq_pollitem_t item = { zsock_resolve (self->socket), 0, ZMQ_POLLIN, 0 };
        int64_t left = deadline - zclock_mono ();
        int rc = zmq_poll (&item, 1, left > 0 ? left : 0);
        if (rc == 0) {
            self->lost += waiting;
            zsock_destroy (&self->socket);
            return -1;
        }
        char *answer = zstr_recv (self->socket);
        if (!answer)
            exit (2);
        long id = atol (answer);
        int late = strchr (answer, ' ') != NULL;
        zstr_free (&answer);
        int known = 0;
        for (int i = 0; i < n; i++)
            if (ids[i] == id) {
                ids[i] = -1;
                known = 1;
            }
        if (!known) {
            self->twice++;
            continue;
        }
        waiting--;
        if (late) {
            again[n_again++] = id;
            continue;
        }
        self->answered++;
        long took = (long) (zclock_mono () - began);
        if (took > self->worst)
            self->worst = took;
    }
    memcpy (ids, again, n_again * sizeof *ids);
    return n_again;
}

static void s_round (client_t *self, int n)
{
    if (!self->socket)
        s_connect (self);
    long ids[MOST];
    for (int i = 0; i < n; i++)
        ids[i] = ++self->sent;
    int64_t began = zclock_mono ();
    while ((n = s_try (self, ids, n, began)) > 0) {
        self->retried += n;
        zclock_sleep (LATE_PAUSE);
    }
}

static int s_client (const char *kind, const char *endpoint, const char *mode)
{
    client_t self = { streq (kind, "DEALER") ? ZMQ_DEALER : ZMQ_REQ, endpoint, streq (mode, "hasty") ? 1000 : 10000 };
    int each = self.type == ZMQ_DEALER ? MOST : 1;
    char line[64];
    while (fgets (line, sizeof line, stdin)) {
        for (int rounds = atoi (line); rounds > 0; rounds--)
            s_round (&self, each);
        printf ("done %ld\n", self.lost);
        fflush (stdout);
    }
    printf ("result %ld %ld %ld %ld %ld %ld\n", self.sent, self.answered, self.lost, self.retried, self.twice, self.worst);
    zsock_destroy (&self.socket);
    return 0;
}

static int s_server (const char *endpoint)
{
    zsock_t *socket = zsock_new (ZMQ_REP);
    int rc = zsock_bind (socket, "%s", endpoint);
    assert (rc != -1);
    printf ("bound %s\n", zsock_last_endpoint (socket));
    fflush (stdout);
    long served = 0;
    while (1) {
        zmq_pollitem_t items[] = { { zsock_resolve (socket), 0, ZMQ_POLLIN, 0 }, { NULL, 0, ZMQ_POLLIN, 0 } };
        if (zmq_poll (items, 2, -1) < 0)
            return 2;
        if (items[0].revents) {
            zmsg_t *m = zmsg_recv (socket);
            zmsg_send (&m, socket);
            served++;
        }
        else
            break;
    }
    printf ("served %ld\n", served);
    fflush (stdout);
    zsock_destroy (&socket);
    return 0;
}

int main (int argc, char *argv[])
{
    if (argc == 3 && streq (argv[1], "server"))
        return s_server (argv[2]);
    if (argc == 5)
        return s_client (argv[2], argv[3], argv[4]);
    return 64;
}
