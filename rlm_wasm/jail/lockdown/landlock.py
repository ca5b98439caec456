"""Landlock: no path may be used, no TCP port bound or connected, no abstract socket or outside process met.

A ruleset that handles every right the kernel knows, with no rule that grants any. Works without
privileges and outlives every mistake in the mount namespace.

Source: include/uapi/linux/landlock.h, up to ABI 7.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from rlm_wasm.jail.lockdown.kernel import address, syscall

_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1

# What each ABI added: (first ABI, file-system rights, network rights, scopes).
_RIGHTS: Final[tuple[tuple[int, int, int, int], ...]] = (
    (1, 0x1FFF, 0, 0),  # execute, read, write, list, remove, make of every kind
    (2, 1 << 13, 0, 0),  # link and rename across folders
    (3, 1 << 14, 0, 0),  # truncate
    (4, 0, 0x3, 0),  # bind and connect TCP
    (5, 1 << 15, 0, 0),  # ioctl on devices
    (6, 0, 0, 0x3),  # connect to abstract sockets, signal processes, outside the domain
)
# Bytes of struct landlock_ruleset_attr by ABI: fs; and net; and scoped.
_BYTES: Final = ((6, 24), (4, 16), (1, 8))


def abi() -> int:
    """Return the kernel's Landlock ABI.

    Raises:
        OSError: the kernel has none, or it is turned off.
    """
    return syscall(_CREATE_RULESET, 0, 0, _VERSION_FLAG)


def handled(version: int) -> tuple[int, int, int]:
    """Return the file-system rights, network rights and scopes that ABI `version` can take away."""
    known = [row for row in _RIGHTS if row[0] <= version]
    fs = net = scoped = 0
    for _, more_fs, more_net, more_scoped in known:
        fs, net, scoped = fs | more_fs, net | more_net, scoped | more_scoped
    return fs, net, scoped


def restrict() -> str:
    """Take every right away from this process, and say what that covers. Needs no_new_privs.

    Raises:
        OSError: the kernel refused.
    """
    version = abi()
    rights = (ctypes.c_uint64 * 3)(*handled(version))
    size = next(size for first, size in _BYTES if version >= first)
    ruleset = syscall(_CREATE_RULESET, address(rights), size, 0)
    try:
        syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    covered = ["files"]
    if rights[1]:
        covered.append("TCP")
    if rights[2]:
        covered.append("abstract sockets, signals")
    return f"ABI {version}: {', '.join(covered)}"
