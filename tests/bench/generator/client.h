/* One WebSocket client: its opening, the dialect that its server speaks, and the messages it gets. */

#ifndef CLIENT_H
#define CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

#include "payload.h"

typedef enum { PLAIN, REALTIME, SOCKETIO } Dialect;

typedef struct {
    int port;
    Dialect dialect;
    const char *path;    /* '*' stands for the client's number, here and in the channel */
    const char *channel; /* of the real-time protocol; "" subscribes to nothing */
    char **tokens;       /* NULL: none is presented */
    size_t token_count;
    int token_in_connect; /* in the connect command, not in the handshake */
    int one_frame;        /* connect and subscribe are sent in one frame, as SDK clients do that reconnect */
    int deflate;          /* offer permessage-deflate */
} Target;

typedef enum { CLOSED, CONNECTING, UPGRADING, GREETING, READY } State;

typedef struct {
    int fd;
    uint32_t number;
    State state;
    int muted;     /* its socket is not read */
    char *rest;    /* input of which the end has not come */
    size_t rest_size;
    z_stream *inflater;
    char epoch[32];
    uint64_t offset;
    int recovers;  /* asks for what it missed since (epoch, offset) */
    int recovered; /* and was given it */
    uint32_t sent;
    Tally tally;
} Client;

/* What a client tells; main.c defines these. */
void client_ready(Client *client);
void client_lost(Client *client, const char *why);
void client_received(Client *client, const char *message, size_t size);

/* Begin to connect; returns the descriptor to watch for writing, or -1 with errno. */
int client_connect(Client *client, const Target *target);

/* The socket can be written to for the first time: send the request. */
void client_writable(Client *client, const Target *target);

/* The socket has input: read once, and deal with every whole frame. */
void client_readable(Client *client, const Target *target);

/* Cut the connection by a reset, which leaves no address in TIME_WAIT. */
void client_cut(Client *client);

/* Append the frame that publishes `payload` on `channel` (REALTIME only) to `into`; returns its size. */
size_t publish_frame(char *into, const Client *client, const Target *target, const char *payload, size_t size,
                     uint32_t command);

/* Write everything, waiting where the server does not read. */
void client_send(Client *client, const char *data, size_t size);

#define FRAME_MOST (PAYLOAD_MOST + 512)

#endif
