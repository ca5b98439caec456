/* What the files of a session may take, and what they take. It keeps an honest cell's files from filling the
 * memory that its objects need. It is no control: a guest that writes over it still has the memory that its
 * host allows, and no more. */
#ifndef RLM_QUOTA_H
#define RLM_QUOTA_H

#include <stddef.h>
#include <stdint.h>

struct quota_limits {
  uint32_t bytes, files;
};

/* What the host allows. Whoever links this has it. */
const struct quota_limits *quota_limits(void);
/* What there is. */
extern struct quota_limits quota_used;

/* Memory for a file's bytes, a name or a table: OK and `*memory`, NOSPC over the quota, NOMEM if there is
 * none. What is in it is undefined. */
int quota_alloc(void **memory, size_t bytes);
/* Gives back what quota_alloc gave for as many bytes. */
void quota_free(void *memory, size_t bytes);

/* Counts a file, folder or link: OK, or NOSPC if there are as many as there may be. */
int quota_add_file(void);
void quota_remove_file(void);

#endif
