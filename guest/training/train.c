/* The module that CPython is trained in: the interpreter as the guest starts it, and the training
 * programs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "boundary.h"
#include "interpreter.h"

int rlm_has_host(void) { return 0; }
void rlm_note_exit(int32_t status) { (void)status; }

/* Runs the programs. What they were compiled for is in the counters afterwards (profile.c). */
RLM_EXPORT(rlm_train) void rlm_train(void) {
  rlm_start();
  PyObject *training = PyImport_ImportModule("rlm_training");
  if (training == NULL) rlm_die("import of rlm_training failed");
  /* As in the guest: what the programs find there is immortal, what they make is not. */
  rlm_immortalise();
  PyObject *done = PyObject_CallMethod(training, "train", NULL);
  if (done == NULL) rlm_die("a training program failed");
  Py_DECREF(done);
}
