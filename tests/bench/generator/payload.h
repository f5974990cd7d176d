/* What travels: a JSON string that names its place in a sequence and when it was sent; and what became of it. */

#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

/* The quotes, the marks, ten digits of the sequence and nineteen of the time. */
#define PAYLOAD_LEAST 34
#define PAYLOAD_MOST 16384

/* What one receiver has got of a sequence whose numbers rise by one. */
typedef struct {
    uint32_t highest;  /* number */
    uint64_t window;   /* bit i: whether number highest - i has come */
    uint32_t received; /* different ones */
} Tally;

typedef enum { NEXT, DUPLICATED, OUT_OF_ORDER } Arrival;

typedef struct {
    uint64_t counts[64 * 64]; /* microseconds, 64 buckets for each doubling */
    uint64_t total;
} Histogram;

/* Writes `size` bytes: the string's quotes are the first and the last of them. `time` is in nanoseconds. */
void write_payload(char *into, size_t size, uint32_t sequence, uint64_t time);

/* The first payload of `size` bytes at or after `from`, or NULL. `*hint` is where one stood in the last message. */
const char *find_payload(const char *from, const char *end, size_t size, ptrdiff_t *hint, const char *message);

uint32_t payload_sequence(const char *payload);
uint64_t payload_time(const char *payload);

/* Whether every byte is as `write_payload` made it. */
int payload_whole(const char *payload, size_t size);

void begin_tally(Tally *tally, uint32_t last);
Arrival note_arrival(Tally *tally, uint32_t sequence);

void note_latency(Histogram *histogram, uint64_t nanoseconds);

/* The latency in microseconds that `share` of all (0 to 1) did not exceed; 0 where there are none. */
uint64_t percentile(const Histogram *histogram, double share);

#endif
