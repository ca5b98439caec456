/* What the shim's files share. The host never trusts any of it: every pointer, length and
 * status that crosses the boundary is checked again outside. */
#ifndef RLM_H
#define RLM_H

#include <stdint.h>

#define RLM_IMPORT(name) __attribute__((import_module("rlm"), import_name(#name)))
#define RLM_EXPORT(name) __attribute__((export_name(#name), used, visibility("default")))

/* The whole import section. threat_model/host_imports.toml gives the reason for each. */
RLM_IMPORT(call) extern int32_t rlm_call(const void *frame, int32_t length, void *reply, int32_t capacity);
RLM_IMPORT(take) extern int32_t rlm_take(void *buffer, int32_t capacity);
RLM_IMPORT(emit) extern int32_t rlm_emit(int32_t stream, const void *data, int32_t length);
RLM_IMPORT(clock) extern int64_t rlm_clock(int32_t clock_id);
RLM_IMPORT(entropy) extern int32_t rlm_entropy(void *buffer, int32_t length);
RLM_IMPORT(sleep) extern int32_t rlm_sleep(int64_t nanoseconds);

/* One call of rlm_entropy gives at most this much: host work per call stays bounded. */
#define RLM_ENTROPY_MAX 256
/* Where a short cell's source, a variable's name and the seed are put by the host. */
#define RLM_INBOX_BYTES 65536
#define RLM_SEED_BYTES 32

/* What a session writes in any cell, side by side: a session copies every page that it writes. */
extern struct rlm_shared {
  /* No import may be called while the image is made (0); every later entry sets this to 1. */
  int32_t live;
  /* -1, or the status of a process exit asked for by guest code. */
  int32_t exit_status;
  /* Why the host interrupts: a code that rlm_repl turns into an exception. */
  volatile int32_t interrupt_reason;
  unsigned char seed[RLM_SEED_BYTES];
  unsigned char inbox[RLM_INBOX_BYTES];
} rlm_shared;

/* Uses up what is free inside the image; 0, or -1 if it could not. */
int rlm_fill_gaps(void);

#endif
