/* What the shim's files share. The host never trusts any of it: every pointer, length and
 * status that crosses the boundary is checked again outside. */
#ifndef RLM_H
#define RLM_H

#include <Python.h>

#include "boundary.h"
#include "quota.h"

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
  /* How far the REPL came with the cell: 0 not at it yet, 1 compiling it, 2 it ran. Where a cell does
   * not get that far, the host knows that an earlier one broke the REPL. */
  int32_t progress;
  /* The host writes it before a session's first cell. */
  struct quota_limits files;
  unsigned char seed[RLM_SEED_BYTES];
  unsigned char inbox[RLM_INBOX_BYTES];
} rlm_shared;

/* The str or bytes that the host has filled, the caller's from now on; NULL if there is none. */
PyObject *rlm_take_incoming(void);
/* Uses up what is free inside the image; 0, or -1 if it could not. */
int rlm_fill_gaps(void);

#endif
