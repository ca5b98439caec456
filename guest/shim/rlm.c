/* The reactor around CPython: starts the interpreter once (before the image is taken), then runs
 * cells. Nothing here is a security control; limits live on the host's side of the boundary. */
#define PY_SSIZE_T_CLEAN
/* For the addresses that an interrupt is written to; no other internal is used. */
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_ceval.h>
#include <internal/pycore_object.h>
#include <internal/pycore_runtime.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "rlm.h"

static const unsigned char blob[] = {
#embed "frozen.bin"
};
static const struct _frozen frozen_modules[] = {
#include "frozen_table.h"
    {0, 0, 0, 0}};

/* Read by the host once, when the image is made; a running guest cannot change the host's copy. */
static struct {
  uint32_t version, inbox, inbox_bytes, seed, exit_status;
  /* Where the host writes to interrupt a cell the way a signal would: the reason, the handler's
   * and the process's flag, the interpreter's breaker and the bit to set in it. */
  uint32_t interrupt_reason, signal_tripped, any_tripped, eval_breaker, eval_breaker_bit;
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

static PyObject *emit(PyObject *self, PyObject *args) {
  int stream;
  Py_buffer view;
  if (!PyArg_ParseTuple(args, "iy*", &stream, &view)) return NULL;
  /* While the image is made there is no host to write to. */
  int32_t status = view.len == 0 || !rlm_shared.live ? 0 : rlm_emit(stream, view.buf, (int32_t)view.len);
  Py_ssize_t written = view.len;
  PyBuffer_Release(&view);
  if (status != 0) {
    PyErr_SetString(PyExc_OSError, "the host takes no more output");
    return NULL;
  }
  return PyLong_FromSsize_t(written);
}

static PyObject *take_interrupt(PyObject *self, PyObject *ignored) {
  int32_t reason = rlm_shared.interrupt_reason;
  rlm_shared.interrupt_reason = 0;
  return PyLong_FromLong(reason);
}

static PyMethodDef methods[] = {
    {"call", call, METH_O, "Hand one request frame to the host and return its response."},
    {"emit", emit, METH_VARARGS, "Write bytes to one of the host's output streams."},
    {"take_interrupt", take_interrupt, METH_NOARGS, "Return and clear the reason of an interrupt."},
    {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_rlm", 0, -1, methods};
static PyObject *init_module(void) { return PyModule_Create(&module); }

/* -- once, before the image is taken ------------------------------------------------------- */

static void die(const char *what) {
  fprintf(stderr, "rlm: %s\n", what);
  if (PyErr_Occurred()) PyErr_Print();
  fflush(stderr);
  __builtin_trap();
}

static void check(PyStatus status) {
  if (PyStatus_Exception(status)) die(status.err_msg ? status.err_msg : "initialisation failed");
}

/* -- immortal ------------------------------------------------------------------------------- */

/* Every object of the image becomes immortal: its reference count is never written again, so that a
 * session does not copy a page only because something on it was looked at. None of them would be
 * freed in a session anyway. */
static PyObject **pending;
static size_t pending_count, pending_room;

static int make_immortal(PyObject *object, void *unused) {
  (void)unused;
  if (object == NULL || _Py_IsImmortal(object)) return 0;
  _Py_SetImmortalUntracked(object);
  if (pending_count == pending_room) {
    pending_room = pending_room ? 2 * pending_room : 4096;
    pending = realloc(pending, pending_room * sizeof *pending);
    if (pending == NULL) die("no memory for the image's objects");
  }
  pending[pending_count++] = object;
  return 0;
}

static void visit_code(PyCodeObject *code) {
  /* Code objects are not known to the collector, so nothing else visits what they hold. */
  make_immortal(code->co_consts, NULL);
  make_immortal(code->co_names, NULL);
  make_immortal(code->co_exceptiontable, NULL);
  make_immortal(code->co_localsplusnames, NULL);
  make_immortal(code->co_localspluskinds, NULL);
  make_immortal(code->co_filename, NULL);
  make_immortal(code->co_name, NULL);
  make_immortal(code->co_qualname, NULL);
  make_immortal(code->co_linetable, NULL);
}

static void immortalise_everything(void) {
  PyObject *gc = PyImport_ImportModule("gc");
  PyObject *objects = gc ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;
  if (objects == NULL) die("gc.get_objects failed");
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(objects); k++) {
    make_immortal(PyList_GET_ITEM(objects, k), NULL);
  }
  while (pending_count > 0) {
    PyObject *object = pending[--pending_count];
    if (PyCode_Check(object)) {
      visit_code((PyCodeObject *)object);
    } else if (Py_TYPE(object)->tp_traverse != NULL) {
      Py_TYPE(object)->tp_traverse(object, make_immortal, NULL);
    }
  }
  free(pending);
  pending = NULL;
  pending_room = 0;
  Py_DECREF(objects);
  PyObject *frozen = PyObject_CallMethod(gc, "freeze", NULL);
  if (frozen == NULL) die("gc.freeze failed");
  Py_DECREF(frozen);
  Py_DECREF(gc);
}

RLM_EXPORT(rlm_init) void rlm_init(void) {
  PyImport_FrozenModules = frozen_modules;
  PyImport_AppendInittab("_rlm", init_module);

  PyPreConfig preconfig;
  PyPreConfig_InitIsolatedConfig(&preconfig);
  preconfig.utf8_mode = 1;
  check(Py_PreInitialize(&preconfig));

  PyConfig config;
  PyConfig_InitIsolatedConfig(&config);
  config.install_signal_handlers = 0;
  config.site_import = 0;
  config.use_frozen_modules = 1;
  config.write_bytecode = 0;
  config.pathconfig_warnings = 0;
  config.user_site_directory = 0;
  config.module_search_paths_set = 1;
  /* Fixed, so that the image's bytes and every session's fuel are the same each time. It is no
   * secret from the guest, and threat_model/limitations.md says so. */
  config.use_hash_seed = 1;
  config.hash_seed = 0;
  PyConfig_SetString(&config, &config.executable, L"");
  PyConfig_SetString(&config, &config.prefix, L"/");
  PyConfig_SetString(&config, &config.exec_prefix, L"/");
  PyConfig_SetString(&config, &config.base_prefix, L"/");
  PyConfig_SetString(&config, &config.base_exec_prefix, L"/");
  PyConfig_SetString(&config, &config.stdlib_dir, L"");
  PyConfig_SetString(&config, &config.stdio_encoding, L"utf-8");
  PyConfig_SetString(&config, &config.stdio_errors, L"backslashreplace");
  PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  check(status);

#if PY_VERSION_HEX >= 0x030E0000
  /* CPython's own recursion check, told about the stack in linear memory (8 MiB, grows down). */
  char here;
  uintptr_t top = ((uintptr_t)&here & ~(uintptr_t)4095) + 4096;
  PyUnstable_ThreadState_SetStackProtection(PyThreadState_Get(), (void *)(top - CSTACK), CSTACK);
#endif

  PyObject *boot = PyImport_ImportModule("rlm_boot");
  if (boot == NULL) die("import of rlm_boot failed");
  run_cell = PyObject_GetAttrString(boot, "run_cell");
  set_context = PyObject_GetAttrString(boot, "set_context");
  if (run_cell == NULL || set_context == NULL) die("rlm_boot is incomplete");

  immortalise_everything();
  PyObject *settled = PyObject_CallMethod(boot, "settle", NULL);
  if (settled == NULL) die("settle failed");
  Py_DECREF(settled);
  if (rlm_fill_gaps() != 0) die("the gaps of the image could not be filled");

  facts.version = 2;
  facts.inbox = (uint32_t)(uintptr_t)rlm_shared.inbox;
  facts.inbox_bytes = sizeof rlm_shared.inbox;
  facts.seed = (uint32_t)(uintptr_t)rlm_shared.seed;
  facts.exit_status = (uint32_t)(uintptr_t)&rlm_shared.exit_status;
  facts.interrupt_reason = (uint32_t)(uintptr_t)&rlm_shared.interrupt_reason;
  facts.signal_tripped = (uint32_t)(uintptr_t)&_PyRuntime.signals.handlers[SIGINT].tripped;
  facts.any_tripped = (uint32_t)(uintptr_t)&_PyRuntime.signals.is_tripped;
  facts.eval_breaker = (uint32_t)(uintptr_t)&PyThreadState_Get()->eval_breaker;
  facts.eval_breaker_bit = _PY_SIGNALS_PENDING_BIT;
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

/* Runs one cell. `flags` bit 0: reseed from the seed area first; bit 1: report variable names.
 * 0: ran to its end; 1: an exception, told on stream 4; 2: the driver itself was broken. */
RLM_EXPORT(rlm_exec) int32_t rlm_exec(const char *source, int32_t length, int32_t flags) {
  rlm_shared.live = 1;
  rlm_shared.exit_status = -1;
  if (length < 0) return 2;
  PyObject *text = PyUnicode_DecodeUTF8(source, length, "replace");
  PyObject *entropy = flags & 1 ? PyBytes_FromStringAndSize((const char *)rlm_shared.seed, sizeof rlm_shared.seed) : Py_NewRef(Py_None);
  PyObject *report = flags & 2 ? Py_True : Py_False;
  PyObject *status = text && entropy ? PyObject_CallFunctionObjArgs(run_cell, text, entropy, report, NULL) : NULL;
  Py_XDECREF(text);
  Py_XDECREF(entropy);
  int32_t code = 2;
  if (status != NULL && PyLong_Check(status)) {
    int overflow;
    long value = PyLong_AsLongAndOverflow(status, &overflow);
    if (!overflow && (value == 0 || value == 1)) code = (int32_t)value;
  }
  Py_XDECREF(status);
  PyErr_Clear();
  return code;
}
