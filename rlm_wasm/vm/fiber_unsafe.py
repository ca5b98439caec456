"""The native stacks that guests run on: ours, so that CPython can be told where it is.

From 3.14 on CPython compares the machine stack pointer with the bounds of the thread's stack, and the
callbacks run on a fiber's. Below those bounds it sees no overflow and frees no container before the
poll has ended (python/cpython#157519); 3.14.0 ends the process. So each poll names the fiber's bounds
first and the thread's own afterwards (PyUnstable_ThreadState_SetStackProtection, 3.14.1 and later).

Unsafe: compiled code runs on what is mapped here. A stack is given to wasmtime once, for one store, which
keeps it for all its calls and gives it back through the finalizer.

    start              base                       top
    | no access        | grows down from top      |
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from itertools import starmap
from operator import call
from typing import Any, Final

from wasmtime import _bindings as ffi

from rlm_wasm.errors import PolicyError
from rlm_wasm.vm.fatal import die, guarded
from rlm_wasm.vm.linear_unsafe import MAP_FAILED, SystemCalls
from rlm_wasm.vm.short_calls import poll_future

GUARD_BYTES: Final = 64 << 10
_PROT_NONE, _PROT_READ_WRITE = 0, 3
# private, anonymous, no reserve, stack
_FLAGS: Final = 0x02 | 0x20 | 0x4000 | 0x2_0000
# Whether this interpreter looks at the stack pointer.
WANTED: Final = sys.version_info >= (3, 14)

system: SystemCalls = SystemCalls()
_live: dict[int, FiberStack] = {}
_next_id = 0


class FiberStack:
    """One mapping. `given`: wasmtime has it and frees it with the store."""

    __slots__ = ("base", "base_", "closed", "given", "size", "size_", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.base = start + GUARD_BYTES
        self.size = size
        # The same for C, made once.
        self.base_, self.size_ = ctypes.c_void_p(self.base), ctypes.c_size_t(size)
        self.given = self.closed = False

    def close(self) -> None:
        """Free a stack that wasmtime never asked for."""
        if not self.given and not self.closed:
            _unmap(self)


def make(size: int) -> FiberStack | None:
    """Return a new stack, or None where the kernel refuses or CPython does not ask where it is."""
    if not WANTED:
        return None
    start = system.mmap(0, GUARD_BYTES + size, _PROT_NONE, _FLAGS, -1)
    if start in (0, MAP_FAILED):
        return None
    stack = FiberStack(start, size)
    if system.mprotect(stack.base, size, _PROT_READ_WRITE) != 0:
        _unmap(stack)
        return None
    return stack


def _unmap(stack: FiberStack) -> None:
    stack.closed = True
    if system.munmap(stack.start, GUARD_BYTES + stack.size) != 0:
        die("a fiber's stack could not be unmapped")


# -- polling --------------------------------------------------------------------------------------------


def _own_call(name: str, result: Any) -> Any:
    function = getattr(ctypes.pythonapi, name, None)
    if function is not None:
        function.restype = result  # the arguments are C objects, made once
    return function


_thread_state: Any = _own_call("PyThreadState_Get", ctypes.c_void_p)
_set_bounds: Any = _own_call("PyUnstable_ThreadState_SetStackProtection", ctypes.c_int)
_own_bounds: Any = _own_call("PyUnstable_ThreadState_ResetStackProtection", None)


class _Thread(threading.local):
    """What this thread's polls need: its state, whose address stays, and the stack wasmtime may ask for."""

    def __init__(self) -> None:
        self.state: Final = ctypes.c_void_p(_thread_state())
        self.wanted: FiberStack | None = None


_thread: Final = _Thread()


def poll(future: Any, stack: FiberStack) -> bool:
    """Poll `future`, whose fiber runs on `stack`."""
    if not stack.given:
        _thread.wanted = stack
    state = _thread.state
    # One walk in C. Between two steps of the interpreter the garbage collector or a signal's handler
    # could run here, on the host's stack, with the bounds of another.
    try:
        _, finished, _ = starmap(
            call,
            ((_set_bounds, state, stack.base_, stack.size_), (poll_future, future), (_own_bounds, state)),
        )
    except BaseException:
        _own_bounds(state)
        raise
    return bool(finished)


# -- wasmtime's side ------------------------------------------------------------------------------------


def _error(what: str) -> int:
    pointer = ffi.wasmtime_error_new(ctypes.create_string_buffer(what.encode()))
    return ctypes.cast(pointer, ctypes.c_void_p).value or die("no memory for an error object")


def _new_stack(env: Any, size: int, zeroed: bool, out: Any) -> int:
    global _next_id
    stack, _thread.wanted = _thread.wanted, None
    if stack is None or stack.given or stack.closed or stack.size != size:
        return _error("no stack for a fiber")
    stack.given = True
    _next_id += 1
    _live[_next_id] = stack
    out[0].env = _next_id
    out[0].get_stack_memory = _GET_STACK
    out[0].finalizer = _FINALIZER
    return 0


def _get_stack(env: int, length: Any) -> int:
    stack = _live[env]
    length[0] = stack.size
    return stack.base + stack.size


def _free_stack(env: int) -> None:
    _unmap(_live.pop(env))


_FINALIZER_TYPE: Callable[..., Any] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_GET_STACK = ffi.wasmtime_stack_memory_get_callback_t(guarded(_get_stack))
_FINALIZER = _FINALIZER_TYPE(guarded(_free_stack))
_NEW_STACK = ffi.wasmtime_new_stack_memory_callback_t(guarded(_new_stack))
_CREATOR: Any = ffi.wasmtime_stack_creator()
_CREATOR.env = None
_CREATOR.new_stack = _NEW_STACK
_CREATOR.finalizer = _FINALIZER_TYPE(0)


def install_stacks(config: Any) -> None:
    """Make the fibers of engines built from `config` (a wasmtime.Config) run on stacks of ours.

    Raises:
        PolicyError: this CPython cannot be told of them.
    """
    if not WANTED:
        return
    if _set_bounds is None or _own_bounds is None:
        raise PolicyError("this Python cannot be told of a fiber's stack: 3.14.1 and later can")
    ffi.wasmtime_config_host_stack_creator_set(config.ptr(), ctypes.byref(_CREATOR))
