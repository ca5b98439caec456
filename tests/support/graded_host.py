"""A host on a machine of a grade: what a strict policy and that of the grade get there.

    python -m tests.support.refused_namespaces GRADE python -m tests.support.graded_host

Prints a JSON document.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from rlm_wasm.errors import LockdownError
from rlm_wasm.host.machine_grade import grade_here
from rlm_wasm.lockdown import LAYERS_OF, Grade
from tests.support.locked_facts import spawn_and_wait, zygote


def main() -> None:
    """Start one that requires everything, one that requires what there is, and look at a worker of that."""
    said: dict[str, object] = {"here": grade_here().value}
    try:
        with zygote("worker_entry", LAYERS_OF[Grade.FULL]):
            said["strict"] = "started"
    except LockdownError as error:
        said["strict"] = error.message
    ours, theirs = socket.socketpair()
    with zygote("worker_entry", LAYERS_OF[Grade.FILTERED]) as made:
        spawned = spawn_and_wait(made, theirs, 30)
        theirs.close()
        said["grade"] = made.grade.value
        said["told"] = [[f.layer, f.applied] for f in made.layers]
        said["layers"] = [[layer, applied] for layer, applied, _ in json.loads(ours.recv(65_536))]
        status = Path(f"/proc/{spawned.pid}/status").read_text().splitlines()
        said["status"] = dict(line.split(":\t", 1) for line in status)
        ours.sendall(b'"6 * 7"\n')
        said["result"] = json.loads(ours.recv(65_536))["result"]
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
