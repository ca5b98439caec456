"""Namespaces of the zygote and all its workers: nothing outside has a name in there.

Entered once, before anything is loaded; forks inherit them and cost nothing. The process that calls
`enter` stays outside the new pid namespace: its next child is the first process in it, and the
kernel ends every other process of the namespace together with that one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final

from rlm_wasm.jail.lockdown.kernel import mount, pivot_root, unattached, unmount, unshare
from rlm_wasm.jail.lockdown.process import NOBODY
from rlm_wasm.jail.lockdown.report import attempt
from rlm_wasm.lockdown import Finding

_NEW_USER: Final = 0x1000_0000
FLAGS: Final[dict[str, int]] = {
    "user namespace": _NEW_USER,
    "pid namespace": 0x2000_0000,
    "net namespace": 0x4000_0000,
    "mount namespace": 0x0002_0000,
    "ipc namespace": 0x0800_0000,
    "uts namespace": 0x0400_0000,
    "cgroup namespace": 0x0200_0000,
}
_DETAILS: Final[dict[str, str]] = {
    "user namespace": "its own users, and no further namespace of users",
    "pid namespace": "its own process numbers",
    "net namespace": "no interface is up",
    "mount namespace": "its own mounts",
    "ipc namespace": "its own System V objects and queues",
    "uts namespace": "its own host name",
    "cgroup namespace": "its own view of cgroups",
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x4000, 1 << 18, 2
_UNATTACHED: Final = 1 | 2 | 4 | 8  # read-only, nosuid, nodev, noexec


def enter(required: Iterable[str]) -> list[Finding]:
    """Enter every namespace that this machine gives; the user namespace first, which grants the others.

    Raises:
        LockdownError: a required one is refused, or the users of the new one could not be written.
    """
    needed = set(required)
    findings = [attempt("user namespace", _enter_user, needed)]
    for layer in list(FLAGS)[1:]:
        findings.append(attempt(layer, lambda layer=layer: _enter(layer), needed))  # type: ignore[misc]
    return findings


def _enter(layer: str) -> str:
    unshare(FLAGS[layer])
    return _DETAILS[layer]


def _enter_user() -> str:
    """Enter a user namespace in which this user, and nobody, exist, and which cannot have another inside.

    A further one would give its maker every capability in it, and with them much more of the kernel.
    """
    _make_user_namespace()
    _write("/proc/sys/user/max_user_namespaces", "0")
    return _DETAILS["user namespace"]


def _make_user_namespace() -> None:
    """Enter it and have its users written.

    Root wants two users mapped, to become the second. Only a process outside may write that, so one is
    forked beforehand and told when to. Where it may not either (root of a container that knows no nobody),
    and for everybody else, the one user there is becomes nobody.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        unshare(_NEW_USER)
    elif _helped(_both_users):
        return
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        _write(f"/proc/self/{name}", text)


def _both_users(pid: int) -> None:
    for name in ("uid_map", "gid_map"):
        _write(f"/proc/{pid}/{name}", f"0 0 1\n{NOBODY} {NOBODY} 1")


def _helped(write: Callable[[int], None]) -> bool:
    """Enter a user namespace while a process outside waits to `write` for it; return whether it could."""
    ready, go = os.pipe()
    pid = os.getpid()
    helper = os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(go)
            if os.read(ready, 1):
                write(pid)
            status = 0
        finally:
            os._exit(status)
    os.close(ready)
    try:
        unshare(_NEW_USER)
        os.write(go, b"!")
    finally:
        os.close(go)
        _, status = os.waitpid(helper, 0)
    return status == 0


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def empty_root() -> str:
    """Put an empty, read-only file system in the place of the root, and let go of the old one.

    Raises:
        OSError: a step failed. Called only inside a mount namespace of our own.
    """
    try:
        mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A folder that is no mount: we were started in a chroot.
        _unattached_root()
    else:
        _pivoted_root()
    if os.listdir("/"):
        raise OSError(errno.ENOTEMPTY, "the new root is not empty")
    return "a read-only file system with nothing in it"


def _unattached_root() -> None:
    """Make the root a file system that is mounted nowhere.

    What is mounted stays so, and has no name any more: nothing of it is open, and no capability is kept.
    Mounted over a folder it might show in other namespaces, which a chroot cannot be kept from.
    """
    where = unattached("tmpfs", {"size": "4k", "nr_inodes": "1", "mode": "555"}, _UNATTACHED)
    try:
        os.fchdir(where)
        os.chroot(".")
    finally:
        os.close(where)


def _pivoted_root() -> None:
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    # Over a folder that is there on every machine; old and new root change places on it.
    mount("tmpfs", "/proc", "tmpfs", flags, "size=4k,nr_inodes=1,mode=555")
    os.chdir("/proc")
    pivot_root(".", ".")
    unmount(".", _MNT_DETACH)
    os.chdir("/")
    mount("none", "/", "", _MS_REMOUNT | _MS_RDONLY | flags, "size=4k,nr_inodes=1,mode=555")
