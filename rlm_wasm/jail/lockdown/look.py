"""A process that locks itself down for no guest, and says what became of each layer.

Started like a zygote, and forks like one; it needs no guest and loads none, so that a machine can be looked
at before anything is built.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Final, NoReturn

from rlm_wasm.errors import RlmWasmError
from rlm_wasm.jail.lockdown import layers, process
from rlm_wasm.jail.lockdown.syscalls import IMAGE_FD, PAGEMAP_FD, SOCKET_FD
from rlm_wasm.lockdown import Finding
from rlm_wasm.protocol.attempts import ATTEMPT_LIMITS

_EXIT_FAILED: Final = 72
_FREE_FD: Final = layers.WORDS_FD + 1


def main(channel_fd: int, host: int) -> NoReturn:
    """Lock a child down and have it tell what came of it; or tell why that cannot be."""
    status = _EXIT_FAILED
    try:
        process.own_signals()
        os.close(host)  # it ends soon, whether the host does or not
        os.environ.clear()  # CPython itself adds LC_CTYPE to an empty one
        try:
            findings = layers.enter_namespaces(())
            outside = os.getpid()
            inner = os.fork()
            if inner == 0:
                _inside(channel_fd, findings, outside)
            _, status = os.waitpid(inner, 0)
            status = os.waitstatus_to_exitcode(status) & 0x7F
        except (RlmWasmError, OSError, ValueError) as error:
            _tell(channel_fd, {"failed": str(error)})
    finally:
        os._exit(status)


def _inside(channel_fd: int, findings: list[Finding], outside: int) -> NoReturn:
    try:
        separate = any(f.applied for f in findings if f.layer == "pid namespace")
        high = os.dup2(channel_fd, _FREE_FD)
        nothing = os.open(os.devnull, os.O_RDONLY)
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        for fd, number in ((proc, _FREE_FD + 1), (nothing, _FREE_FD + 2)):
            os.dup2(fd, number)
        for number in (IMAGE_FD, PAGEMAP_FD, layers.WORDS_FD):
            os.dup2(_FREE_FD + 2, number)
        os.dup2(_FREE_FD + 1, layers.PROC_FD)
        os.dup2(high, SOCKET_FD)
        served = socket.socket(fileno=SOCKET_FD)  # asks the kernel what it is, which it may not later
        settled = [*findings, *layers.settle(findings, ())]
        report = layers.lock_down(ATTEMPT_LIMITS, settled, (), parent=0 if separate else outside)
        served.sendall(_told({"layers": [[f.layer, f.applied, f.detail] for f in report.findings]}))
        os._exit(0)
    except Exception as error:  # noqa: BLE001 - whoever looks hears why, whatever it was
        _tell(SOCKET_FD, {"failed": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(_EXIT_FAILED)


def _tell(fd: int, document: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, _told(document))


def _told(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode()
