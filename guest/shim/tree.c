#include "tree.h"

#include <string.h>

#include "quota.h"
#include "status.h"

static int find(struct where where, enum follow follow, struct place *place) {
  return path_find(where.start, where.path, where.length, follow, place);
}

/* Finds a place, also one where something else is than the slash at the path's end says. */
static int find_any(struct where where, enum follow follow, struct place *place) {
  int status = find(where, follow, place);
  return status == NOTDIR && place->node != NULL ? OK : status;
}

/* Finds a place where nothing is. */
static int find_free(struct where where, struct place *place) {
  int status = find_any(where, STAY_ALWAYS, place);
  return status == OK && place->node != NULL ? EXIST : status;
}

/* Gives a new or old node the name of a place where nothing is. */
static int attach(const struct place *place, struct node *node) {
  /* A folder that was removed, but is open or the current one, takes nothing in. */
  if (place->folder->names == 0) return NOENT;
  if (place->folder->fixed) return ROFS;
  int status = directory_add(&place->folder->directory, place->name, place->length, node);
  if (status != OK) return status;
  node->names++;
  if (node->type == NODE_FOLDER) node->directory.parent = place->folder;
  node_modified(place->folder);
  return OK;
}

/* Whether what is at a place may be taken from there. */
static int is_fixed(const struct place *place) { return place->folder->fixed || place->node->fixed; }

static void detach(const struct place *place) {
  struct directory *directory = &place->folder->directory;
  directory_remove(directory, directory_find(directory, place->name, place->length));
  node_modified(place->folder);
}

/* What was at a name is not any more. */
static void lose_name(struct node *node) {
  node->names--;
  if (node->type == NODE_FOLDER) node->directory.parent = node;
  node_changed(node);
  node_release(node);
}

static int make(const struct place *place, enum node_type type, struct node **node) {
  int status = node_new(node, type);
  if (status != OK) return status;
  status = attach(place, *node);
  if (status != OK) node_release(*node);
  return status;
}

int tree_make(void) {
  static const char *const folders[] = {"/tmp", "/out", "/inputs"};
  int status = node_new(&path_root, NODE_FOLDER);
  if (status != OK) return status;
  path_root->names = 1; /* it cannot be removed */
  path_root->directory.parent = path_root;
  for (size_t k = 0; k < sizeof folders / sizeof *folders && status == OK; k++) {
    status = tree_make_folder((struct where){path_root, folders[k], strlen(folders[k])});
  }
  return status;
}

int tree_open(struct where where, int flags, int writes, enum follow follow, struct node **node) {
  struct place place;
  int creates = flags & TREE_CREATE, is_new = creates && flags & TREE_NEW;
  if (creates && where.length > 0 && where.path[where.length - 1] == '/') {
    int status = find_any(where, STAY_ALWAYS, &place); /* a file is never created as a folder */
    return status != OK ? status : is_new && place.node != NULL ? EXIST : ISDIR;
  }
  int status = find(where, is_new ? STAY : follow, &place);
  if (status != OK) return status;
  if (place.node == NULL) {
    if (!creates) return NOENT;
    if (flags & TREE_FOLDER) return INVAL;
    return make(&place, NODE_FILE, node);
  }
  if (is_new) return EXIST;
  if (place.node->type == NODE_LINK) return LOOP;
  int is_folder = place.node->type == NODE_FOLDER;
  if (is_folder && (writes || flags & (TREE_CREATE | TREE_CUT))) return ISDIR;
  if (!is_folder && flags & TREE_FOLDER) return NOTDIR;
  if (place.node->input != 0 && (writes || flags & TREE_CUT)) return ACCES;
  if (place.node->fixed && (writes || flags & TREE_CUT)) return ROFS;
  if (flags & TREE_CUT) {
    if (!writes) return INVAL;
    content_resize(&place.node->content, 0);
    node_modified(place.node);
  }
  *node = place.node;
  return OK;
}

int tree_add_input(struct where where, uint32_t number) {
  struct place place;
  struct node *node;
  int status = find(where, STAY_ALWAYS, &place);
  if (status != OK) return status;
  if (place.node != NULL) {
    if (place.node->type == NODE_FOLDER) return ISDIR;
    if (is_fixed(&place)) return ROFS;
    detach(&place);
    lose_name(place.node);
  }
  status = make(&place, NODE_FILE, &node);
  if (status == OK) node->input = number + 1;
  return status;
}

int tree_make_folder(struct where where) {
  struct place place;
  struct node *node;
  int status = find_free(where, &place);
  return status != OK ? status : make(&place, NODE_FOLDER, &node);
}

int tree_remove_folder(struct where where) {
  struct place place;
  int status = find(where, STAY_ALWAYS, &place);
  if (status != OK) return status;
  if (place.node == NULL) return NOENT;
  if (place.node->type != NODE_FOLDER) return NOTDIR;
  if (place.node == path_root) return BUSY;
  if (place.name == NULL) return INVAL;
  if (is_fixed(&place)) return ROFS;
  if (place.node->directory.live > 0) return NOTEMPTY;
  detach(&place);
  lose_name(place.node);
  return OK;
}

int tree_make_link(struct where where, const char *target, size_t length) {
  struct place place;
  struct node *node;
  if (length == 0) return NOENT;
  if (length > PATH_BYTES_MAX) return NAMETOOLONG;
  if (memchr(target, 0, length) != NULL) return INVAL;
  int status = find_free(where, &place);
  if (status != OK) return status;
  if (place.slash) return NOENT;
  status = node_new(&node, NODE_LINK);
  if (status != OK) return status;
  void *text;
  status = quota_alloc(&text, length);
  if (status == OK) {
    memcpy(text, target, length);
    node->target.text = text;
    node->target.length = (uint32_t)length;
    status = attach(&place, node);
  }
  if (status != OK) node_release(node);
  return status;
}

int tree_add_name(struct where from, struct where to, enum follow follow) {
  struct node *node;
  struct place place;
  int status = path_get(from.start, from.path, from.length, follow, &node);
  if (status == OK) status = find_free(to, &place);
  if (status != OK) return status;
  if (place.slash) return NOENT;
  if (node->type == NODE_FOLDER) return PERM;
  if (node->fixed) return ROFS;
  status = attach(&place, node);
  if (status == OK) node_changed(node);
  return status;
}

int tree_remove_name(struct where where) {
  struct place place;
  int status = find(where, STAY_ALWAYS, &place);
  if (status != OK) return status;
  if (place.node == NULL) return NOENT;
  if (place.node->type == NODE_FOLDER) return ISDIR;
  if (is_fixed(&place)) return ROFS;
  detach(&place);
  lose_name(place.node);
  return OK;
}

static int is_within(const struct node *folder, const struct node *outer) {
  while (folder != outer && folder != folder->directory.parent) folder = folder->directory.parent;
  return folder == outer;
}

int tree_rename(struct where from, struct where to) {
  struct place old, new;
  int status = find_any(from, STAY_ALWAYS, &old);
  if (status == OK) status = find_any(to, STAY_ALWAYS, &new);
  if (status != OK) return status;
  if (old.name == NULL || new.name == NULL) return BUSY;
  if (old.node == NULL) return NOENT;
  int is_folder = old.node->type == NODE_FOLDER;
  if (!is_folder && (old.slash || new.slash)) return NOTDIR;
  if (is_folder && is_within(new.folder, old.node)) return INVAL;
  if (new.node == old.node) return OK;
  if (new.node != NULL && is_folder != (new.node->type == NODE_FOLDER)) return is_folder ? NOTDIR : ISDIR;
  if (is_fixed(&old) || (new.node != NULL && is_fixed(&new))) return ROFS;
  if (new.node == NULL) {
    status = attach(&new, old.node);
    if (status != OK) return status;
  } else {
    if (new.node->type == NODE_FOLDER && new.node->directory.live > 0) return NOTEMPTY;
    /* In the place of the other, so that nothing has to be allocated. */
    directory_find(&new.folder->directory, new.name, new.length)->node = old.node;
    old.node->names++;
    if (old.node->type == NODE_FOLDER) old.node->directory.parent = new.folder;
    node_modified(new.folder);
    lose_name(new.node);
  }
  detach(&old);
  old.node->names--;
  node_changed(old.node);
  return OK;
}

void tree_fix(struct node *node) {
  /* As deep as the folders are, which whoever made them has bounded. */
  node_settle(node);
  node->fixed = 1;
  if (node->type != NODE_FOLDER) return;
  const struct name *name = directory_after(&node->directory, 0);
  for (; name != NULL; name = directory_after(&node->directory, name->order)) tree_fix(name->node);
}
