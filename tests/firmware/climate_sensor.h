/* The sensor itself, without a microcontroller: what it measures, what it sends, what it obeys.
 *
 * Pure: time comes in as an argument and frames are plain byte arrays, so it compiles for any machine. The
 * wire format is "reference-climate", little endian, each frame with a CRC-16 over all bytes before it:
 *
 *   sample   18 bytes: 0x01, u16 address, u16 sequence, u32 uptime_ms, i16 temperature in 0.01 Cel,
 *                      u16 humidity in 0.01 %RH, u16 battery in mV, u8 flags, u16 crc
 *                      (flags: bit 0 door open, bit 1 low battery, bits 2-3 mode)
 *   command   8 bytes: 0x41, u16 address, u8 code, u16 argument, u16 crc
 *   answer    7 bytes: 0x81, u16 address, u8 code as asked, u8 status, u16 crc
 *
 * A measurement depends on the sequence number alone, so a test can foretell it. The relay feeds air to
 * the sensing cell, so mode is `measure` while it is on and `idle` while it is off. */
#ifndef CLIMATE_SENSOR_H
#define CLIMATE_SENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SAMPLE_BYTES = 18, COMMAND_BYTES = 8, ANSWER_BYTES = 7 };

struct climate_sensor {
    uint16_t address;
    uint16_t sequence; /* of the next sample; wraps */
    uint16_t period_ms;
    uint32_t next_sample_ms; /* uptime at which the next sample is due */
    bool relay_on;
};

/* A sensor as it is after power-up: relay off, two samples a second, the first one due at once. */
struct climate_sensor climate_sensor(uint16_t address);

/* Writes the sample that is due at `uptime_ms` to `frame`. Returns false if none is. Call it at least once
 * a period. */
bool climate_sensor_sample(struct climate_sensor *sensor, uint32_t uptime_ms, uint8_t frame[SAMPLE_BYTES]);

/* Carries out the command in `frame` and writes its answer. Returns false, with nothing done or written,
 * if the frame is no intact command to this sensor: on a shared line, silence is right for what is meant
 * for others or garbled. */
bool climate_sensor_obey(struct climate_sensor *sensor, uint32_t uptime_ms, const uint8_t *frame,
                         size_t length, uint8_t answer[ANSWER_BYTES]);

#endif
