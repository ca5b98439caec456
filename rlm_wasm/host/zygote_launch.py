"""Starting the process of a zygote: an isolated interpreter, an empty environment, one socket.

It waits there to be told what it is for, so that it can be started before that is known.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
from typing import Final

from rlm_wasm.host.guest_files import guest_files
from rlm_wasm.host.interpreter import execute
from rlm_wasm.limits import BASE_IMAGE
from rlm_wasm.system import forks
from rlm_wasm.system.standard_descriptors import hold_standard_descriptors

_ZYGOTE: Final = "rlm_wasm.jail.zygote"

# A process that has been started and not yet been told what it is for.
_launched: Final[list[tuple[subprocess.Popen[bytes], socket.socket]]] = []
_launching: Final = forks.module_lock()


def prelaunch(image: str = BASE_IMAGE) -> None:
    """Start the next zygote's process now, and read what it will be given, before its limits are known.

    For a command that will want one zygote: the interpreter starts while the command is still imported.
    Should nobody want it, it ends with this process.

    Raises:
        ArtifactError: no guest is built, or its files are not what was built.
        ZygoteGone: the process could not be started.
    """
    hold_standard_descriptors()
    with _launching:
        if not _launched:
            _launched.append(_launch())
            atexit.register(_discard_launched)
    guest_files(image)


def disown(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """In the child of a fork: let go of a process of the parent's without ending it."""
    process.returncode = 0  # to whoever waits for it here, or ends it, it has ended
    with contextlib.suppress(OSError):
        channel.close()


def _disown_launched() -> None:
    while _launched:
        disown(*_launched.pop())


os.register_at_fork(after_in_child=_disown_launched)


def _discard_launched() -> None:
    """End a process that nobody came to want."""
    while _launched:
        process, channel = _launched.pop()
        channel.close()
        process.kill()
        process.wait()


def launch() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return a process that waits to be told what it is for, and the socket to tell it by.

    Raises:
        OSError or ZygoteGone: it could not be started.
    """
    hold_standard_descriptors()
    with _launching:
        return _launched.pop() if _launched else _launch()


def _launch() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        return execute(theirs, _ZYGOTE), ours
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
