#ifndef RLM_FP_LOOP_H
#define RLM_FP_LOOP_H

/* Around a ufunc's inner loop: what the processor would have raised while it ran is raised after it. Included by
 * the files of numpy's that call such loops. */
#include <string.h>

#include "fp_flags.h"

/* No ufunc of numpy's own has more operands. */
#define RLM_OPERANDS_MAX 8
/* Of an input that the result takes the place of, as many elements are kept at once. */
#define RLM_KEPT 128
#define RLM_ITEM_BYTES_MAX 32
/* Of a generalised ufunc an element is not an operand's smallest part. */
#define RLM_HAS_CORE(caller) (((PyUFuncObject *)(caller))->core_enabled)

/* The loop of `where=`: it calls the real one for parts, and each of these calls is looked at by itself. */
int generic_masked_strided_loop(PyArrayMethod_Context *context, char *const *data, const npy_intp *dimensions,
                                const npy_intp *strides, NpyAuxData *auxdata);

static void
rlm_fp_look(PyArrayMethod_Context *context, const int *types, const char *const *data, const npy_intp *strides,
            npy_intp count)
{
    int inputs = context->method->nin, operands = inputs + context->method->nout;
    for (int k = inputs; k < operands; k++) {
        if (!rlm_fp_is_float(types[k])) {
            continue;
        }
        for (npy_intp i = rlm_fp_next_special(types[k], data[k], strides[k], 0, count); i < count;
             i = rlm_fp_next_special(types[k], data[k], strides[k], i + 1, count)) {
            const char *elements[RLM_OPERANDS_MAX];
            for (int j = 0; j < inputs; j++) {
                elements[j] = data[j] + i * strides[j];
            }
            rlm_fp_note(inputs, types, elements, types[k], data[k] + i * strides[k]);
        }
    }
}

static int
rlm_fp_loop(PyArrayMethod_StridedLoop *loop, PyArrayMethod_Context *context, char *const *data,
            const npy_intp *dimensions, const npy_intp *strides, NpyAuxData *auxdata)
{
    int inputs = context->method->nin, operands = inputs + context->method->nout;
    int types[RLM_OPERANDS_MAX], floats = 0, replaced = 0;
    npy_intp count = dimensions[0];
    if (loop == &generic_masked_strided_loop || context->caller == NULL || inputs == 0 ||
            operands > RLM_OPERANDS_MAX || RLM_HAS_CORE(context->caller)) {
        return loop(context, data, dimensions, strides, auxdata);
    }
    for (int k = 0; k < operands; k++) {
        types[k] = context->descriptors[k]->type_num;
        floats |= k >= inputs && rlm_fp_is_float(types[k]);
    }
    if (!floats || count == 0) {
        return loop(context, data, dimensions, strides, auxdata);
    }
    if (operands == 3 && inputs == 2 && data[0] == data[2] && strides[0] == 0 && strides[2] == 0) {
        char start[RLM_ITEM_BYTES_MAX];
        memcpy(start, data[0], context->descriptors[0]->elsize);
        int status = loop(context, data, dimensions, strides, auxdata);
        rlm_fp_note_reduction(types[2], start, data[2], types[1], data[1], strides[1], count);
        return status;
    }
    for (int k = inputs; k < operands; k++) {
        for (int j = 0; j < inputs; j++) {
            if (data[j] == data[k]) {
                replaced |= 1 << j;
            }
        }
    }
    if (!replaced) {
        int status = loop(context, data, dimensions, strides, auxdata);
        rlm_fp_look(context, types, (const char *const *)data, strides, count);
        return status;
    }
    char kept[2][RLM_KEPT * RLM_ITEM_BYTES_MAX], *part[RLM_OPERANDS_MAX];
    const char *seen[RLM_OPERANDS_MAX];
    npy_intp seen_strides[RLM_OPERANDS_MAX];
    for (npy_intp done = 0; done < count;) {
        npy_intp now = count - done < RLM_KEPT ? count - done : RLM_KEPT;
        int used = 0;
        for (int k = 0; k < operands; k++) {
            part[k] = data[k] + done * strides[k];
            seen[k] = part[k];
            seen_strides[k] = strides[k];
            npy_intp bytes = context->descriptors[k]->elsize;
            if (k < inputs && replaced >> k & 1 && used < 2 && bytes <= RLM_ITEM_BYTES_MAX) {
                for (npy_intp i = 0; i < now; i++) {
                    memcpy(kept[used] + i * bytes, part[k] + i * strides[k], bytes);
                }
                seen[k] = kept[used++];
                seen_strides[k] = bytes;
            }
        }
        int status = loop(context, part, &now, strides, auxdata);
        rlm_fp_look(context, types, seen, seen_strides, now);
        if (status != 0) {
            return status;
        }
        done += now;
    }
    return 0;
}

#define strided_loop(...) rlm_fp_loop(strided_loop, __VA_ARGS__)

#endif
