"""System calls that Python has no function for, each checked: an error is an OSError, never a value."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any, Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 7


def syscall(number: int, *arguments: int) -> int:
    """Make a system call with up to six integers or addresses.

    Raises:
        OSError: with the kernel's errno.
    """
    filled = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    result = int(_syscall(number, *filled))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def address(buffer: Any) -> int:
    """Return where a ctypes object lies. The caller keeps it alive during the call."""
    return ctypes.addressof(buffer)


# Numbers of x86-64; `layers.py` refuses every other machine before any of them is used.
_MOUNT: Final = 165
_UMOUNT2: Final = 166
_PRCTL: Final = 157
_PIVOT_ROOT: Final = 155
_UNSHARE: Final = 272
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CAPSET: Final = 126
# FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC; commands of fsconfig(2).
_CLOSE_ON_EXEC, _SET_STRING, _CREATE = 1, 1, 6


def prctl(option: int, *arguments: int) -> int:
    """Control this process; see prctl(2)."""
    return syscall(_PRCTL, option, *arguments)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    syscall(_UNSHARE, flags)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change a mount."""
    parts = [ctypes.create_string_buffer(part.encode()) for part in (source, target, kind, data)]
    first, second, third, last = (address(part) for part in parts)
    syscall(_MOUNT, first, second, third, flags, last)


def unattached(kind: str, options: Mapping[str, str], attributes: int) -> int:
    """Return a descriptor of a new file system that is mounted nowhere and ends with its last user."""
    names = [ctypes.create_string_buffer(text.encode()) for text in (kind, *options)]
    values = [ctypes.create_string_buffer(text.encode()) for text in options.values()]
    context = syscall(_FSOPEN, address(names[0]), _CLOSE_ON_EXEC)
    try:
        for name, value in zip(names[1:], values, strict=True):
            syscall(_FSCONFIG, context, _SET_STRING, address(name), address(value), 0)
        syscall(_FSCONFIG, context, _CREATE, 0, 0, 0)
        return syscall(_FSMOUNT, context, _CLOSE_ON_EXEC, attributes)
    finally:
        os.close(context)


def unmount(target: str, flags: int) -> None:
    """Take a mount away."""
    buffer = ctypes.create_string_buffer(target.encode())
    syscall(_UMOUNT2, address(buffer), flags)


def pivot_root(new: str, old: str) -> None:
    """Make the mount at `new` the root and put the old root at `old`."""
    buffers = [ctypes.create_string_buffer(part.encode()) for part in (new, old)]
    syscall(_PIVOT_ROOT, address(buffers[0]), address(buffers[1]))


def drop_capabilities() -> None:
    """Give up every permitted, effective and inheritable capability."""
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    nothing = (ctypes.c_uint32 * 6)()
    syscall(_CAPSET, address(header), address(nothing))
