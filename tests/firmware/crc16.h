/* CRC-16/IBM-3740, better known as CCITT-FALSE: polynomial 0x1021, initial value 0xFFFF, nothing reflected.
 * Check value, the CRC of the nine characters "123456789": 0x29B1 (CRC RevEng catalogue). */
#ifndef CRC16_H
#define CRC16_H

#include <stddef.h>
#include <stdint.h>

uint16_t crc16(const uint8_t *data, size_t length);

#endif
