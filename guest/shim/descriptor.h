/* The numbers by which files are open. */
#ifndef RLM_DESCRIPTOR_H
#define RLM_DESCRIPTOR_H

#include <stdint.h>

#include "node.h"

/* 0 to 2 are the standard streams and have no file. wasi-libc finds the root by the first. */
#define DESCRIPTOR_ROOT 3
/* The numbers are below it. */
#define DESCRIPTORS_MAX 1024

struct descriptor {
  struct node *node; /* NULL where nothing is open */
  uint64_t offset;
  uint8_t reads, writes, appends;
};

/* What is open as `fd`, or NULL. It is valid until the next one is opened. */
struct descriptor *descriptor_get(int32_t fd);
/* Finds the lowest number that is free: OK, MFILE or NOMEM. */
int descriptor_find(int32_t *fd);
/* Opens a file under a number that is free. */
void descriptor_open(int32_t fd, const struct descriptor *descriptor);
void descriptor_close(int32_t fd);
/* Has `to` be what `from` was, which is free then. */
void descriptor_move(int32_t from, int32_t to);

#endif
