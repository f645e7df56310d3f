/* Runs a model file on raw bytes from a file and prints the outputs: the whole C API in one page.
 *
 *   run MODEL            describe inputs and outputs
 *   run MODEL INPUT...   one file of raw little-endian samples for each input; prints one line a sample and output
 */
#include <stdio.h>
#include <stdlib.h>

#include "bitshift/bitshift.h"

static const char *const dtype_names[] = {"u8", "i8", "i16", "i32", "f32"};

static void describe(const char *kind, const bs_value_info *v) {
  int32_t i;
  printf("%s %s: %s [", kind, v->name, dtype_names[v->dtype]);
  for (i = 0; i < v->axes; i++) printf("%s%lld", i ? ", " : "", (long long)v->shape[i]);
  printf("]");
  if (v->dtype != BS_F32) printf(" %s%d.%d", v->is_signed ? "s" : "u", (int)v->bits, (int)v->frac);
  printf(", %zu bytes a sample\n", v->sample_bytes);
}

static double element(const void *data, bs_dtype dtype, size_t i) {
  switch (dtype) {
    case BS_U8: return ((const uint8_t *)data)[i];
    case BS_I8: return ((const int8_t *)data)[i];
    case BS_I16: return ((const int16_t *)data)[i];
    case BS_I32: return ((const int32_t *)data)[i];
    default: return ((const float *)data)[i];
  }
}

static void *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  char *data = NULL;
  long end;
  if (!file) return NULL;
  if (fseek(file, 0, SEEK_END) == 0 && (end = ftell(file)) >= 0 && (data = malloc((size_t)end + 1)) != NULL) {
    rewind(file);
    *size = fread(data, 1, (size_t)end, file);
    if (*size != (size_t)end) {
      free(data);
      data = NULL;
    }
  }
  fclose(file);
  return data;
}

/* Allocates the outputs, runs, prints. 0 when all went well. */
static int run(const bs_model *model, size_t batch, const void *const *in, const size_t *in_bytes) {
  const size_t count = bs_output_count(model);
  void **out = calloc(count, sizeof *out);
  size_t *out_bytes = calloc(count, sizeof *out_bytes), i, n, k;
  int failed = !out || !out_bytes;
  bs_value_info v;
  for (i = 0; !failed && i < count; i++) {
    bs_output_info(model, i, &v);
    out_bytes[i] = batch * v.sample_bytes;
    out[i] = malloc(out_bytes[i] + 1);
    failed = out[i] == NULL;
  }
  if (!failed && bs_run(model, batch, in, in_bytes, out, out_bytes) != BS_OK) {
    fprintf(stderr, "run: %s\n", bs_last_error());
    failed = 1;
  }
  for (i = 0; !failed && i < count; i++) {
    bs_output_info(model, i, &v);
    const size_t items = v.sample_bytes / (v.dtype <= BS_I8 ? 1 : v.dtype == BS_I16 ? 2 : 4);
    for (n = 0; n < batch; n++) {
      printf("%s[%zu]:", v.name, n);
      for (k = 0; k < items; k++) printf(" %.9g", element(out[i], v.dtype, n * items + k));
      printf("\n");
    }
  }
  for (i = 0; out && i < count; i++) free(out[i]);
  free(out);
  free(out_bytes);
  return failed;
}

int main(int argc, char **argv) {
  bs_model *model;
  bs_value_info v;
  size_t i, inputs, batch = 0;
  const void **in;
  size_t *in_bytes;
  int failed = 0;
  if (argc < 2) {
    fprintf(stderr, "usage: %s MODEL [INPUT...]   (bitshift %s)\n", argv[0], bs_version());
    return 2;
  }
  if (bs_model_load(argv[1], NULL, &model) != BS_OK) {
    fprintf(stderr, "run: %s\n", bs_last_error());
    return 1;
  }
  inputs = bs_input_count(model);
  if (argc == 2) {
    for (i = 0; i < inputs; i++) {
      bs_input_info(model, i, &v);
      describe("input", &v);
    }
    for (i = 0; i < bs_output_count(model); i++) {
      bs_output_info(model, i, &v);
      describe("output", &v);
    }
    printf("arena %zu bytes\n", bs_arena_bytes(model));
    bs_free(model);
    return 0;
  }
  if ((size_t)argc != inputs + 2) {
    fprintf(stderr, "run: the model has %zu inputs, %d files given\n", inputs, argc - 2);
    bs_free(model);
    return 2;
  }
  in = calloc(inputs, sizeof *in);
  in_bytes = calloc(inputs, sizeof *in_bytes);
  for (i = 0; in && in_bytes && i < inputs; i++) {
    bs_input_info(model, i, &v);
    in[i] = read_file(argv[i + 2], &in_bytes[i]);
    if (!in[i]) {
      fprintf(stderr, "run: %s cannot be read\n", argv[i + 2]);
      failed = 1;
    } else if (i == 0) {
      batch = in_bytes[0] / v.sample_bytes;
    }
  }
  if (!in || !in_bytes) failed = 1;
  if (!failed) failed = run(model, batch, in, in_bytes);
  for (i = 0; in && i < inputs; i++) free((void *)in[i]);
  free(in);
  free(in_bytes);
  bs_free(model);
  return failed;
}
