/* A host for the guest's files on this machine: reads one operation a line, answers it in one.
 *
 * Arguments are decimal numbers and bytes in hexadecimal, `-` for none. An answer is a status and what the
 * operation gave. What the guest's wasi-libc would call is called with the same arguments. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "host.h"
#include "host_inputs.h"
#include "quota.h"

typedef int32_t i32;
typedef int64_t i64;
#define W(name) __imported_wasi_snapshot_preview1_##name

struct vector { void *data; uint32_t length; };
struct filestat {
  uint64_t device, id;
  uint8_t type;
  uint64_t names, size;
  int64_t accessed_ns, modified_ns, changed_ns;
};
struct entry { uint64_t next, id; uint32_t length; uint8_t type; };

i32 W(fd_allocate)(i32, i64, i64);
i32 W(fd_close)(i32);
i32 W(fd_filestat_get)(i32, struct filestat *);
i32 W(fd_filestat_set_size)(i32, i64);
i32 W(fd_filestat_set_times)(i32, i64, i64, i32);
i32 W(fd_pread)(i32, const struct vector *, i32, i64, uint32_t *);
i32 W(fd_pwrite)(i32, const struct vector *, i32, i64, uint32_t *);
i32 W(fd_read)(i32, const struct vector *, i32, uint32_t *);
i32 W(fd_write)(i32, const struct vector *, i32, uint32_t *);
i32 W(fd_seek)(i32, i64, i32, i64 *);
i32 W(fd_renumber)(i32, i32);
i32 W(fd_readdir)(i32, char *, uint32_t, i64, uint32_t *);
i32 W(path_open)(i32, i32, const char *, uint32_t, i32, i64, i64, i32, i32 *);
i32 W(path_create_directory)(i32, const char *, uint32_t);
i32 W(path_filestat_get)(i32, i32, const char *, uint32_t, struct filestat *);
i32 W(path_link)(i32, i32, const char *, uint32_t, i32, const char *, uint32_t);
i32 W(path_readlink)(i32, const char *, uint32_t, char *, uint32_t, uint32_t *);
i32 W(path_remove_directory)(i32, const char *, uint32_t);
i32 W(path_rename)(i32, const char *, uint32_t, i32, const char *, uint32_t);
i32 W(path_symlink)(const char *, uint32_t, i32, const char *, uint32_t);
i32 W(path_unlink_file)(i32, const char *, uint32_t);

static struct quota_limits limits = {64 << 20, 10000};
const struct quota_limits *quota_limits(void) { return &limits; }
static int64_t now = 1000;
int64_t host_now(void) { return ++now; }
int host_write(int32_t stream, const void *data, uint32_t length) {
  return fwrite(data, 1, length, stderr) == length && stream > 0 ? 0 : 29;
}

/* Inputs: 0 has 5 GiB and 7 bytes, each told by its place, and gives them in parts; 1 has a size and cannot be
 * read; of 2 not even the size is known; 3 ends before its size. */
#define INPUT_BYTES ((5ull << 30) + 7)
static unsigned asked;
int host_size(uint32_t input, uint64_t *size) {
  asked++;
  *size = input == 0 ? INPUT_BYTES : 1000;
  return input == 2 ? 44 : 0;
}
int host_read(uint32_t input, uint64_t offset, void *buffer, uint32_t length, uint32_t *done) {
  asked++;
  *done = 0;
  if (length > HOST_READ_MAX || offset >= INPUT_BYTES || length > INPUT_BYTES - offset) exit(3);
  if (input == 1) return 72;
  if (input == 3 && offset >= 10) return 0;
  *done = input == 3 && length > 10 ? 10 : length;
  for (uint32_t k = 0; k < *done; k++) ((unsigned char *)buffer)[k] = (unsigned char)((offset + k) % 251);
  return 0;
}

struct bytes { char *data; uint32_t length; };

static char *next_word(void) {
  char *word = strtok(NULL, " \n");
  if (word == NULL) exit(2);
  return word;
}

static i64 number(void) { return strtoll(next_word(), NULL, 10); }

/* An allocation of exactly its size, so that a read beyond it is seen. */
static struct bytes bytes(void) {
  const char *word = next_word();
  struct bytes found = {NULL, *word == '-' ? 0 : (uint32_t)(strlen(word) / 2)};
  found.data = malloc(found.length + (found.length == 0));
  for (uint32_t k = 0; k < found.length; k++) {
    unsigned byte;
    if (sscanf(word + 2 * k, "%2x", &byte) != 1) exit(2);
    found.data[k] = (char)byte;
  }
  return found;
}

static void show(const char *data, uint32_t length) {
  putchar(' ');
  if (length == 0) putchar('-');
  for (uint32_t k = 0; k < length; k++) printf("%02x", (unsigned char)data[k]);
}

static void show_stat(i32 status, const struct filestat *found) {
  printf("%d", status);
  if (status == 0) {
    printf(" %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64, found->type, found->size, found->names, found->id,
           found->modified_ns);
  }
}

/* Reads or writes in two parts, as readv and writev do. */
static void split(const struct bytes *whole, struct vector parts[2]) {
  uint32_t half = whole->length / 2;
  parts[0] = (struct vector){whole->data, half};
  parts[1] = (struct vector){whole->data + half, whole->length - half};
}

static int is(const char *name, const char *wanted) { return strcmp(name, wanted) == 0; }

static void list(void) {
  i32 fd = (i32)number();
  uint32_t room = (uint32_t)number(), used;
  i64 cookie = number();
  char *buffer = malloc(room);
  i32 status = W(fd_readdir)(fd, buffer, room, cookie, &used);
  printf("%d", status);
  if (status == 0) {
    for (uint32_t at = 0; used - at >= sizeof(struct entry);) {
      struct entry entry;
      memcpy(&entry, buffer + at, sizeof entry);
      at += sizeof entry;
      if (used - at < entry.length) break;
      show(buffer + at, entry.length);
      at += entry.length;
      printf(" %" PRIu64, entry.next);
    }
    printf(" %s", used == room ? "more" : "end");
  }
  free(buffer);
}

static void answer(const char *name) {
  struct filestat found;
  struct bytes first = {NULL, 0}, second = {NULL, 0};
  if (is(name, "open")) {
    i32 lookup = (i32)number(), flags, appends, fd = -1;
    first = bytes();
    flags = (i32)number();
    i64 rights = number();
    appends = (i32)number();
    i32 status = W(path_open)(3, lookup, first.data, first.length, flags, rights, -1, appends, &fd);
    printf("%d %d", status, fd);
  } else if (is(name, "close")) {
    printf("%d", W(fd_close)((i32)number()));
  } else if (is(name, "read") || is(name, "pread")) {
    i32 fd = (i32)number(), status;
    uint32_t done = 0;
    struct vector parts[2];
    second.length = (uint32_t)number();
    second.data = malloc(second.length + 1);
    split(&second, parts);
    if (is(name, "read")) {
      status = W(fd_read)(fd, parts, 2, &done);
    } else {
      status = W(fd_pread)(fd, parts, 2, number(), &done);
    }
    printf("%d", status);
    if (status == 0) show(second.data, done);
  } else if (is(name, "write") || is(name, "pwrite")) {
    i32 fd = (i32)number(), status;
    uint32_t done = 0;
    struct vector parts[2];
    first = bytes();
    split(&first, parts);
    if (is(name, "write")) {
      status = W(fd_write)(fd, parts, 2, &done);
    } else {
      status = W(fd_pwrite)(fd, parts, 2, number(), &done);
    }
    printf("%d %u", status, done);
  } else if (is(name, "seek")) {
    i32 fd = (i32)number();
    i64 offset = number(), at = -1;
    i32 status = W(fd_seek)(fd, offset, (i32)number(), &at);
    printf("%d %" PRId64, status, at);
  } else if (is(name, "resize")) {
    i32 fd = (i32)number();
    printf("%d", W(fd_filestat_set_size)(fd, number()));
  } else if (is(name, "allocate")) {
    i32 fd = (i32)number();
    i64 offset = number();
    printf("%d", W(fd_allocate)(fd, offset, number()));
  } else if (is(name, "times")) {
    i32 fd = (i32)number();
    i64 modified = number();
    printf("%d", W(fd_filestat_set_times)(fd, 0, modified, 4));
  } else if (is(name, "renumber")) {
    i32 fd = (i32)number();
    printf("%d", W(fd_renumber)(fd, (i32)number()));
  } else if (is(name, "fstat")) {
    i32 status = W(fd_filestat_get)((i32)number(), &found);
    show_stat(status, &found);
  } else if (is(name, "stat")) {
    i32 lookup = (i32)number();
    first = bytes();
    i32 status = W(path_filestat_get)(3, lookup, first.data, first.length, &found);
    show_stat(status, &found);
  } else if (is(name, "mkdir")) {
    first = bytes();
    printf("%d", W(path_create_directory)(3, first.data, first.length));
  } else if (is(name, "rmdir")) {
    first = bytes();
    printf("%d", W(path_remove_directory)(3, first.data, first.length));
  } else if (is(name, "unlink")) {
    first = bytes();
    printf("%d", W(path_unlink_file)(3, first.data, first.length));
  } else if (is(name, "rename")) {
    first = bytes();
    second = bytes();
    printf("%d", W(path_rename)(3, first.data, first.length, 3, second.data, second.length));
  } else if (is(name, "link")) {
    first = bytes();
    second = bytes();
    printf("%d", W(path_link)(3, 0, first.data, first.length, 3, second.data, second.length));
  } else if (is(name, "symlink")) {
    first = bytes();
    second = bytes();
    printf("%d", W(path_symlink)(first.data, first.length, 3, second.data, second.length));
  } else if (is(name, "readlink")) {
    char target[4096];
    uint32_t length = 0;
    first = bytes();
    i32 status = W(path_readlink)(3, first.data, first.length, target, sizeof target, &length);
    printf("%d", status);
    if (status == 0) show(target, length);
  } else if (is(name, "fix")) {
    char path[64] = {0};
    first = bytes();
    if (first.length >= sizeof path) exit(2);
    memcpy(path, first.data, first.length);
    printf("%d", files_fix(path));
  } else if (is(name, "list")) {
    list();
  } else if (is(name, "limits")) {
    limits.bytes = (uint32_t)number();
    limits.files = (uint32_t)number();
    printf("0");
  } else if (is(name, "input")) {
    char path[512];
    first = bytes();
    if (first.length >= sizeof path) exit(2);
    memcpy(path, first.data, first.length);
    path[first.length] = 0;
    printf("%d", files_add_input(path, (uint32_t)number()));
  } else if (is(name, "asked")) {
    printf("0 %u", asked);
  } else if (is(name, "used")) {
    printf("0 %u %u", quota_used.bytes, quota_used.files);
  } else {
    exit(2);
  }
  free(first.data);
  free(second.data);
}

int main(void) {
  char *line = NULL;
  size_t room = 0;
  if (files_start() != 0) return 1;
  while (getline(&line, &room, stdin) > 0) {
    answer(strtok(line, " \n"));
    putchar('\n');
    fflush(stdout);
  }
  free(line);
  return 0;
}
