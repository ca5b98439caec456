/* Room for what C++ will allocate, and the end of what it throws all the same. */
#include "room.h"

#include <stdio.h>
#include <stdlib.h>

/* A block that large is there, and given back it stays in the heap, whole: whatever is asked for next, up to its
 * size, comes out of it or of something smaller. One thread runs, so nobody else can take it. */
int rlm_has_room(size_t bytes) {
  void *volatile block = malloc(bytes);
  if (block == NULL) return 0;
  free(block);
  return 1;
}

/* Nothing throws what was not asked for before. If something does, this session ends, and no other. */
void *__cxa_allocate_exception(size_t bytes) {
  (void)bytes;
  fputs("C++: an exception where none can be\n", stderr);
  abort();
}

void __cxa_throw(void *object, void *type, void (*destroy)(void *)) {
  (void)object;
  (void)type;
  (void)destroy;
  abort();
}
