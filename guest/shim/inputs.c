/* What rlm.read is asked: the high byte of its first argument says what, the others which input. The host
 * gives a length, or an error number below zero. */
#include "inputs.h"

#include <errno.h>
#include <string.h>

#include "boundary.h"
#include "files.h"
#include "host_inputs.h"
#include "rlm.h"
#include "status.h"

/* The seventh import, beside those of boundary.h; CPython is trained without it. */
RLM_IMPORT(read) extern int32_t rlm_read(int32_t input, int64_t offset, void *pointer, int32_t length);

enum what { READ = 0, SIZE = 1 << 24, FIND = 2 << 24, COUNT = 3 << 24, CHARACTERS = 4 << 24 };

#define NUMBERS (1u << 24)
#define NEEDLE_BYTES_MAX 4096
#define PAGES_MAX 64

/* What a search is given, and what it gives in the same place. */
struct search {
  int64_t end_or_found, next;
  char needle[NEEDLE_BYTES_MAX];
};

static int32_t ask(enum what what, uint32_t input, uint64_t offset, void *buffer, uint32_t length) {
  /* There is no host while the image is made, and none to ask while an input is loaded. */
  if (!rlm_has_host() || input >= NUMBERS || offset > INT64_MAX) return -IO;
  return rlm_read((int32_t)(what | input), (int64_t)offset, buffer, (int32_t)length);
}

int host_read(uint32_t input, uint64_t offset, void *buffer, uint32_t length, uint32_t *done) {
  int32_t count = ask(READ, input, offset, buffer, length);
  *done = count > 0 ? (uint32_t)count : 0;
  return count < 0 ? -count : OK;
}

int host_size(uint32_t input, uint64_t *size) {
  int32_t count = ask(SIZE, input, 0, size, sizeof *size);
  return count < 0 ? -count : count == sizeof *size ? OK : IO;
}

/* -- for the guest's modules ----------------------------------------------------------------- */

static PyObject *failed(int32_t status) {
  errno = -status; /* in the guest they are the same numbers */
  return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *inputs_add(PyObject *self, PyObject *args) {
  const char *path;
  unsigned int number;
  if (!PyArg_ParseTuple(args, "yI", &path, &number)) return NULL;
  int live = rlm_shared.live;
  rlm_shared.live = 0; /* while an input is loaded no clock may be asked */
  int status = number < NUMBERS ? files_add_input(path, number) : INVAL;
  rlm_shared.live = live;
  if (status != OK) return failed(-status);
  Py_RETURN_NONE;
}

PyObject *inputs_read(PyObject *self, PyObject *args) {
  unsigned int number;
  long long offset, length;
  if (!PyArg_ParseTuple(args, "ILL", &number, &offset, &length)) return NULL;
  if (offset < 0 || length < 0) {
    PyErr_SetString(PyExc_ValueError, "an offset or a length below zero");
    return NULL;
  }
  if (length > PY_SSIZE_T_MAX) return PyErr_NoMemory();
  PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
  if (data == NULL) return NULL;
  Py_ssize_t done = 0;
  while (done < length) {
    Py_ssize_t left = (Py_ssize_t)length - done;
    uint32_t part = left < (Py_ssize_t)HOST_READ_MAX ? (uint32_t)left : HOST_READ_MAX, count;
    int status = host_read(number, (uint64_t)offset + (uint64_t)done, PyBytes_AS_STRING(data) + done, part, &count);
    if (status != OK) {
      Py_DECREF(data);
      return failed(-status);
    }
    done += count;
    if (count < part) break;
    if (PyErr_CheckSignals() != 0) {
      Py_DECREF(data);
      return NULL;
    }
  }
  if (done < length && _PyBytes_Resize(&data, done) != 0) return NULL;
  return data;
}

PyObject *inputs_size(PyObject *self, PyObject *number) {
  unsigned long input = PyLong_AsUnsignedLong(number);
  uint64_t size;
  if (input == (unsigned long)-1 && PyErr_Occurred()) return NULL;
  int status = host_size((uint32_t)input, &size);
  return status != OK ? failed(-status) : PyLong_FromUnsignedLongLong(size);
}

PyObject *inputs_search(PyObject *self, PyObject *args) {
  unsigned int number;
  int counts;
  const char *needle;
  Py_ssize_t length;
  long long start, end;
  struct search search;
  if (!PyArg_ParseTuple(args, "Ipy#LL", &number, &counts, &needle, &length, &start, &end)) return NULL;
  if (length < 1 || length > NEEDLE_BYTES_MAX || start < 0 || end < start) {
    PyErr_SetString(PyExc_ValueError, "what is searched has 1 to 4096 bytes, and a start before its end");
    return NULL;
  }
  search.end_or_found = end;
  search.next = 0;
  memcpy(search.needle, needle, (size_t)length);
  uint32_t bytes = offsetof(struct search, needle) + (uint32_t)length;
  int32_t status = ask(counts ? COUNT : FIND, number, (uint64_t)start, &search, bytes);
  if (status < 0) return failed(status);
  return Py_BuildValue("LL", (long long)search.end_or_found, (long long)search.next);
}

PyObject *inputs_count_characters(PyObject *self, PyObject *args) {
  unsigned int number, pages;
  long long offset;
  uint32_t counts[PAGES_MAX];
  if (!PyArg_ParseTuple(args, "ILI", &number, &offset, &pages)) return NULL;
  if (offset < 0 || pages < 1 || pages > PAGES_MAX) {
    PyErr_SetString(PyExc_ValueError, "1 to 64 pages are counted at a time");
    return NULL;
  }
  int32_t bytes = ask(CHARACTERS, number, (uint64_t)offset, counts, pages * sizeof *counts);
  return bytes < 0 ? failed(bytes) : PyBytes_FromStringAndSize((const char *)counts, bytes);
}
