#define _GNU_SOURCE
#include "payload.h"

#include <string.h>

#define SEQUENCE_AT 2
#define SEQUENCE_DIGITS 10
#define TIME_AT 13
#define TIME_DIGITS 19
#define FILLER_AT 33
#define TURNS 4096

static char filler[TURNS + PAYLOAD_MOST];

/* The same letters in every run; a message repeats a part of the one before it, as messages do. */
static const char *filler_of(uint32_t sequence) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .";
    if (filler[0] == 0) {
        uint32_t state = 2463534242u;
        for (size_t i = 0; i < sizeof filler; i++) {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            filler[i] = letters[state % 64];
        }
    }
    return filler + (uint64_t)sequence * 37 % TURNS;
}

static void write_digits(char *into, int digits, uint64_t value) {
    for (int i = digits - 1; i >= 0; i--) {
        into[i] = (char)('0' + value % 10);
        value /= 10;
    }
}

static uint64_t read_digits(const char *from, int digits) {
    uint64_t value = 0;
    for (int i = 0; i < digits; i++)
        value = value * 10 + (uint64_t)(from[i] - '0');
    return value;
}

void write_payload(char *into, size_t size, uint32_t sequence, uint64_t time) {
    into[0] = '"';
    into[1] = '@';
    write_digits(into + SEQUENCE_AT, SEQUENCE_DIGITS, sequence);
    into[SEQUENCE_AT + SEQUENCE_DIGITS] = '@';
    write_digits(into + TIME_AT, TIME_DIGITS, time);
    into[TIME_AT + TIME_DIGITS] = '@';
    memcpy(into + FILLER_AT, filler_of(sequence), size - PAYLOAD_LEAST);
    into[size - 1] = '"';
}

static int is_payload(const char *at, const char *end, size_t size) {
    return (size_t)(end - at) >= size && at[0] == '"' && at[1] == '@' && at[12] == '@' && at[32] == '@';
}

const char *find_payload(const char *from, const char *end, size_t size, ptrdiff_t *hint, const char *message) {
    if ((size_t)(end - from) < size)
        return NULL;
    if (from == message && end - from >= *hint && is_payload(from + *hint, end, size))
        return from + *hint;
    while ((size_t)(end - from) >= size) {
        const char *found = memmem(from, (size_t)(end - from), "\"@", 2);
        if (found == NULL || (size_t)(end - found) < size)
            return NULL;
        if (is_payload(found, end, size)) {
            if (from == message)
                *hint = found - message;
            return found;
        }
        from = found + 1;
    }
    return NULL;
}

uint32_t payload_sequence(const char *payload) {
    return (uint32_t)read_digits(payload + SEQUENCE_AT, SEQUENCE_DIGITS);
}

uint64_t payload_time(const char *payload) {
    return read_digits(payload + TIME_AT, TIME_DIGITS);
}

int payload_whole(const char *payload, size_t size) {
    return payload[size - 1] == '"' &&
           memcmp(payload + FILLER_AT, filler_of(payload_sequence(payload)), size - PAYLOAD_LEAST) == 0;
}

void begin_tally(Tally *tally, uint32_t last) {
    tally->highest = last;
    tally->window = ~0ull;
    tally->received = 0;
}

Arrival note_arrival(Tally *tally, uint32_t sequence) {
    if (sequence > tally->highest) {
        uint32_t step = sequence - tally->highest;
        tally->window = step < 64 ? tally->window << step | 1 : 1;
        tally->highest = sequence;
        tally->received++;
        return NEXT;
    }
    uint32_t age = tally->highest - sequence;
    if (age >= 64 || tally->window >> age & 1)
        return DUPLICATED;
    tally->window |= 1ull << age;
    tally->received++;
    return OUT_OF_ORDER;
}

void note_latency(Histogram *histogram, uint64_t nanoseconds) {
    uint64_t value = nanoseconds / 1000 | 1;
    int doublings = 63 - __builtin_clzll(value);
    int shift = doublings > 6 ? doublings - 6 : 0;
    histogram->counts[(uint64_t)shift * 64 + (value >> shift)]++;
    histogram->total++;
}

uint64_t percentile(const Histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)(share * (double)histogram->total + 0.5), seen = 0;
    if (histogram->total == 0)
        return 0;
    for (uint64_t i = 0; i < sizeof histogram->counts / sizeof *histogram->counts; i++) {
        seen += histogram->counts[i];
        if (seen >= wanted && seen > 0) {
            uint64_t shift = i < 128 ? 0 : i / 64 - 1;
            return (i - shift * 64) << shift;
        }
    }
    return 0;
}
