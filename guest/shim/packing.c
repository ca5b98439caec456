/* The last step before the image is taken: nothing free is left in it.
 *
 * A session copies every page it writes. What is free inside the image is scattered all over it: the
 * rest of half-full pools of small objects, gaps between larger blocks. It is used up here, for good, so
 * that what a session allocates lies side by side on pages that hold nothing else. */
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

#include "rlm.h"

/* pymalloc's on a 32-bit machine (Include/internal/pycore_obmalloc.h). */
#define POOL_BYTES 4096
#define ALIGNMENT 8
#define SMALL_BYTES_MAX 512
/* A larger gap is left: what goes there lies side by side too. */
#define GAP_BYTES_MAX 32768
/* Larger than any gap, so that it comes from untouched memory above all others. */
#define EDGE_BYTES (4 << 20)

static int fill_pools(size_t size) {
  for (;;) {
    void *block = PyObject_Malloc(size);
    if (block == NULL) return -1;
    /* A pool begins with how many of its blocks are taken. */
    uint32_t taken = *(uint32_t *)((uintptr_t)block & ~(uintptr_t)(POOL_BYTES - 1));
    if (taken == 0 || taken > POOL_BYTES / ALIGNMENT) return -1;
    if (taken == 1) { /* the first of a fresh pool: all others of this size are full */
      PyObject_Free(block);
      return 0;
    }
  }
}

int rlm_fill_gaps(void) {
  PyGC_Collect(); /* it empties the lists of objects kept for their next use, too */
  for (size_t size = ALIGNMENT; size <= SMALL_BYTES_MAX; size += ALIGNMENT) {
    if (fill_pools(size) != 0) return -1;
  }
  char *edge = malloc(EDGE_BYTES);
  if (edge == NULL) return -1;
  for (size_t size = GAP_BYTES_MAX; size >= 16; size -= 16) {
    char *block;
    while ((block = malloc(size)) != NULL && block < edge) {
    }
    free(block);
  }
  free(edge);
  return 0;
}
