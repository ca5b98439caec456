#include "directory.h"

#include <string.h>

#include "quota.h"
#include "status.h"

/* Up to here looking at each is as quick as an index. */
#define UNINDEXED_MAX 8

static uint32_t hash_of(const char *text, size_t length) {
  uint32_t hash = 2166136261u; /* FNV-1a */
  for (size_t k = 0; k < length; k++) hash = (hash ^ (unsigned char)text[k]) * 16777619u;
  return hash;
}

static int is(const struct name *name, uint32_t hash, const char *text, size_t length) {
  return name->text != NULL && name->hash == hash && name->length == length &&
         memcmp(name->text, text, length) == 0;
}

static void note(struct directory *directory, uint32_t place) {
  uint32_t mask = directory->index_room - 1, slot = directory->names[place].hash & mask;
  while (directory->index[slot] != 0) slot = (slot + 1) & mask;
  directory->index[slot] = place + 1;
}

struct name *directory_find(const struct directory *directory, const char *text, size_t length) {
  uint32_t hash = hash_of(text, length);
  if (directory->index == NULL) {
    for (uint32_t k = 0; k < directory->used; k++) {
      if (is(&directory->names[k], hash, text, length)) return &directory->names[k];
    }
    return NULL;
  }
  /* A removed name stays in the index, so that those behind it are found. */
  uint32_t mask = directory->index_room - 1;
  for (uint32_t slot = hash & mask; directory->index[slot] != 0; slot = (slot + 1) & mask) {
    struct name *name = &directory->names[directory->index[slot] - 1];
    if (is(name, hash, text, length)) return name;
  }
  return NULL;
}

static void free_tables(struct directory *directory) {
  quota_free(directory->names, directory->room * sizeof *directory->names);
  quota_free(directory->index, directory->index_room * sizeof *directory->index);
  directory->names = NULL;
  directory->index = NULL;
  directory->used = directory->room = directory->index_room = 0;
}

/* Leaves out what was removed, and makes room for as many again. */
static int rebuild(struct directory *directory) {
  uint32_t room = UNINDEXED_MAX;
  while (room < 2 * (directory->live + 1)) room *= 2;
  if (directory->live < UNINDEXED_MAX) room = UNINDEXED_MAX;
  uint32_t index_room = room > UNINDEXED_MAX ? 2 * room : 0;
  void *names, *index = NULL;
  int status = quota_alloc(&names, room * sizeof(struct name));
  if (status == OK && index_room > 0) {
    status = quota_alloc(&index, index_room * sizeof(uint32_t));
    if (status != OK) quota_free(names, room * sizeof(struct name));
  }
  if (status != OK) return status;
  uint32_t used = 0;
  for (uint32_t k = 0; k < directory->used; k++) {
    if (directory->names[k].text != NULL) ((struct name *)names)[used++] = directory->names[k];
  }
  free_tables(directory);
  directory->names = names;
  directory->index = index;
  directory->used = used;
  directory->room = room;
  directory->index_room = index_room;
  if (index != NULL) {
    memset(index, 0, index_room * sizeof(uint32_t));
    for (uint32_t k = 0; k < used; k++) note(directory, k);
  }
  return OK;
}

int directory_add(struct directory *directory, const char *text, size_t length, struct node *node) {
  if (directory->used == directory->room) {
    int status = rebuild(directory);
    if (status != OK) return status;
  }
  void *copy;
  int status = quota_alloc(&copy, length);
  if (status != OK) return status;
  memcpy(copy, text, length);
  directory->names[directory->used] = (struct name){
      .text = copy,
      .node = node,
      .order = ++directory->last_order,
      .length = (uint32_t)length,
      .hash = hash_of(text, length),
  };
  if (directory->index != NULL) note(directory, directory->used);
  directory->used++;
  directory->live++;
  return OK;
}

void directory_remove(struct directory *directory, struct name *name) {
  quota_free(name->text, name->length);
  name->text = NULL;
  name->node = NULL;
  directory->live--;
  if (directory->live == 0) free_tables(directory);
}

const struct name *directory_after(const struct directory *directory, uint64_t order) {
  uint32_t low = 0, high = directory->used;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (directory->names[middle].order > order) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  while (low < directory->used && directory->names[low].text == NULL) low++;
  return low < directory->used ? &directory->names[low] : NULL;
}
