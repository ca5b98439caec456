"""Native code made in a process of its own: this one holds keys and loads neither the guest nor wasmtime.

Once for each guest and each wasmtime, when the cache has none. The process is given the module and nothing
else, and ends afterwards; what it made is authenticated, and kept, by whoever asked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from contextlib import closing
from time import monotonic
from typing import Final

from rlm_wasm.artifacts.compile_cache import COMPILED_BYTES_MAX
from rlm_wasm.errors import HostExhausted, InternalError, RlmWasmError
from rlm_wasm.host.interpreter import execute
from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.protocol.zygote_reports import one_line
from rlm_wasm.system.memfd import MemoryFile, check_sealed
from rlm_wasm.system.signal_names import signal_name
from rlm_wasm.system.standard_descriptors import hold_standard_descriptors

_ENTRY: Final = "rlm_wasm.jail.compiler"
# It takes seconds; a machine that is busy with something else may take some minutes.
COMPILE_SECONDS_MAX: Final = 900.0
# How often to look whether anybody is left to wait for it.
_LOOK_SECONDS: Final = 0.2
_FAILED: Final = "the guest cannot be compiled"


def compile_apart(code: bytes) -> bytes:
    """Return the native code of a module, made by a process that ends before this returns.

    Raises:
        HostExhausted: the kernel refuses this process, or that one, what it takes.
        InternalError: it failed.
        OSError: it could not be started.
    """
    hold_standard_descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = execute(theirs, _ENTRY)
        try:
            return _made_by(process, ours, MemoryFile.of("rlm-module", code))
        finally:
            process.kill()
            process.wait()


def _made_by(process: subprocess.Popen[bytes], channel: socket.socket, module: MemoryFile) -> bytes:
    try:
        channel.settimeout(COMPILE_SECONDS_MAX)
        messages.send(channel, {"type": "compile"}, [module.fd])
        packet = _answer(channel)
    except TimeoutError as error:
        raise InternalError(f"{_FAILED}: it takes longer than {COMPILE_SECONDS_MAX:.0f} s") from error
    except (OSError, ValueError):
        packet = None  # it ended before it read or said anything: its exit tells
    if packet is None:
        raise _ended(process)
    with closing(packet):
        if packet.document["type"] == "failed":
            raise _failure(packet.document)
        if packet.fds_lost:
            raise HostExhausted(f"{_FAILED}: no descriptor is left for its native code")
        if packet.document["type"] != "compiled" or len(packet.fds) != 1:
            raise InternalError(f"{_FAILED}: its process said something else")
        return _contents(packet.fds[0])


def _answer(channel: socket.socket) -> messages.Packet | None:
    """Return what the process says. Raises what `messages.receive` does; TimeoutError: it took too long."""
    until = monotonic() + COMPILE_SECONDS_MAX
    while (left := until - monotonic()) > 0:
        channel.settimeout(min(left, _LOOK_SECONDS))
        with contextlib.suppress(TimeoutError):
            return messages.receive(channel)
        if not threading.main_thread().is_alive():
            # A thread of anyio's, which the end of the interpreter waits for.
            raise InternalError(f"{_FAILED}: the program ends")
    raise TimeoutError


def _ended(process: subprocess.Popen[bytes]) -> RlmWasmError:
    """Return what it means that the process ended without a word."""
    process.kill()
    status = process.wait()
    if status < 0:
        # Nobody kills it but the kernel, or what wasmtime does where it gets no memory.
        return HostExhausted(f"{_FAILED}: its process was ended by {signal_name(-status)}")
    return InternalError(f"{_FAILED}: its process ended with {status}")


def _failure(document: dict[str, object]) -> RlmWasmError:
    reason = f"{_FAILED}: {one_line(document.get('reason', 'it does not say why'))}"
    return HostExhausted(reason) if document.get("exhausted") else InternalError(reason)


def _contents(fd: int) -> bytes:
    """Return what lies in a memory file that nobody can change while it is read."""
    check_sealed(fd)
    size = os.fstat(fd).st_size
    if not 0 < size <= COMPILED_BYTES_MAX:
        raise InternalError(f"{_FAILED}: native code of {size} bytes")
    parts = bytearray()
    while len(parts) < size and (part := os.pread(fd, size - len(parts), len(parts))):
        parts += part
    return bytes(parts)
