/* Checks the portable parts of the firmware on the machine that builds it, under the address and undefined
 * sanitizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "climate_sensor.h"
#include "cobs.h"
#include "crc16.h"

enum { LARGEST_BYTES = 600, NOISE_ROUNDS = 200000 };

#define CHECK(holds)                                                                  \
    do {                                                                              \
        if (!(holds)) {                                                               \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #holds); \
            exit(EXIT_FAILURE);                                                       \
        }                                                                             \
    } while (0)

static uint32_t noise_state = 1;

static uint8_t noise(void)
{
    noise_state = noise_state * 1664525u + 1013904223u; /* Numerical Recipes; the same bytes in every run */
    return (uint8_t)(noise_state >> 24);
}

static void fill_counting(uint8_t *bytes, uint8_t first, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(first + i);
}

static size_t decode(struct cobs_decoder *decoder, const uint8_t *encoded, size_t length)
{
    size_t frame_length = 0;
    for (size_t i = 0; i < length; i++) {
        CHECK(frame_length == 0); /* only the last byte completes a frame */
        frame_length = cobs_take(decoder, encoded[i]);
    }
    return frame_length;
}

static void expect_both_ways(const uint8_t *data, size_t length, const uint8_t *expected,
                             size_t expected_length)
{
    uint8_t encoded[COBS_ENCODED_BYTES(LARGEST_BYTES)], frame[LARGEST_BYTES];
    struct cobs_decoder decoder = cobs_decoder(frame, length); /* a frame that fits exactly is not too long */
    size_t encoded_length = cobs_encode(data, length, encoded);
    CHECK(encoded_length == expected_length);
    CHECK(memcmp(encoded, expected, expected_length) == 0);
    CHECK(decode(&decoder, encoded, encoded_length) == length);
    CHECK(memcmp(frame, data, length) == 0);
}

/* The CRC catalogue's check value, and the register's start. */
static void check_crc16(void)
{
    CHECK(crc16((const uint8_t *)"123456789", 9) == 0x29B1);
    CHECK(crc16(NULL, 0) == 0xFFFF);
}

/* The usual published examples; those of 254 bytes and more sit on both sides of a full block. */
static void check_cobs_vectors(void)
{
#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
    expect_both_ways(BYTES(0x00), BYTES(0x01, 0x01, 0x00));
    expect_both_ways(BYTES(0x00, 0x00), BYTES(0x01, 0x01, 0x01, 0x00));
    expect_both_ways(BYTES(0x00, 0x11, 0x00), BYTES(0x01, 0x02, 0x11, 0x01, 0x00));
    expect_both_ways(BYTES(0x11, 0x22, 0x00, 0x33), BYTES(0x03, 0x11, 0x22, 0x02, 0x33, 0x00));
    expect_both_ways(BYTES(0x11, 0x22, 0x33, 0x44), BYTES(0x05, 0x11, 0x22, 0x33, 0x44, 0x00));
    expect_both_ways(BYTES(0x11, 0x00, 0x00, 0x00), BYTES(0x02, 0x11, 0x01, 0x01, 0x01, 0x00));
#undef BYTES

    uint8_t data[256], encoded[260];

    fill_counting(data, 1, 254); /* 01 .. FE: one full block and nothing after it */
    encoded[0] = 0xFF;
    memcpy(encoded + 1, data, 254);
    encoded[255] = 0x00;
    expect_both_ways(data, 254, encoded, 256);

    fill_counting(data, 1, 255); /* 01 .. FF: one byte more */
    memcpy(encoded + 255, (const uint8_t[]){0x02, 0xFF, 0x00}, 3);
    expect_both_ways(data, 255, encoded, 258);

    data[254] = 0x00; /* 01 .. FE, 00: the zero after a full block is sent as two empty ones */
    memcpy(encoded + 255, (const uint8_t[]){0x01, 0x01, 0x00}, 3);
    expect_both_ways(data, 255, encoded, 258);

    fill_counting(data, 0, 255); /* 00 .. FE: a zero, then a full block */
    encoded[0] = 0x01;
    encoded[1] = 0xFF;
    memcpy(encoded + 2, data + 1, 254);
    encoded[256] = 0x00;
    expect_both_ways(data, 255, encoded, 257);
}

/* Whatever is encoded comes back, holds no zero but the last byte, and keeps to the promised size. */
static void check_cobs_round_trip(void)
{
    for (size_t length = 1; length <= LARGEST_BYTES; length++) {
        uint8_t data[LARGEST_BYTES], encoded[COBS_ENCODED_BYTES(LARGEST_BYTES)], frame[LARGEST_BYTES];
        uint8_t zeros = noise(); /* from hardly any zero to nearly only zeros */
        for (size_t i = 0; i < length; i++)
            data[i] = noise() < zeros ? 0 : noise();
        size_t encoded_length = cobs_encode(data, length, encoded);
        CHECK(encoded_length <= COBS_ENCODED_BYTES(length));
        CHECK(memchr(encoded, 0, encoded_length) == encoded + encoded_length - 1);
        struct cobs_decoder decoder = cobs_decoder(frame, sizeof frame);
        CHECK(decode(&decoder, encoded, encoded_length) == length);
        CHECK(memcmp(frame, data, length) == 0);
    }
}

/* A frame that is cut, empty or one byte too long is dropped, and the next one is found. */
static void check_cobs_resynchronises(void)
{
    static const uint8_t good[] = {0x03, 0x11, 0x22, 0x00};
    static const uint8_t cut[] = {0x05, 0x11, 0x22, 0x00};
    static const uint8_t empty[] = {0x00};
    static const uint8_t too_long[] = {0x04, 0x11, 0x22, 0x33, 0x00};
    uint8_t frame[2];
    struct cobs_decoder decoder = cobs_decoder(frame, sizeof frame);
    CHECK(decode(&decoder, cut, sizeof cut) == 0);
    CHECK(decode(&decoder, good, sizeof good) == 2);
    CHECK(decode(&decoder, empty, sizeof empty) == 0);
    CHECK(decode(&decoder, good, sizeof good) == 2);
    CHECK(decode(&decoder, too_long, sizeof too_long) == 0);
    CHECK(decode(&decoder, good, sizeof good) == 2);
}

/* Noise completes frames within the capacity, the sanitizer sees no byte beyond it, and the sensor obeys
 * none of them. */
static void check_noise_is_harmless(void)
{
    uint8_t frame[COMMAND_BYTES], answer[ANSWER_BYTES];
    struct cobs_decoder decoder = cobs_decoder(frame, sizeof frame);
    struct climate_sensor sensor = climate_sensor(7);
    size_t frames = 0;
    for (size_t i = 0; i < NOISE_ROUNDS; i++) {
        uint8_t byte = noise() & 0x07; /* small, so that blocks fit and frames complete */
        size_t length = cobs_take(&decoder, byte);
        CHECK(length <= sizeof frame);
        frames += length > 0;
        CHECK(length == 0 || !climate_sensor_obey(&sensor, 0, frame, length, answer));
    }
    CHECK(frames > 1000);
}

static uint16_t u16_at(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

/* Samples come at their times also where uptime wraps, and the sequence wraps with them. */
static void check_sampling_survives_wrapping(void)
{
    uint8_t sample[SAMPLE_BYTES];
    struct climate_sensor sensor = climate_sensor(7);
    sensor.sequence = 0xFFFF;
    sensor.next_sample_ms = UINT32_MAX - 99;
    CHECK(!climate_sensor_sample(&sensor, UINT32_MAX - 100, sample));
    CHECK(climate_sensor_sample(&sensor, UINT32_MAX - 99, sample));
    CHECK(u16_at(sample + 3) == 0xFFFF);
    CHECK((sample[15] & 1 << 1) != 0); /* the battery is nearly empty by now */
    CHECK(!climate_sensor_sample(&sensor, 399, sample));
    CHECK(climate_sensor_sample(&sensor, 400, sample));
    CHECK(u16_at(sample + 3) == 0);
    CHECK((sample[15] & 1 << 1) == 0);
}

int main(void)
{
    check_crc16();
    check_cobs_vectors();
    check_cobs_round_trip();
    check_cobs_resynchronises();
    check_noise_is_harmless();
    check_sampling_survives_wrapping();
    puts("firmware check: all hold");
    return EXIT_SUCCESS;
}
