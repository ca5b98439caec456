/* Holds the guest's floating-point flags against this machine's: for each operation and each pair of values that
 * are worth trying, what the processor raised, and what is worked out from inputs and result. Prints what differs,
 * and how many pairs were tried. */
#include <complex.h>
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fp_flags.h"

int soft_feclearexcept(int flags);
int soft_fetestexcept(int flags);

#define SEEN (FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
enum { LONGLONG = 9, INT = 5, BYTE = 1, FLOAT = 11, DOUBLE = 12, CDOUBLE = 15 };

static int tried, different;

static void compare(const char *what, double a, double b, int real) {
  int soft = soft_fetestexcept(SEEN);
  tried++;
  if (real != soft) {
    different++;
    printf("%s %a %a: the processor raises %d, worked out is %d\n", what, a, b, real, soft);
  }
}

static void pair(const char *what, int type, const void *a, const void *b, const void *result, double x, double y,
                 int real) {
  soft_feclearexcept(SEEN);
  rlm_fp_note_pair(type, a, b, result);
  compare(what, x, y, real);
}

#define TRY2(kind, type, name, expression)                                       \
  do {                                                                           \
    volatile kind a = (kind)x, b = (kind)y, result;                              \
    feclearexcept(FE_ALL_EXCEPT);                                                \
    result = expression;                                                         \
    int real = fetestexcept(SEEN);                                               \
    kind ka = a, kb = b, kr = result;                                            \
    pair(name, type, &ka, &kb, &kr, x, y, real);                                 \
  } while (0)

#define TRY1(name, expression)                                                   \
  do {                                                                           \
    volatile double a = x, result;                                               \
    feclearexcept(FE_ALL_EXCEPT);                                                \
    result = expression;                                                         \
    int real = fetestexcept(SEEN), types[] = {DOUBLE};                           \
    double ka = a, kr = result;                                                  \
    const char *data[] = {(const char *)&ka};                                    \
    soft_feclearexcept(SEEN);                                                    \
    rlm_fp_note(1, types, data, DOUBLE, (const char *)&kr);                      \
    compare(name, x, 0, real);                                                   \
  } while (0)

#define CAST(from_kind, from, to_kind, to, name)                                 \
  do {                                                                           \
    volatile from_kind a = (from_kind)x;                                         \
    feclearexcept(FE_ALL_EXCEPT);                                                \
    volatile to_kind result = (to_kind)a;                                        \
    int real = fetestexcept(SEEN);                                               \
    from_kind ka = a;                                                            \
    to_kind kr = result;                                                         \
    soft_feclearexcept(SEEN);                                                    \
    rlm_fp_note_cast(from, (const char *)&ka, sizeof ka, to, (const char *)&kr, sizeof kr, 1); \
    compare(name, x, 0, real);                                                   \
  } while (0)

int main(void) {
  const double values[] = {
      0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0, 127.0, 300.0, -129.0, 1e10, -1e10, 2147483647.0, 2147483648.0,
      -2147483648.0, -2147483649.0, 9.2e18, 0x1p63, -0x1p63, -0x1.0000000000001p63, 1e30, 3.5e38, 1e300, -1e300,
      1.7976931348623157e308, 709.0, 710.0, -745.0, INFINITY, -INFINITY, NAN};
  const int count = sizeof values / sizeof *values;
  for (int i = 0; i < count; i++) {
    double x = values[i];
    /* A signalling NaN is not among them: arithmetic of code makes none. */
    TRY1("sqrt", sqrt(a));
    TRY1("log", log(a));
    TRY1("log2", log2(a));
    TRY1("log10", log10(a));
    TRY1("log1p", log1p(a));
    TRY1("exp", exp(a));
    TRY1("sinh", sinh(a));
    TRY1("cosh", cosh(a));
    TRY1("atanh", atanh(a));
    TRY1("acos", acos(a));
    TRY1("sin", sin(a));
    TRY1("reciprocal", 1.0 / a);
    TRY1("square", a * a);
    CAST(double, DOUBLE, float, FLOAT, "double to float");
    CAST(double, DOUBLE, int, INT, "double to int");
    CAST(double, DOUBLE, long long, LONGLONG, "double to long long");
    CAST(double, DOUBLE, signed char, BYTE, "double to byte");
    CAST(float, FLOAT, int, INT, "float to int");
    CAST(float, FLOAT, long long, LONGLONG, "float to long long");
    for (int j = 0; j < count; j++) {
      double y = values[j];
      TRY2(double, DOUBLE, "add", a + b);
      TRY2(double, DOUBLE, "subtract", a - b);
      TRY2(double, DOUBLE, "multiply", a * b);
      TRY2(double, DOUBLE, "divide", a / b);
      TRY2(double, DOUBLE, "fmod", fmod(a, b));
      TRY2(double, DOUBLE, "power", pow(a, b));
      TRY2(float, FLOAT, "add of floats", a + b);
      TRY2(float, FLOAT, "multiply of floats", a * b);
      TRY2(float, FLOAT, "divide of floats", a / b);
      TRY2(long double, 13, "divide of long doubles", a / b);
    }
  }
  /* A reduction, over what is ordinary, what overflows and what cancels; and a scan over blocks. */
  static double many[1000];
  for (int k = 0; k < 1000; k++) many[k] = 1e300 * k;
  for (int place = 0; place < 1000; place += 37) {
    for (int kind = 0; kind < 3; kind++) {
      double kept = many[place], start = 0;
      many[place] = kind == 0 ? 1e308 : kind == 1 ? INFINITY : NAN;
      feclearexcept(FE_ALL_EXCEPT);
      volatile double sum = start;
      for (int k = 0; k < 1000; k++) sum += many[k] * (kind == 0 ? 1e3 : 1);
      int real = fetestexcept(SEEN);
      double result = sum;
      soft_feclearexcept(SEEN);
      rlm_fp_note_reduction(DOUBLE, (const char *)&start, (const char *)&result, DOUBLE, (const char *)many,
                            sizeof *many, 1000);
      compare("sum", kind, place, real);
      tried++;
      if (rlm_fp_next_special(DOUBLE, (const char *)many, sizeof *many, 0, 1000) != (kind == 0 ? 1000 : place)) {
        different++;
        printf("scan %d %d\n", kind, place);
      }
      many[place] = kept;
    }
  }
  printf("%d tried, %d differ\n", tried, different);
  return different != 0;
}
