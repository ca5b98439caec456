"""A process in the place of the one that compiles: the module that it is given says what it does."""

from __future__ import annotations

import os
import select
import signal
import socket

from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.system.memfd import sealed_memfd


def main(channel_fd: int, host: int) -> None:
    channel = socket.socket(fileno=channel_fd)
    packet = messages.receive(channel)
    assert packet is not None
    match os.pread(packet.fds[0], 100, 0):
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"hangs":
            select.select([host], [], [])
        case b"silent":
            os._exit(3)
        case b"no file":
            messages.send(channel, {"type": "compiled"})
        case b"something else":
            messages.send(channel, {"type": "ready"}, [sealed_memfd("rlm-code", b"code")])
        case b"nothing":
            messages.send(channel, {"type": "compiled"}, [sealed_memfd("rlm-code", b"")])
        case b"open":
            fd = os.memfd_create("rlm-code", os.MFD_ALLOW_SEALING)
            os.write(fd, b"code")
            messages.send(channel, {"type": "compiled"}, [fd])
        case b"short of memory":
            messages.send(channel, {"type": "failed", "reason": "\x1b[31mno memory", "exhausted": True})
        case b"no words":
            channel.send(b"not JSON")
