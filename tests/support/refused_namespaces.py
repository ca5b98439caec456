"""A machine that refuses new namespaces, for one command and all it starts: a container's default profile.

    python -m tests.support.refused_namespaces GRADE COMMAND...

GRADE is what is left there: "namespaced", where root still gets all but those of users, or "filtered".
Anybody may do this, and nothing takes it back.
"""

from __future__ import annotations

import os
import struct
import sys

from rlm_wasm.jail.lockdown import process, seccomp
from rlm_wasm.lockdown import Grade

_CLONE, _UNSHARE, _SETNS, _CLONE3 = 56, 272, 308, 435
# Which CLONE_NEW flags are refused.
_REFUSED = {Grade.NAMESPACED: 0x1000_0000, Grade.FILTERED: 0x7E02_0000}
_LOAD, _JUMP_EQUAL, _JUMP_IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _NOT_PERMITTED, _NOT_THERE = 0x7FFF_0000, 0x0005_0001, 0x0005_0026
_NUMBER, _FIRST_ARGUMENT = 0, 16


def refuse_namespaces(left: Grade) -> None:
    """Answer EPERM to whoever wants another namespace, in this process and all it starts, from now on."""
    # (code, jump if true, jump if false, constant); jumps count from the next instruction.
    program = (
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_EQUAL, 6, 0, _SETNS),
        (_JUMP_EQUAL, 4, 0, _CLONE3),  # its flags lie in memory; libc does without it
        (_JUMP_EQUAL, 1, 0, _UNSHARE),
        (_JUMP_EQUAL, 0, 4, _CLONE),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_BITS, 1, 2, _REFUSED[left]),
        (_RETURN, 0, 0, _NOT_THERE),
        (_RETURN, 0, 0, _NOT_PERMITTED),
        (_RETURN, 0, 0, _ALLOW),
    )
    process.no_new_privileges()
    seccomp.install(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))


if __name__ == "__main__":
    refuse_namespaces(Grade(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
