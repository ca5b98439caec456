/* A file, a folder or a link, whatever its names are. It lasts while it has a name or is open. */
#ifndef RLM_NODE_H
#define RLM_NODE_H

#include <stdint.h>

#include "content.h"
#include "directory.h"

/* As WASI numbers them. */
enum node_type { NODE_FOLDER = 3, NODE_FILE = 4, NODE_LINK = 7 };

/* What a change of a fixed node comes to. It stands here because CPython is trained with status.h. */
enum { ROFS = 69 };

struct node {
  uint64_t id;
  uint8_t type;
  /* Its content was written since the times were taken: asking a clock at each write would cost more than
   * the write. They are taken when somebody looks, or closes it. */
  uint8_t touched;
  /* Its size is known: that of an input is asked for when somebody wants to know it. */
  uint8_t sized;
  /* 0, or 1 and the number of the input that it is: then the bytes are the host's, and nobody writes them. */
  uint32_t input;
  /* Of the image: nothing changes it, whoever asks, and it counts against nobody's quota. */
  uint8_t fixed;
  uint32_t names; /* how many it has */
  uint32_t opens; /* how many descriptors */
  int64_t accessed_ns, modified_ns, changed_ns;
  union {
    struct content content;
    struct directory directory;
    struct {
      char *text;
      uint32_t length;
    } target;
  };
};

/* A new one without a name: OK and `*node`, NOSPC or NOMEM. */
int node_new(struct node **node, enum node_type type);
/* Frees it if it has no name and is not open. */
void node_release(struct node *node);
/* What it is was changed, or its names were. */
void node_changed(struct node *node);
/* Its content was changed. */
void node_modified(struct node *node);
/* How many bytes a file has: OK and `*size`, or why an input's is not known. */
int node_size(struct node *node, uint64_t *size);
/* Takes the times that were put off. */
void node_settle(struct node *node);

#endif
