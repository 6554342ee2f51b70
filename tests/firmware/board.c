/* The reference climate sensor on an ATmega328P at 16 MHz: timer, UART0 and relay around climate_sensor.c.
 *
 * Interrupts only move bytes and count ticks; everything else happens in the loop of main(), which sleeps
 * whenever there is nothing to do. Register names and bits: ATmega328P datasheet, chapters
 * Power Management and Sleep Modes, 16-bit Timer/Counter1, and USART0. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <util/atomic.h>

#include "climate_sensor.h"
#include "cobs.h"

#define BAUD 38400UL
#define TICK_MS 10 /* at 1 ms the simulated clock falls behind on a loaded machine */
#define TIMER1_PRESCALER 8

/* One interrupt and the main loop share a ring without locks: each index is one byte and has one writer. */
enum { RING_BYTES = 64 }; /* 17 ms of characters; a power of two, so that an index wraps by a mask */

struct ring {
    volatile uint8_t bytes[RING_BYTES];
    volatile uint8_t head; /* where the next byte goes */
    volatile uint8_t tail; /* where the next byte comes from */
};

static struct ring received;
static struct ring to_send;
static volatile uint32_t ticks;

static bool ring_put(struct ring *ring, uint8_t byte)
{
    uint8_t head = ring->head;
    uint8_t next = (head + 1) % RING_BYTES;
    if (next == ring->tail)
        return false;
    ring->bytes[head] = byte;
    ring->head = next;
    return true;
}

static bool ring_get(struct ring *ring, uint8_t *byte)
{
    uint8_t tail = ring->tail;
    if (tail == ring->head)
        return false;
    *byte = ring->bytes[tail];
    ring->tail = (tail + 1) % RING_BYTES;
    return true;
}

ISR(TIMER1_COMPA_vect)
{
    ticks++;
}

ISR(USART_RX_vect)
{
    uint8_t byte = UDR0; /* reading it is what clears the interrupt, so it is read even if there is no room */
    ring_put(&received, byte);
}

ISR(USART_UDRE_vect)
{
    uint8_t byte;
    if (ring_get(&to_send, &byte))
        UDR0 = byte;
    else
        UCSR0B &= (uint8_t)~(1 << UDRIE0); /* it would fire for ever while there is nothing to send */
}

static uint32_t uptime_ms(void)
{
    uint32_t now_ticks = 0;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) { now_ticks = ticks; }
    return now_ticks * TICK_MS;
}

static void send_frame(const uint8_t *frame, size_t length)
{
    uint8_t encoded[COBS_ENCODED_BYTES(SAMPLE_BYTES)];
    size_t encoded_length = cobs_encode(frame, length, encoded);
    for (size_t i = 0; i < encoded_length; i++) {
        while (!ring_put(&to_send, encoded[i])) {
            /* full: the interrupt makes room within one character, 0.26 ms */
        }
        ATOMIC_BLOCK(ATOMIC_RESTORESTATE) { UCSR0B |= 1 << UDRIE0; }
    }
}

static void drive_relay(bool on)
{
    if (on)
        PORTB |= 1 << PORTB5;
    else
        PORTB &= (uint8_t)~(1 << PORTB5);
}

/* Sleeps until the next interrupt, unless a tick or a byte has come since the loop looked. */
static void sleep_if_idle(uint32_t looked_ms)
{
    cli();
    if (received.head == received.tail && ticks * TICK_MS == looked_ms) {
        sleep_enable();
        sei(); /* takes effect after the next instruction, so no interrupt can slip in before the sleep */
        sleep_cpu();
        sleep_disable();
    }
    sei();
}

static void start_board(void)
{
    DDRB |= 1 << DDB5;

    TCCR1B = 1 << WGM12 | 1 << CS11; /* clear on compare match, clock / 8 */
    OCR1A = F_CPU / TIMER1_PRESCALER / 1000 * TICK_MS - 1;
    TIMSK1 = 1 << OCIE1A;

    UBRR0 = (F_CPU + 8 * BAUD) / (16 * BAUD) - 1; /* 25, which is 38462 baud: 0.2 % off */
    UCSR0C = 1 << UCSZ01 | 1 << UCSZ00;           /* 8 data bits, no parity, 1 stop bit */
    UCSR0B = 1 << RXEN0 | 1 << TXEN0 | 1 << RXCIE0;

    set_sleep_mode(SLEEP_MODE_IDLE); /* deeper modes stop the UART's clock */
    sei();
}

int main(void)
{
    uint8_t command[COMMAND_BYTES], answer[ANSWER_BYTES], sample[SAMPLE_BYTES];
    struct cobs_decoder decoder = cobs_decoder(command, sizeof command);
    struct climate_sensor sensor = climate_sensor(SENSOR_ADDRESS);

    start_board();
    for (;;) {
        uint32_t now_ms = uptime_ms();
        uint8_t byte;
        while (ring_get(&received, &byte)) {
            size_t length = cobs_take(&decoder, byte);
            if (length > 0 && climate_sensor_obey(&sensor, now_ms, command, length, answer)) {
                drive_relay(sensor.relay_on);
                send_frame(answer, sizeof answer);
            }
        }
        if (climate_sensor_sample(&sensor, now_ms, sample))
            send_frame(sample, sizeof sample);
        sleep_if_idle(now_ms);
    }
}
