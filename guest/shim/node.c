#include "node.h"

#include "host.h"
#include "host_inputs.h"
#include "quota.h"
#include "status.h"

static uint64_t last_id;

int node_new(struct node **node, enum node_type type) {
  void *memory;
  int status = quota_add_file();
  if (status != OK) return status;
  status = quota_alloc(&memory, sizeof **node);
  if (status != OK) {
    quota_remove_file();
    return status;
  }
  *node = memory;
  int64_t now = host_now();
  **node = (struct node){
      .id = ++last_id, .type = (uint8_t)type, .accessed_ns = now, .modified_ns = now, .changed_ns = now};
  return OK;
}

void node_release(struct node *node) {
  if (node->names > 0 || node->opens > 0) return;
  if (node->type == NODE_FILE && node->input == 0) {
    content_resize(&node->content, 0);
  } else if (node->type == NODE_LINK) {
    quota_free(node->target.text, node->target.length);
  }
  /* A folder is empty by then, and an empty one has no tables. */
  quota_free(node, sizeof *node);
  quota_remove_file();
}

void node_changed(struct node *node) { node->changed_ns = host_now(); }

void node_modified(struct node *node) { node->modified_ns = node->changed_ns = host_now(); }

int node_size(struct node *node, uint64_t *size) {
  int status = OK;
  if (node->input != 0 && !node->sized) {
    status = host_size(node->input - 1, &node->content.size);
    node->sized = status == OK;
  }
  *size = status == OK ? node->content.size : 0;
  return status;
}

void node_settle(struct node *node) {
  if (!node->touched) return;
  node->touched = 0;
  node_modified(node);
}
