#include "content.h"

#include <string.h>

#include "quota.h"
#include "status.h"

#define BLOCK ((uint64_t)CONTENT_BLOCK_BYTES)
#define FIRST_BYTES_MIN 64u

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint32_t block_bytes(const struct content *content, uint64_t block) {
  return block == 0 ? content->first_bytes : CONTENT_BLOCK_BYTES;
}

static unsigned char *block_at(const struct content *content, uint64_t block) {
  return block < content->room ? content->blocks[block] : NULL;
}

size_t content_read(const struct content *content, uint64_t offset, void *buffer, size_t bytes) {
  if (offset >= content->size) return 0;
  size_t count = (size_t)least(bytes, content->size - offset), done = 0;
  while (done < count) {
    uint64_t block = (offset + done) / BLOCK;
    size_t start = (size_t)((offset + done) % BLOCK);
    size_t part = (size_t)least(BLOCK - start, count - done);
    unsigned char *from = block_at(content, block), *to = (unsigned char *)buffer + done;
    uint32_t there = from != NULL ? block_bytes(content, block) : 0;
    size_t stored = start < there ? (size_t)least(part, there - start) : 0;
    if (stored > 0) memcpy(to, from + start, stored);
    memset(to + stored, 0, part - stored);
    done += part;
  }
  return count;
}

/* Makes what lies between the old size and `size` read as zeros. */
static void extend(struct content *content, uint64_t size) {
  uint64_t block = content->size / BLOCK, start = content->size % BLOCK;
  unsigned char *last = block_at(content, block);
  if (last != NULL) {
    uint64_t end = least(least(size - block * BLOCK, BLOCK), block_bytes(content, block));
    if (start < end) memset(last + start, 0, (size_t)(end - start));
  }
  content->size = size;
}

static int make_table(struct content *content, uint64_t block) {
  if (block < content->room) return OK;
  uint32_t room = content->room > 0 ? 2 * content->room : 1;
  if (room <= block) room = (uint32_t)block + 1;
  void *table;
  int status = quota_alloc(&table, room * sizeof *content->blocks);
  if (status != OK) return status;
  size_t old = content->room * sizeof *content->blocks;
  if (old > 0) memcpy(table, content->blocks, old);
  memset((char *)table + old, 0, room * sizeof *content->blocks - old);
  quota_free(content->blocks, old);
  content->blocks = table;
  content->room = room;
  return OK;
}

/* Has the first block hold at least `bytes`. */
static int make_first(struct content *content, uint64_t bytes) {
  if (bytes <= content->first_bytes) return OK;
  uint32_t room = content->first_bytes > FIRST_BYTES_MIN ? content->first_bytes : FIRST_BYTES_MIN;
  while (room < bytes) room *= 2;
  void *block;
  int status = quota_alloc(&block, room);
  if (status != OK) return status;
  size_t old = content->first_bytes, size = (size_t)least(content->size, room);
  size_t kept = size < old ? size : old;
  if (kept > 0) memcpy(block, content->blocks[0], kept);
  memset((char *)block + kept, 0, size - kept);
  quota_free(content->blocks[0], old);
  content->blocks[0] = block;
  content->first_bytes = room;
  return OK;
}

/* Makes room for `bytes` at `start` of a block; what the file has of it beside them reads as before. */
static int make_block(struct content *content, uint64_t block, size_t start, size_t bytes) {
  int status = make_table(content, block);
  if (status != OK) return status;
  if (block == 0) {
    /* The first of several is a whole one. */
    return make_first(content, content->size > BLOCK ? BLOCK : start + bytes);
  }
  if (content->blocks[block] != NULL) return OK;
  void *memory;
  status = quota_alloc(&memory, CONTENT_BLOCK_BYTES);
  if (status != OK) return status;
  memset(memory, 0, start);
  uint64_t end = content->size > block * BLOCK ? least(content->size - block * BLOCK, BLOCK) : 0;
  if (end > start + bytes) memset((char *)memory + start + bytes, 0, (size_t)(end - start - bytes));
  content->blocks[block] = memory;
  return OK;
}

int content_write(struct content *content, uint64_t offset, const void *data, size_t bytes, size_t *written) {
  *written = 0;
  if (bytes == 0) return OK;
  uint64_t size_max = least(CONTENT_BYTES_MAX, quota_limits()->bytes);
  if (offset > size_max || bytes > size_max - offset) {
    /* Like any other write that finds no room: as much as fits. */
    if (offset >= size_max) return FBIG;
    bytes = (size_t)(size_max - offset);
  }
  uint64_t before = content->size;
  if (offset > before) extend(content, offset);
  size_t done = 0;
  int status = OK;
  while (done < bytes) {
    uint64_t block = (offset + done) / BLOCK;
    size_t start = (size_t)((offset + done) % BLOCK);
    size_t part = (size_t)least(BLOCK - start, bytes - done);
    status = make_block(content, block, start, part);
    if (status != OK) break;
    memcpy(content->blocks[block] + start, (const unsigned char *)data + done, part);
    done += part;
    if (offset + done > content->size) content->size = offset + done;
  }
  if (done == 0) content->size = before;
  *written = done;
  return done > 0 ? OK : status;
}

int content_resize(struct content *content, uint64_t size) {
  if (size > content->size) {
    if (size > least(CONTENT_BYTES_MAX, quota_limits()->bytes)) return FBIG;
    extend(content, size);
    return OK;
  }
  content->size = size;
  for (uint64_t block = (size + BLOCK - 1) / BLOCK; block < content->room; block++) {
    quota_free(content->blocks[block], block_bytes(content, block));
    content->blocks[block] = NULL;
    if (block == 0) content->first_bytes = 0;
  }
  if (size == 0) {
    quota_free(content->blocks, content->room * sizeof *content->blocks);
    content->blocks = NULL;
    content->room = 0;
  }
  return OK;
}
