#include "descriptor.h"

#include <stdlib.h>
#include <string.h>

#include "status.h"

static struct descriptor first[16], *table = first;
static int32_t room = sizeof first / sizeof *first;

struct descriptor *descriptor_get(int32_t fd) {
  if (fd < DESCRIPTOR_ROOT || fd >= room || table[fd].node == NULL) return NULL;
  return &table[fd];
}

static int grow(void) {
  if (room == DESCRIPTORS_MAX) return MFILE;
  struct descriptor *larger = malloc(2 * room * sizeof *larger);
  if (larger == NULL) return NOMEM;
  memcpy(larger, table, room * sizeof *larger);
  memset(larger + room, 0, room * sizeof *larger);
  if (table != first) free(table);
  table = larger;
  room *= 2;
  return OK;
}

int descriptor_find(int32_t *fd) {
  *fd = DESCRIPTOR_ROOT;
  while (*fd < room && table[*fd].node != NULL) ++*fd;
  return *fd < room ? OK : grow();
}

void descriptor_open(int32_t fd, const struct descriptor *descriptor) {
  table[fd] = *descriptor;
  descriptor->node->opens++;
}

void descriptor_close(int32_t fd) {
  struct node *node = table[fd].node;
  table[fd].node = NULL;
  node->opens--;
  node_settle(node);
  node_release(node);
}

void descriptor_move(int32_t from, int32_t to) {
  if (from == to) return;
  descriptor_close(to);
  table[to] = table[from];
  table[from].node = NULL;
}
