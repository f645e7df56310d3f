/*
 * Runs an AVR image in libsimavr, feeds it and counts cycles by address (of the data sheet, which libsimavr follows).
 *
 *   avr_host PART RAM_END FLASH_END IMAGE READ WRITE OUT STOP [MARK]...      addresses in hexadecimal
 *
 * RAM_END and FLASH_END are the last addresses of data and code (0: the part's own; more where external RAM is fitted,
 * or for a part that no one makes). READ and WRITE are the addresses of feed_read() and feed_write(), which sleep:
 * inputs come from inputs.bin, outputs go to outputs.bin. Regions, marks and OUT are those of count.c, with cycles in
 * the last column and no bytes and jumps; with OUT "-" nothing is counted, which is faster. No timer and no interrupt
 * runs. The exit status is 0 after any other sleep, 3 after a crash, 4 behind the end of the flash.
 */
#include <simavr/sim_avr.h>
#include <simavr/sim_core.h>
#include <simavr/sim_elf.h>

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARKS = 64, R22 = 22, R24 = 24 };

struct cost {
    uint64_t runs, cycles;
};

static unsigned word(const avr_t *avr, int low) { return avr->data[low] | ((unsigned)avr->data[low + 1] << 8); }

static void feed(avr_t *avr, FILE *inputs) {
    const unsigned to = word(avr, R24), count = word(avr, R22);
    const int whole = to + count <= avr->ramend + 1u && fread(avr->data + to, 1, count, inputs) == count;
    avr->data[R24] = (uint8_t)whole;
}

static void take(const avr_t *avr, FILE *outputs) {
    const unsigned from = word(avr, R24), count = word(avr, R22);
    if (from + count <= avr->ramend + 1u) {
        fwrite(avr->data + from, 1, count, outputs);
    }
}

static int region_of(uint32_t pc, const uint32_t *marks, int count, uint32_t stop) {
    for (int i = 0; i < count; i++) {
        if (marks[i] == pc) {
            return i + 1;
        }
    }
    return stop && pc == stop ? 0 : -1;
}

int main(int argc, char **argv) {
    if (argc < 9 || argc > 9 + MARKS) {
        fprintf(stderr, "usage: avr_host PART RAM_END FLASH_END IMAGE READ WRITE OUT STOP [MARK]...\n");
        return 2;
    }
    elf_firmware_t firmware;
    memset(&firmware, 0, sizeof firmware);
    avr_t *avr = avr_make_mcu_by_name(argv[1]);
    if (!avr || elf_read_firmware(argv[4], &firmware)) {
        fprintf(stderr, "avr_host: unknown part %s or unreadable image %s\n", argv[1], argv[4]);
        return 2;
    }
    const unsigned ram_end = (unsigned)strtoul(argv[2], NULL, 16);
    if (ram_end) {
        avr->ramend = (uint16_t)ram_end;
    }
    const unsigned flash_end = (unsigned)strtoul(argv[3], NULL, 16);
    if (flash_end) {
        avr->flashend = flash_end;
    }
    avr_init(avr);
    avr->log = 0;
    avr->frequency = 16000000;
    avr_load_firmware(avr, &firmware);
    const uint32_t read = (uint32_t)strtoul(argv[5], NULL, 16), write = (uint32_t)strtoul(argv[6], NULL, 16);
    const uint32_t stop = (uint32_t)strtoul(argv[8], NULL, 16);
    uint32_t marks[MARKS];
    const int mark_count = argc - 9;
    for (int i = 0; i < mark_count; i++) {
        marks[i] = (uint32_t)strtoul(argv[9 + i], NULL, 16);
    }
    const int counting = strcmp(argv[7], "-") != 0;
    FILE *inputs = fopen("inputs.bin", "rb"), *outputs = fopen("outputs.bin", "wb");
    FILE *out = counting ? fopen(argv[7], "w") : stdout;
    const size_t words = ((size_t)avr->flashend + 1) / 2;
    struct cost *costs = calloc(words * (size_t)(mark_count + 1), sizeof *costs);
    if (!inputs || !outputs || !out || !costs) {
        fprintf(stderr, "avr_host: inputs.bin, outputs.bin or %s cannot be opened\n", argv[7]);
        return 2;
    }
    int region = 0;
    avr->state = cpu_Running;
    while (avr->state == cpu_Running && avr->pc <= avr->flashend) {
        const uint32_t pc = avr->pc;
        const avr_cycle_count_t before = avr->cycle;
        const int begins = counting ? region_of(pc, marks, mark_count, stop) : -1;
        region = begins >= 0 ? begins : region;
        avr->run_cycle_count = counting ? 1 : 1 << 20; /* of one call: one instruction, or as many as fit */
        avr->pc = avr_run_one(avr);
        if (counting && pc <= avr->flashend) {
            struct cost *cost = &costs[words * (size_t)region + pc / 2];
            cost->runs++;
            cost->cycles += avr->cycle - before;
        }
        if (avr->state == cpu_Sleeping && (avr->pc == read + 2 || avr->pc == write + 2)) {
            if (avr->pc == read + 2) {
                feed(avr, inputs);
            } else {
                take(avr, outputs);
            }
            avr->state = cpu_Running;
        }
    }
    const int lost = avr->pc > avr->flashend;
    for (size_t i = 0; counting && i < words * (size_t)(mark_count + 1); i++) {
        if (costs[i].runs) {
            fprintf(out, "%zu %zx 0 %" PRIu64 " 0 %" PRIu64 "\n", i / words, i % words * 2, costs[i].runs, costs[i].cycles);
        }
    }
    fclose(out);
    fclose(outputs);
    return lost ? 4 : avr->state == cpu_Crashed ? 3 : 0;
}
