"""A host in a container that gives no namespaces: what a strict policy and a lenient one get there.

    python -m tests.support.contained_host

Prints a JSON document.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

from rlm_wasm.errors import LockdownError
from rlm_wasm.worker.lockdown import namespaces, process, seccomp
from rlm_wasm.worker.lockdown.report import LAYERS
from rlm_wasm.worker.zygote import spawn_and_wait
from tests.support.locked_facts import zygote

_UNSHARE = 272


def refuse_namespaces() -> None:
    """Answer unshare with EPERM from now on, as the default profile of containers does."""
    process.no_new_privileges()
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, _UNSHARE), (0x06, 0, 0, 0x0005_0001), (0x06, 0, 0, 0x7FFF_0000)]
    seccomp.install(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))


def main() -> None:
    """Try both."""
    refuse_namespaces()
    said: dict[str, object] = {}
    try:
        with zygote("worker_entry"):
            said["strict"] = "started"
    except LockdownError as error:
        said["strict"] = error.message
    required = tuple(layer for layer in LAYERS if layer not in (*namespaces.FLAGS, "empty root"))
    ours, theirs = socket.socketpair()
    with zygote("worker_entry", required) as made:
        spawn_and_wait(made, theirs, 30)
        theirs.close()
        said["missing"] = [layer for layer, applied, _ in json.loads(ours.recv(65_536)) if not applied]
        ours.sendall(b'"6 * 7"\n')
        said["result"] = json.loads(ours.recv(65_536))["result"]
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
