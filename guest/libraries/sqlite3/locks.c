/* What sqlite asks of fcntl(): locks on parts of files, which keep other processes away. Here is no
 * other process, so every lock is had at once; between the connections of this one sqlite itself
 * keeps the books. wasi-libc's fcntl knows no locks, and has no numbers for them: sqlite brings them. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#undef fcntl

enum { GETLK = 12, SETLK = 13, SETLKW = 14, UNLOCKED = 2 };
_Static_assert(F_SETFL < GETLK, "a number of a lock is another command's");

int fcntl(int, int, ...);

int rlm_sqlite_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  int result = 0;
  if (command == GETLK) {
    va_arg(arguments, struct flock *)->l_type = UNLOCKED;
  } else if (command != SETLK && command != SETLKW) {
    result = fcntl(fd, command, va_arg(arguments, int));
  }
  va_end(arguments);
  return result;
}
