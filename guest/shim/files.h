/* The files of a session: all of them lie in its memory, and go with it into every snapshot and fork. */
#ifndef RLM_FILES_H
#define RLM_FILES_H

/* Makes the folders that every session has, and opens the root for wasi-libc. Once, before any path is
 * used: OK, or a status. */
int files_start(void);
/* Opens what is open as `fd` once more, with an offset of its own: the new number, or -1 and errno. */
int files_duplicate(int fd);

#endif
