/* The functions of <fenv.h> over flags in memory, in the place of wasi-libc's, which do nothing; and what a
 * processor would have raised, worked out from inputs and results. Not found out: underflow, which numpy ignores
 * unless it is told otherwise. */
#include "fp_flags.h"

#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define ALL (FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW | FE_UNDERFLOW)

static int raised;

int feclearexcept(int flags) {
  raised &= ~flags;
  return 0;
}

int feraiseexcept(int flags) {
  raised |= flags & ALL;
  return 0;
}

int fetestexcept(int flags) { return raised & flags; }

int fegetround(void) { return FE_TONEAREST; }
int fesetround(int rounding) { return rounding == FE_TONEAREST ? 0 : -1; }

int fegetenv(fenv_t *environment) {
  (void)environment;
  return 0;
}

int fesetenv(const fenv_t *environment) {
  (void)environment;
  raised = 0;
  return 0;
}

/* -- values ----------------------------------------------------------------------------------- */

/* numpy's numbers of types. */
enum {
  BOOL, BYTE, UBYTE, SHORT, USHORT, INT, UINT, LONG, ULONG, LONGLONG, ULONGLONG,
  FLOAT, DOUBLE, LONGDOUBLE, CFLOAT, CDOUBLE, CLONGDOUBLE,
  DATETIME = 21, TIMEDELTA = 22, HALF = 23
};

/* What of a value matters here. Of a complex one both parts count. */
enum { PLAIN = 0, NOT_A_NUMBER = 1, INFINITE = 2, ZERO = 4, ONE = 8, UNKNOWN = 16 };

#define READ(kind, from) ({ kind value_; memcpy(&value_, from, sizeof value_); value_; })
#define OF_REAL(x) \
  (isnan(x) ? NOT_A_NUMBER : isinf(x) ? INFINITE : (x) == 0 ? ZERO : (x) == 1 || (x) == -1 ? ONE : PLAIN)

static int of_half(uint16_t bits) {
  unsigned magnitude = bits & 0x7fff;
  return magnitude > 0x7c00 ? NOT_A_NUMBER : magnitude == 0x7c00 ? INFINITE : magnitude == 0 ? ZERO
         : magnitude == 0x3c00 ? ONE : PLAIN;
}

static int of_parts(int real, int imaginary) {
  return ((real | imaginary) & (NOT_A_NUMBER | INFINITE)) | (real & imaginary & ZERO);
}

static int of_integer(int64_t value) { return value == 0 ? ZERO : value == 1 || value == -1 ? ONE : PLAIN; }

static int of(int type, const char *data) {
  switch (type) {
    case BOOL: case BYTE: case UBYTE: return of_integer(READ(int8_t, data));
    case SHORT: case USHORT: return of_integer(READ(int16_t, data));
    case INT: case UINT: case LONG: case ULONG: return of_integer(READ(int32_t, data));
    case LONGLONG: case ULONGLONG: return of_integer(READ(int64_t, data));
    case DATETIME: case TIMEDELTA:
      return READ(int64_t, data) == INT64_MIN ? NOT_A_NUMBER : of_integer(READ(int64_t, data));
    case HALF: return of_half(READ(uint16_t, data));
    case FLOAT: return OF_REAL(READ(float, data));
    case DOUBLE: return OF_REAL(READ(double, data));
    case LONGDOUBLE: return OF_REAL(READ(long double, data));
    case CFLOAT: return of_parts(of(FLOAT, data), of(FLOAT, data + sizeof(float)));
    case CDOUBLE: return of_parts(of(DOUBLE, data), of(DOUBLE, data + sizeof(double)));
    case CLONGDOUBLE: return of_parts(of(LONGDOUBLE, data), of(LONGDOUBLE, data + sizeof(long double)));
    default: return UNKNOWN;
  }
}

int rlm_fp_is_float(int type) { return (type >= FLOAT && type <= CLONGDOUBLE) || type == HALF; }

/* By far most results are ordinary numbers: this is the only part that has to be quick. */
enum { AT_ONCE = 64 };

#define SKIP_ORDINARY(kind, mask, parts)                                              \
  for (; count - from >= AT_ONCE; from += AT_ONCE) {                                  \
    int special = 0;                                                                  \
    for (long k = from; k < from + AT_ONCE; k++) {                                    \
      for (int part = 0; part < parts; part++) {                                      \
        kind bits = READ(kind, data + k * stride + part * (long)sizeof(kind));        \
        special |= (bits & (mask)) == (mask);                                         \
      }                                                                               \
    }                                                                                 \
    if (special) break;                                                               \
  }

long rlm_fp_next_special(int type, const char *data, long stride, long from, long count) {
  switch (type) {
    case FLOAT: SKIP_ORDINARY(uint32_t, 0x7f800000u, 1) break;
    case DOUBLE: SKIP_ORDINARY(uint64_t, 0x7ff0000000000000u, 1) break;
    case CFLOAT: SKIP_ORDINARY(uint32_t, 0x7f800000u, 2) break;
    case CDOUBLE: SKIP_ORDINARY(uint64_t, 0x7ff0000000000000u, 2) break;
    default: break;
  }
  while (from < count && !(of(type, data + from * stride) & (NOT_A_NUMBER | INFINITE))) from++;
  return from;
}

/* -- what would have been raised ------------------------------------------------------------------ */

void rlm_fp_note(int inputs, const int *types, const char *const *data, int type, const char *result) {
  int given = 0, what = of(type, result);
  if (!(what & (NOT_A_NUMBER | INFINITE))) return;
  for (int k = 0; k < inputs; k++) given |= of(types[k], data[k]);
  if (given & (NOT_A_NUMBER | UNKNOWN)) return;
  if (what & NOT_A_NUMBER) raised |= FE_INVALID;
  if (what & INFINITE && !(given & INFINITE)) {
    /* Poles: of two, one is zero (a division, a power); alone, at 0 (log), or at 1 or -1 (arctanh, log1p). */
    int pole = inputs == 1 ? ZERO | ONE : ZERO;
    raised |= given & pole ? FE_DIVBYZERO : FE_OVERFLOW;
  }
}

void rlm_fp_note_reduction(int type, const char *start, const char *result, int input_type, const char *input,
                           long stride, long count) {
  int given = of(type, start), what = of(type, result);
  if (!(what & (NOT_A_NUMBER | INFINITE)) || given & NOT_A_NUMBER) return;
  for (long k = 0; k < count; k++) {
    given |= of(input_type, input + k * stride);
    if (given & (NOT_A_NUMBER | UNKNOWN)) return;
  }
  if (what & NOT_A_NUMBER) raised |= FE_INVALID;
  if (what & INFINITE && !(given & INFINITE)) raised |= FE_OVERFLOW;
}

/* -- casts ---------------------------------------------------------------------------------------- */

/* What a processor takes as in range. It makes the smaller integers from an int32, and unsigned ones of 32 bits
 * from an int64, so that of these only what does not even fit there is invalid. */
static int range_of(int type, long double *lowest, long double *end) {
  static const int8_t low_bits[] = {0, 31, 31, 31, 31, 31, 63, 31, 63, 63, 63};
  static const int8_t high_bits[] = {0, 31, 31, 31, 31, 31, 63, 31, 63, 63, 64};
  if (type <= BOOL || type > ULONGLONG) return 0;
  *lowest = -ldexpl(1, low_bits[type]);
  *end = ldexpl(1, high_bits[type]);
  return 1;
}

static float of_bits(uint16_t half) {
  int exponent = half >> 10 & 31, fraction = half & 0x3ff;
  float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                : exponent ? ldexpf((float)(fraction + 0x400), exponent - 25) : ldexpf((float)fraction, -24);
  return half & 0x8000 ? -value : value;
}

/* What is cut off to the lowest value still fits. */
#define CHECK_RANGE(kind, read)                                               \
  do {                                                                        \
    kind above = (kind)end, below = (kind)(lowest - 1);                       \
    int fits_below = below == (kind)lowest;                                   \
    for (long k = 0; k < count; k++) {                                        \
      kind value = (read);                                                    \
      if (!((fits_below ? value >= below : value > below) && value < above)) { \
        raised |= FE_INVALID;                                                 \
        return;                                                               \
      }                                                                       \
    }                                                                         \
  } while (0)

static int width_of(int type) {
  switch (type) {
    case HALF: return 2;
    case FLOAT: case CFLOAT: return 4;
    case DOUBLE: case CDOUBLE: return 8;
    default: return 16;
  }
}

void rlm_fp_note_cast(int from, const char *data, long stride, int to, const char *result, long result_stride,
                      long count) {
  long double lowest, end;
  if (!rlm_fp_is_float(from)) return;
  if (rlm_fp_is_float(to)) {
    if (width_of(to) >= width_of(from)) return;
    for (long k = rlm_fp_next_special(to, result, result_stride, 0, count); k < count;
         k = rlm_fp_next_special(to, result, result_stride, k + 1, count)) {
      if (of(to, result + k * result_stride) & INFINITE && !(of(from, data + k * stride) & INFINITE)) {
        raised |= FE_OVERFLOW;
        return;
      }
    }
    return;
  }
  if (!range_of(to, &lowest, &end)) return;
  switch (from) {
    case HALF: CHECK_RANGE(float, of_bits(READ(uint16_t, data + k * stride))); break;
    case FLOAT: case CFLOAT: CHECK_RANGE(float, READ(float, data + k * stride)); break;
    case DOUBLE: case CDOUBLE: CHECK_RANGE(double, READ(double, data + k * stride)); break;
    default: CHECK_RANGE(long double, READ(long double, data + k * stride)); break;
  }
}
