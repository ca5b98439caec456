/* What wasi-libc answers wrongly, or not at all, for a tree of files that is all the session's own. The linker
 * has every call of these functions come here (link.wrap in manifest.toml), and `__real_` go there. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "path.h"
#include "status.h"

int __real_fstat(int fd, struct stat *out);
int __real___wasilibc_nocwd_fstatat(int fd, const char *path, struct stat *out, int flags);
int __real_chdir(const char *path);
int __real___wasilibc_find_relpath_alloc(const char *path, const char **prefix, char **relative, size_t *room,
                                         int can_realloc);

/* There is one user, who may do everything: what a file's mode says is what such a user's files have. */
static int with_mode(int status, struct stat *out) {
  if (status != 0) return status;
  if (S_ISDIR(out->st_mode)) out->st_mode |= 0755;
  if (S_ISREG(out->st_mode)) out->st_mode |= out->st_dev == FILES_DEVICE_OF_INPUTS ? 0444 : 0644;
  if (S_ISLNK(out->st_mode)) out->st_mode |= 0777;
  if (S_ISCHR(out->st_mode)) out->st_mode |= 0620;
  out->st_blocks = (out->st_size + 511) / 512;
  return status;
}

int __wrap_fstat(int fd, struct stat *out) { return with_mode(__real_fstat(fd, out), out); }

int __wrap___wasilibc_nocwd_fstatat(int fd, const char *path, struct stat *out, int flags) {
  return with_mode(__real___wasilibc_nocwd_fstatat(fd, path, out, flags), out);
}

/* wasi-libc takes the empty path for the current folder. */
int __wrap___wasilibc_find_relpath_alloc(const char *path, const char **prefix, char **relative, size_t *room,
                                         int can_realloc) {
  if (*path == 0) {
    errno = ENOENT;
    return -1;
  }
  return __real___wasilibc_find_relpath_alloc(path, prefix, relative, room, can_realloc);
}

/* wasi-libc would keep `..` and links in the name of the current folder. */
int __wrap_chdir(const char *path) {
  char plain[PATH_BYTES_MAX + 1];
  struct node *folder;
  if (*path == 0) {
    errno = ENOENT;
    return -1;
  }
  if (__real_chdir(path) != 0) return -1;
  if (getcwd(plain, sizeof plain) == NULL ||
      path_get(path_root, plain, strlen(plain), FOLLOW, &folder) != OK ||
      path_of_folder(folder, plain, sizeof plain) != OK) {
    return 0; /* it is the current folder all the same */
  }
  return __real_chdir(plain);
}
