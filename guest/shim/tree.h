/* What can be done to the tree of files, from a folder that is open and a path. Each returns a status. */
#ifndef RLM_TREE_H
#define RLM_TREE_H

#include "path.h"

/* A path and the folder that it starts from. */
struct where {
  struct node *start;
  const char *path;
  size_t length;
};

enum { TREE_CREATE = 1, TREE_FOLDER = 2, TREE_NEW = 4, TREE_CUT = 8 }; /* as WASI's oflags */

/* Makes the root and the folders that every session has. Once. */
int tree_make(void);
/* Finds or creates what is to be opened. */
int tree_open(struct where where, int flags, int writes, enum follow follow, struct node **node);
/* A file of the host's, in the place of what has its name, if anything. */
int tree_add_input(struct where where, uint32_t number);
int tree_make_folder(struct where where);
int tree_remove_folder(struct where where);
int tree_make_link(struct where where, const char *target, size_t length);
/* Another name for a file. */
int tree_add_name(struct where from, struct where to, enum follow follow);
int tree_remove_name(struct where where);
int tree_rename(struct where from, struct where to);
/* From now on nothing changes or removes a file or folder, nor what lies below it. */
void tree_fix(struct node *node);

#endif
