"""The signals with which a guest's trap begins: wasmtime gets them, on a thread that does not block them.

wasmtime stops a guest by a fault of the processor, whose signal it handles for the whole process. The
process is the application's: it may install a handler of its own over that (`faulthandler.enable()` does),
and then the next trap ends the process; it may block every signal, and then the kernel does. So who
has the handlers is looked at before a guest runs, and from time to time while it does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
from time import monotonic_ns
from typing import Final

from wasmtime import _bindings as ffi

from rlm_wasm.errors import UsageError

# Those of the processor: whoever causes one gets it, at once.
FAULTS: Final = (signal.SIGILL, signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS, signal.SIGTRAP)
# While a guest runs, the handlers are looked at again after so long.
LOOK_NS: Final = 1_000_000
# A cell that begins within so long of a look goes without one: less than it takes to come back from a cell,
# set up a handler and begin another one.
_LOOKED_NS_MAX: Final = 50_000

# With these wasmtime stops a guest on x86-64.
_CAUGHT: Final = (signal.SIGILL, signal.SIGSEGV, signal.SIGFPE)
_BLOCKED: Final = sum(1 << (number - 1) for number in FAULTS)

# Without letting go of the interpreter: both only read a few words.
_libc: Final = ctypes.PyDLL(None)
_sigaction: Final = _libc.sigaction
_sigmask: Final = _libc.pthread_sigmask
# struct sigaction has 152 bytes, the handler first; sigset_t has 128.
_ACTION_BYTES: Final = 256
_HANDLERS: Final = struct.Struct("<Q248xQ248xQ")
_actions: Final = ctypes.create_string_buffer(_ACTION_BYTES * len(_CAUGHT))
_first, _second, _third = (
    (int(number), None, ctypes.byref(_actions, k * _ACTION_BYTES)) for k, number in enumerate(_CAUGHT)
)
_mask: Final = (ctypes.c_uint64 * 32)()
_look_at_mask: Final = (int(signal.SIG_BLOCK), None, ctypes.byref(_mask))


class _Library(ctypes.Structure):
    """What dladdr(3) says of an address."""

    _fields_ = (
        ("path", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _library_of(address: int) -> _Library:
    found = _Library()
    _libc.dladdr(ctypes.c_void_p(address), ctypes.byref(found))
    return found


_WASMTIME: Final = _library_of(ctypes.cast(ffi._wasm_engine_new, ctypes.c_void_p).value or 0).base
# The handlers, while all are wasmtime's.
_ours: tuple[int, ...] = ()
# When they were so, the last time a cell began with a look.
_looked_ns = 0


def require_handlers() -> None:
    """Check that a guest's trap would be wasmtime's to handle. The engine exists.

    Raises:
        UsageError: another handler was installed over its own.
    """
    global _ours
    _sigaction(*_first)
    _sigaction(*_second)
    _sigaction(*_third)
    handlers = _HANDLERS.unpack_from(_actions)
    if handlers == _ours:
        return
    for number, handler in zip(_CAUGHT, handlers, strict=True):
        if (where := _library_of(handler)).base != _WASMTIME:
            raise UsageError(
                f"{_named(handler, where)} took {number.name} from the WebAssembly engine: "
                "the next trap of a guest would end this process",
                hint="set it up before the first session, as `python -X faulthandler` does: the engine hands "
                "on what is not its own; or take it back (`faulthandler.disable()`)",
            )
    _ours = handlers


def _named(handler: int, where: _Library) -> str:
    if handler in (signal.SIG_DFL, signal.SIG_IGN):
        return "the signal's default action" if handler == signal.SIG_DFL else "ignoring it"
    return f"a handler in {os.path.basename(os.fsdecode(where.path or b'')) or 'code of no library'}"


class _TrapThread(threading.local):
    """Whether the mask of this thread is ours, and lets the faults through."""

    ours: bool = False


_thread: Final = _TrapThread()


def own_thread() -> None:
    """Make this thread, which is ours, one that guests run on: it gets its faults and no other signal.

    What a trace function of the application's raises would unwind through wasmtime, so it has none.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - set(FAULTS))
    sys.settrace(None)
    sys.setprofile(None)
    _thread.ours = True


def blocked() -> bool:
    """Whether this thread blocks a signal of the processor's: the kernel ends a process that causes one."""
    _sigmask(*_look_at_mask)
    return bool(_mask[0] & _BLOCKED)


def require() -> int:
    """Check that a guest may run on this thread; return the time of the check, of the monotonic clock.

    Raises:
        UsageError: its next trap would end the process.
    """
    global _looked_ns
    now_ns = monotonic_ns()
    if not 0 <= now_ns - _looked_ns < _LOOKED_NS_MAX:
        require_handlers()
        _looked_ns = now_ns
    if not _thread.ours and blocked():
        names = ", ".join(number.name for number in FAULTS if _mask[0] >> (number - 1) & 1)
        raise UsageError(
            f"this thread blocks {names}: the next trap of a guest would end this process",
            hint="unblock them with `signal.pthread_sigmask`; programs that wait for signals need only block "
            "those that they wait for",
        )
    return now_ns
