/* Consistent Overhead Byte Stuffing (Cheshire and Baker, 1999); 0x00 ends a frame and occurs nowhere else.
 *
 * A frame is cut into blocks: a code byte n, then n - 1 bytes as they are, then a zero that is not sent.
 * Two blocks lack that zero: the last one, and one of 254 bytes (code 0xFF), which is full before a zero
 * came. */
#ifndef COBS_H
#define COBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What `length` bytes become at most, delimiter included. A constant expression, so that it can size an
 * array. */
#define COBS_ENCODED_BYTES(length) ((length) + (length) / 254 + 2)

/* Writes `data` stuffed and delimited to `encoded`, which has room for COBS_ENCODED_BYTES(length).
 * Returns the number of bytes written. */
size_t cobs_encode(const uint8_t *data, size_t length, uint8_t *encoded);

/* Finds frames in bytes as they arrive. Never writes past `capacity`: a longer frame is skipped up to its
 * delimiter. */
struct cobs_decoder {
    uint8_t *frame;
    size_t capacity;
    size_t length;
    uint8_t block_left; /* bytes of the present block still to come; 0 where a code byte is due */
    bool zero_due;      /* the block before ended in a zero, which counts only if another block follows */
    bool overflowed;
};

struct cobs_decoder cobs_decoder(uint8_t *frame, size_t capacity);

/* Takes one byte. Returns the length of the frame it completed, which stands in `frame` until the next
 * byte is taken; otherwise 0. Empty, broken and oversized frames are dropped without a word. */
size_t cobs_take(struct cobs_decoder *decoder, uint8_t byte);

#endif
