/* How packages get into an image: files are added over a finished image, before any cell, and it is sealed
 * once more. What comes out is an image like any other. A host calls these where it makes images, and nowhere
 * else. As while the first image is made, there is no host to call: what a package's own code does when it
 * is imported stays in here. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "files.h"
#include "interpreter.h"
#include "rlm.h"

#define FOLDER "/packages"
/* While they are added. What they take is fixed then, and counts against no session's quota. */
#define FILES_BYTES_MAX (512u << 20)
#define FILES_MAX 100000u

static struct quota_limits before, limits;

static PyObject *module(void) {
  rlm_shared.live = 0;
  PyObject *packages = PyImport_ImportModule("rlm_packages");
  if (packages == NULL) rlm_die("import of rlm_packages failed");
  return packages;
}

/* 0, or how long the text in the inbox is that says what is wrong. */
static int32_t told(PyObject *packages, PyObject *done) {
  int32_t length = 0;
  if (done == NULL) {
    PyObject *error = PyErr_GetRaisedException();
    PyObject *text = PyObject_CallMethod(packages, "describe", "O", error);
    Py_ssize_t size = 0;
    const char *bytes = text ? PyUnicode_AsUTF8AndSize(text, &size) : NULL;
    if (bytes == NULL || size == 0) rlm_die("what is wrong with a package cannot be told");
    length = (int32_t)(size < RLM_INBOX_BYTES ? size : RLM_INBOX_BYTES);
    memcpy(rlm_shared.inbox, bytes, (size_t)length);
    Py_XDECREF(text);
    Py_XDECREF(error);
  }
  Py_XDECREF(done);
  Py_DECREF(packages);
  return length;
}

/* Compiles what was filled, the source of the module whose path is in the inbox. The inbox has then where the
 * compiled file lies and how long it is, until the next call. Not in the guest whose memory becomes an image:
 * it would be full of what compiling leaves behind. */
RLM_EXPORT(rlm_compile) int32_t rlm_compile(int32_t name_length) {
  static PyObject *compiled;
  PyObject *packages = module(), *source = rlm_take_incoming();
  Py_CLEAR(compiled);
  if (source == NULL || name_length <= 0 || name_length > RLM_INBOX_BYTES) rlm_die("no module of a package");
  compiled = PyObject_CallMethod(packages, "compiled", "s#O", (const char *)rlm_shared.inbox, (Py_ssize_t)name_length, source);
  Py_DECREF(source);
  if (compiled != NULL && PyBytes_Check(compiled)) {
    uint32_t where[2] = {(uint32_t)(uintptr_t)PyBytes_AS_STRING(compiled), (uint32_t)PyBytes_GET_SIZE(compiled)};
    memcpy(rlm_shared.inbox, where, sizeof where);
  }
  return told(packages, Py_XNewRef(compiled));
}

/* Writes what was filled to a file; its path below the folder is the UTF-8 in the inbox. */
RLM_EXPORT(rlm_add_file) int32_t rlm_add_file(int32_t name_length) {
  PyObject *packages = module();
  if (limits.files == 0) { /* the first one */
    limits = rlm_shared.files;
    rlm_shared.files = (struct quota_limits){.bytes = FILES_BYTES_MAX, .files = FILES_MAX};
    if (files_make_folder(FOLDER) != 0) rlm_die("the folder of packages could not be made");
    before = quota_used;
  }
  PyObject *data = rlm_take_incoming();
  if (data == NULL || name_length <= 0 || name_length > RLM_INBOX_BYTES) rlm_die("no file of a package");
  PyObject *done = PyObject_CallMethod(packages, "add", "s#O", (const char *)rlm_shared.inbox, (Py_ssize_t)name_length, data);
  Py_DECREF(data);
  return told(packages, done);
}

/* Imports what is to be imported, by the names that were filled (JSON), and makes all of it part of the
 * image. */
RLM_EXPORT(rlm_seal) int32_t rlm_seal(void) {
  PyObject *packages = module();
  PyObject *names = rlm_take_incoming();
  if (names == NULL || limits.files == 0) rlm_die("there are no packages to seal");
  PyObject *done = PyObject_CallMethod(packages, "seal", "O", names);
  Py_DECREF(names);
  if (done != NULL) {
    if (files_fix(FOLDER) != 0) rlm_die("the folder of packages is gone");
    quota_used = before;
    rlm_shared.files = limits;
    rlm_immortalise();
    if (rlm_fill_gaps() != 0) rlm_die("the gaps of the image could not be filled");
  }
  return told(packages, done);
}
