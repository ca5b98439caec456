/* Every wasi_snapshot_preview1 function that wasi-libc can ask for is defined inside the module, so that the
 * linked guest imports none of them: here, and in wasi_files.c those over files. There is no socket, no
 * argument and no environment; only the standard streams, the clock, sleep and entropy lead anywhere,
 * through the six functions of module "rlm". */
#include <string.h>

#include "boundary.h"
#include "host.h"
#include "status.h"

typedef int32_t i32;
typedef int64_t i64;
#define W(name) __imported_wasi_snapshot_preview1_##name

enum { CLOCK_REALTIME = 0 };
enum { EVENTTYPE_CLOCK = 0, SUBCLOCK_ABSTIME = 1 };

/* While the image is made, time stands still: two builds must give the same bytes. */
#define IMAGE_TIME_NS 1700000000000000000LL

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

int64_t host_now(void) { return rlm_has_host() ? rlm_clock(CLOCK_REALTIME) : IMAGE_TIME_NS; }

int host_write(i32 stream, const void *data, uint32_t length) {
  return rlm_has_host() && length > 0 && rlm_emit(stream, data, (i32)length) != 0 ? IO : OK;
}

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
