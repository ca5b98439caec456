"""A host in a container that gives no namespaces: what a strict policy and a lenient one get there.

    python -m tests.support.contained_host

Prints a JSON document.
"""

from __future__ import annotations

import json
import socket
import sys

from rlm_wasm.errors import LockdownError
from rlm_wasm.worker.lockdown import namespaces
from rlm_wasm.worker.lockdown.report import LAYERS
from tests.support.kernel_refusal import refuse
from tests.support.locked_facts import spawn_and_wait, zygote

_UNSHARE = 272


def main() -> None:
    """Try both."""
    refuse(_UNSHARE)
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
