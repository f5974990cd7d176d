/* The least a WebSocket server can do in C: everything that a client sends goes to every client, by epoll and send().
 *
 *     baseline PORT single|joined|echo
 *
 * single: one send() for each message and client. joined: one send() for each client and turn of the loop, of all
 * messages that came in it. echo: each client gets its own messages back.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 65536
#define INPUT_SIZE 65536
#define EVENTS 512

typedef struct {
    int fd, upgraded;
    size_t place;
    char *rest, *pending; /* input without its end; output that the socket did not take */
    size_t rest_size, pending_size;
} Client;

static Client *clients[CLIENTS];
static size_t client_count;
static int epoll;
static enum { SINGLE, JOINED, ECHO } mode;
static char *turn; /* the frames of this turn of the loop */
static size_t turn_size, turn_room;

/* SHA-1 (RFC 3174) of one message of less than 120 bytes */

static uint32_t rotate(uint32_t value, int by) {
    return value << by | value >> (32 - by);
}

static void sha1_block(uint32_t hash[5], const unsigned char *block) {
    uint32_t word[80], a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4];
    for (int i = 0; i < 16; i++)
        word[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
                  block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        word[i] = rotate(word[i - 3] ^ word[i - 8] ^ word[i - 14] ^ word[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? (b & c) | (~b & d)
                     : i < 40 ? b ^ c ^ d
                     : i < 60 ? (b & c) | (b & d) | (c & d)
                              : b ^ c ^ d;
        uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t next = rotate(a, 5) + f + e + k + word[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    hash[0] += a, hash[1] += b, hash[2] += c, hash[3] += d, hash[4] += e;
}

static void accept_value(const char *key, size_t key_size, char *into) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t hash[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    unsigned char text[128] = {0}, digest[21] = {0};
    size_t size = (size_t)snprintf((char *)text, sizeof text, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
                                   (int)key_size, key);
    size_t blocks = (size + 9 + 63) / 64;
    text[size] = 0x80;
    text[blocks * 64 - 2] = (unsigned char)(size * 8 >> 8);
    text[blocks * 64 - 1] = (unsigned char)(size * 8);
    for (size_t i = 0; i < blocks; i++)
        sha1_block(hash, text + 64 * i);
    for (int i = 0; i < 20; i++)
        digest[i] = (unsigned char)(hash[i / 4] >> (24 - 8 * (i % 4)));
    for (int i = 0; i < 7; i++) {
        uint32_t bits = (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++)
            *into++ = letters[bits >> (18 - 6 * j) & 63];
    }
    into[-1] = '=';
    *into = 0;
}

/* Output */

static void drop(Client *client) {
    clients[client->place] = clients[--client_count];
    clients[client->place]->place = client->place;
    close(client->fd);
    client->fd = -1; /* its last events may still be in this turn, so the object stays */
}

static void watch(Client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd, &event);
}

static void keep(Client *client, const char *data, size_t size) {
    client->pending = realloc(client->pending, client->pending_size + size);
    memcpy(client->pending + client->pending_size, data, size);
    client->pending_size += size;
}

static void write_out(Client *client, const char *data, size_t size) {
    if (client->pending_size > 0) {
        keep(client, data, size);
        return;
    }
    ssize_t sent = send(client->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return; /* the reader finds out */
    sent = sent < 0 ? 0 : sent;
    if ((size_t)sent < size) {
        keep(client, data + sent, size - (size_t)sent);
        watch(client, EPOLLIN | EPOLLOUT);
    }
}

static void write_on(Client *client) {
    ssize_t sent = send(client->fd, client->pending, client->pending_size, MSG_NOSIGNAL);
    if (sent <= 0)
        return;
    client->pending_size -= (size_t)sent;
    memmove(client->pending, client->pending + sent, client->pending_size);
    if (client->pending_size == 0)
        watch(client, EPOLLIN);
}

static void broadcast(const char *data, size_t size) {
    for (size_t i = 0; i < client_count; i++)
        if (clients[i]->upgraded)
            write_out(clients[i], data, size);
}

static void take_message(Client *from, const unsigned char *payload, size_t size) {
    static unsigned char frame[INPUT_SIZE + 4];
    size_t head = size < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = size < 126 ? (unsigned char)size : 126;
    if (head == 4) {
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)size;
    }
    memcpy(frame + head, payload, size);
    if (mode == ECHO) {
        write_out(from, (char *)frame, head + size);
    } else if (mode == SINGLE) {
        broadcast((char *)frame, head + size);
    } else {
        if (turn_size + head + size > turn_room) {
            turn_room = 2 * (turn_size + head + size);
            turn = realloc(turn, turn_room);
        }
        memcpy(turn + turn_size, frame, head + size);
        turn_size += head + size;
    }
}

/* Input */

static size_t take_frames(Client *client, unsigned char *data, size_t size) {
    size_t at = 0;
    while (size - at >= 6) {
        unsigned char *head = data + at;
        size_t length = head[1] & 127, head_size = length < 126 ? 6 : 8;
        if (size - at < head_size)
            break;
        if (length == 126)
            length = (size_t)head[2] << 8 | head[3];
        if (length == 127 || (head[0] & 15) == 8)
            return size; /* too long for it, or the end: the socket's end follows */
        if (size - at < head_size + length)
            break;
        unsigned char *mask = head + head_size - 4, *payload = head + head_size;
        for (size_t i = 0; i < length; i++)
            payload[i] ^= mask[i & 3];
        if ((head[0] & 15) == 1)
            take_message(client, payload, length);
        at += head_size + length;
    }
    return at;
}

static size_t upgrade(Client *client, char *data, size_t size) {
    char answer[256], value[32];
    char *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    char *key = memmem(data, size, "Sec-WebSocket-Key: ", 19);
    if (key == NULL)
        return size;
    key += 19;
    accept_value(key, (size_t)((char *)memchr(key, '\r', (size_t)(end + 2 - key)) - key), value);
    int length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Accept: %s\r\n\r\n",
                          value);
    write_out(client, answer, (size_t)length);
    client->upgraded = 1;
    return (size_t)(end + 4 - data);
}

static void serve(Client *client) {
    static char input[2 * INPUT_SIZE];
    size_t size = client->rest_size, done = 0;
    memcpy(input, client->rest ? client->rest : input, size);
    ssize_t got = recv(client->fd, input + size, INPUT_SIZE, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(client);
        return;
    }
    free(client->rest);
    client->rest = NULL;
    size += (size_t)got;
    if (!client->upgraded)
        done = upgrade(client, input, size);
    if (client->upgraded)
        done += take_frames(client, (unsigned char *)input + done, size - done);
    client->rest_size = size - done;
    if (client->rest_size > 0) {
        client->rest = malloc(client->rest_size);
        memcpy(client->rest, input + done, client->rest_size);
    }
}

static void accept_clients(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        Client *client = calloc(1, sizeof *client);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        client->fd = fd;
        client->place = client_count;
        clients[client_count++] = client;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct epoll_event events[EVENTS];
    struct rlimit limit;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc != 3)
        return 2;
    mode = strcmp(argv[2], "joined") == 0 ? JOINED : strcmp(argv[2], "echo") == 0 ? ECHO : SINGLE;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror("baseline");
        return 1;
    }
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN});
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            Client *client = events[i].data.ptr;
            if (client == NULL)
                accept_clients(listener);
            else if (client->fd >= 0 && events[i].events & EPOLLOUT && client->pending_size > 0)
                write_on(client);
            else if (client->fd >= 0)
                serve(client);
        }
        if (turn_size > 0)
            broadcast(turn, turn_size);
        turn_size = 0;
    }
}
