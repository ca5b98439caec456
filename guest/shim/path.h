/* From a path to the place that it names. Nothing here leaves the root: there is nothing above it. */
#ifndef RLM_PATH_H
#define RLM_PATH_H

#include <stddef.h>
#include <stdint.h>

#include "node.h"

#define PATH_BYTES_MAX 4095
#define LINKS_FOLLOWED_MAX 40

struct place {
  struct node *folder; /* where the last name of the path is looked up */
  const char *name;    /* not terminated; NULL where the path ends in no name: the root, `.` or `..` */
  size_t length;
  struct node *node; /* what is there, or NULL */
  int slash;         /* the path says that it is a folder */
};

/* What to do where a path ends at a link. */
enum follow {
  FOLLOW,
  STAY,       /* unless a slash behind it says that what it leads to is meant */
  STAY_ALWAYS /* for what changes the name itself */
};

extern struct node *path_root;

/* Looks up `path` from `start`, which is a folder. OK if the folder of its last name is there, whether the
 * name is or not. NOTDIR with a `place->node` if only a slash at its end is wrong. */
int path_find(struct node *start, const char *path, size_t length, enum follow follow, struct place *place);
/* The same, for what has to be there: NOENT if it is not. */
int path_get(struct node *start, const char *path, size_t length, enum follow follow, struct node **node);
/* Writes the path of a folder from the root, terminated: OK, NAMETOOLONG, or NOENT if it was removed. */
int path_of_folder(const struct node *folder, char *path, size_t room);

#endif
