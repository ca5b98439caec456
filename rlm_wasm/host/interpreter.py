"""Starting a process of ours: an isolated interpreter, an empty environment, one socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from rlm_wasm.protocol.zygote_reports import ZygoteGone

# Isolated, without site: no variable, no .pth file and no user folder decides what is loaded.
_BOOT: Final = (
    "import json, sys; sys.path += [p for p in json.loads(sys.argv[1]) if p not in sys.path]; "
    "from {module} import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


def execute(channel: socket.socket, module: str) -> subprocess.Popen[bytes]:
    """Start an interpreter of nobody's environment that runs `main(socket, host)` of a module of ours.

    `host` is a pidfd of this process.

    Raises:
        OSError or ZygoteGone: it could not be started.
    """
    if not sys.executable:
        raise ZygoteGone("this Python does not know its own executable")
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *(os.path.abspath(path) for path in sys.path if path and os.path.isdir(path))]
    # A fork of this process has a copy of every socket, so that no end of ours closes one. This tells of it.
    host = os.pidfd_open(os.getpid())
    try:
        passed = (channel.fileno(), host)
        boot = _BOOT.format(module=module)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", boot, json.dumps(paths), *map(str, passed)],
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
