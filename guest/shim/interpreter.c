/* The interpreter: its frozen modules, how it is started, and what is done to its objects before the
 * image is taken. Used by the guest and by the module that CPython is trained in. */
#define PY_SSIZE_T_CLEAN
/* For making objects immortal; no other internal is used. */
#define Py_BUILD_CORE 1
#include <Python.h>
#include <internal/pycore_object.h>
#include <stdio.h>
#include <stdlib.h>

#include "interpreter.h"

static const unsigned char blob[] = {
#embed "frozen.bin"
};
static const struct _frozen frozen_modules[] = {
#include "frozen_table.h"
    {0, 0, 0, 0}};

void rlm_die(const char *what) {
  fprintf(stderr, "rlm: %s\n", what);
  if (PyErr_Occurred()) PyErr_Print();
  fflush(stderr);
  __builtin_trap();
}

static void check(PyStatus status) {
  if (PyStatus_Exception(status)) rlm_die(status.err_msg ? status.err_msg : "initialisation failed");
}

void rlm_start(void) {
  PyImport_FrozenModules = frozen_modules;

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
    if (pending == NULL) rlm_die("no memory for the image's objects");
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

void rlm_immortalise(void) {
  PyObject *gc = PyImport_ImportModule("gc");
  PyObject *objects = gc ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;
  if (objects == NULL) rlm_die("gc.get_objects failed");
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
  if (frozen == NULL) rlm_die("gc.freeze failed");
  Py_DECREF(frozen);
  Py_DECREF(gc);
}
