/* bitshift emit-c: Text of an AVR through its first UART, where it has one; the end is a sleep without interrupts, at which simavr stops. */
#include "board.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

void board_put(const char *text) {
#ifdef UDR0
    UCSR0B = (1 << TXEN0);
    while (*text) {
        while (!(UCSR0A & (1 << UDRE0))) {
        }
        UDR0 = (uint8_t)*text++;
    }
#else
    (void)text;
#endif
}

void board_exit(int code) {
    (void)code;
    cli();
    for (;;) {
        sleep_mode();
    }
}
