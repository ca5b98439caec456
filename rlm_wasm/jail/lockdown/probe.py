"""A worker that tries what it must not be able to do; a host looks at what happened.

The entry of a zygote like any other: locked down in the same way, then it makes one attempt and says
what came of it, if it is still there to say so. What a layer claims is one thing; this is the other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

from rlm_wasm.jail.lockdown.kernel import syscall
from rlm_wasm.jail.lockdown.report import LockdownReport

_WORKED: Final = b"worked"
_NAME_BYTES_MAX: Final = 64
# The zygote's number, as its workers see it: they may not ask who their parent is.
_zygote: Final[list[int]] = []
# Numbers of x86-64.
_MMAP, _MPROTECT, _PTRACE, _MOUNT, _IO_URING_SETUP = 9, 10, 101, 165, 425
_PTRACE_SEIZE: Final = 0x4206
_READ_WRITE, _READ_EXECUTE, _READ_WRITE_EXECUTE = 3, 5, 7
_PRIVATE_ANONYMOUS: Final = 0x22
_PAGE_BYTES: Final = 4096


def _connect() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.connect(("127.0.0.1", 1))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _run_written_page() -> None:
    page = _map(_READ_WRITE)
    ctypes.memset(page, 0xC3, 1)  # ret
    syscall(_MPROTECT, page, _PAGE_BYTES, _READ_EXECUTE)


def _map(protection: int) -> int:
    return syscall(_MMAP, 0, _PAGE_BYTES, protection, _PRIVATE_ANONYMOUS, -1, 0)


ATTEMPTS: Final[dict[str, Callable[[], object]]] = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "connect": _connect,
    "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - to see it refused
    "fork": _fork,
    "ptrace": lambda: syscall(_PTRACE, _PTRACE_SEIZE, _zygote[0], 0, 0),
    "signal": lambda: os.kill(_zygote[0], signal.SIGCONT),
    "mmap exec": lambda: _map(_READ_WRITE_EXECUTE),
    "write and run": _run_written_page,
    "mount": lambda: syscall(_MOUNT, 0, 0, 0, 0, 0),
    "io_uring": lambda: syscall(_IO_URING_SETUP, 1, 0),
}


def warm() -> None:
    """Note whom a worker will try to reach."""
    _zygote[:] = [os.getpid()]


def serve(connection: socket.socket, report: LockdownReport) -> None:
    """Make the attempt that the host names."""
    name = connection.recv(_NAME_BYTES_MAX).decode()
    if name not in ATTEMPTS:
        connection.sendall("\n".join(_line(f.layer, f.applied, f.detail) for f in report.findings).encode())
        return
    try:
        ATTEMPTS[name]()
        outcome = _WORKED
    except OSError as error:
        outcome = errno.errorcode.get(error.errno or 0, "an error").encode()
    connection.sendall(outcome)


def _line(layer: str, applied: bool, detail: str) -> str:
    return f"{layer}\t{int(applied)}\t{detail}"
