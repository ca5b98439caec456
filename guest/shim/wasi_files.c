/* WASI's functions over files: what wasi-libc asks for, of the tree in this memory. */
#include <errno.h>
#include <string.h>

#include "descriptor.h"
#include "files.h"
#include "host.h"
#include "host_inputs.h"
#include "status.h"
#include "tree.h"

typedef int32_t i32;
typedef int64_t i64;
#define W(name) __imported_wasi_snapshot_preview1_##name

/* Pointers are 32-bit numbers in the guest; tests compile this file for their own machine. */
struct vector {
  void *data;
  uint32_t length;
};
struct fdstat {
  uint8_t type;
  uint16_t flags;
  uint64_t rights, inherited_rights;
};
struct filestat {
  uint64_t device, id;
  uint8_t type;
  uint64_t names, size;
  int64_t accessed_ns, modified_ns, changed_ns;
};
struct entry {
  uint64_t next, id;
  uint32_t length;
  uint8_t type;
};
struct prestat {
  uint8_t type;
  uint32_t name_length;
};

enum { TYPE_STREAM = 2 };
enum { FLAG_APPEND = 1 };
enum { RIGHT_READ = 1 << 1, RIGHT_SEEK_TELL = (1 << 2) | (1 << 5), RIGHT_WRITE = 1 << 6 };
enum { TIME_ACCESSED = 1, TIME_ACCESSED_NOW = 2, TIME_MODIFIED = 4, TIME_MODIFIED_NOW = 8 };
enum { FROM_START = 0, FROM_HERE = 1, FROM_END = 2 };

static int is_stream(i32 fd) { return fd >= STREAM_IN && fd <= STREAM_ERR; }

/* -- what is open ------------------------------------------------------------------------------ */

enum use { ANY, READING, WRITING };

/* The open file that `fd` is: OK, SPIPE for a stream, BADF, or ISDIR for a folder. */
static int file_of(i32 fd, enum use use, struct descriptor **file) {
  *file = descriptor_get(fd);
  if (*file == NULL) return is_stream(fd) ? SPIPE : BADF;
  if ((use == READING && !(*file)->reads) || (use == WRITING && !(*file)->writes)) return BADF;
  return (*file)->node->type == NODE_FILE ? OK : ISDIR;
}

i32 W(fd_advise)(i32 fd, i64 offset, i64 length, i32 advice) {
  struct descriptor *file;
  return file_of(fd, ANY, &file);
}

i32 W(fd_allocate)(i32 fd, i64 offset, i64 length) {
  struct descriptor *file;
  int status = file_of(fd, WRITING, &file);
  if (status != OK) return status;
  if (offset < 0 || length <= 0) return INVAL;
  if (offset > INT64_MAX - length) return FBIG;
  if ((uint64_t)(offset + length) <= file->node->content.size) return OK;
  status = content_resize(&file->node->content, (uint64_t)(offset + length));
  if (status == OK) node_modified(file->node);
  return status;
}

i32 W(fd_close)(i32 fd) {
  if (is_stream(fd)) return OK;
  /* wasi-libc finds every path from the root's descriptor. */
  if (fd == DESCRIPTOR_ROOT || descriptor_get(fd) == NULL) return BADF;
  descriptor_close(fd);
  return OK;
}

i32 W(fd_sync)(i32 fd) { return is_stream(fd) ? INVAL : descriptor_get(fd) != NULL ? OK : BADF; }
i32 W(fd_datasync)(i32 fd) { return W(fd_sync)(fd); }

i32 W(fd_fdstat_get)(i32 fd, struct fdstat *out) {
  const struct descriptor *descriptor = descriptor_get(fd);
  if (is_stream(fd)) {
    *out = (struct fdstat){.type = TYPE_STREAM,
                           .rights = (fd == STREAM_IN ? RIGHT_READ : RIGHT_WRITE) | RIGHT_SEEK_TELL};
    return OK;
  }
  if (descriptor == NULL) return BADF;
  uint64_t rights = ~(uint64_t)(RIGHT_READ | RIGHT_WRITE);
  if (descriptor->reads) rights |= RIGHT_READ;
  if (descriptor->writes) rights |= RIGHT_WRITE;
  *out = (struct fdstat){.type = descriptor->node->type,
                         .flags = descriptor->appends ? FLAG_APPEND : 0,
                         .rights = rights,
                         .inherited_rights = ~(uint64_t)0};
  return OK;
}

i32 W(fd_fdstat_set_flags)(i32 fd, i32 flags) {
  struct descriptor *descriptor = descriptor_get(fd);
  if (is_stream(fd)) return OK;
  if (descriptor == NULL) return BADF;
  descriptor->appends = (flags & FLAG_APPEND) != 0;
  return OK;
}

i32 W(fd_fdstat_set_rights)(i32 fd, i64 base, i64 inheriting) { return BADF; }

static int describe(struct node *node, struct filestat *out) {
  node_settle(node);
  uint64_t size = node->type == NODE_LINK ? node->target.length : 0;
  int status = node->type == NODE_FILE ? node_size(node, &size) : OK;
  if (status != OK) return status;
  *out = (struct filestat){
      .device = node->input != 0 ? FILES_DEVICE_OF_INPUTS : 1,
      .id = node->id,
      .type = node->type,
      .names = node->names,
      .size = size,
      .accessed_ns = node->accessed_ns,
      .modified_ns = node->modified_ns,
      .changed_ns = node->changed_ns,
  };
  return OK;
}

i32 W(fd_filestat_get)(i32 fd, struct filestat *out) {
  const struct descriptor *descriptor = descriptor_get(fd);
  if (is_stream(fd)) {
    *out = (struct filestat){.type = TYPE_STREAM};
    return OK;
  }
  if (descriptor == NULL) return BADF;
  return describe(descriptor->node, out);
}

i32 W(fd_filestat_set_size)(i32 fd, i64 size) {
  struct descriptor *file;
  int status = file_of(fd, ANY, &file);
  if (status != OK && status != BADF) return INVAL;
  if (status != OK) return status;
  if (!file->writes || size < 0) return INVAL;
  status = content_resize(&file->node->content, (uint64_t)size);
  if (status == OK) node_modified(file->node);
  return status;
}

static i32 set_times(struct node *node, i64 accessed, i64 modified, i32 which) {
  if ((which & TIME_ACCESSED && which & TIME_ACCESSED_NOW) ||
      (which & TIME_MODIFIED && which & TIME_MODIFIED_NOW)) {
    return INVAL;
  }
  if (node->fixed) return ROFS;
  node_settle(node);
  int64_t now = host_now();
  if (which & TIME_ACCESSED) node->accessed_ns = accessed;
  if (which & TIME_ACCESSED_NOW) node->accessed_ns = now;
  if (which & TIME_MODIFIED) node->modified_ns = modified;
  if (which & TIME_MODIFIED_NOW) node->modified_ns = now;
  node->changed_ns = now;
  return OK;
}

i32 W(fd_filestat_set_times)(i32 fd, i64 accessed, i64 modified, i32 which) {
  const struct descriptor *descriptor = descriptor_get(fd);
  if (descriptor == NULL) return BADF;
  return set_times(descriptor->node, accessed, modified, which);
}

i32 W(fd_prestat_get)(i32 fd, struct prestat *out) {
  if (fd != DESCRIPTOR_ROOT || descriptor_get(fd) == NULL) return BADF;
  *out = (struct prestat){.name_length = 1};
  return OK;
}

i32 W(fd_prestat_dir_name)(i32 fd, char *path, i32 length) {
  if (fd != DESCRIPTOR_ROOT || descriptor_get(fd) == NULL) return BADF;
  if (length < 1) return NAMETOOLONG;
  *path = '/';
  return OK;
}

/* -- bytes ------------------------------------------------------------------------------------- */

/* Copies what there is of `bytes` at `offset`; an input's come from the host, at most so many a call. */
static int read_part(struct node *node, uint64_t offset, void *buffer, size_t bytes, size_t *done) {
  uint64_t size;
  *done = 0;
  if (node->input == 0) {
    *done = content_read(&node->content, offset, buffer, bytes);
    return OK;
  }
  int status = node_size(node, &size);
  while (status == OK && *done < bytes && offset + *done < size) {
    uint64_t left = size - offset - *done;
    size_t part = bytes - *done < HOST_READ_MAX ? bytes - *done : HOST_READ_MAX;
    uint32_t count = 0;
    if (part > left) part = (size_t)left;
    status = host_read(node->input - 1, offset + *done, (char *)buffer + *done, (uint32_t)part, &count);
    if (status != OK || count == 0) break;
    *done += count;
  }
  return *done > 0 ? OK : status;
}

static int read_at(const struct descriptor *file, uint64_t offset, const struct vector *vectors, i32 count,
                   size_t *total) {
  *total = 0;
  for (i32 k = 0; k < count; k++) {
    size_t done;
    int status = read_part(file->node, offset + *total, vectors[k].data, vectors[k].length, &done);
    if (status != OK) return *total > 0 ? OK : status;
    *total += done;
    if (done < vectors[k].length) break;
  }
  return OK;
}

static int write_at(struct descriptor *file, uint64_t offset, const struct vector *vectors, i32 count, size_t *total) {
  *total = 0;
  for (i32 k = 0; k < count; k++) {
    size_t done;
    int status = content_write(&file->node->content, offset + *total, vectors[k].data, vectors[k].length, &done);
    *total += done;
    if (status != OK) return *total > 0 ? OK : status;
    if (done < vectors[k].length) break;
  }
  if (*total > 0) file->node->touched = 1;
  return OK;
}

i32 W(fd_pread)(i32 fd, const struct vector *vectors, i32 count, i64 offset, uint32_t *out) {
  struct descriptor *file;
  int status = file_of(fd, READING, &file);
  if (status != OK) return status;
  if (offset < 0) return INVAL;
  size_t done;
  status = read_at(file, (uint64_t)offset, vectors, count, &done);
  *out = (uint32_t)done;
  return status;
}

i32 W(fd_pwrite)(i32 fd, const struct vector *vectors, i32 count, i64 offset, uint32_t *out) {
  struct descriptor *file;
  size_t done;
  int status = file_of(fd, WRITING, &file);
  if (status != OK) return status;
  if (offset < 0) return INVAL;
  status = write_at(file, (uint64_t)offset, vectors, count, &done);
  *out = (uint32_t)done;
  return status;
}

i32 W(fd_read)(i32 fd, const struct vector *vectors, i32 count, uint32_t *out) {
  if (fd == STREAM_IN) {
    *out = 0; /* end of file: a guest has no standard input */
    return OK;
  }
  struct descriptor *file;
  int status = file_of(fd, READING, &file);
  if (status != OK) return status == SPIPE ? BADF : status;
  size_t done;
  status = read_at(file, file->offset, vectors, count, &done);
  file->offset += done;
  *out = (uint32_t)done;
  return status;
}

static i32 write_stream(i32 fd, const struct vector *vectors, i32 count, uint32_t *out) {
  uint32_t total = 0;
  if (fd == STREAM_IN) return BADF;
  for (i32 k = 0; k < count; k++) {
    int status = host_write(fd, vectors[k].data, vectors[k].length);
    if (status != OK) return status;
    total += vectors[k].length;
  }
  *out = total;
  return OK;
}

i32 W(fd_write)(i32 fd, const struct vector *vectors, i32 count, uint32_t *out) {
  if (is_stream(fd)) return write_stream(fd, vectors, count, out);
  struct descriptor *file;
  size_t done;
  int status = file_of(fd, WRITING, &file);
  if (status != OK) return status;
  uint64_t offset = file->appends ? file->node->content.size : file->offset;
  status = write_at(file, offset, vectors, count, &done);
  if (done > 0) file->offset = offset + done;
  *out = (uint32_t)done;
  return status;
}

i32 W(fd_seek)(i32 fd, i64 offset, i32 whence, i64 *out) {
  struct descriptor *file;
  int status = file_of(fd, ANY, &file);
  if (status != OK) return status == ISDIR ? INVAL : status;
  i64 from = 0;
  if (whence == FROM_HERE) {
    from = (i64)file->offset;
  } else if (whence == FROM_END) {
    uint64_t size;
    status = node_size(file->node, &size);
    if (status != OK) return status;
    from = (i64)size;
  } else if (whence != FROM_START) {
    return INVAL;
  }
  if (offset > INT64_MAX - from) return OVERFLOW;
  if (from + offset < 0) return INVAL;
  file->offset = (uint64_t)(from + offset);
  *out = from + offset;
  return OK;
}

i32 W(fd_tell)(i32 fd, i64 *out) { return W(fd_seek)(fd, 0, FROM_HERE, out); }

i32 W(fd_renumber)(i32 from, i32 to) {
  if (descriptor_get(from) == NULL || descriptor_get(to) == NULL) return BADF;
  if (from == DESCRIPTOR_ROOT || to == DESCRIPTOR_ROOT) return BADF;
  descriptor_move(from, to);
  return OK;
}

/* -- folders ----------------------------------------------------------------------------------- */

/* Appends to a listing what fits of `bytes`; 0 where it is full. */
static int append(char *buffer, uint32_t room, uint32_t *used, const void *data, size_t bytes) {
  size_t part = bytes < room - *used ? bytes : room - *used;
  memcpy(buffer + *used, data, part);
  *used += (uint32_t)part;
  return *used < room;
}

/* A listing goes on from a cookie: how many of `.` and `..` were told, plus the order of the last name. An
 * entry that is cut by the buffer's end says that there are more. */
i32 W(fd_readdir)(i32 fd, char *buffer, uint32_t room, i64 cookie, uint32_t *out) {
  const struct descriptor *descriptor = descriptor_get(fd);
  *out = 0;
  if (descriptor == NULL) return BADF;
  if (descriptor->node->type != NODE_FOLDER) return NOTDIR;
  if (cookie < 0) return INVAL;
  const struct directory *directory = &descriptor->node->directory;
  for (uint64_t next = (uint64_t)cookie; *out < room;) {
    const char *text = "..";
    struct entry entry;
    memset(&entry, 0, sizeof entry); /* what lies between its parts is told, too */
    if (next < 2) {
      next++;
      entry.id = next == 1 ? descriptor->node->id : directory->parent->id;
      entry.length = (uint32_t)next;
      entry.type = NODE_FOLDER;
    } else {
      const struct name *name = directory_after(directory, next - 2);
      if (name == NULL) break;
      next = name->order + 2;
      entry.id = name->node->id;
      entry.length = name->length;
      entry.type = name->node->type;
      text = name->text;
    }
    entry.next = next;
    if (!append(buffer, room, out, &entry, sizeof entry)) break;
    append(buffer, room, out, text, entry.length);
  }
  return OK;
}

/* -- paths ------------------------------------------------------------------------------------- */

static int from(i32 fd, const char *path, uint32_t length, struct where *where) {
  const struct descriptor *descriptor = descriptor_get(fd);
  if (descriptor == NULL) return BADF;
  if (descriptor->node->type != NODE_FOLDER) return NOTDIR;
  *where = (struct where){descriptor->node, path, length};
  return OK;
}

static enum follow follows(i32 flags) { return flags & 1 ? FOLLOW : STAY; }

i32 W(path_open)(i32 fd, i32 lookup, const char *path, uint32_t length, i32 flags, i64 rights, i64 inheriting,
                 i32 fdflags, i32 *out) {
  struct where where;
  struct descriptor descriptor = {.reads = (rights & RIGHT_READ) != 0,
                                  .writes = (rights & RIGHT_WRITE) != 0,
                                  .appends = (fdflags & FLAG_APPEND) != 0};
  int status = from(fd, path, length, &where);
  /* First, so that nothing is created that cannot be opened. */
  if (status == OK) status = descriptor_find(out);
  if (status == OK) status = tree_open(where, flags, descriptor.writes, follows(lookup), &descriptor.node);
  if (status == OK) descriptor_open(*out, &descriptor);
  return status;
}

i32 W(path_create_directory)(i32 fd, const char *path, uint32_t length) {
  struct where where;
  int status = from(fd, path, length, &where);
  return status == OK ? tree_make_folder(where) : status;
}

static int get(i32 fd, i32 lookup, const char *path, uint32_t length, struct node **node) {
  struct where where;
  int status = from(fd, path, length, &where);
  return status == OK ? path_get(where.start, path, length, follows(lookup), node) : status;
}

i32 W(path_filestat_get)(i32 fd, i32 lookup, const char *path, uint32_t length, struct filestat *out) {
  struct node *node;
  int status = get(fd, lookup, path, length, &node);
  return status == OK ? describe(node, out) : status;
}

i32 W(path_filestat_set_times)(i32 fd, i32 lookup, const char *path, uint32_t length, i64 accessed, i64 modified,
                               i32 which) {
  struct node *node;
  int status = get(fd, lookup, path, length, &node);
  return status == OK ? set_times(node, accessed, modified, which) : status;
}

i32 W(path_link)(i32 fd, i32 lookup, const char *path, uint32_t length, i32 to_fd, const char *to_path,
                 uint32_t to_length) {
  struct where where, to;
  int status = from(fd, path, length, &where);
  if (status == OK) status = from(to_fd, to_path, to_length, &to);
  return status == OK ? tree_add_name(where, to, follows(lookup)) : status;
}

i32 W(path_readlink)(i32 fd, const char *path, uint32_t length, char *buffer, uint32_t room, uint32_t *out) {
  struct node *node;
  int status = get(fd, 0, path, length, &node);
  if (status != OK) return status;
  if (node->type != NODE_LINK) return INVAL;
  *out = node->target.length < room ? node->target.length : room;
  memcpy(buffer, node->target.text, *out);
  return OK;
}

i32 W(path_remove_directory)(i32 fd, const char *path, uint32_t length) {
  struct where where;
  int status = from(fd, path, length, &where);
  return status == OK ? tree_remove_folder(where) : status;
}

i32 W(path_rename)(i32 fd, const char *path, uint32_t length, i32 to_fd, const char *to_path, uint32_t to_length) {
  struct where where, to;
  int status = from(fd, path, length, &where);
  if (status == OK) status = from(to_fd, to_path, to_length, &to);
  return status == OK ? tree_rename(where, to) : status;
}

i32 W(path_symlink)(const char *target, uint32_t target_length, i32 fd, const char *path, uint32_t length) {
  struct where where;
  int status = from(fd, path, length, &where);
  return status == OK ? tree_make_link(where, target, target_length) : status;
}

i32 W(path_unlink_file)(i32 fd, const char *path, uint32_t length) {
  struct where where;
  int status = from(fd, path, length, &where);
  return status == OK ? tree_remove_name(where) : status;
}

int files_add_input(const char *path, uint32_t number) {
  /* The folders between /inputs, which a cell may have removed for good, and the file. */
  const char *slash = strchr(path, '/');
  slash = slash != NULL ? strchr(slash + 1, '/') : NULL;
  while (slash != NULL && (slash = strchr(slash + 1, '/')) != NULL) {
    int status = tree_make_folder((struct where){path_root, path, (size_t)(slash - path)});
    if (status != OK && status != EXIST) return status;
  }
  return tree_add_input((struct where){path_root, path, strlen(path)}, number);
}

int files_duplicate(int fd) {
  int32_t number;
  int status = descriptor_get(fd) != NULL ? descriptor_find(&number) : BADF;
  if (status != OK) {
    errno = status; /* in the guest they are the same numbers */
    return -1;
  }
  descriptor_open(number, descriptor_get(fd));
  return number;
}

int files_start(void) {
  int status = tree_make();
  if (status == OK) {
    descriptor_open(DESCRIPTOR_ROOT, &(struct descriptor){.node = path_root, .reads = 1, .writes = 1});
  }
  return status;
}

int files_make_folder(const char *path) {
  return tree_make_folder((struct where){path_root, path, strlen(path)});
}

int files_fix(const char *path) {
  struct node *node;
  int status = path_get(path_root, path, strlen(path), STAY, &node);
  if (status == OK) tree_fix(node);
  return status;
}
