#include "climate_sensor.h"

#include "crc16.h"

enum kind { KIND_SAMPLE = 0x01, KIND_COMMAND = 0x41, KIND_ANSWER = 0x81 };
enum code { CODE_SET_PERIOD = 1, CODE_SET_RELAY = 2, CODE_PING = 3 };
enum status { STATUS_DONE = 0, STATUS_UNKNOWN_COMMAND = 1, STATUS_BAD_ARGUMENT = 2 };
enum mode { MODE_IDLE = 0, MODE_MEASURE = 1 };

enum { FLAG_LOW_BATTERY = 1 << 1, MODE_SHIFT = 2 };
enum { PERIOD_MIN_MS = 50, PERIOD_DEFAULT_MS = 500, PERIOD_MAX_MS = 60000 };
enum { TEMPERATURE_MEAN_CENTICELSIUS = 2150, HUMIDITY_MEAN_CENTIPERCENT = 4500 };
enum { BATTERY_FULL_MV = 3000, BATTERY_LOW_MV = 2600, SAMPLES_A_MV_SHIFT = 7 };
enum { CRC_BYTES = 2 };

/* One turn of a sine in 32 steps, amplitude 100: temperature swings by 2 Cel, and humidity by 5 %RH the
 * other way. */
static const int8_t WAVE[32] = {
    0, 20,  38,  56,  71,  83,  92,  98,  100, 98,  92,  83,  71,  56,  38,  20,
    0, -20, -38, -56, -71, -83, -92, -98, -100, -98, -92, -83, -71, -56, -38, -20,
};

static uint8_t *put_u8(uint8_t *at, uint8_t value)
{
    *at = value;
    return at + 1;
}

static uint8_t *put_u16(uint8_t *at, uint16_t value)
{
    at = put_u8(at, (uint8_t)value);
    return put_u8(at, (uint8_t)(value >> 8));
}

static uint8_t *put_u32(uint8_t *at, uint32_t value)
{
    at = put_u16(at, (uint16_t)value);
    return put_u16(at, (uint16_t)(value >> 16));
}

static uint16_t get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static void seal(uint8_t *frame, uint8_t *end)
{
    put_u16(end, crc16(frame, (size_t)(end - frame)));
}

struct climate_sensor climate_sensor(uint16_t address)
{
    return (struct climate_sensor){.address = address, .period_ms = PERIOD_DEFAULT_MS};
}

bool climate_sensor_sample(struct climate_sensor *sensor, uint32_t uptime_ms, uint8_t frame[SAMPLE_BYTES])
{
    /* The difference stays right when uptime wraps after 49.7 days; comparing the two times would not. */
    if ((int32_t)(uptime_ms - sensor->next_sample_ms) < 0)
        return false;
    sensor->next_sample_ms += sensor->period_ms; /* from when it was due, so lateness does not add up */

    int16_t wave = WAVE[sensor->sequence % (sizeof WAVE / sizeof WAVE[0])];
    uint16_t battery_mv = BATTERY_FULL_MV - (sensor->sequence >> SAMPLES_A_MV_SHIFT);
    uint8_t flags = (uint8_t)((sensor->relay_on ? MODE_MEASURE : MODE_IDLE) << MODE_SHIFT);
    if (battery_mv < BATTERY_LOW_MV)
        flags |= FLAG_LOW_BATTERY;

    uint8_t *at = put_u8(frame, KIND_SAMPLE);
    at = put_u16(at, sensor->address);
    at = put_u16(at, sensor->sequence++);
    at = put_u32(at, uptime_ms);
    at = put_u16(at, (uint16_t)(TEMPERATURE_MEAN_CENTICELSIUS + 2 * wave));
    at = put_u16(at, (uint16_t)(HUMIDITY_MEAN_CENTIPERCENT - 5 * wave));
    at = put_u16(at, battery_mv);
    at = put_u8(at, flags);
    seal(frame, at);
    return true;
}

static enum status carry_out(struct climate_sensor *sensor, uint32_t uptime_ms, uint8_t code,
                             uint16_t argument)
{
    switch (code) {
    case CODE_SET_PERIOD:
        if (argument < PERIOD_MIN_MS || argument > PERIOD_MAX_MS)
            return STATUS_BAD_ARGUMENT;
        sensor->period_ms = argument;
        /* Counts from now: the rest of a minute's wait must not outlast the minute's period. */
        sensor->next_sample_ms = uptime_ms + argument;
        return STATUS_DONE;
    case CODE_SET_RELAY:
        if (argument > 1)
            return STATUS_BAD_ARGUMENT;
        sensor->relay_on = argument;
        return STATUS_DONE;
    case CODE_PING:
        return argument == 0 ? STATUS_DONE : STATUS_BAD_ARGUMENT;
    default:
        return STATUS_UNKNOWN_COMMAND;
    }
}

bool climate_sensor_obey(struct climate_sensor *sensor, uint32_t uptime_ms, const uint8_t *frame,
                         size_t length, uint8_t answer[ANSWER_BYTES])
{
    if (length != COMMAND_BYTES || crc16(frame, length - CRC_BYTES) != get_u16(frame + length - CRC_BYTES))
        return false;
    if (frame[0] != KIND_COMMAND || get_u16(frame + 1) != sensor->address)
        return false;

    uint8_t code = frame[3];
    enum status status = carry_out(sensor, uptime_ms, code, get_u16(frame + 4));
    uint8_t *at = put_u8(answer, KIND_ANSWER);
    at = put_u16(at, sensor->address);
    at = put_u8(at, code);
    at = put_u8(at, (uint8_t)status);
    seal(answer, at);
    return true;
}
