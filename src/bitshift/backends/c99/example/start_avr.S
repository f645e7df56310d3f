; bitshift emit-c: Start of an AVR without libc and libgcc: stack, external RAM where the board has it, .data, .bss, main.
#include <avr/io.h>

    .section .vectors, "ax", @progbits
    .global __vectors
__vectors:
#ifdef __AVR_HAVE_JMP_CALL__
    jmp board_reset
#else
    rjmp board_reset
#endif

    .section .init0, "ax", @progbits
    .global board_reset
board_reset:
    clr r1
    out _SFR_IO_ADDR(SREG), r1
    ldi r28, lo8(RAMEND)
    ldi r29, hi8(RAMEND)
#ifdef SPH
    out _SFR_IO_ADDR(SPH), r29
#endif
    out _SFR_IO_ADDR(SPL), r28
#ifdef BOARD_EXTERNAL_RAM
    ldi r16, _BV(SRE)
    sts _SFR_MEM_ADDR(XMCRA), r16
#endif
    .global __do_copy_data
__do_copy_data:
    ldi r26, lo8(__data_start)
    ldi r27, hi8(__data_start)
    ldi r30, lo8(__data_load_start)
    ldi r31, hi8(__data_load_start)
#ifdef RAMPZ
    ldi r16, hh8(__data_load_start)
    out _SFR_IO_ADDR(RAMPZ), r16
#endif
    ldi r17, hi8(__data_end)
    rjmp 2f
1:
#ifdef RAMPZ
    elpm r0, Z+
#else
    lpm r0, Z+
#endif
    st X+, r0
2:  cpi r26, lo8(__data_end)
    cpc r27, r17
    brne 1b
#ifdef RAMPZ
    out _SFR_IO_ADDR(RAMPZ), r1
#endif
    .global __do_clear_bss
__do_clear_bss:
    ldi r26, lo8(__bss_start)
    ldi r27, hi8(__bss_start)
    ldi r17, hi8(__bss_end)
    rjmp 4f
3:  st X+, r1
4:  cpi r26, lo8(__bss_end)
    cpc r27, r17
    brne 3b
#ifdef __AVR_HAVE_JMP_CALL__
    call main
    jmp board_exit
#else
    rcall main
    rjmp board_exit
#endif
