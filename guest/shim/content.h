/* The bytes of one file. They lie in blocks, so that growing copies nothing and what was never written, a
 * hole, takes no memory. A file shorter than a block has one that is as short as it may be. */
#ifndef RLM_CONTENT_H
#define RLM_CONTENT_H

#include <stddef.h>
#include <stdint.h>

#define CONTENT_BLOCK_BYTES 16384u
/* No file is longer, whatever the quota: each offset of a file fits a block's 32-bit number many times. */
#define CONTENT_BYTES_MAX ((uint64_t)1 << 32)

struct content {
  uint64_t size;
  unsigned char **blocks; /* NULL where there is a hole; what lies beyond `size` is undefined */
  uint32_t room;          /* how many `blocks` has room for */
  uint32_t first_bytes;   /* how long the first block is; all others have CONTENT_BLOCK_BYTES */
};

/* Copies up to `bytes` from `offset` and returns how many there were. */
size_t content_read(const struct content *content, uint64_t offset, void *buffer, size_t bytes);
/* Writes at `offset`, and sets `*written`: less than `bytes` if only that much found room. OK if it is more
 * than nothing, or if there was nothing to write; else nothing has changed. */
int content_write(struct content *content, uint64_t offset, const void *data, size_t bytes, size_t *written);
/* Cuts the file, or extends it by a hole. */
int content_resize(struct content *content, uint64_t size);

#endif
