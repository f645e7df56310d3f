/* bitshift emit-c: Start of RV32 without an operating system on QEMU's virt machine: text through its UART, exit through its test device. */
#include "board.h"

#include <stdint.h>

#define UART ((volatile uint8_t *)0x10000000)
#define TEST_DEVICE ((volatile uint32_t *)0x100000)

enum { ILLEGAL_INSTRUCTION = 2 };

extern uint32_t board_bss, board_bss_end;
int main(void);

void board_put(const char *text) {
    while (*text) {
        *UART = (uint8_t)*text++;
    }
}

void board_exit(int code) {
    *TEST_DEVICE = code ? ((uint32_t)code << 16) | 0x3333u : 0x5555u;
    for (;;) {
    }
}

void board_start(void);
void board_fault(void);

void board_start(void) {
    for (uint32_t *to = &board_bss; to < &board_bss_end;) {
        *to++ = 0;
    }
    board_exit(main());
}

void board_fault(void) {
    uint32_t cause;
    __asm__ volatile(".option push\n.option arch, +zicsr\ncsrr %0, mcause\n.option pop" : "=r"(cause));
    board_put(cause == ILLEGAL_INSTRUCTION ? "fault: illegal instruction\n" : "fault\n");
    board_exit(99);
}

/* -march=rv32i_zicsr would pick 64-bit libraries with some compilers, so the one csr instruction asks for itself. */
__asm__(".section .start, \"ax\"\n"
        ".globl _start\n"
        "_start:\n"
        ".option push\n.option norelax\nla gp, __global_pointer$\n.option pop\n"
        "la sp, board_stack\n"
        "la t0, board_fault\n"
        ".option push\n.option arch, +zicsr\ncsrw mtvec, t0\n.option pop\n"
        "j board_start\n");
