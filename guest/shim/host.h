/* What the code for files asks of the host, over the boundary. Tests put a host of their own in its place. */
#ifndef RLM_HOST_H
#define RLM_HOST_H

#include <stdint.h>

#define STREAM_IN 0
#define STREAM_ERR 2

/* Writes to stream 1 or 2: OK, or IO where the host takes no more. */
int host_write(int32_t stream, const void *data, uint32_t length);
/* The time of day in nanoseconds. It costs a call of the host. */
int64_t host_now(void);

#endif
