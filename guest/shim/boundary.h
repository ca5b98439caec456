/* The whole boundary of the guest, and what wasi.c asks of the module that it is linked into: the guest
 * (rlm.c), or the one that CPython is trained in. A change here trains CPython again. */
#ifndef RLM_BOUNDARY_H
#define RLM_BOUNDARY_H

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

/* Whether there is a host. There is none while the image is made, nor in training: time stands still
 * then, and no import may be called. */
int rlm_has_host(void);
/* Guest code asked for the end of the process; what follows is a trap. */
void rlm_note_exit(int32_t status);

#endif
