/* What an operation on files comes to: WASI's error numbers, which wasi-libc hands on as errno. */
#ifndef RLM_STATUS_H
#define RLM_STATUS_H

enum {
  OK = 0,
  ACCES = 2,
  BADF = 8,
  BUSY = 10,
  EXIST = 20,
  FBIG = 22,
  INVAL = 28,
  IO = 29,
  ISDIR = 31,
  LOOP = 32,
  MFILE = 33,
  MLINK = 34,
  NAMETOOLONG = 37,
  NOENT = 44,
  NOMEM = 48,
  NOSPC = 51,
  NOSYS = 52,
  NOTDIR = 54,
  NOTEMPTY = 55,
  OVERFLOW = 61,
  PERM = 63,
  SPIPE = 70,
};

#endif
