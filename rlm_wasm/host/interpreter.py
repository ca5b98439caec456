"""Starting a process of ours: an isolated interpreter, an empty environment, one socket."""

from __future__ import annotations

import os
import socket
import subprocess

from rlm_wasm.protocol.zygote_reports import ZygoteGone
from rlm_wasm.system.interpreter import interpreter_command


def execute(channel: socket.socket, module: str) -> subprocess.Popen[bytes]:
    """Start an interpreter of nobody's environment that runs `main(socket, host)` of a module of ours.

    `host` is a pidfd of this process.

    Raises:
        OSError or ZygoteGone: it could not be started.
    """
    # A fork of this process has a copy of every socket, so that no end of ours closes one. This tells of it.
    host = os.pidfd_open(os.getpid())
    try:
        passed = (channel.fileno(), host)
        command = interpreter_command(module, *passed)
        if command is None:
            raise ZygoteGone("this Python does not know its own executable")
        return subprocess.Popen(
            command,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=True,
            pass_fds=passed,
            # Ctrl-C in a terminal goes to the host, which decides.
            start_new_session=True,
        )
    finally:
        os.close(host)
