#include "cobs.h"

enum { DELIMITER = 0x00, FULL_BLOCK = 0xFF };

size_t cobs_encode(const uint8_t *data, size_t length, uint8_t *encoded)
{
    size_t code_at = 0; /* its code is known only when the block is complete */
    size_t end = 1;
    for (size_t i = 0; i < length; i++) {
        /* Opened here and not when the block filled: nothing follows a full block that is the last. */
        if (end - code_at == FULL_BLOCK) {
            encoded[code_at] = FULL_BLOCK;
            code_at = end++;
        }
        if (data[i] == 0) {
            encoded[code_at] = (uint8_t)(end - code_at);
            code_at = end++;
        } else {
            encoded[end++] = data[i];
        }
    }
    encoded[code_at] = (uint8_t)(end - code_at);
    encoded[end++] = DELIMITER;
    return end;
}

struct cobs_decoder cobs_decoder(uint8_t *frame, size_t capacity)
{
    return (struct cobs_decoder){.frame = frame, .capacity = capacity};
}

static void append(struct cobs_decoder *decoder, uint8_t byte)
{
    if (decoder->length < decoder->capacity)
        decoder->frame[decoder->length++] = byte;
    else
        decoder->overflowed = true;
}

size_t cobs_take(struct cobs_decoder *decoder, uint8_t byte)
{
    if (byte == DELIMITER) {
        bool whole = decoder->block_left == 0 && !decoder->overflowed;
        size_t length = whole ? decoder->length : 0;
        *decoder = cobs_decoder(decoder->frame, decoder->capacity);
        return length;
    }
    if (decoder->block_left > 0) {
        append(decoder, byte);
        decoder->block_left--;
    } else {
        if (decoder->zero_due)
            append(decoder, 0);
        decoder->block_left = byte - 1;
        decoder->zero_due = byte != FULL_BLOCK;
    }
    return 0;
}
