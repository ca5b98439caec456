#ifndef RLM_ROOM_H
#define RLM_ROOM_H

/* numpy's C++ is compiled without exceptions, which the engine refuses. All that it throws at run time is that
 * there is no memory; so it is asked for before, where it can still be answered with Python's MemoryError. */
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether allocations of this many bytes in all, made next and by nobody else, will succeed. */
int rlm_has_room(size_t bytes);

#ifdef __cplusplus
}
#endif

/* What an allocation may take beside what it was asked for. */
#define RLM_ROOM_EXTRA 16384

#endif
