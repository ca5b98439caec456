"""The layers of a lock-down, in the one order in which they work.

Once, in the zygote: namespaces before anything is loaded (`enter_namespaces`), and when all is loaded
what every worker inherits (`settle`). In each worker, before the first guest instruction: `lock_down`.
From then on a worker has six descriptors and the system calls of `syscalls.py`.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Callable, Iterable
from typing import Final

from rlm_wasm.jail.lockdown import closures, landlock, namespaces, process, rlimits, seccomp
from rlm_wasm.jail.lockdown.report import LockdownReport, attempt, missing_layer
from rlm_wasm.jail.lockdown.syscalls import IMAGE_FD, KNOWN_MAX, PAGEMAP_FD, RULES, SOCKET_FD
from rlm_wasm.lockdown import Finding
from rlm_wasm.protocol.process_limits import ProcessLimits

# Open in the zygote, and in a worker until the last step: /proc, and the pipe for last words.
PROC_FD: Final = 6
WORDS_FD: Final = 7
_STANDARD: Final = frozenset({0, 1, 2})
KEPT: Final = _STANDARD | {SOCKET_FD, IMAGE_FD, PAGEMAP_FD}
_TRANSIENT: Final = frozenset({PROC_FD, WORDS_FD})


def check_machine() -> None:
    """Refuse a machine that the system-call table was not written for.

    Raises:
        LockdownError: it is not Linux on x86-64.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise missing_layer("seccomp", f"written for Linux on x86-64, not {platform.machine()}")


def enter_namespaces(required: Iterable[str]) -> list[Finding]:
    """The first steps of a zygote, before it loads anything.

    Raises:
        LockdownError: a required layer is missing.
    """
    check_machine()
    environment = attempt("environment", process.empty_environment, required)
    return [environment, *namespaces.enter(required)]


def settle(so_far: list[Finding], required: Iterable[str]) -> list[Finding]:
    """The last steps of a zygote, once everything that a worker needs is loaded and has been used.

    Raises:
        LockdownError: a required layer is missing.
    """
    own_mounts = any(f.applied for f in so_far if f.layer == "mount namespace")
    os.umask(0o777)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("executable pages", _seal_closures),
        ("empty root", namespaces.empty_root if own_mounts else _no_mounts),
        ("no new privileges", process.no_new_privileges),
        ("capabilities", process.drop_all_capabilities),
        ("user id", process.become_nobody),
    ]
    return [attempt(layer, apply, required) for layer, apply in steps]


def lock_down(
    limits: ProcessLimits, inherited: Iterable[Finding], required: Iterable[str], *, parent: int
) -> LockdownReport:
    """Lock this process down. Socket, image and pagemap are at their numbers already.

    Raises:
        LockdownError: a required layer is missing; the process must end.
    """
    address_bytes, data_bytes = process.memory_use(PROC_FD)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("single thread", lambda: process.single_thread(PROC_FD)),
        ("parent death", lambda: process.die_with_parent(parent)),
        ("descriptors", lambda: process.only_descriptors(PROC_FD, KEPT, _TRANSIENT)),
        ("undumpable", lambda: process.dumpable(False)),
        ("rlimits", lambda: rlimits.apply(limits, data_bytes=data_bytes, address_bytes=address_bytes)),
        ("landlock", landlock.restrict),
        ("seccomp", _filter),
    ]
    return LockdownReport((*inherited, *(attempt(layer, apply, required) for layer, apply in steps)))


@functools.cache
def assembled_filter() -> bytes:
    """Return the system-call filter, compiled once in the zygote."""
    return seccomp.assemble(seccomp.compile_filter(RULES, known_max=KNOWN_MAX))


def _filter() -> str:
    code = assembled_filter()
    seccomp.install(code)
    # Under the filter already, but before anything that is not ours: until here a failure could be told.
    os.close(PROC_FD)
    os.close(WORDS_FD)
    named = {rule.number for rule in RULES}  # a call may have two rules
    return f"{len(named)} system calls named, {len(code) // 8} instructions"


def _seal_closures() -> str:
    sealed = closures.seal(process.read_maps(PROC_FD))
    left = list(closures.writable_code(process.read_maps(PROC_FD)))
    if left:
        raise ValueError(f"{len(left)} mappings are writable and executable")
    return f"{sealed} made read-execute, none writable"


def _no_mounts() -> str:
    raise ValueError("needs a mount namespace")
