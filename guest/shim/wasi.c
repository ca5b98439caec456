/* Every wasi_snapshot_preview1 function that wasi-libc can ask for, defined inside the module,
 * so that the linked guest imports none of them. There is no file system, no socket, no
 * argument and no environment; only the standard streams, the clock, sleep and entropy lead
 * anywhere, through the six functions of module "rlm". */
#include <string.h>

#include "boundary.h"

typedef int32_t i32;
typedef int64_t i64;
#define W(name) __imported_wasi_snapshot_preview1_##name

enum { OK = 0, BADF = 8, IO = 29, INVAL = 28, NOENT = 44, NOSYS = 52, SPIPE = 70, NOTCAPABLE = 76 };
enum { FILETYPE_CHARACTER_DEVICE = 2 };
enum { RIGHT_FD_READ = 1 << 1, RIGHT_FD_WRITE = 1 << 6, RIGHT_SEEK_TELL = (1 << 2) | (1 << 5) };
enum { EVENTTYPE_CLOCK = 0, SUBCLOCK_ABSTIME = 1 };

/* While the image is made, time stands still: two builds must give the same bytes. */
#define IMAGE_TIME_NS 1700000000000000000LL

static int is_standard_stream(i32 fd) { return fd >= 0 && fd <= 2; }

static void put32(i32 address, i32 value) { memcpy((void *)(intptr_t)address, &value, 4); }
static void put64(i32 address, i64 value) { memcpy((void *)(intptr_t)address, &value, 8); }
static i32 get32(i32 address) { i32 v; memcpy(&v, (void *)(intptr_t)address, 4); return v; }
static i64 get64(i32 address) { i64 v; memcpy(&v, (void *)(intptr_t)address, 8); return v; }

i32 W(args_get)(i32 argv, i32 buffer) { return OK; }
i32 W(args_sizes_get)(i32 count, i32 bytes) { put32(count, 0); put32(bytes, 0); return OK; }
i32 W(environ_get)(i32 environ, i32 buffer) { return OK; }
i32 W(environ_sizes_get)(i32 count, i32 bytes) { put32(count, 0); put32(bytes, 0); return OK; }

i32 W(clock_res_get)(i32 clock_id, i32 out) { put64(out, 1000); return OK; }
i32 W(clock_time_get)(i32 clock_id, i64 precision, i32 out) {
  put64(out, rlm_has_host() ? rlm_clock(clock_id) : IMAGE_TIME_NS);
  return OK;
}

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
  for (i32 k = 0; k < count; k++) {
    i32 data = get32(iovs + 8 * k), length = get32(iovs + 8 * k + 4);
    if (rlm_has_host() && length > 0 && rlm_emit(fd, (void *)(intptr_t)data, length) != 0) return IO;
    written += length;
  }
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

i32 W(poll_oneoff)(i32 subscriptions, i32 events, i32 count, i32 out) {
  /* One clock subscription is time.sleep(); there is nothing else to wait for. */
  if (count != 1 || *(uint8_t *)(intptr_t)(subscriptions + 8) != EVENTTYPE_CLOCK) return NOSYS;
  i32 clock_id = get32(subscriptions + 16);
  i64 nanoseconds = get64(subscriptions + 24);
  i32 flags = get32(subscriptions + 40) & 0xffff;
  if (rlm_has_host()) {
    if (flags & SUBCLOCK_ABSTIME) nanoseconds -= rlm_clock(clock_id);
    if (nanoseconds > 0 && rlm_sleep(nanoseconds) != 0) return IO;
  }
  memset((void *)(intptr_t)events, 0, 32);
  put64(events, get64(subscriptions));
  put32(out, 1);
  return OK;
}

_Noreturn void W(proc_exit)(i32 status) {
  /* The host reads the status after the trap and says "the guest exited", not "it crashed". */
  rlm_note_exit(status & 0xff);
  __builtin_trap();
}

i32 W(random_get)(i32 buffer, i32 length) {
  uint8_t *bytes = (uint8_t *)(intptr_t)buffer;
  if (length < 0) return INVAL;
  if (!rlm_has_host()) {
    /* Fixed while the image is made; every session reseeds before its first cell. */
    for (i32 k = 0; k < length; k++) bytes[k] = (uint8_t)(k * 73 + 41);
    return OK;
  }
  for (i32 done = 0; done < length;) {
    i32 part = length - done < RLM_ENTROPY_MAX ? length - done : RLM_ENTROPY_MAX;
    if (rlm_entropy(bytes + done, part) != 0) return IO;
    done += part;
  }
  return OK;
}

i32 W(sched_yield)(void) { return OK; }
i32 W(sock_accept)(i32 fd, i32 flags, i32 out) { return NOSYS; }
i32 W(sock_recv)(i32 fd, i32 iovs, i32 count, i32 flags, i32 out, i32 out_flags) { return NOSYS; }
i32 W(sock_send)(i32 fd, i32 iovs, i32 count, i32 flags, i32 out) { return NOSYS; }
i32 W(sock_shutdown)(i32 fd, i32 how) { return NOSYS; }
