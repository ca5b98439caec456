/* What the code for files asks of the host's inputs. Tests put a host of their own in its place. */
#ifndef RLM_HOST_INPUTS_H
#define RLM_HOST_INPUTS_H

#include <stdint.h>

/* One call reads no more of an input. */
#define HOST_READ_MAX (1u << 20)

/* Reads a part of an input that lies with the host: OK and `*done`, less than `length` at the end only. */
int host_read(uint32_t input, uint64_t offset, void *buffer, uint32_t length, uint32_t *done);
/* How many bytes an input has. */
int host_size(uint32_t input, uint64_t *size);

#endif
