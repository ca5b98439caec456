/* The reactor around CPython: has the interpreter started once (before the image is taken), then runs
 * cells. Nothing here is a security control; limits live on the host's side of the boundary. */
#define PY_SSIZE_T_CLEAN
/* For the addresses that an interrupt is written to; no other internal is used. */
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_ceval.h>
#include <internal/pycore_runtime.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "inputs.h"
#include "interpreter.h"
#include "rlm.h"

/* In a variant of the guest that has packages the build writes this file: their modules in C. */
#if __has_include("packages.h")
#include "packages.h"
#define HAS_PACKAGES 1
#endif

/* For what is written while the image is made. */
#define FILES_BYTES_IN_IMAGE (16 << 20)
#define FILES_IN_IMAGE 1000

struct rlm_shared rlm_shared __attribute__((aligned(4096))) = {
    .exit_status = -1, .files = {.bytes = FILES_BYTES_IN_IMAGE, .files = FILES_IN_IMAGE}};

int rlm_has_host(void) { return rlm_shared.live; }
const struct quota_limits *quota_limits(void) { return &rlm_shared.files; }
void rlm_note_exit(int32_t status) { rlm_shared.exit_status = status; }

/* Read by the host once, when the image is made; a running guest cannot change the host's copy. */
static struct {
  uint32_t version, inbox, inbox_bytes, seed, exit_status;
  /* Where the host writes to interrupt a cell the way a signal would: the reason, the handler's
   * and the process's flag, the interpreter's breaker and the bit to set in it. */
  uint32_t interrupt_reason, signal_tripped, any_tripped, eval_breaker, eval_breaker_bit;
  uint32_t progress;
  /* Two words: how many bytes the files of a session may take, and how many there may be. */
  uint32_t files_limits;
} facts;

static PyObject *run_cell, *set_context;
static PyObject *incoming; /* the str or bytes that the host is filling */

/* -- module _rlm ------------------------------------------------------------------------- */

/* Where the host puts a response that fits; a longer one is taken into a buffer of its size. */
static char reply[16384];

static PyObject *call(PyObject *self, PyObject *frame) {
  Py_buffer view;
  if (!rlm_shared.live) {
    PyErr_SetString(PyExc_RuntimeError, "there is no host while the image is made");
    return NULL;
  }
  if (PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE) != 0) return NULL;
  int32_t length = rlm_call(view.buf, (int32_t)view.len, reply, sizeof reply);
  PyBuffer_Release(&view);
  if (length < 0) {
    PyErr_Format(PyExc_RuntimeError, "the host refused the request (%d)", (int)length);
    return NULL;
  }
  if (length <= (int32_t)sizeof reply) return PyBytes_FromStringAndSize(reply, length);
  PyObject *response = PyBytes_FromStringAndSize(NULL, length);
  if (response == NULL) return NULL;
  if (rlm_take(PyBytes_AS_STRING(response), length) != length) {
    Py_DECREF(response);
    PyErr_SetString(PyExc_RuntimeError, "the host's response is gone");
    return NULL;
  }
  return response;
}

/* Whether this cell's error has been told: a second document behind it would make nonsense of both. */
static int error_told;
#define STREAM_ERROR 4

/* A call of the host costs more than most results are long. So the result, the error and the report of
 * a cell wait in the inbox, whose source has been read by then, until rlm_exec returns and says how much
 * there is: for each its stream and length, then its bytes. What is larger than this goes to the host. */
#define LEFT_BYTES_MAX 2048
#define RECORD_BYTES 8
static uint32_t left;

static int leave(int32_t stream, const void *data, Py_ssize_t length) {
  if (stream < 3 || length > LEFT_BYTES_MAX - RECORD_BYTES - (Py_ssize_t)left) return 0;
  int32_t record[2] = {stream, (int32_t)length};
  memcpy(rlm_shared.inbox + left, record, RECORD_BYTES);
  memcpy(rlm_shared.inbox + left + RECORD_BYTES, data, length);
  left += RECORD_BYTES + (uint32_t)length;
  return 1;
}

static PyObject *emit(PyObject *self, PyObject *args) {
  int stream;
  Py_buffer view;
  if (!PyArg_ParseTuple(args, "iy*", &stream, &view)) return NULL;
  /* While the image is made there is no host to write to. */
  int32_t status = 0;
  if (view.len != 0 && rlm_shared.live && !leave(stream, view.buf, view.len)) {
    status = rlm_emit(stream, view.buf, (int32_t)view.len);
  }
  Py_ssize_t written = view.len;
  PyBuffer_Release(&view);
  if (stream == STREAM_ERROR) error_told = 1;
  if (status != 0) {
    PyErr_SetString(PyExc_OSError, "the host takes no more output");
    return NULL;
  }
  return PyLong_FromSsize_t(written);
}

static PyObject *progress(PyObject *self, PyObject *step) {
  int value = PyLong_AsInt(step);
  if (value == -1 && PyErr_Occurred()) return NULL;
  rlm_shared.progress = value;
  Py_RETURN_NONE;
}

static PyObject *take_interrupt(PyObject *self, PyObject *ignored) {
  int32_t reason = rlm_shared.interrupt_reason;
  rlm_shared.interrupt_reason = 0;
  return PyLong_FromLong(reason);
}

static PyObject *dup_file(PyObject *self, PyObject *number) {
  int fd = PyLong_AsInt(number);
  if (fd == -1 && PyErr_Occurred()) return NULL;
  fd = files_duplicate(fd);
  return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyMethodDef methods[] = {
    {"add_input", inputs_add, METH_VARARGS, "Have a file be an input of the host's."},
    {"call", call, METH_O, "Hand one request frame to the host and return its response."},
    {"dup", dup_file, METH_O, "Open what a descriptor has open once more."},
    {"count_characters", inputs_count_characters, METH_VARARGS, "Count an input's characters by MiB."},
    {"emit", emit, METH_VARARGS, "Write bytes to one of the host's output streams."},
    {"input_size", inputs_size, METH_O, "Return how many bytes an input has."},
    {"progress", progress, METH_O, "Note how far the REPL is with the cell."},
    {"read_input", inputs_read, METH_VARARGS, "Read a part of an input."},
    {"search_input", inputs_search, METH_VARARGS, "Search an input for bytes, one step."},
    {"take_interrupt", take_interrupt, METH_NOARGS, "Return and clear the reason of an interrupt."},
    {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_rlm", 0, -1, methods};
static PyObject *init_module(void) { return PyModule_Create(&module); }

/* -- once, before the image is taken ------------------------------------------------------- */

RLM_EXPORT(rlm_init) void rlm_init(void) {
  PyImport_AppendInittab("_rlm", init_module);
#if HAS_PACKAGES
  for (const struct _inittab *each = extensions; each->name != NULL; each++) {
    PyImport_AppendInittab(each->name, each->initfunc);
  }
#endif
  if (files_start() != 0) rlm_die("the folders could not be made");
  rlm_start();

  PyObject *boot = PyImport_ImportModule("rlm_boot");
  if (boot == NULL) rlm_die("import of rlm_boot failed");
  run_cell = PyObject_GetAttrString(boot, "run_cell");
  set_context = PyObject_GetAttrString(boot, "set_context");
  if (run_cell == NULL || set_context == NULL) rlm_die("rlm_boot is incomplete");

#if HAS_PACKAGES
  if (PyImport_ImportModule("rlm_variant") == NULL) rlm_die("import of rlm_variant failed");
#endif

  rlm_immortalise();
  PyObject *settled = PyObject_CallMethod(boot, "settle", NULL);
  if (settled == NULL) rlm_die("settle failed");
  Py_DECREF(settled);
  if (rlm_fill_gaps() != 0) rlm_die("the gaps of the image could not be filled");

  facts.version = 4;
  facts.inbox = (uint32_t)(uintptr_t)rlm_shared.inbox;
  facts.inbox_bytes = sizeof rlm_shared.inbox;
  facts.seed = (uint32_t)(uintptr_t)rlm_shared.seed;
  facts.exit_status = (uint32_t)(uintptr_t)&rlm_shared.exit_status;
  facts.interrupt_reason = (uint32_t)(uintptr_t)&rlm_shared.interrupt_reason;
  facts.signal_tripped = (uint32_t)(uintptr_t)&_PyRuntime.signals.handlers[SIGINT].tripped;
  facts.any_tripped = (uint32_t)(uintptr_t)&_PyRuntime.signals.is_tripped;
  facts.eval_breaker = (uint32_t)(uintptr_t)&PyThreadState_Get()->eval_breaker;
  facts.eval_breaker_bit = _PY_SIGNALS_PENDING_BIT;
  facts.progress = (uint32_t)(uintptr_t)&rlm_shared.progress;
  facts.files_limits = (uint32_t)(uintptr_t)&rlm_shared.files;
}

RLM_EXPORT(rlm_facts) void *rlm_facts(void) { return &facts; }

/* -- in a session ---------------------------------------------------------------------------- */

RLM_EXPORT(rlm_alloc) void *rlm_alloc(int32_t length) {
  rlm_shared.live = 1;
  return length < 0 ? NULL : malloc(length);
}

RLM_EXPORT(rlm_free) void rlm_free(void *pointer) {
  rlm_shared.live = 1;
  free(pointer);
}

/* A str whose characters the host writes in place (PEP 393); `max_char` is one of 0x7f, 0xff,
 * 0xffff and 0x10ffff and must be the class of the widest character. */
RLM_EXPORT(rlm_str_new) void *rlm_str_new(int32_t length, int32_t max_char) {
  rlm_shared.live = 1;
  Py_CLEAR(incoming);
  incoming = PyUnicode_New(length, (Py_UCS4)max_char);
  if (incoming == NULL) {
    PyErr_Clear();
    return NULL;
  }
  return PyUnicode_DATA(incoming);
}

RLM_EXPORT(rlm_bytes_new) void *rlm_bytes_new(int32_t length) {
  rlm_shared.live = 1;
  Py_CLEAR(incoming);
  incoming = PyBytes_FromStringAndSize(NULL, length);
  if (incoming == NULL) {
    PyErr_Clear();
    return NULL;
  }
  return PyBytes_AS_STRING(incoming);
}

PyObject *rlm_take_incoming(void) {
  PyObject *taken = incoming;
  incoming = NULL;
  return taken;
}

/* Binds what was filled to the name (UTF-8) in the inbox. 0, or 1 if the guest could not. */
RLM_EXPORT(rlm_commit) int32_t rlm_commit(int32_t name_length) {
  rlm_shared.live = 1;
  if (incoming == NULL || name_length < 0 || name_length > RLM_INBOX_BYTES) return 1;
  PyObject *name = PyUnicode_DecodeUTF8((const char *)rlm_shared.inbox, name_length, "strict");
  PyObject *done = name ? PyObject_CallFunctionObjArgs(set_context, name, incoming, NULL) : NULL;
  Py_CLEAR(incoming);
  Py_XDECREF(name);
  if (done == NULL) {
    PyErr_Clear();
    return 1;
  }
  Py_DECREF(done);
  return 0;
}

/* Runs one cell. `flags` bit 0: reseed from the seed area first; bit 1: report variable names; bit 2: tell the
 * last expression as a value.
 * 0: ran to its end; 1: an exception, told on stream 4; 2: the driver itself was broken. Above these
 * eight bits: how many bytes the cell left in the inbox. */
RLM_EXPORT(rlm_exec) int32_t rlm_exec(const char *source, int32_t length, int32_t flags) {
  rlm_shared.live = 1;
  rlm_shared.exit_status = -1;
  rlm_shared.progress = 0;
  error_told = 0;
  left = 0;
  if (length < 0) return 2;
  PyObject *text = PyUnicode_DecodeUTF8(source, length, "replace");
  PyObject *entropy = flags & 1 ? PyBytes_FromStringAndSize((const char *)rlm_shared.seed, sizeof rlm_shared.seed) : Py_NewRef(Py_None);
  PyObject *report = PyLong_FromLong((flags >> 1) & 3);
  PyObject *status = text && entropy && report ? PyObject_CallFunctionObjArgs(run_cell, text, entropy, report, NULL) : NULL;
  Py_XDECREF(text);
  Py_XDECREF(entropy);
  Py_XDECREF(report);
  int32_t code = 2;
  if (status == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
    /* Not even the report of an error fitted into what is left. This one needs nothing. */
    static const char document[] = "{\"type\":\"MemoryError\",\"message\":\"\",\"traceback\":\"\"}";
    if (!error_told) rlm_emit(STREAM_ERROR, document, sizeof document - 1);
    code = 1;
  } else if (status != NULL && PyLong_Check(status)) {
    int overflow;
    long value = PyLong_AsLongAndOverflow(status, &overflow);
    if (!overflow && (value == 0 || value == 1)) code = (int32_t)value;
  }
  Py_XDECREF(status);
  PyErr_Clear();
  return code | (int32_t)(left << 8);
}
