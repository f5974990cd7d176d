/* A load generator for WebSocket servers: one thread, epoll, commands on standard input, answers in JSON lines.
 *
 *     generator port=8000 dialect=plain|realtime|socketio path=/ws [channel=NAME] [tokens=FILE] [token_in=connect]
 *               [one_frame=1] [deflate=1] [publisher=0]
 *
 * open TOTAL CONCURRENCY                           clients up to TOTAL; before them one that publishes
 * probe SIZE                                       publish until every client has got the same message
 * fanout SIZE IN_FLIGHT BATCH WARM SECONDS         closed loop: the next message goes when one has reached everybody;
 *                                                  BATCH > 0: BATCH messages at once, the next ones after the last
 * rate SIZE PER_SECOND WARM SECONDS                open loop, with latencies from the moment a message was due
 * own SIZE IN_FLIGHT WARM SECONDS                  each client gets what it sends, and nobody else's
 * mute COUNT                                       the first COUNT clients read no more
 * drop KEEP                                        cut all but the first KEEP clients
 * publish SIZE COUNT IN_FLIGHT                     COUNT messages to the clients that are there
 * return CONCURRENCY SIZE PER_SECOND               those that were dropped reconnect and ask for what they missed;
 *                                                  PER_SECOND 0: nothing more is published
 * quit
 *
 * A client answers pings at all times. Every result counts, for each client, what it did not get, got twice, or got
 * out of order, by the numbers in the payloads, and compares every byte of them.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define RING 8192 /* more than can be in flight */
#define OPEN_TIMEOUT 180.0
#define STALL_TIMEOUT 3.0
#define PUBLISHER_LEAD 0.3 /* seconds between the publisher's entry and the next, for the first subscriber's sake */
#define PROBE_TIMEOUT 2.0
#define PROBES 15
#define EVENTS 512

typedef enum { IDLE, OPENING, PROBING, FANOUT, RATE, OWN, PUBLISH, RETURNING } Phase;

typedef struct {
    uint64_t received, duplicated, out_of_order, corrupted, refused, disconnected;
    char trouble[256]; /* the first thing that went wrong */
} Counts;

static Target target = {.path = "/", .channel = ""};
static int with_publisher = 1;
static Client publisher, *clients;
static uint32_t client_count, total, live, opening, next_to_open, muted, kept;
static int epoll, timer;
static Phase phase;
static int ended; /* the window is over, or nothing more is published: what is under way is still awaited */

static Counts counts;
static Histogram latencies;
static uint32_t sequence, sequence_base, command = 10, in_flight, batch, wanted, under_way, concurrency, next_own;
static uint32_t remaining[RING];
static size_t payload_size = 128;
static ptrdiff_t hint;
static uint64_t now, phase_at, window_at, window_end, progress_at, interval, due, probe_time, finished_at;
static double warm, seconds;
static uint32_t probed, probes;
static struct rusage usage_begin;
static char outbox[1 << 20];
static size_t outbox_size;

static uint64_t clock_now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000ull + (uint64_t)at.tv_nsec;
}

static double since(uint64_t begun) {
    return (double)(now - begun) / 1e9;
}

static void note_trouble(const char *what) {
    if (counts.trouble[0])
        return;
    size_t at = 0;
    for (; *what && at < sizeof counts.trouble - 1; what++)
        counts.trouble[at++] = *what == '"' || *what == '\\' || (unsigned char)*what < ' ' ? '\'' : *what;
    counts.trouble[at] = 0;
}

static void fail(const char *what) {
    note_trouble(what);
    printf("{\"event\":\"failed\",\"trouble\":\"%s\"}\n", counts.trouble);
    fflush(stdout);
    exit(1);
}

/* Watching */

static void watch_descriptor(int descriptor, void *owner, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = owner};
    epoll_ctl(epoll, operation, descriptor, &event);
}

static void watch(Client *client, uint32_t events, int operation) {
    watch_descriptor(client->fd, client, events, operation);
}

static void open_client(Client *client) {
    if (client_connect(client, &target) < 0)
        fail(strerror(errno));
    watch(client, EPOLLOUT, EPOLL_CTL_ADD);
}

static void set_timer(uint64_t at) {
    struct itimerspec setting = {.it_value = {(time_t)(at / 1000000000ull), (long)(at % 1000000000ull)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &setting, NULL);
}

/* Publishing */

static void flush_outbox(void) {
    if (outbox_size > 0)
        client_send(&publisher, outbox, outbox_size);
    outbox_size = 0;
}

static void queue_message(uint64_t time) {
    char payload[PAYLOAD_MOST];
    sequence++;
    remaining[sequence % RING] = live;
    under_way++;
    write_payload(payload, payload_size, sequence, time);
    if (sizeof outbox - outbox_size < FRAME_MOST)
        flush_outbox();
    outbox_size += publish_frame(outbox + outbox_size, &publisher, &target, payload, payload_size, command++);
}

/* Each message leaves by itself: those that happen to be due together are not bunched here. */
static void publish(uint64_t time) {
    queue_message(time);
    flush_outbox();
}

static void publish_own(Client *client) {
    char payload[PAYLOAD_MOST], frame[FRAME_MOST];
    client->sent++;
    under_way++;
    write_payload(payload, payload_size, client->sent, clock_now());
    client_send(client, frame, publish_frame(frame, client, &target, payload, payload_size, command++));
}

static void publish_next(void) {
    if (phase == PUBLISH && sequence - sequence_base >= wanted)
        return;
    if (batch == 0) {
        publish(now);
    } else if (under_way == 0) {
        for (uint32_t i = 0; i < batch; i++)
            queue_message(now);
        flush_outbox();
    }
}

static void send_probe(void) {
    char payload[PAYLOAD_MOST];
    probed = 0;
    probe_time = now;
    if (++probes > PROBES)
        fail("not every client gets what is published");
    write_payload(payload, payload_size, 0, probe_time);
    outbox_size += publish_frame(outbox + outbox_size, &publisher, &target, payload, payload_size, command++);
    flush_outbox();
    set_timer(now + (uint64_t)(PROBE_TIMEOUT * 1e9));
}

/* Results */

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static double cpu_seconds_before(void) {
    return (double)(usage_begin.ru_utime.tv_sec + usage_begin.ru_stime.tv_sec) +
           (double)(usage_begin.ru_utime.tv_usec + usage_begin.ru_stime.tv_usec) / 1e6;
}

static int64_t count_lost(void) {
    int64_t lost = 0;
    for (uint32_t i = muted; i < total; i++) {
        uint32_t meant = phase == OWN ? clients[i].sent : sequence - sequence_base;
        lost += (int64_t)meant - clients[i].tally.received;
    }
    return lost;
}

static void tell_event(const char *event) {
    printf("{\"event\":\"%s\",\"deliveries\":%llu,\"messages\":%u,\"seconds\":%.6f,\"cpu_seconds\":%.6f}\n", event,
           (unsigned long long)counts.received, sequence - sequence_base, since(phase_at),
           cpu_seconds() - cpu_seconds_before());
    fflush(stdout);
}

static void tell_result(void) {
    uint32_t unrecovered = 0;
    int64_t lost = phase == OPENING || phase == PROBING || phase == IDLE ? 0 : count_lost();
    for (uint32_t i = 0; i < total; i++)
        unrecovered += clients[i].recovers && clients[i].recovered != 1;
    printf("{\"event\":\"result\",\"clients\":%u,\"seconds\":%.6f,\"cpu_seconds\":%.6f,\"deliveries\":%llu,"
           "\"messages\":%u,\"lost\":%lld,\"duplicated\":%llu,\"out_of_order\":%llu,\"corrupted\":%llu,"
           "\"refused\":%llu,\"disconnected\":%llu,\"unrecovered\":%u,\"p50_us\":%llu,\"p99_us\":%llu,"
           "\"latencies\":%llu,\"trouble\":\"%s\"}\n",
           live, (double)((finished_at ? finished_at : now) - phase_at) / 1e9, cpu_seconds() - cpu_seconds_before(),
           (unsigned long long)counts.received, sequence - sequence_base, (long long)lost,
           (unsigned long long)counts.duplicated, (unsigned long long)counts.out_of_order,
           (unsigned long long)counts.corrupted, (unsigned long long)counts.refused,
           (unsigned long long)counts.disconnected, unrecovered, (unsigned long long)percentile(&latencies, 0.5),
           (unsigned long long)percentile(&latencies, 0.99), (unsigned long long)latencies.total, counts.trouble);
    fflush(stdout);
    phase = IDLE;
}

/* What clients tell */

static void open_more(void) {
    while (opening < concurrency && next_to_open < total) {
        Client *client = &clients[next_to_open++];
        opening++;
        open_client(client);
    }
}

void client_ready(Client *client) {
    progress_at = now;
    if (client == &publisher) {
        set_timer(now + (uint64_t)(PUBLISHER_LEAD * 1e9));
        return;
    }
    opening--;
    live++;
    open_more();
}

void client_lost(Client *client, const char *why) {
    int was_live = client->state == READY && client != &publisher && !client->muted;
    if (client->state == CLOSED)
        return;
    client_cut(client);
    if (client->muted || (client != &publisher && client < clients + muted))
        return; /* a server may well cut who does not read */
    counts.disconnected++;
    note_trouble(why);
    if (was_live)
        live--;
    if (phase == OPENING || phase == RETURNING || client == &publisher)
        fail(why);
}

static void take_number(Client *client, const char *payload, uint32_t number) {
    counts.received++;
    if (!payload_whole(payload, payload_size)) {
        counts.corrupted++;
        return;
    }
    Arrival arrival = note_arrival(&client->tally, number);
    counts.duplicated += arrival == DUPLICATED;
    counts.out_of_order += arrival == OUT_OF_ORDER;
    if (arrival == DUPLICATED)
        return;
    progress_at = now;
    if (phase == RATE && window_at && !ended) {
        uint64_t time = payload_time(payload);
        if (time >= window_at)
            note_latency(&latencies, now > time ? now - time : 0);
    }
    if (phase == OWN) {
        under_way--;
        if (!ended) {
            publish_own(&clients[next_own]);
            next_own = (next_own + 1) % total;
        }
    } else if (sequence - number < RING && remaining[number % RING] > 0 && --remaining[number % RING] == 0) {
        under_way--;
        if (!ended && (phase == FANOUT || phase == PUBLISH))
            publish_next();
    }
}

void client_received(Client *client, const char *message, size_t size) {
    const char *end = message + size, *at = message, *payload;
    if (client == &publisher) {
        if (memmem(message, size, "\"error\":{", 9) != NULL) {
            counts.refused++;
            note_trouble(message);
        }
        return;
    }
    while ((payload = find_payload(at, end, payload_size, &hint, message)) != NULL) {
        uint32_t number = payload_sequence(payload);
        at = payload + payload_size;
        if (number == 0) {
            if (phase == PROBING && payload_time(payload) == probe_time)
                probed++;
        } else if (phase != OPENING && phase != PROBING) {
            take_number(client, payload, number);
        }
    }
    if (at == message && memmem(message, size, "\"error\":{", 9) != NULL) {
        counts.refused++;
        note_trouble(message);
    }
}

/* Phases */

static void begin_phase(Phase which) {
    phase = which;
    ended = 0;
    window_at = window_end = finished_at = 0;
    under_way = outbox_size = 0;
    memset(&counts, 0, sizeof counts);
    memset(&latencies, 0, sizeof latencies);
    now = phase_at = progress_at = clock_now();
    getrusage(RUSAGE_SELF, &usage_begin);
    set_timer(0);
}

static void begin_tallies(void) {
    sequence_base = sequence;
    for (uint32_t i = 0; i < total; i++) {
        begin_tally(&clients[i].tally, phase == OWN ? 0 : sequence);
        clients[i].sent = 0;
    }
}

static void begin_load(Phase which) {
    begin_phase(which);
    begin_tallies();
    if (which == OWN) {
        for (uint32_t i = 0; i < in_flight; i++)
            publish_own(&clients[i % total]);
        next_own = in_flight % total;
    } else if (which == RATE) {
        due = now + interval;
        set_timer(due);
    } else {
        for (uint32_t i = 0; i < (batch ? 1 : in_flight); i++)
            publish_next();
    }
}

static void on_timer(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0)
        return;
    if (phase == OPENING) {
        open_more();
    } else if (phase == PROBING) {
        send_probe();
    } else if ((phase == RATE || phase == RETURNING) && !ended) {
        for (; due <= now; due += interval)
            publish(due);
        set_timer(due);
    }
}

/* Begin and end of the window that is measured, and then the wait for what is under way. */
static void step_load(void) {
    if (!window_at && since(phase_at) >= warm) {
        window_at = now;
        tell_event("begin");
    } else if (window_at && !ended && since(window_at) >= seconds) {
        ended = 1;
        tell_event("end");
    }
    if (ended && (under_way == 0 || since(progress_at) > STALL_TIMEOUT))
        tell_result();
    else if (!ended && since(progress_at) > STALL_TIMEOUT && phase != RATE) {
        note_trouble("nothing arrives any more");
        if (!window_at)
            tell_event("begin");
        tell_event("end");
        tell_result();
    }
}

static int all_returned(void) {
    static uint64_t looked_at;
    if (now - looked_at < 10000000)
        return 0;
    looked_at = now;
    for (uint32_t i = 0; i < total; i++)
        if (clients[i].tally.received < sequence - sequence_base)
            return 0;
    return 1;
}

static void step_phase(void) {
    switch (phase) {
    case OPENING:
        if (live == total)
            tell_result();
        else if (since(progress_at) > STALL_TIMEOUT * 5 || since(phase_at) > OPEN_TIMEOUT)
            fail("not every client could connect in time");
        break;
    case PROBING:
        if (probed >= live)
            tell_result();
        break;
    case FANOUT:
    case RATE:
    case OWN:
        step_load();
        break;
    case PUBLISH:
        if (under_way == 0 || since(progress_at) > STALL_TIMEOUT)
            tell_result();
        break;
    case RETURNING:
        if (!ended && live == total) {
            ended = 1;
            finished_at = now;
        }
        if (ended && (all_returned() || since(progress_at) > STALL_TIMEOUT)) {
            /* Without further publications the last that was missed is the end. */
            if (interval == 0)
                finished_at = progress_at;
            tell_result();
        }
        else if (since(progress_at) > STALL_TIMEOUT * 5)
            fail("not every client could return in time");
        break;
    case IDLE:
        break;
    }
}

/* Commands */

static void begin_open(uint32_t wanted_total) {
    if (wanted_total > client_count)
        fail("more clients than were announced by clients=");
    total = wanted_total;
    begin_phase(OPENING);
    if (with_publisher && publisher.state == CLOSED)
        open_client(&publisher);
    else
        open_more();
}

static void mute(uint32_t count) {
    int smallest = 4096;
    for (muted = 0; muted < count && muted < total; muted++) {
        Client *client = &clients[muted];
        setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &smallest, sizeof smallest);
        watch(client, 0, EPOLL_CTL_MOD);
        client->muted = 1;
        live--;
    }
    begin_phase(IDLE);
    tell_result();
}

static void drop(uint32_t keep) {
    begin_phase(IDLE);
    for (kept = keep; keep < total; keep++) {
        client_cut(&clients[keep]);
        clients[keep].recovers = 1;
        live--;
    }
    begin_tallies();
    tell_result();
}

static void begin_return(double per_second) {
    begin_phase(RETURNING);
    next_to_open = kept;
    interval = per_second > 0 ? (uint64_t)(1e9 / per_second) : 0;
    due = now + interval;
    if (interval > 0)
        set_timer(due);
    open_more();
}

static void obey(char *line) {
    unsigned a = 0, b = 0;
    unsigned long size = payload_size;
    double rate = 0;
    if (sscanf(line, "open %u %u", &a, &concurrency) == 2) {
        begin_open(a);
    } else if (sscanf(line, "probe %lu", &size) == 1) {
        payload_size = size;
        begin_phase(PROBING);
        probes = 0;
        send_probe();
    } else if (sscanf(line, "fanout %lu %u %u %lf %lf", &size, &in_flight, &batch, &warm, &seconds) == 5) {
        payload_size = size;
        begin_load(FANOUT);
    } else if (sscanf(line, "rate %lu %lf %lf %lf", &size, &rate, &warm, &seconds) == 4) {
        payload_size = size;
        interval = (uint64_t)(1e9 / rate);
        begin_load(RATE);
    } else if (sscanf(line, "own %lu %u %lf %lf", &size, &in_flight, &warm, &seconds) == 4) {
        payload_size = size;
        begin_load(OWN);
    } else if (sscanf(line, "mute %u", &a) == 1) {
        mute(a);
    } else if (sscanf(line, "drop %u", &a) == 1) {
        drop(a);
    } else if (sscanf(line, "publish %lu %u %u", &size, &wanted, &in_flight) == 3) {
        payload_size = size;
        batch = 0;
        begin_phase(PUBLISH);
        for (b = 0; b < in_flight; b++)
            publish_next();
    } else if (sscanf(line, "return %u %lu %lf", &concurrency, &size, &rate) == 3) {
        payload_size = size;
        begin_return(rate);
    } else if (strncmp(line, "quit", 4) == 0) {
        exit(0);
    } else {
        fail(line);
    }
}

static void read_commands(void) {
    static char text[4096];
    static size_t size;
    ssize_t got = read(STDIN_FILENO, text + size, sizeof text - 1 - size);
    if (got <= 0)
        exit(0);
    size += (size_t)got;
    for (char *end; (end = memchr(text, '\n', size)) != NULL;) {
        *end = 0;
        obey(text);
        size -= (size_t)(end + 1 - text);
        memmove(text, end + 1, size);
    }
}

/* Start */

static void read_tokens(const char *path) {
    FILE *file = fopen(path, "r");
    char line[2048];
    if (file == NULL)
        fail("the file of tokens cannot be read");
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = 0;
        target.tokens = realloc(target.tokens, (target.token_count + 1) * sizeof *target.tokens);
        target.tokens[target.token_count++] = strdup(line);
    }
    fclose(file);
}

static void read_option(char *option) {
    char *value = strchr(option, '=');
    if (value == NULL)
        fail(option);
    *value++ = 0;
    if (strcmp(option, "port") == 0)
        target.port = atoi(value);
    else if (strcmp(option, "dialect") == 0)
        target.dialect = strcmp(value, "realtime") == 0 ? REALTIME : strcmp(value, "socketio") == 0 ? SOCKETIO : PLAIN;
    else if (strcmp(option, "path") == 0)
        target.path = value;
    else if (strcmp(option, "channel") == 0)
        target.channel = value;
    else if (strcmp(option, "tokens") == 0)
        read_tokens(value);
    else if (strcmp(option, "token_in") == 0)
        target.token_in_connect = strcmp(value, "connect") == 0;
    else if (strcmp(option, "one_frame") == 0)
        target.one_frame = atoi(value);
    else if (strcmp(option, "deflate") == 0)
        target.deflate = atoi(value);
    else if (strcmp(option, "publisher") == 0)
        with_publisher = atoi(value);
    else if (strcmp(option, "clients") == 0)
        client_count = (uint32_t)atoi(value);
    else
        fail(option);
}

static void raise_file_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void serve_client(Client *client, uint32_t events) {
    if (client->state == CONNECTING) {
        watch(client, EPOLLIN, EPOLL_CTL_MOD);
        client_writable(client, &target);
    } else if (client->state != CLOSED && !client->muted) {
        client_readable(client, &target);
    } else if (client->muted && events & (EPOLLHUP | EPOLLERR)) {
        client_cut(client);
    }
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    for (int i = 1; i < argc; i++)
        read_option(argv[i]);
    raise_file_limit();
    clients = calloc(client_count + 1, sizeof *clients);
    for (uint32_t i = 0; i < client_count; i++)
        clients[i].number = i;
    publisher.number = client_count;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch_descriptor(timer, &timer, EPOLLIN, EPOLL_CTL_ADD);
    watch_descriptor(STDIN_FILENO, &command, EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, phase == IDLE ? -1 : 5);
        now = clock_now();
        for (int i = 0; i < ready; i++) {
            void *what = events[i].data.ptr;
            if (what == &timer) {
                on_timer();
            } else if (what == &command) {
                read_commands();
            } else {
                now = clock_now();
                serve_client(what, events[i].events);
            }
        }
        step_phase();
    }
}
