"""A host whose workers belong to an attacker: every attempt, one worker each, and what came of it.

    python -m tests.support.attacked_host ENTRY TCP_PORT ABSTRACT

Run under `tests.support.refused_namespaces` it is one on a machine of a lower grade. Prints a JSON document.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from rlm_wasm.lockdown import LAYERS_OF, Grade
from tests.support.attacks import ATTACKS
from tests.support.locked_facts import SECONDS_MAX, attack, spawn_and_wait, zygote


def main() -> None:
    """Try each, while one more worker of the same zygote lives: somebody to signal."""
    entry, port, abstract = sys.argv[1:]
    with zygote(entry, LAYERS_OF[Grade.FILTERED]) as made:
        own_processes = any(f.applied for f in made.layers if f.layer == "pid namespace")
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                spawned = spawn_and_wait(made, theirs, SECONDS_MAX)
            # As a worker sees it: in a namespace of its own the first process after the zygote.
            neighbour = 2 if own_processes else spawned.pid
            came = {
                name: attack(made, name, int(port), abstract, neighbour)
                for name, row in ATTACKS.items()
                if _harmless(name, entry, own_processes)
            }
            os.close(spawned.pidfd)
        json.dump({"grade": made.grade.value, "came": came}, sys.stdout)


def _harmless(name: str, entry: str, own_processes: bool) -> bool:
    """Whether an attempt that got through would reach no process but those of this host."""
    if name != "signal everybody" or own_processes:
        return True
    return entry == "compromised_worker" and os.geteuid() == 0


if __name__ == "__main__":
    main()
