"""The parts of itself a process gives up: descriptors, identity, capabilities, dumps, its parent's death."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from typing import Final

from rlm_wasm.jail.lockdown.kernel import drop_capabilities, prctl

NOBODY: Final = 65_534

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_GET_DUMPABLE = 1, 4, 3
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 28, 38, 47
_AMBIENT_CLEAR_ALL: Final = 4
# noroot, no_setuid_fixup, no ambient raise, each with its lock; keep_caps off, locked.
_SECUREBITS: Final = 0b1110_1111
_CAPABILITIES_MAX: Final = 64


def own_signals() -> None:
    """Undo what whoever started this process blocks or ignores. A write that fails is an error, no signal.

    With SIGCHLD ignored nobody can wait for a child, with SIGILL blocked a guest's trap ends the process.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        ignored = number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def empty_environment() -> str:
    """Check that this process was started with nothing in its environment, libc's copy included.

    Raises:
        ValueError: it holds something.
    """
    held = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value
    first = ctypes.c_void_p.from_address(held).value if held else None
    if os.environ or first:
        raise ValueError("the environment is not empty")
    return "empty since exec"


def single_thread(proc: int) -> str:
    """Check that this process has one thread. `proc` is a descriptor of /proc.

    Raises:
        ValueError: it has more: a filter or a fork would miss them.
    """
    count = len(_names(proc, "self/task"))
    if count != 1:
        raise ValueError(f"the process has {count} threads")
    return "1 thread"


def die_with_parent(parent: int) -> str:
    """Have the kernel kill this process when its parent ends.

    Raises:
        ValueError: the parent is gone already.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ValueError("the parent is gone")
    return "SIGKILL"


def no_new_privileges() -> str:
    """Give up gaining privileges by exec, for good."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return "set"


def drop_all_capabilities() -> str:
    """Give up every capability: bounding and ambient set, then all that is held.

    Who has no right to change the bounding set has no capability either, and gains none by exec.
    """
    bounded = True
    try:
        prctl(_PR_SET_SECUREBITS, _SECUREBITS)
        for number in range(_CAPABILITIES_MAX):
            try:
                prctl(_PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno != errno.EINVAL or number == 0:  # the first number this kernel does not know
                    raise
                break
    except PermissionError:
        bounded = False
    prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    return "none" if bounded else "none; the bounding set stays"


def become_nobody() -> str:
    """Change to the user and group nobody, without supplementary groups, and hold no capability.

    Outside a user namespace only root can; a user without privileges stays who it is.

    Raises:
        ValueError: the process is still root afterwards.
    """
    privileged = os.geteuid() == 0
    if privileged:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    drop_capabilities()
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise ValueError("the process is still root")
    return f"{os.getuid()}:{os.getgid()}"


def dumpable(yes: bool) -> str:
    """Whether the process can be traced and its memory read by others of its user; no core if not."""
    prctl(_PR_SET_DUMPABLE, int(yes))
    if prctl(_PR_GET_DUMPABLE) != int(yes):
        raise ValueError("the kernel keeps it dumpable")
    return "no dump, no trace"


def only_descriptors(proc: int, keep: frozenset[int], transient: frozenset[int]) -> str:
    """Close every descriptor but `keep` and `transient`, which go last, and check that it is so.

    Raises:
        ValueError: another one is open.
    """
    os.closerange(max(keep | transient) + 1, sys.maxsize & 0x7FFF_FFFF)
    fd = os.open("self/fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        found = {int(name) for name in os.listdir(fd)} - {fd}
        # listdir duplicates the descriptor it is given; the duplicate is gone again.
        extra = {number for number in found - keep - transient if _is_open(number)}
    finally:
        os.close(fd)
    if extra:
        raise ValueError(f"descriptors {sorted(extra)} are open")
    return f"{len(keep)} left"


def memory_use(proc: int) -> tuple[int, int]:
    """Return (address space, writable data) of this process, in bytes."""
    fd = os.open("self/statm", os.O_RDONLY, dir_fd=proc)
    try:
        pages = os.read(fd, 256).split()
    finally:
        os.close(fd)
    size = os.sysconf("SC_PAGESIZE")
    return int(pages[0]) * size, int(pages[5]) * size


def oom_first(proc: int) -> None:
    """Have this process and its children chosen first when the machine is out of memory.

    Raises:
        OSError: the kernel does not let it.
    """
    fd = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
    try:
        os.write(fd, b"1000")
    finally:
        os.close(fd)


def read_maps(proc: int) -> list[str]:
    """Return the lines of /proc/self/maps."""
    fd = os.open("self/maps", os.O_RDONLY, dir_fd=proc)
    with os.fdopen(fd, "r") as stream:
        return stream.readlines()


def _names(proc: int, path: str) -> list[str]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
