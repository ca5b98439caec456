/* WASI's functions over files for the training, in which there are none: a change of the guest's files does
 * not train CPython again. */
#include <stdint.h>
#include <string.h>

typedef int32_t i32;
typedef int64_t i64;
#define W(name) __imported_wasi_snapshot_preview1_##name

enum { OK = 0, BADF = 8, NOENT = 44, SPIPE = 70, NOTCAPABLE = 76 };
enum { FILETYPE_CHARACTER_DEVICE = 2 };
enum { RIGHT_FD_READ = 1 << 1, RIGHT_FD_WRITE = 1 << 6, RIGHT_SEEK_TELL = (1 << 2) | (1 << 5) };

static int is_standard_stream(i32 fd) { return fd >= 0 && fd <= 2; }

static void put32(i32 address, i32 value) { memcpy((void *)(intptr_t)address, &value, 4); }
static void put64(i32 address, i64 value) { memcpy((void *)(intptr_t)address, &value, 8); }
static i32 get32(i32 address) { i32 v; memcpy(&v, (void *)(intptr_t)address, 4); return v; }

i32 W(fd_advise)(i32 fd, i64 offset, i64 length, i32 advice) { return BADF; }
i32 W(fd_allocate)(i32 fd, i64 offset, i64 length) { return BADF; }
i32 W(fd_close)(i32 fd) { return is_standard_stream(fd) ? OK : BADF; }
i32 W(fd_datasync)(i32 fd) { return BADF; }
i32 W(fd_fdstat_get)(i32 fd, i32 out) {
  if (!is_standard_stream(fd)) return BADF;
  memset((void *)(intptr_t)out, 0, 24);
  *(uint8_t *)(intptr_t)out = FILETYPE_CHARACTER_DEVICE;
  put64(out + 8, fd == 0 ? (RIGHT_FD_READ | RIGHT_SEEK_TELL) : (RIGHT_FD_WRITE | RIGHT_SEEK_TELL));
  return OK;
}
i32 W(fd_fdstat_set_flags)(i32 fd, i32 flags) { return is_standard_stream(fd) ? OK : BADF; }
i32 W(fd_fdstat_set_rights)(i32 fd, i64 base, i64 inheriting) { return BADF; }
i32 W(fd_filestat_get)(i32 fd, i32 out) {
  if (!is_standard_stream(fd)) return BADF;
  memset((void *)(intptr_t)out, 0, 64);
  *(uint8_t *)(intptr_t)(out + 16) = FILETYPE_CHARACTER_DEVICE;
  return OK;
}
i32 W(fd_filestat_set_size)(i32 fd, i64 size) { return BADF; }
i32 W(fd_filestat_set_times)(i32 fd, i64 atime, i64 mtime, i32 flags) { return BADF; }
i32 W(fd_pread)(i32 fd, i32 iovs, i32 count, i64 offset, i32 out) { return BADF; }
i32 W(fd_prestat_get)(i32 fd, i32 out) { return BADF; }
i32 W(fd_prestat_dir_name)(i32 fd, i32 path, i32 length) { return BADF; }
i32 W(fd_pwrite)(i32 fd, i32 iovs, i32 count, i64 offset, i32 out) { return BADF; }
i32 W(fd_read)(i32 fd, i32 iovs, i32 count, i32 out) {
  if (fd != 0) return BADF;
  put32(out, 0); /* end of file: a guest has no standard input */
  return OK;
}
i32 W(fd_readdir)(i32 fd, i32 buffer, i32 length, i64 cookie, i32 out) { return BADF; }
i32 W(fd_renumber)(i32 from, i32 to) { return BADF; }
i32 W(fd_seek)(i32 fd, i64 offset, i32 whence, i32 out) { return is_standard_stream(fd) ? SPIPE : BADF; }
i32 W(fd_sync)(i32 fd) { return BADF; }
i32 W(fd_tell)(i32 fd, i32 out) { return is_standard_stream(fd) ? SPIPE : BADF; }
i32 W(fd_write)(i32 fd, i32 iovs, i32 count, i32 out) {
  i32 written = 0;
  if (fd != 1 && fd != 2) return BADF;
  for (i32 k = 0; k < count; k++) written += get32(iovs + 8 * k + 4);
  put32(out, written);
  return OK;
}

i32 W(path_create_directory)(i32 fd, i32 path, i32 length) { return NOTCAPABLE; }
i32 W(path_filestat_get)(i32 fd, i32 flags, i32 path, i32 length, i32 out) { return NOENT; }
i32 W(path_filestat_set_times)(i32 fd, i32 flags, i32 path, i32 length, i64 atime, i64 mtime, i32 what) {
  return NOTCAPABLE;
}
i32 W(path_link)(i32 fd, i32 flags, i32 path, i32 length, i32 to_fd, i32 to_path, i32 to_length) {
  return NOTCAPABLE;
}
i32 W(path_open)(i32 fd, i32 dirflags, i32 path, i32 length, i32 oflags, i64 base, i64 inheriting,
                 i32 fdflags, i32 out) {
  return NOTCAPABLE;
}
i32 W(path_readlink)(i32 fd, i32 path, i32 length, i32 buffer, i32 capacity, i32 out) { return NOTCAPABLE; }
i32 W(path_remove_directory)(i32 fd, i32 path, i32 length) { return NOTCAPABLE; }
i32 W(path_rename)(i32 fd, i32 path, i32 length, i32 to_fd, i32 to_path, i32 to_length) { return NOTCAPABLE; }
i32 W(path_symlink)(i32 target, i32 target_length, i32 fd, i32 path, i32 length) { return NOTCAPABLE; }
i32 W(path_unlink_file)(i32 fd, i32 path, i32 length) { return NOTCAPABLE; }
