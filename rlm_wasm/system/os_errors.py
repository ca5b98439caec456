"""The kernel's errors that say that this machine is out of something, as errors of ours."""

from __future__ import annotations

import errno
import os
from typing import Final

from rlm_wasm.errors import HostExhausted, InternalError, RlmWasmError
from rlm_wasm.system.host_limits import limits_behind

_SHORTAGES: Final = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
        errno.EAGAIN,
    }
)  # fmt: skip


_NO_THREAD: Final = "can't start new thread"


def is_shortage(error: BaseException) -> bool:
    """Whether the machine, and not the caller, is the reason that a system call failed."""
    return _code(error) in _SHORTAGES


def _code(error: BaseException) -> int | None:
    """Return the kernel's word for it, also where Python has one of its own."""
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return errno.EAGAIN if isinstance(error, RuntimeError) and str(error) == _NO_THREAD else None


def told(error: BaseException) -> str:
    """Return what a shortage is short of: the kernel's words, and the limit of this process behind them."""
    code = _code(error) or 0
    hint = limits_behind(code)
    return os.strerror(code) + (f" ({hint})" if hint else "")


def wrap_os_error(error: Exception, what: str, *, ours: bool = False) -> RlmWasmError:
    """Return what the caller gets for an error that is none of ours: a shortage by its name, else our bug.

    `what` is what could not be done. `ours` says that it was the host process that was refused, whose limits
    somebody can raise: a hint names the one that may be behind it.
    """
    if is_shortage(error):
        code = _code(error) or 0
        # Without its cause: that one's frames hold the very descriptors and mappings that are short.
        return HostExhausted(f"{what}: {os.strerror(code)}", hint=limits_behind(code) if ours else None)
    internal = InternalError(f"{what}: {type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal
