/* Runs an ATmega328P ELF file under simavr, with UART0 on a pseudo-terminal and the clock paced to real
 * time.
 *
 *   simavr_pty FIRMWARE.elf
 *
 * Prints `READY <pty path>` once the port can be opened; everything simavr has to say goes to stderr.
 * While nobody has the port open, what the firmware sends is lost, as on a real wire. A program that opens
 * it finds it in raw mode.
 *
 * It runs until its stdin is closed, so it cannot outlive whoever started it, however that one dies. Exit
 * codes: 0 stdin was closed, 1 could not start, 2 the microcontroller crashed or fell asleep for ever. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_elf.h>

enum { EXIT_MCU_DEAD = 2 };

#define MCU "atmega328p"
#define CLOCK_HZ 16000000
#define BAUD 38400
#define NS_PER_S INT64_C(1000000000)

/* One character to the microcontroller. simavr times 11 bits, as it counts a parity bit whether there is
 * one or not, and from the reading of the character before; at 10 bits its receiver overruns (1.6: 308
 * bytes of 4096 were lost). */
#define CHARACTER_CYCLES (CLOCK_HZ / BAUD * 12)
/* How often a silent line is looked at: the latency that the runner adds to a first character. */
#define IDLE_CYCLES (CLOCK_HZ / 1000)

/* A microcontroller that fell behind, on a busy machine, catches up; one that was frozen (SIGSTOP) for
 * longer than this goes on from where it was, as a real one would, instead of racing through what it
 * missed. */
#define CATCH_UP_NS (NS_PER_S / 4)

struct bridge {
    int pty;
    avr_irq_t *to_mcu;
    int64_t origin_ns; /* host time of the microcontroller's cycle 0 */
};

static _Noreturn void cannot_start(const char *what, const char *why)
{
    fprintf(stderr, "simavr_pty: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void log_to_stderr(avr_t *avr, const int level, const char *format, va_list arguments)
{
    (void)avr;
    if (level <= LOG_WARNING)
        vfprintf(stderr, format, arguments);
}

static int64_t host_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void exit_if_stdin_ended(void)
{
    char ignored[256];
    ssize_t count = read(STDIN_FILENO, ignored, sizeof ignored);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR))
        exit(EXIT_SUCCESS);
}

/* Waits until real time has reached the microcontroller's, watching stdin meanwhile. */
static void pace(struct bridge *bridge, const avr_t *avr)
{
    int64_t simulated_ns = (int64_t)(avr->cycle * (NS_PER_S / 1000000) / (CLOCK_HZ / 1000000));
    for (;;) {
        int64_t ahead_ns = bridge->origin_ns + simulated_ns - host_ns();
        if (ahead_ns < -CATCH_UP_NS)
            bridge->origin_ns -= ahead_ns;
        if (ahead_ns < 0)
            ahead_ns = 0;
        struct timespec wait = {.tv_sec = ahead_ns / NS_PER_S, .tv_nsec = ahead_ns % NS_PER_S};
        struct pollfd stdin_end = {.fd = STDIN_FILENO, .events = POLLIN};
        if (ppoll(&stdin_end, 1, &wait, NULL) <= 0)
            return;
        exit_if_stdin_ended();
    }
}

static void byte_from_mcu(struct avr_irq_t *irq, uint32_t value, void *parameter)
{
    const struct bridge *bridge = parameter;
    uint8_t byte = (uint8_t)value;
    struct pollfd port = {.fd = bridge->pty};
    (void)irq;
    if (poll(&port, 1, 0) > 0 && port.revents & POLLHUP)
        return; /* nobody has the port open; the kernel would keep the byte for whoever opens it next */
    if (write(bridge->pty, &byte, 1) != 1) {
        /* the reader lets its buffer overflow: the byte is lost, as in a UART */
    }
}

/* Called by simavr when its time comes: gives the microcontroller the next character, if there is one. */
static avr_cycle_count_t serve_line(avr_t *avr, avr_cycle_count_t when, void *parameter)
{
    struct bridge *bridge = parameter;
    uint8_t byte;
    pace(bridge, avr);
    if (read(bridge->pty, &byte, 1) != 1)
        return when + IDLE_CYCLES;
    avr_raise_irq(bridge->to_mcu, byte);
    return when + CHARACTER_CYCLES;
}

static void no_sleep(avr_t *avr, avr_cycle_count_t cycles)
{
    /* pace() sleeps instead, against an absolute time, so that errors do not add up. */
    (void)avr, (void)cycles;
}

/* Returns the master end. The path of the end to open is ptsname() of it. */
static int open_raw_pty(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
        cannot_start("pseudo-terminal", strerror(errno));
    /* Its mode outlasts this closing, and from the first closing on a port without a reader can be told by
     * POLLHUP. */
    int port = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct termios raw;
    if (port < 0 || tcgetattr(port, &raw) < 0)
        cannot_start(ptsname(master), strerror(errno));
    cfmakeraw(&raw);
    if (tcsetattr(port, TCSANOW, &raw) < 0)
        cannot_start(ptsname(master), strerror(errno));
    close(port);
    return master;
}

static avr_t *load(const char *path)
{
    elf_firmware_t firmware = {0};
    if (access(path, R_OK) < 0)
        cannot_start(path, strerror(errno));
    if (elf_read_firmware(path, &firmware) != 0)
        cannot_start(path, "is no AVR firmware in ELF format");
    avr_t *avr = avr_make_mcu_by_name(MCU);
    if (avr == NULL)
        cannot_start(MCU, "is not known to this simavr");
    avr_init(avr);
    firmware.frequency = CLOCK_HZ;
    avr_load_firmware(avr, &firmware);
    avr->sleep = no_sleep;
    return avr;
}

static void connect_uart(avr_t *avr, struct bridge *bridge)
{
    /* By default simavr prints what the firmware sends, and sleeps when the firmware polls the UART. */
    uint32_t flags = 0;
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
    bridge->to_mcu = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
    avr_irq_t *from_mcu = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT);
    avr_irq_register_notify(from_mcu, byte_from_mcu, bridge);
    avr_cycle_timer_register(avr, IDLE_CYCLES, serve_line, bridge);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        cannot_start("usage", "simavr_pty FIRMWARE.elf");
    avr_global_logger_set(log_to_stderr);
    avr_t *avr = load(argv[1]);
    struct bridge bridge = {.pty = open_raw_pty(), .origin_ns = host_ns()};
    connect_uart(avr, &bridge);
    printf("READY %s\n", ptsname(bridge.pty));
    fflush(stdout);

    int state;
    do
        state = avr_run(avr);
    while (state != cpu_Done && state != cpu_Crashed);
    fprintf(stderr, "simavr_pty: the microcontroller %s at address 0x%04x\n",
            state == cpu_Done ? "fell asleep for ever" : "crashed", (unsigned)avr->pc);
    return EXIT_MCU_DEAD;
}
