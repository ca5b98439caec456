/* The files of a session: all of them lie in its memory, and go with it into every snapshot and fork. */
#ifndef RLM_FILES_H
#define RLM_FILES_H

#include <stdint.h>

/* Makes the folders that every session has, and opens the root for wasi-libc. Once, before any path is
 * used: OK, or a status. */
int files_start(void);
/* Makes a file of input `number`, in the place of what has its name, and the folders between /inputs and it:
 * OK, or a status. */
int files_add_input(const char *path, uint32_t number);
/* By which a file that is an input is told from all others. */
#define FILES_DEVICE_OF_INPUTS 2
/* Makes a folder, by its path: OK, or a status. */
int files_make_folder(const char *path);
/* From now on nothing changes what is at a path, nor what lies below it: OK, or a status. */
int files_fix(const char *path);
/* Opens what is open as `fd` once more, with an offset of its own: the new number, or -1 and errno. */
int files_duplicate(int fd);

#endif
