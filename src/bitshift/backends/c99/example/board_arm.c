/* bitshift emit-c: Start of a Cortex-M without an operating system; text and exit through semihosting (a debugger, or QEMU). */
#include "board.h"

#include <stdint.h>

extern uint32_t board_data_load, board_data, board_data_end, board_bss, board_bss_end, board_stack;
int main(void);

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };

static void semihosting(int32_t operation, const void *argument) {
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void board_put(const char *text) { semihosting(SYS_WRITE0, text); }

void board_exit(int code) {
    const uint32_t block[2] = {APPLICATION_EXIT, (uint32_t)code};
    semihosting(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

void board_reset(void);
void board_fault(void);

void board_reset(void) {
    const uint32_t *from = &board_data_load;
    for (uint32_t *to = &board_data; to < &board_data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = &board_bss; to < &board_bss_end;) {
        *to++ = 0;
    }
    board_exit(main());
}

void board_fault(void) {
    board_put("fault: illegal instruction or address\n");
    board_exit(99);
}

/* Stack, reset, NMI, hard fault; the faults that Armv7-M tells apart; no interrupt is ever enabled. */
union vector {
    const void *stack;
    void (*handler)(void);
};
__attribute__((section(".vectors"), used)) static const union vector vectors[16] = {
    {.stack = &board_stack}, {.handler = board_reset}, {.handler = board_fault}, {.handler = board_fault},
    {.handler = board_fault}, {.handler = board_fault}, {.handler = board_fault},
};
