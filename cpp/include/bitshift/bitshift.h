/* bitshift engine: run a model file from C or C++.
 *
 *   bs_model *model;
 *   if (bs_model_load("net.safetensors", NULL, &model) != BS_OK) { puts(bs_last_error()); return 1; }
 *   bs_run(model, 1, inputs, input_bytes, outputs, output_bytes);
 *   bs_free(model);
 *
 * Every function may be called by several threads at once, with the same model too; only bs_free ends it. After fork() the
 * child may go on with the models of its parent. cpp/examples/run.c is a whole program, docs/engine-c.md the manual.
 */
#ifndef BITSHIFT_BITSHIFT_H
#define BITSHIFT_BITSHIFT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BS_API
#elif defined(__GNUC__)
#define BS_API __attribute__((visibility("default")))
#else
#define BS_API
#endif

/* The version of this header; bs_version() is that of the library. Programs built against 0.N run with every 0.N.x. */
#define BS_VERSION_MAJOR 0
#define BS_VERSION_MINOR 1
#define BS_VERSION_PATCH 0
#define BS_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bs_model bs_model;

typedef enum {
  BS_OK = 0,
  BS_BAD_FILE = 1,  /* the file breaks docs/model-file.md, or its accumulators could overflow */
  BS_BAD_CALL = 2,  /* wrong sizes or indices, null pointers, overlaps, integers outside of a type, a limit exceeded */
  BS_IO = 3,        /* the file cannot be read */
  BS_NO_MEMORY = 4,
  BS_INTERNAL = 5
} bs_status;

/* How a value lies in memory: little-endian, row-major, channels first. */
typedef enum { BS_U8 = 0, BS_I8 = 1, BS_I16 = 2, BS_I32 = 3, BS_F32 = 4 } bs_dtype;

/* An input or output. An integer q stands for q * 2^-frac and lies in the range of its `bits` bits, which may be narrower
 * than dtype; for BS_F32 bits, frac and is_signed are 0. name and shape live as long as the model. */
typedef struct {
  const char *name;
  bs_dtype dtype;
  int32_t bits, frac, is_signed;
  int32_t axes;
  const int64_t *shape; /* of one sample, without the batch */
  size_t sample_bytes;
} bs_value_info;

/* Choosing a kernel for each layer: measure those that the cache does not know (BS_TUNE_AUTO), measure all, or take the likely
 * best. Results never depend on it. BS_TUNE_DEFAULT: BITSHIFT_TUNE in the environment, else auto. */
typedef enum { BS_TUNE_DEFAULT = 0, BS_TUNE_AUTO = 1, BS_TUNE_OFF = 2, BS_TUNE_FORCE = 3 } bs_tune;

/* How to load. Begin with BS_OPTIONS_INIT; fields that are 0 mean the default. */
typedef struct {
  size_t struct_size;    /* sizeof(bs_options), so that later versions can add fields */
  uint64_t memory_limit; /* what a file may take for one sample: bytes of inputs, activations and scratch memory; default 2 GiB */
  uint64_t op_limit;     /* and operations; default 2^50 */
  const char *isa;       /* a word of bs_features(); default BITSHIFT_ISA in the environment, else the first of bs_features() */
  int32_t threads;       /* of one run; default BITSHIFT_THREADS in the environment, else the processors that may be used */
  int32_t tune;          /* bs_tune */
} bs_options;
#define BS_OPTIONS_INIT {sizeof(bs_options), 0, 0, NULL, 0, BS_TUNE_DEFAULT}

/* Loads and checks a model. options may be NULL. On failure *model is NULL and bs_last_error() says why. The file is mapped
 * where that is possible, must not change meanwhile, and is not needed afterwards. */
BS_API bs_status bs_model_load(const char *path, const bs_options *options, bs_model **model);
/* The same from memory, which is not needed afterwards. */
BS_API bs_status bs_model_load_memory(const void *data, size_t size, const bs_options *options, bs_model **model);

BS_API size_t bs_input_count(const bs_model *model);
BS_API size_t bs_output_count(const bs_model *model);
BS_API bs_status bs_input_info(const bs_model *model, size_t index, bs_value_info *info);
BS_API bs_status bs_output_info(const bs_model *model, size_t index, bs_value_info *info);
/* The smallest and the largest integer that an input may hold: those of its type, or the rows of the embedding that reads it as
 * token ids. bs_run refuses others by their place. 0 and 0 for floats. */
BS_API bs_status bs_input_range(const bs_model *model, size_t index, int32_t *lo, int32_t *hi);
/* Bytes of activations and scratch memory that one thread needs to run the model. */
BS_API size_t bs_arena_bytes(const bs_model *model);

/* How it was loaded: a word of bs_features(), and the threads that a run may use. */
BS_API const char *bs_isa(const bs_model *model);
BS_API int32_t bs_threads(const bs_model *model);

/* Runs batch samples, which lie one behind the other in each buffer. The arrays have one entry an input and one an
 * output; *_bytes are the sizes of the buffers and must be batch * sample_bytes. An output that has a byte in common with an
 * input or another output is refused. */
BS_API bs_status bs_run(const bs_model *model, size_t batch, const void *const *inputs, const size_t *input_bytes,
                        void *const *outputs, const size_t *output_bytes);

/* A step of a run: a node of the graph or several that run as one, or a change of layout between them. The strings live as long
 * as the model. */
typedef struct {
  const char *name;    /* of the value that it makes */
  const char *op;      /* of its node; "convert" for a change of layout */
  const char *source;  /* the module of the network that it comes from, or "" */
  const char *kernel;  /* what was chosen for it, e.g. "winograd-2d" */
  const char *isa;     /* a word of bs_features() */
  double operations;   /* of one sample; a multiply-add counts two */
  size_t in_bytes, out_bytes, weight_bytes; /* read and written for one sample; packed weights */
} bs_step;
BS_API size_t bs_step_count(const bs_model *model);
BS_API bs_status bs_step_info(const bs_model *model, size_t index, bs_step *step);

/* One thread's work on one part of a step. Between two of its events a thread waited for the others. */
typedef struct {
  size_t step;                 /* counts what bs_step_info describes */
  int32_t phase, thread;       /* parts of a step follow each other; thread 0 is the calling one */
  size_t samples;              /* that the step took at once */
  uint64_t begin_ns, end_ns;   /* of a clock that only moves forward */
} bs_event;

/* bs_run that times itself: behind the run, on_event gets every event in this thread. It must not throw nor jump out. */
BS_API bs_status bs_run_profiled(const bs_model *model, size_t batch, const void *const *inputs, const size_t *input_bytes,
                                 void *const *outputs, const size_t *output_bytes,
                                 void (*on_event)(void *user, const bs_event *event), void *user);

/* The instruction sets that this library holds kernels for, and those among them that this processor runs: words with spaces
 * between them, the best first, "portable" last. */
BS_API const char *bs_build_features(void);
BS_API const char *bs_features(void);

/* What went wrong in this thread's last call that failed; valid until the thread's next failing call. */
BS_API const char *bs_last_error(void);
BS_API const char *bs_version(void);
/* NULL is fine. */
BS_API void bs_free(bs_model *model);

#ifdef __cplusplus
}
#endif
#endif
