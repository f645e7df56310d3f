/* Feeding by semihosting (Arm, RISC-V), from files in the emulator's working directory, or by avr_host.c (AVR). */
#include "feed.h"

__attribute__((noinline)) void region_begin(void) { __asm__ volatile("" ::: "memory"); }
__attribute__((noinline)) void region_end(void) { __asm__ volatile("" ::: "memory"); }

#ifdef __AVR__
/* The host program knows the sleep by its address: it moves the bytes, leaves the answer in r24 and goes on. */
__attribute__((noinline, naked)) uint8_t feed_read(void *to, uint16_t count) { __asm__ volatile("sleep\n\tret"); }
__attribute__((noinline, naked)) void feed_write(const void *from, uint16_t count) { __asm__ volatile("sleep\n\tret"); }
#else

enum { SYS_OPEN = 1, SYS_WRITE = 5, SYS_READ = 6, READ_BINARY = 1, WRITE_BINARY = 5 };

static uintptr_t semihosting(uintptr_t operation, const void *argument) {
#ifdef __arm__
    register uintptr_t result __asm__("r0") = operation;
    register const void *block __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(result) : "r"(block) : "memory");
#else
    register uintptr_t result __asm__("a0") = operation;
    register const void *block __asm__("a1") = argument;
    /* The three instructions are the sign of semihosting, and must not straddle a page. */
    __asm__ volatile(".balign 16\n.option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(result)
                     : "r"(block)
                     : "memory");
#endif
    return result;
}

static uintptr_t open_file(const char *name, uintptr_t length, uintptr_t mode) {
    const uintptr_t block[3] = {(uintptr_t)name, mode, length};
    return semihosting(SYS_OPEN, block);
}

uint8_t feed_read(void *to, uint16_t count) {
    static uintptr_t inputs;
    if (!inputs) {
        inputs = open_file("inputs.bin", 10, READ_BINARY);
    }
    const uintptr_t block[3] = {inputs, (uintptr_t)to, count};
    return semihosting(SYS_READ, block) == 0; /* the answer is the number of bytes that are missing */
}

void feed_write(const void *from, uint16_t count) {
    static uintptr_t outputs;
    if (!outputs) {
        outputs = open_file("outputs.bin", 11, WRITE_BINARY);
    }
    const uintptr_t block[3] = {outputs, (uintptr_t)from, count};
    semihosting(SYS_WRITE, block);
}
#endif
