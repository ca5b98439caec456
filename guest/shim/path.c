#include "path.h"

#include <string.h>

#include "status.h"

struct node *path_root;

/* What is still to be walked: the rest of the path, and above it the rests of the links on the way. */
struct walk {
  const char *rest[LINKS_FOLLOWED_MAX + 1];
  size_t left[LINKS_FOLLOWED_MAX + 1];
  int depth, followed;
};

/* Passes over slashes, and over links that are walked to their end; whether it passed a slash. */
static int skip_slashes(struct walk *walk) {
  int slash = 0;
  for (;;) {
    while (walk->left[walk->depth] > 0 && *walk->rest[walk->depth] == '/') {
      walk->rest[walk->depth]++;
      walk->left[walk->depth]--;
      slash = 1;
    }
    if (walk->left[walk->depth] > 0 || walk->depth == 0) return slash;
    walk->depth--;
  }
}

static int at_end(const struct walk *walk) { return walk->depth == 0 && walk->left[0] == 0; }

static int enter_link(struct walk *walk, const struct node *link) {
  if (walk->followed == LINKS_FOLLOWED_MAX) return LOOP;
  walk->followed++;
  walk->depth++;
  walk->rest[walk->depth] = link->target.text;
  walk->left[walk->depth] = link->target.length;
  return OK;
}

int path_find(struct node *start, const char *path, size_t length, enum follow follow, struct place *place) {
  if (length == 0) return NOENT;
  if (length > PATH_BYTES_MAX) return NAMETOOLONG;
  if (memchr(path, 0, length) != NULL) return INVAL;
  struct walk walk = {.rest = {path}, .left = {length}};
  struct node *folder = *path == '/' ? path_root : start;
  int wanted = 0; /* a slash behind a link at the end is one behind what the link leads to */
  *place = (struct place){.folder = folder, .node = folder, .slash = skip_slashes(&walk)};
  while (!at_end(&walk)) {
    const char *name = walk.rest[walk.depth];
    size_t left = walk.left[walk.depth];
    const char *end = memchr(name, '/', left);
    size_t count = end != NULL ? (size_t)(end - name) : left;
    walk.rest[walk.depth] += count;
    walk.left[walk.depth] -= count;
    /* Passing over slashes may leave the link whose text the name is part of; the text stays. */
    int slash = skip_slashes(&walk), last = at_end(&walk);
    if (folder->type != NODE_FOLDER) {
      place->node = NULL; /* which says that the path was not walked to its end */
      return NOTDIR;
    }
    if (count == 1 && name[0] == '.') {
      *place = (struct place){.folder = folder, .node = folder, .slash = slash};
      continue;
    }
    if (count == 2 && name[0] == '.' && name[1] == '.') {
      folder = folder->directory.parent;
      *place = (struct place){.folder = folder, .node = folder, .slash = slash};
      continue;
    }
    if (count > NAME_BYTES_MAX) return NAMETOOLONG;
    const struct name *found = directory_find(&folder->directory, name, count);
    struct node *node = found != NULL ? found->node : NULL;
    if (node != NULL && node->type == NODE_LINK &&
        (!last || follow == FOLLOW || (follow == STAY && slash))) {
      if (node->target.text[0] == '/') folder = path_root;
      int status = enter_link(&walk, node);
      if (status != OK) return status;
      if (last) {
        follow = FOLLOW;
        wanted |= slash;
      }
      skip_slashes(&walk);
      *place = (struct place){.folder = folder, .node = folder, .slash = 1};
      continue;
    }
    *place = (struct place){
        .folder = folder, .name = name, .length = count, .node = node, .slash = slash || (last && wanted)};
    if (last) break;
    if (node == NULL) return NOENT;
    folder = node;
  }
  if (place->slash && place->node != NULL && place->node->type != NODE_FOLDER) return NOTDIR;
  return OK;
}

int path_get(struct node *start, const char *path, size_t length, enum follow follow, struct node **node) {
  struct place place;
  int status = path_find(start, path, length, follow, &place);
  if (status != OK) return status;
  *node = place.node;
  return place.node != NULL ? OK : NOENT;
}

static const struct name *name_in(const struct node *parent, const struct node *node) {
  const struct name *name = NULL;
  uint64_t order = 0;
  while ((name = directory_after(&parent->directory, order)) != NULL && name->node != node) order = name->order;
  return name;
}

int path_of_folder(const struct node *folder, char *path, size_t room) {
  /* From the end, where its own name goes. */
  char *start = path + room;
  if (room < 2) return NAMETOOLONG;
  *--start = 0;
  while (folder != path_root) {
    const struct node *parent = folder->directory.parent;
    const struct name *name = parent != folder ? name_in(parent, folder) : NULL;
    if (name == NULL) return NOENT;
    if ((size_t)(start - path) < name->length + 1u) return NAMETOOLONG;
    start -= name->length;
    memcpy(start, name->text, name->length);
    *--start = '/';
    folder = parent;
  }
  if (*start == 0) *--start = '/';
  memmove(path, start, (size_t)(path + room - start));
  return OK;
}
