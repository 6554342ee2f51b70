#include "crc16.h"

uint16_t crc16(const uint8_t *data, size_t length)
{
    /* Bit by bit: a frame has 18 bytes at most, and a table would cost 512 bytes of flash. */
    uint16_t crc = 0xFFFF;
    for (size_t i = 0; i < length; i++) {
        crc ^= (uint16_t)(data[i] << 8);
        for (uint8_t bit = 0; bit < 8; bit++) {
            if (crc & 0x8000)
                crc = (uint16_t)((crc << 1) ^ 0x1021);
            else
                crc = (uint16_t)(crc << 1);
        }
    }
    return crc;
}
