#define _GNU_SOURCE
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE (256 * 1024)
#define SEND_TIMEOUT 10000

/* The example of RFC 6455 section 1.3. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

static char input[2 * READ_SIZE];

static void expand(char *into, size_t room, const char *pattern, uint32_t number) {
    const char *star = strchr(pattern, '*');
    if (star == NULL)
        snprintf(into, room, "%s", pattern);
    else
        snprintf(into, room, "%.*s%u%s", (int)(star - pattern), pattern, number, star + 1);
}

/* Frames out: RFC 6455 section 5.2, masked */

static size_t write_frame(char *into, int opcode, const char *payload, size_t size) {
    static const unsigned char mask[4] = {0x5a, 0x93, 0x17, 0xc4};
    unsigned char *at = (unsigned char *)into;
    *at++ = (unsigned char)(0x80 | opcode);
    if (size < 126) {
        *at++ = (unsigned char)(0x80 | size);
    } else {
        *at++ = 0x80 | 126;
        *at++ = (unsigned char)(size >> 8);
        *at++ = (unsigned char)size;
    }
    memcpy(at, mask, 4);
    at += 4;
    for (size_t i = 0; i < size; i++)
        at[i] = (unsigned char)payload[i] ^ mask[i & 3];
    return (size_t)((char *)at - into) + size;
}

static void send_text(Client *client, const char *text) {
    char frame[8192];
    client_send(client, frame, write_frame(frame, TEXT, text, strlen(text)));
}

size_t publish_frame(char *into, const Client *client, const Target *target, const char *payload, size_t size,
                     uint32_t command) {
    char text[FRAME_MOST], channel[256];
    int length;
    switch (target->dialect) {
    case REALTIME:
        expand(channel, sizeof channel, target->channel, client->number);
        length = snprintf(text, sizeof text, "{\"id\":%u,\"publish\":{\"channel\":\"%s\",\"data\":%.*s}}", command,
                          channel, (int)size, payload);
        return write_frame(into, TEXT, text, (size_t)length);
    case SOCKETIO:
        length = snprintf(text, sizeof text, "42[\"publish\",%.*s]", (int)size, payload);
        return write_frame(into, TEXT, text, (size_t)length);
    default:
        return write_frame(into, TEXT, payload, size);
    }
}

void client_send(Client *client, const char *data, size_t size) {
    while (size > 0 && client->state != CLOSED) {
        ssize_t sent = send(client->fd, data, size, MSG_NOSIGNAL);
        if (sent >= 0) {
            data += sent;
            size -= (size_t)sent;
        } else if (errno == EAGAIN) {
            struct pollfd waiting = {client->fd, POLLOUT, 0};
            if (poll(&waiting, 1, SEND_TIMEOUT) == 0)
                client_lost(client, "the server does not read");
        } else if (errno != EINTR) {
            client_lost(client, strerror(errno));
        }
    }
}

/* Opening */

int client_connect(Client *client, const Target *target) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)target->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1, off = 0;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        return -1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* Not every message is acknowledged by a packet of its own, which is half of a reader's work on loopback. */
    setsockopt(client->fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        return -1;
    client->state = CONNECTING;
    client->recovered = 0;
    return client->fd;
}

void client_writable(Client *client, const Target *target) {
    char request[4096], path[512], token[2048] = "";
    int failure = 0;
    socklen_t length = sizeof failure;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &failure, &length);
    if (failure != 0) {
        client_lost(client, strerror(failure));
        return;
    }
    expand(path, sizeof path, target->path, client->number);
    if (target->tokens != NULL && !target->token_in_connect)
        snprintf(token, sizeof token, "Authorization: Bearer %s\r\n",
                 target->tokens[client->number % target->token_count]);
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s\r\n",
                        path, target->port, token,
                        target->deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                                        : "");
    client->state = UPGRADING;
    client_send(client, request, (size_t)size);
}

void client_cut(Client *client) {
    struct linger reset = {1, 0};
    if (client->state != CLOSED) {
        setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(client->fd);
    }
    client->state = CLOSED;
    client->muted = 0;
    free(client->rest);
    client->rest = NULL;
    client->rest_size = 0;
    if (client->inflater != NULL) {
        inflateEnd(client->inflater);
        free(client->inflater);
        client->inflater = NULL;
    }
}

/* Commands of the real-time protocol */

static size_t write_connect(char *into, size_t room, const Client *client, const Target *target) {
    if (target->tokens == NULL || !target->token_in_connect)
        return (size_t)snprintf(into, room, "{\"id\":1,\"connect\":{}}");
    return (size_t)snprintf(into, room, "{\"id\":1,\"connect\":{\"token\":\"%s\"}}",
                            target->tokens[client->number % target->token_count]);
}

static void write_subscribe(char *into, size_t room, const Client *client, const Target *target) {
    char channel[256], position[128] = "";
    expand(channel, sizeof channel, target->channel, client->number);
    if (client->recovers)
        snprintf(position, sizeof position, ",\"recover\":true,\"epoch\":\"%s\",\"offset\":%llu", client->epoch,
                 (unsigned long long)client->offset);
    snprintf(into, room, "{\"id\":2,\"subscribe\":{\"channel\":\"%s\"%s}}", channel, position);
}

static void make_inflater(Client *client, const char *answer) {
    const char *bits = strstr(answer, "server_max_window_bits=");
    client->inflater = calloc(1, sizeof *client->inflater);
    inflateInit2(client->inflater, bits ? -atoi(bits + strlen("server_max_window_bits=")) : -15);
}

/* Returns how many bytes the answer's head has; 0 while its end has not come. */
static size_t read_upgrade(Client *client, const Target *target, const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    char head[4096];
    if (end == NULL)
        return 0;
    size_t length = (size_t)(end - data) + 4;
    snprintf(head, sizeof head, "%.*s", (int)length, data);
    if (strncmp(head, "HTTP/1.1 101", 12) != 0 || strstr(head, ACCEPT) == NULL) {
        head[strcspn(head, "\r\n")] = 0;
        client_lost(client, head);
        return 0;
    }
    if (strcasestr(head, "permessage-deflate") != NULL)
        make_inflater(client, head);
    client->state = GREETING;
    if (target->dialect == PLAIN) {
        client->state = READY;
        client_ready(client);
    } else if (target->dialect == REALTIME) {
        char commands[4096];
        size_t written = write_connect(commands, sizeof commands, client, target);
        if (target->one_frame && target->channel[0] != 0) {
            commands[written++] = '\n';
            write_subscribe(commands + written, sizeof commands - written, client, target);
        }
        send_text(client, commands);
    }
    return length;
}

/* Dialects */

static void subscribe(Client *client, const Target *target) {
    char text[1024];
    write_subscribe(text, sizeof text, client, target);
    send_text(client, text);
}

static void keep_position(Client *client, const char *reply) {
    const char *epoch = strstr(reply, "\"epoch\":\""), *offset = strstr(reply, "\"offset\":");
    if (client->recovers) {
        client->recovered = strstr(reply, "\"recovered\":true") != NULL;
        return;
    }
    client->offset = offset ? strtoull(offset + strlen("\"offset\":"), NULL, 10) : 0;
    if (epoch != NULL)
        snprintf(client->epoch, sizeof client->epoch, "%.*s", (int)strcspn(epoch + 9, "\""), epoch + 9);
}

static int greet_realtime(Client *client, const Target *target, const char *message, size_t size) {
    /* A reply is read by its beginning; a recovered one has its position behind the publications. */
    static char text[READ_SIZE];
    snprintf(text, sizeof text, "%.*s", (int)size, message);
    if (strstr(text, "\"error\":{") != NULL) {
        text[200] = 0;
        client_lost(client, text);
        return 0;
    }
    /* Both replies may stand in one frame. */
    if (strstr(text, "\"id\":2,") != NULL || strstr(text, "\"subscribe\":{") != NULL) {
        keep_position(client, text);
        return 1;
    }
    if (strstr(text, "\"id\":1,") != NULL || strstr(text, "\"connect\":{") != NULL) {
        if (target->channel[0] == 0)
            return 1;
        if (!target->one_frame)
            subscribe(client, target);
    }
    return 0;
}

static int greet_socketio(Client *client, const char *message, size_t size) {
    if (size > 0 && message[0] == '0')
        send_text(client, "40");
    return size >= 2 && memcmp(message, "40", 2) == 0;
}

static void take_message(Client *client, const Target *target, const char *message, size_t size) {
    if (target->dialect == REALTIME && size == 2 && memcmp(message, "{}", 2) == 0) {
        send_text(client, "{}");
    } else if (target->dialect == SOCKETIO && size == 1 && message[0] == '2') {
        send_text(client, "3");
    } else if (client->state == GREETING) {
        int ready = target->dialect == REALTIME ? greet_realtime(client, target, message, size)
                                                : greet_socketio(client, message, size);
        if (ready) {
            client->state = READY;
            client_ready(client);
            /* A recovered client's reply holds what it missed, and a push may stand behind any reply. */
            client_received(client, message, size);
        }
    } else {
        client_received(client, message, size);
    }
}

/* Frames in */

static void take_compressed(Client *client, const Target *target, char *payload, size_t size) {
    static char message[64 * 1024];
    static unsigned char tail[4] = {0, 0, 0xff, 0xff};
    z_stream *inflater = client->inflater;
    inflater->next_out = (unsigned char *)message;
    inflater->avail_out = sizeof message;
    for (int part = 0; part < 2; part++) {
        inflater->next_in = part ? tail : (unsigned char *)payload;
        inflater->avail_in = part ? sizeof tail : (unsigned)size;
        int result = inflate(inflater, Z_SYNC_FLUSH);
        if ((result != Z_OK && result != Z_BUF_ERROR) || inflater->avail_in > 0) {
            client_lost(client, "a message cannot be inflated");
            return;
        }
    }
    take_message(client, target, message, sizeof message - inflater->avail_out);
}

static void take_frame(Client *client, const Target *target, int first, char *payload, size_t size) {
    char answer[256], why[64];
    int opcode = first & 15;
    if (opcode == PING) {
        client_send(client, answer, write_frame(answer, PONG, payload, size));
    } else if (opcode == CLOSE) {
        int code = size >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        snprintf(why, sizeof why, "closed with %d", code);
        client_lost(client, why);
    } else if (opcode == TEXT || opcode == BINARY) {
        if (!(first & 0x80))
            client_lost(client, "a fragmented message, which this generator does not read");
        else if (first & 0x40)
            take_compressed(client, target, payload, size);
        else
            take_message(client, target, payload, size);
    } else if (opcode != PONG) {
        client_lost(client, "a frame of an unknown kind");
    }
}

/* Returns how many bytes were dealt with. */
static size_t take_frames(Client *client, const Target *target, char *data, size_t size) {
    size_t at = 0;
    while (client->state != CLOSED && size - at >= 2) {
        unsigned char *head = (unsigned char *)data + at;
        uint64_t length = head[1] & 127;
        size_t head_size = length < 126 ? 2 : length == 126 ? 4 : 10;
        if (size - at < head_size)
            break;
        if (length == 126) {
            length = (uint64_t)head[2] << 8 | head[3];
        } else if (length == 127) {
            length = 0;
            for (int i = 2; i < 10; i++)
                length = length << 8 | head[i];
        }
        if (length > READ_SIZE) {
            client_lost(client, "a frame that is too large for this generator");
            break;
        }
        if (size - at - head_size < length)
            break;
        take_frame(client, target, head[0], data + at + head_size, length);
        at += head_size + length;
    }
    return at;
}

void client_readable(Client *client, const Target *target) {
    size_t size = client->rest_size, done = 0;
    if (size > 0) {
        memcpy(input, client->rest, size);
        free(client->rest);
        client->rest = NULL;
        client->rest_size = 0;
    }
    ssize_t got = recv(client->fd, input + size, sizeof input - size, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            client_lost(client, got == 0 ? "cut by the server" : strerror(errno));
            return;
        }
        got = 0;
    }
    size += (size_t)got;
    if (client->state == UPGRADING)
        done = read_upgrade(client, target, input, size);
    if (client->state == GREETING || client->state == READY)
        done += take_frames(client, target, input + done, size - done);
    if (client->state != CLOSED && done < size) {
        client->rest_size = size - done;
        client->rest = malloc(client->rest_size);
        memcpy(client->rest, input + done, client->rest_size);
    }
}
