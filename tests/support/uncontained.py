"""The control of every attempt: a process that is not locked down, where the attempt has to work.

    python -m tests.support.uncontained ATTACK TCP_PORT ABSTRACT

Prints what came of it; a program that was run in its place leaves its exit code instead.
"""

from __future__ import annotations

import os
import signal
import sys

from tests.support import attacks


def main() -> None:
    """Try one attempt against a process made for it."""
    name, port, abstract = sys.argv[1:]
    victim = os.fork()
    if victim == 0:
        signal.pause()
    try:
        image = os.memfd_create("image")
        os.ftruncate(image, attacks.PAGE)
        aim = attacks.Aim(victim, int(port), abstract, image, neighbour=victim)
        if name == "remove a file":
            os.close(os.open("/tmp/rlm-attack", os.O_CREAT | os.O_WRONLY))
        tried = os.fork()
        if tried == 0:
            os.write(1, attacks.attempt(name, aim).encode())
            os._exit(0)
        _, status = os.waitpid(tried, 0)
        if os.WIFSIGNALED(status):
            os.write(1, signal.Signals(os.WTERMSIG(status)).name.encode())
        elif os.WEXITSTATUS(status) == attacks.TINY_EXIT:
            os.write(1, attacks.WORKS.encode())
        elif name == "run a program":
            os.write(1, attacks.WORKS.encode() if os.WEXITSTATUS(status) == 0 else b"no")
    finally:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        for path, remove in (("-l", os.unlink), ("-d", os.rmdir), ("", os.unlink)):
            if os.path.lexists(f"/tmp/rlm-attack{path}"):
                remove(f"/tmp/rlm-attack{path}")


if __name__ == "__main__":
    main()
