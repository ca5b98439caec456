#include "quota.h"

#include <stdlib.h>

#include "status.h"

struct quota_limits quota_used;

int quota_alloc(void **memory, size_t bytes) {
  uint32_t limit = quota_limits()->bytes;
  *memory = NULL;
  /* A snapshot may be started from with other limits: then there may be more than may be. */
  if (quota_used.bytes > limit || bytes > limit - quota_used.bytes) return NOSPC;
  *memory = malloc(bytes);
  if (*memory == NULL) return NOMEM;
  quota_used.bytes += (uint32_t)bytes;
  return OK;
}

void quota_free(void *memory, size_t bytes) {
  if (memory == NULL) return;
  quota_used.bytes -= (uint32_t)bytes;
  free(memory);
}

int quota_add_file(void) {
  if (quota_used.files >= quota_limits()->files) return NOSPC;
  quota_used.files++;
  return OK;
}

void quota_remove_file(void) { quota_used.files--; }
