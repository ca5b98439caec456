"""The limits of another process, where its user may be another one and we may not do all that root may."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

from rlm_wasm.jail.lockdown.process import NOBODY

_ASK = """
import json, os, resource, sys
nobody = int(sys.argv[1])
os.setgroups([])
os.setresgid(nobody, nobody, nobody)
os.setresuid(nobody, nobody, nobody)
pid, number, *limits = json.loads(sys.argv[2])
print(json.dumps(resource.prlimit(pid, number, *map(tuple, limits))))
"""


def prlimit(pid: int, number: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return a limit of a worker, and set it. Root of a container without CAP_SYS_RESOURCE asks as its user.

    In a namespace of users of ours any worker is ours; without one it is nobody's.
    """
    wanted = () if limits is None else (limits,)
    try:
        return resource.prlimit(pid, number, *wanted)
    except PermissionError:
        if os.geteuid() != 0:
            raise
    # By a program of its own, without a fork of this process and all its threads.
    asked = json.dumps([pid, number, *wanted])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ASK, str(NOBODY), asked],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise PermissionError(done.stderr)
    soft, hard = json.loads(done.stdout)
    return soft, hard
