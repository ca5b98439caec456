/* The inputs of a run, which lie with the host: what the guest's own modules ask of them. */
#ifndef RLM_INPUTS_H
#define RLM_INPUTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* add_input(path, number): have a file be an input. Takes no clock, and asks nothing of the host. */
PyObject *inputs_add(PyObject *self, PyObject *args);
/* read_input(number, offset, length) -> bytes: less than `length` only where the input ends. */
PyObject *inputs_read(PyObject *self, PyObject *args);
/* input_size(number) -> int */
PyObject *inputs_size(PyObject *self, PyObject *number);
/* search_input(number, count, needle, start, end) -> (found, next): one step of the host's, which looks at
 * what begins in [start, next). `found` is a place or -1; or how often, if `count`. */
PyObject *inputs_search(PyObject *self, PyObject *args);
/* count_characters(number, offset, pages) -> bytes: for each MiB a 32-bit number of UTF-8 characters that
 * begin in it. */
PyObject *inputs_count_characters(PyObject *self, PyObject *args);

#endif
