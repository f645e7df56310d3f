/* The C API from plain C: what it gives, what it refuses, and that nothing leaks (run under the address sanitizer). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitshift/bitshift.h"

#define CHECK(condition)                                                                        \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, bs_last_error()); \
      exit(1);                                                                                  \
    }                                                                                           \
  } while (0)

static void refuses_what_is_no_model(void) {
  bs_model *model = (bs_model *)1;
  CHECK(bs_model_load_memory("nonsense", 8, NULL, &model) == BS_BAD_FILE);
  CHECK(model == NULL);
  CHECK(strstr(bs_last_error(), "header") != NULL);
  CHECK(bs_model_load("/nowhere/model", NULL, &model) == BS_IO);
  CHECK(strstr(bs_last_error(), "/nowhere/model") != NULL);
  CHECK(bs_model_load(NULL, NULL, &model) == BS_BAD_CALL);
  CHECK(bs_model_load_memory(NULL, 5, NULL, &model) == BS_BAD_CALL);
}

static void names_the_path_of_a_bad_file(const char *self) {
  bs_model *model;
  CHECK(bs_model_load(self, NULL, &model) == BS_BAD_FILE); /* this program is no model */
  CHECK(strncmp(bs_last_error(), self, strlen(self)) == 0);
}

static void holds_limits(const char *path) {
  bs_options options = BS_OPTIONS_INIT;
  bs_model *model;
  options.memory_limit = 1;
  CHECK(bs_model_load(path, &options, &model) == BS_BAD_CALL);
  CHECK(strstr(bs_last_error(), "limit") != NULL);
  options.memory_limit = 0;
  options.op_limit = 1;
  CHECK(bs_model_load(path, &options, &model) == BS_BAD_CALL);
  CHECK(strstr(bs_last_error(), "operations") != NULL);
}

static void refuses_wrong_options(const char *path) {
  struct {
    bs_options known;
    uint64_t later;
  } newer = {BS_OPTIONS_INIT, 0};
  bs_options options = BS_OPTIONS_INIT;
  bs_model *model = NULL;
  options.threads = -1;
  CHECK(bs_model_load(path, &options, &model) == BS_BAD_CALL && strstr(bs_last_error(), "threads is -1") != NULL);
  options.threads = 0;
  options.tune = 9;
  CHECK(bs_model_load(path, &options, &model) == BS_BAD_CALL && strstr(bs_last_error(), "tune is 9") != NULL);
  options.tune = BS_TUNE_OFF;
  options.isa = "abacus";
  CHECK(bs_model_load(path, &options, &model) == BS_BAD_CALL && strstr(bs_last_error(), "abacus") != NULL);
  options.isa = NULL;
  options.struct_size = 0;
  CHECK(bs_model_load(path, &options, &model) == BS_BAD_CALL && strstr(bs_last_error(), "struct_size") != NULL);
  CHECK(model == NULL);
  /* An older program gives fewer fields, a newer one more: those must be 0. */
  options.struct_size = offsetof(bs_options, isa);
  options.isa = "abacus";
  CHECK(bs_model_load(path, &options, &model) == BS_OK);
  CHECK(strncmp(bs_features(), bs_isa(model), strlen(bs_isa(model))) == 0 && bs_threads(model) >= 1);
  bs_free(model);
  newer.known.struct_size = sizeof newer;
  CHECK(bs_model_load(path, &newer.known, &model) == BS_OK);
  bs_free(model);
  newer.later = 1;
  CHECK(bs_model_load(path, &newer.known, &model) == BS_BAD_CALL && strstr(bs_last_error(), "newer") != NULL);
}

static void names_what_it_is(void) {
  CHECK(strcmp(bs_version(), BS_VERSION) == 0);
  CHECK(strstr(bs_features(), "portable") != NULL && strstr(bs_build_features(), "portable") != NULL);
  CHECK(strlen(bs_features()) <= strlen(bs_build_features()));
}

static void count_event(void *user, const bs_event *event) {
  size_t *seen = user;
  if (event->thread == 0 && event->phase == 0 && event->end_ns >= event->begin_ns) seen[event->step] += event->samples;
}

static void tells_what_a_run_does(const char *path) {
  enum { BATCH = 70 };
  bs_options options = BS_OPTIONS_INIT;
  bs_model *model;
  bs_value_info in, out;
  bs_step step;
  size_t i, convs = 0, in_bytes, out_bytes, *seen;
  void *x, *y;
  const void *inputs[1];
  options.threads = 2;
  options.tune = BS_TUNE_OFF;
  CHECK(bs_model_load(path, &options, &model) == BS_OK && bs_threads(model) == 2);
  CHECK(bs_input_info(model, 0, &in) == BS_OK && bs_output_info(model, 0, &out) == BS_OK);
  in_bytes = BATCH * in.sample_bytes;
  out_bytes = BATCH * out.sample_bytes;
  x = calloc(in_bytes, 1);
  y = calloc(out_bytes, 1);
  seen = calloc(bs_step_count(model), sizeof *seen);
  CHECK(x && y && seen && bs_step_count(model) > 3);
  inputs[0] = x;
  CHECK(bs_run_profiled(model, BATCH, inputs, &in_bytes, &y, &out_bytes, NULL, NULL) == BS_BAD_CALL);
  CHECK(bs_run_profiled(model, BATCH, inputs, &in_bytes, &y, &out_bytes, count_event, seen) == BS_OK);
  for (i = 0; i < bs_step_count(model); i++) {
    CHECK(bs_step_info(model, i, &step) == BS_OK && *step.name && *step.op && *step.isa);
    CHECK(seen[i] == BATCH || strcmp(step.op, "reshape") == 0);
    convs += strcmp(step.op, "conv") == 0 && step.weight_bytes > 0 && step.operations > 0;
  }
  CHECK(convs == 2 && bs_step_info(model, i, &step) == BS_BAD_CALL);
  free(x);
  free(y);
  free(seen);
  bs_free(model);
}

static void runs_batches(const char *path) {
  enum { BATCH = 5 };
  bs_model *model;
  bs_value_info in, out;
  size_t i, in_bytes, out_bytes, one_in, one_out;
  uint8_t *x, *y, *single;
  const void *inputs[1];
  void *outputs[1];
  CHECK(bs_model_load(path, NULL, &model) == BS_OK);
  CHECK(bs_input_count(model) == 1 && bs_output_count(model) == 1);
  CHECK(bs_input_info(model, 0, &in) == BS_OK && bs_output_info(model, 0, &out) == BS_OK);
  CHECK(bs_input_info(model, 1, &in) == BS_BAD_CALL);
  {
    int32_t lo = 1, hi = 0;
    CHECK(bs_input_range(model, 0, &lo, &hi) == BS_OK && lo == -128 && hi == 127);
    CHECK(bs_input_range(model, 1, &lo, &hi) == BS_BAD_CALL && bs_input_range(model, 0, NULL, &hi) == BS_BAD_CALL);
  }
  CHECK(in.dtype == BS_I8 && in.bits == 8 && in.is_signed && in.axes == 3);
  CHECK(bs_arena_bytes(model) > 0);
  one_in = in.sample_bytes;
  one_out = out.sample_bytes;
  in_bytes = BATCH * one_in;
  out_bytes = BATCH * one_out;
  x = malloc(in_bytes + 1);
  y = malloc(out_bytes);
  single = malloc(one_out);
  CHECK(x && y && single);
  for (i = 0; i < in_bytes; i++) x[i] = (uint8_t)(i * 37 + i / 11);
  inputs[0] = x;
  outputs[0] = y;
  CHECK(bs_run(model, BATCH, inputs, &in_bytes, outputs, &out_bytes) == BS_OK);
  for (i = 0; i < BATCH; i++) {
    inputs[0] = x + i * one_in;
    outputs[0] = single;
    CHECK(bs_run(model, 1, inputs, &one_in, outputs, &one_out) == BS_OK);
    CHECK(memcmp(single, y + i * one_out, one_out) == 0);
  }
  CHECK(bs_run(model, BATCH, inputs, &one_in, outputs, &one_out) == BS_BAD_CALL); /* too small for the batch */
  CHECK(bs_run(model, 1, NULL, &one_in, outputs, &one_out) == BS_BAD_CALL);
  CHECK(bs_run(NULL, 1, inputs, &one_in, outputs, &one_out) == BS_BAD_CALL);
  in_bytes = out_bytes = 0;
  CHECK(bs_run(model, 0, inputs, &in_bytes, outputs, &out_bytes) == BS_OK);
  free(x);
  free(y);
  free(single);
  bs_free(model);
}

static void refuses_outputs_that_overlap(const char *path) {
  bs_model *model;
  bs_value_info in, out;
  size_t in_bytes, out_bytes;
  uint8_t *memory;
  const void *inputs[1];
  void *outputs[1];
  CHECK(bs_model_load(path, NULL, &model) == BS_OK);
  CHECK(bs_input_info(model, 0, &in) == BS_OK && bs_output_info(model, 0, &out) == BS_OK);
  in_bytes = in.sample_bytes;
  out_bytes = out.sample_bytes;
  memory = calloc(in_bytes + 2 * out_bytes, 1);
  CHECK(memory != NULL);
  inputs[0] = memory + out_bytes;
  outputs[0] = memory + 1; /* its last byte is the input's first */
  CHECK(bs_run(model, 1, inputs, &in_bytes, outputs, &out_bytes) == BS_BAD_CALL);
  CHECK(strstr(bs_last_error(), "shares memory with input") != NULL);
  outputs[0] = memory + out_bytes + in_bytes - 1; /* its first byte is the input's last */
  CHECK(bs_run(model, 1, inputs, &in_bytes, outputs, &out_bytes) == BS_BAD_CALL);
  outputs[0] = memory; /* side by side */
  CHECK(bs_run(model, 1, inputs, &in_bytes, outputs, &out_bytes) == BS_OK);
  outputs[0] = memory + out_bytes + in_bytes;
  CHECK(bs_run(model, 1, inputs, &in_bytes, outputs, &out_bytes) == BS_OK);
  free(memory);
  bs_free(model);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  names_what_it_is();
  refuses_what_is_no_model();
  names_the_path_of_a_bad_file(argv[0]);
  holds_limits(argv[1]);
  refuses_wrong_options(argv[1]);
  tells_what_a_run_does(argv[1]);
  runs_batches(argv[1]);
  refuses_outputs_that_overlap(argv[1]);
  bs_free(NULL);
  printf("api: ok\n");
  return 0;
}
