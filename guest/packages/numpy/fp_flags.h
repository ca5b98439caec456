#ifndef RLM_FP_FLAGS_H
#define RLM_FP_FLAGS_H

/* wasm has no floating-point status, and wasi-libc's <fenv.h> says so by defining no flag. These are flags in
 * memory. What numpy raises by itself (a singular matrix, an integer divided by zero) is remembered there, and
 * what a processor would raise is found out afterwards, from what went into an operation and what came out. */
#define FE_INVALID 1
#define FE_DIVBYZERO 4
#define FE_OVERFLOW 8
#define FE_UNDERFLOW 16

#ifdef __cplusplus
extern "C" {
#endif

/* Types are numpy's numbers for them. */

/* Whether results of this type can be infinite or no number. */
int rlm_fp_is_float(int type);

/* The first of the elements from `from` on that is infinite or no number; `count` if none is. */
long rlm_fp_next_special(int type, const char *data, long stride, long from, long count);

/* Raises what an operation on these inputs would have raised that gave this result. */
void rlm_fp_note(int inputs, const int *types, const char *const *data, int type, const char *result);

/* The same for a reduction: what it started with, what went in, what came out. */
void rlm_fp_note_reduction(int type, const char *start, const char *result, int input_type, const char *input,
                           long stride, long count);

/* The same for a cast. */
void rlm_fp_note_cast(int from, const char *data, long stride, int to, const char *result, long result_stride,
                      long count);

#ifdef __cplusplus
}
#endif

static inline void rlm_fp_note_pair(int type, const void *first, const void *second, const void *result) {
  const int types[2] = {type, type};
  const char *const data[2] = {(const char *)first, (const char *)second};
  rlm_fp_note(2, types, data, type, (const char *)result);
}

#endif
