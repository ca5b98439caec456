"""A process that compiles one module and ends: it is given the module in a memory file, and no key.

It knows no cache. Whoever started it authenticates what it made.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import Final, NoReturn

from rlm_wasm.jail.lockdown import process
from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.system.memfd import check_sealed, sealed_memfd
from rlm_wasm.system.os_errors import is_shortage, told

EXIT_FAILED: Final = 72


def main(channel_fd: int, host: int) -> NoReturn:
    """Compile what comes over the socket and say so; end early if the host, by its pidfd, is over."""
    status = EXIT_FAILED
    try:
        process.own_signals()
        os.environ.clear()  # CPython itself adds LC_CTYPE to an empty one
        channel = socket.socket(fileno=channel_fd)
        threading.Thread(target=_end_with, args=(host,), daemon=True).start()
        try:
            _compile(channel)
            status = 0
        except Exception as error:  # noqa: BLE001 - the host hears why, whatever it was
            with contextlib.suppress(OSError):
                messages.send(channel, _failure(error))
    finally:
        os._exit(status)


def _end_with(host: int) -> None:
    poll = select.poll()  # of any descriptor: this is a number of the host's, which may have thousands
    poll.register(host, select.POLLIN)
    poll.poll()
    os._exit(EXIT_FAILED)


def _compile(channel: socket.socket) -> None:
    from rlm_wasm.vm.compilation import compile_native

    packet = messages.receive(channel)
    if packet is None or len(packet.fds) != 1:
        raise ValueError("it was given no module")
    module = packet.fds[0]
    check_sealed(module)
    code = os.pread(module, os.fstat(module).st_size, 0)
    messages.send(channel, {"type": "compiled"}, [sealed_memfd("rlm-code", compile_native(code))])


def _failure(error: Exception) -> dict[str, object]:
    if is_shortage(error):
        return {"type": "failed", "reason": told(error), "exhausted": True}
    return {"type": "failed", "reason": f"{type(error).__name__}: {error}"[:1000]}
