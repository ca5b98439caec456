/* The names in one folder, in the order in which they came. A name keeps its place in that order while
 * others come and go, so that a listing that is under way neither misses nor repeats one. */
#ifndef RLM_DIRECTORY_H
#define RLM_DIRECTORY_H

#include <stddef.h>
#include <stdint.h>

#define NAME_BYTES_MAX 255

struct node;

struct name {
  char *text; /* not terminated; NULL once it was removed */
  struct node *node;
  uint64_t order; /* from 1 */
  uint32_t length, hash;
};

struct directory {
  struct node *parent; /* a root's is itself, and so is that of a folder that was removed */
  struct name *names;  /* by their order */
  uint32_t *index;     /* by hash: 0, or 1 and a place in `names`; NULL for a few names */
  uint32_t used, room, index_room, live;
  uint64_t last_order;
};

/* The name, or NULL. It is valid until the folder changes. */
struct name *directory_find(const struct directory *directory, const char *text, size_t length);
/* Adds a name that is not there: OK, NOSPC or NOMEM. */
int directory_add(struct directory *directory, const char *text, size_t length, struct node *node);
void directory_remove(struct directory *directory, struct name *name);
/* The first name that came after `order`, or NULL. */
const struct name *directory_after(const struct directory *directory, uint64_t order);

#endif
