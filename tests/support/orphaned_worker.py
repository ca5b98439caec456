"""A host of a worker that becomes an orphan while it locks itself down: says "gone" once it has ended.

python -m tests.support.orphaned_worker
"""

from __future__ import annotations

import socket
import sys

from rlm_wasm.lockdown import LAYERS_OF, Grade
from tests.support.locked_facts import SECONDS_MAX, zygote


def main() -> None:
    """Have one made, and wait for the end of its socket."""
    ours, theirs = socket.socketpair()
    ours.settimeout(SECONDS_MAX)
    with zygote("orphaned_entry", LAYERS_OF[Grade.FILTERED]) as made:
        with theirs:
            made.spawn(theirs)
        sys.stdout.write(f"{ours.recv(65_536).decode() or 'gone'}\n")


if __name__ == "__main__":
    main()
