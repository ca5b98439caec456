"""Which of the kernel's errors say that this machine is out of something: no bug of ours, nobody's fault."""

from __future__ import annotations

import errno
from typing import Final

from rlm_wasm.errors import HostExhausted, InternalError, RlmWasmError

_SHORTAGES: Final = frozenset(
    {
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
        errno.EAGAIN,
    }
)  # fmt: skip


def is_shortage(error: BaseException) -> bool:
    """Whether the machine, and not the caller, is the reason that a system call failed."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES


def typed(error: Exception, what: str) -> RlmWasmError:
    """Return what the caller gets for an error that is none of ours: a shortage by its name, else our bug.

    `what` is what could not be done.
    """
    if isinstance(error, OSError) and is_shortage(error):
        # Without its cause: that one's frames hold the very descriptors and mappings that are short.
        return HostExhausted(f"{what}: {error.strerror}")
    internal = InternalError(f"{what}: {type(error).__name__}: {error}")
    internal.__cause__ = error
    return internal
