/* Firmware that dies at once, to show that the runner notices: it jumps to the end of its flash and runs
 * over it. */
#include <avr/io.h>

int main(void)
{
    void (*last_word)(void) = (void (*)(void))(FLASHEND / 2); /* code addresses count words */
    last_word();
    return 0;
}
