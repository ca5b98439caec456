"""A host that starts a worker, says which process it is, and waits to be killed.

python -m tests.support.doomed_host
"""

from __future__ import annotations

import signal
import socket
import sys

from tests.support.locked_facts import spawn_and_wait, zygote


def main() -> None:
    """Start it; wait."""
    ours, theirs = socket.socketpair()
    with zygote("worker_entry") as made:
        worker = spawn_and_wait(made, theirs, 30)
        theirs.close()
        ours.recv(65_536)  # it is locked down and serves
        sys.stdout.write(f"{made.pid} {worker.pid}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
