/*
 * A QEMU TCG plugin (API version 1, QEMU 4.2 to 8.x) that counts how often every instruction ran and every branch was
 * taken. No Debian package ships qemu-plugin.h, so the few functions that are used are declared here.
 *
 *   -plugin count.so,out=FILE[,mark=HEX]...[,stop=HEX]
 *
 * Counts are kept by region: region 0 before any mark; reaching the n-th `mark` starts region n, `stop` region 0 again.
 * Translation blocks are counted, not instructions: a block runs to its end, and if what runs next is not what follows
 * in memory its last instruction has jumped. A line of the output: region, address, bytes, runs, jumps, 0 (cycles).
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info qemu_info_t;
enum { NO_REGISTERS = 0, MARKS = 256 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*call)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*call)(unsigned, void *), int flags,
                                          void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*call)(qemu_plugin_id_t, void *), void *data);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

struct instruction {
    uint64_t address;
    unsigned size;
};

struct block {
    uint64_t end;
    int region; /* that it starts, or -1 */
    size_t count;
    struct instruction *instructions;
    uint64_t *runs, *jumps; /* by region */
    struct block *next;
    uint64_t start;
};

static struct block *blocks, *last;
static uint64_t marks[MARKS], stop;
static int mark_count, region, last_region;
static FILE *out;

static void *get(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) {
        fprintf(stderr, "count.c: out of memory\n");
        exit(97);
    }
    return memory;
}

static int region_of(uint64_t address) {
    for (int i = 0; i < mark_count; i++) {
        if (marks[i] == address) {
            return i + 1;
        }
    }
    return stop && address == stop ? 0 : -1;
}

static void executed(unsigned processor, void *data) {
    struct block *block = data;
    (void)processor;
    if (last && last->end != block->start) {
        last->jumps[last_region]++;
    }
    if (block->region >= 0) {
        region = block->region;
    }
    block->runs[region]++;
    last = block;
    last_region = region;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    struct block *block = get(1, sizeof *block);
    (void)id;
    block->start = qemu_plugin_tb_vaddr(tb);
    block->region = region_of(block->start);
    block->count = qemu_plugin_tb_n_insns(tb);
    block->instructions = get(block->count, sizeof *block->instructions);
    for (size_t i = 0; i < block->count; i++) {
        const struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        block->instructions[i].address = qemu_plugin_insn_vaddr(instruction);
        block->instructions[i].size = (unsigned)qemu_plugin_insn_size(instruction);
        block->end = block->instructions[i].address + block->instructions[i].size;
    }
    block->runs = get((size_t)mark_count + 1, sizeof *block->runs);
    block->jumps = get((size_t)mark_count + 1, sizeof *block->jumps);
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, NO_REGISTERS, block);
}

static void finished(qemu_plugin_id_t id, void *data) {
    (void)id;
    (void)data;
    for (const struct block *block = blocks; block; block = block->next) {
        for (int at = 0; at <= mark_count; at++) {
            for (size_t i = 0; block->runs[at] && i < block->count; i++) {
                const struct instruction *instruction = &block->instructions[i];
                fprintf(out, "%d %" PRIx64 " %u %" PRIu64 " %" PRIu64 " 0\n", at, instruction->address,
                        instruction->size, block->runs[at], i + 1 == block->count ? block->jumps[at] : 0);
            }
        }
    }
    fclose(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv);
EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            out = fopen(argv[i] + 4, "w");
        } else if (!strncmp(argv[i], "mark=", 5) && mark_count < MARKS) {
            marks[mark_count++] = strtoull(argv[i] + 5, NULL, 16);
        } else if (!strncmp(argv[i], "stop=", 5)) {
            stop = strtoull(argv[i] + 5, NULL, 16);
        } else {
            fprintf(stderr, "count.c: unknown or too many: %s\n", argv[i]);
            return 1;
        }
    }
    if (!out) {
        fprintf(stderr, "count.c: out=FILE is missing or cannot be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
