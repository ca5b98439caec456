"""The zygote's process: it loads everything once, then forks a worker for each socket it is sent.

Started by `zygote_launch.py` as `python -I -S` with an empty environment, /dev/null at 0 to 2, and one
socket. The process that was started enters the namespaces and stays outside as the parent of the
zygote proper, the first process of the new pid namespace: when either ends, the kernel ends all.

It never reads a key or a file of the user's: what it loads comes over the socket, sealed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import traceback
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from rlm_wasm.errors import HostExhausted, LockdownError
from rlm_wasm.jail.lockdown import layers, process
from rlm_wasm.jail.lockdown.report import LockdownReport
from rlm_wasm.jail.lockdown.syscalls import IMAGE_FD, PAGEMAP_FD, SOCKET_FD
from rlm_wasm.lockdown import WORKER_LAYERS, Finding
from rlm_wasm.protocol import zygote_messages as messages
from rlm_wasm.protocol.process_limits import ProcessLimits
from rlm_wasm.system.memfd import make_no_files
from rlm_wasm.system.os_errors import is_shortage, told
from rlm_wasm.vm.dirty_pages_unsafe import hold_pagemap

EXIT_NOT_LOCKED: Final = 71
EXIT_FAILED: Final = 72
_WORDS_BYTES_MAX: Final = 900
_TOLD_BYTES: Final = 65_536
# The host's socket, once everything is at its place; the first number that is free for anything else.
_CHANNEL_FD: Final = 8
_FREE_FD: Final = 9


@dataclass(frozen=True, slots=True)
class _Settled:
    """What the zygote knows when it starts to serve."""

    entry: Any
    limits: ProcessLimits
    findings: tuple[Finding, ...]
    required: frozenset[str]


def main(channel_fd: int, host: int) -> NoReturn:
    """Run the zygote on the host's socket until the host closes it, or its process, by the pidfd, is over."""
    status = EXIT_FAILED
    try:
        process.own_signals()
        os.environ.clear()  # CPython itself adds LC_CTYPE to an empty one
        channel = socket.socket(fileno=channel_fd)
        try:
            status = _outside(channel, host)
        except Exception as error:  # noqa: BLE001 - the host hears why, whatever it was
            _tell_failure(channel, error)
    finally:
        os._exit(status)


def _tell_failure(channel: socket.socket, error: Exception) -> None:
    document: dict[str, Any] = {"type": "failed", "reason": f"{type(error).__name__}: {error}"[:1000]}
    if isinstance(error, LockdownError):
        document |= {"reason": error.message, "hint": error.hint, "lockdown": True}
    elif isinstance(error, HostExhausted):
        document |= {"reason": error.message, "exhausted": True}
    elif is_shortage(error):
        document |= {"reason": f"the zygote did not start: {told(error)}", "exhausted": True}
    with contextlib.suppress(OSError):
        messages.send(channel, document)


def _outside(channel: socket.socket, host: int) -> int:
    """Enter the namespaces, fork the zygote proper, and return its exit code when it ends."""
    # While the host still reads its policy: modules take longer to import than all that follows.
    importlib.import_module("rlm_wasm.jail.worker_entry")
    packet = None if _over(host, channel.fileno()) else messages.receive(channel)
    if packet is None:
        return EXIT_FAILED
    if packet.fds_lost:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    start, fds = packet.document, packet.fds
    required = frozenset(start["required"])
    findings = layers.enter_namespaces(required)
    me = os.getpid()
    inner = os.fork()
    if inner == 0:
        os.close(host)
        _inside(channel, start, fds, findings, me)
    channel.close()
    for fd in fds:
        os.close(fd)
    if _over(host, os.pidfd_open(inner)):
        return EXIT_FAILED  # and the kernel ends the zygote proper, whose parent this is
    _, status = os.waitpid(inner, 0)
    return os.waitstatus_to_exitcode(status) & 0x7F


def _over(host: int, fd: int) -> bool:
    """Wait until `fd` is readable or the host has ended; return whether it has."""
    poll = select.poll()
    poll.register(host, select.POLLIN)
    poll.register(fd, select.POLLIN)
    return any(ready == host for ready, _ in poll.poll())


def _inside(
    channel: socket.socket, start: dict[str, Any], fds: list[int], findings: list[Finding], outside: int
) -> NoReturn:
    try:
        # In a pid namespace of its own it sees no parent, and 0 is its number.
        separate = any(f.applied for f in findings if f.layer == "pid namespace")
        process.die_with_parent(0 if separate else outside)
        channel = _place(channel, *fds)
        settled = _settle(start, findings)
        process.die_with_parent(0 if separate else outside)  # changing the user undid it
        settled, stand = _certain(channel, settled)
        messages.send(channel, {"type": "ready", "layers": [[f.layer, f.applied, f.detail] for f in stand]})
        _serve(channel, settled)
    except Exception as error:  # noqa: BLE001 - the host hears why, whatever it was
        _tell_failure(channel, error)
    finally:
        os._exit(EXIT_FAILED)


def _place(channel: socket.socket, code: int, image: int) -> socket.socket:
    """Put every descriptor at its number and return the host's socket at its own.

    Native code takes the place of the worker's socket, until it is loaded.
    """
    given = (channel.fileno(), code, image)
    # Out of the way, and no further than that: there may be few. Until here a failure can be told.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE_FD) for fd in given]
    channel.detach()
    os.closerange(SOCKET_FD, _FREE_FD)
    os.dup2(moved[0], _CHANNEL_FD, inheritable=False)
    os.dup2(moved[2], IMAGE_FD, inheritable=False)
    os.dup2(moved[1], SOCKET_FD, inheritable=False)
    for fd in {*moved, *(fd for fd in given if fd >= _FREE_FD)}:
        os.close(fd)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(proc, layers.PROC_FD, inheritable=False)
    os.close(proc)
    return socket.socket(fileno=_CHANNEL_FD)


def _settle(start: dict[str, Any], findings: list[Finding]) -> _Settled:
    """Load and use everything that a worker will need, then give up what a zygote can."""
    from rlm_wasm.jail.adopted_guest import adopt_guest
    from rlm_wasm.protocol.guest_facts import GuestFacts
    from rlm_wasm.system.memfd import check_sealed
    from rlm_wasm.vm.instance import Program
    from rlm_wasm.vm.linear_unsafe import ImageSource
    from rlm_wasm.vm.loaded_guest import LoadedGuest
    from rlm_wasm.vm.native_code import load_native_file

    values: dict[str, Any] = start["facts"]
    for name in ("imports", "exports"):
        values[name] = tuple(values[name])
    facts = GuestFacts(**values)
    check_sealed(IMAGE_FD)
    image = ImageSource(IMAGE_FD, facts.image_bytes, facts.image_bytes)
    program = Program(load_native_file(SOCKET_FD), image)
    # Taken until a worker's own come, so that no other descriptor gets these numbers.
    for number in (SOCKET_FD, PAGEMAP_FD, layers.WORDS_FD):
        os.dup2(0, number, inheritable=False)
    adopt_guest(LoadedGuest(program, facts))
    entry = importlib.import_module(start["entry"])
    entry.warm()
    required = frozenset(start["required"])
    # When memory runs out, the kernel ends workers first, and never the host for one.
    with contextlib.suppress(OSError):
        process.oom_first(layers.PROC_FD)
    # Two descriptors a worker.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    layers.assembled_filter()
    findings = [*findings, *layers.settle(findings, required)]
    process.single_thread(layers.PROC_FD)
    # What is there now stays: the collector of a worker need not look at it, and so copies no page.
    gc.collect()
    gc.freeze()
    return _Settled(entry, ProcessLimits(**start["limits"]), tuple(findings), required)


# -- which layers its workers will have ---------------------------------------------------------------


class _Teller:
    """The entry of a worker that only says which layers it got."""

    @staticmethod
    def serve(connection: socket.socket, report: LockdownReport) -> None:
        told = [[f.layer, f.applied, f.detail] for f in report.findings]
        connection.sendall(json.dumps(told).encode())


def _certain(channel: socket.socket, settled: _Settled) -> tuple[_Settled, list[Finding]]:
    """Find out which layers a worker gets, and require those from now on: all have the same.

    Where each is required there is nothing to find out: a worker has it, or there is none. Else one is
    made for it.

    Raises:
        ValueError: it did not come to say.
    """
    if settled.required.issuperset(WORKER_LAYERS):
        return settled, [*settled.findings, *(Finding(layer, True, "required") for layer in WORKER_LAYERS)]
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pidfd, child = _fork(channel, replace(settled, entry=_Teller), 0, theirs.fileno())
        told = b""
        while part := ours.recv(_TOLD_BYTES):
            told += part
    os.close(pidfd)
    _, reason = _ended(child)
    if not told:
        raise ValueError(reason or "a worker did not come to say which layers it has")
    findings = [Finding(*each) for each in json.loads(told)]
    applied = {f.layer for f in findings if f.applied}
    return replace(settled, required=settled.required | (applied & set(WORKER_LAYERS))), findings


# -- serving ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Child:
    number: int
    pid: int
    words: int  # what it says before it is locked down, or has failed to


def _serve(channel: socket.socket, settled: _Settled) -> NoReturn:
    children: dict[int, _Child] = {}  # by pidfd
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != channel.fileno():
                child = children.pop(fd)
                poll.unregister(fd)
                _reap(channel, fd, child)
                continue
            packet = messages.receive(channel)
            if packet is None:
                # As the first process of its namespace it takes all others with it; without, by hand.
                for pidfd in children:
                    with contextlib.suppress(OSError):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os._exit(0)
            number = int(packet.document["number"])
            try:
                if packet.fds_lost:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                pidfd, child = _fork(channel, settled, number, packet.fds[0])
            except OSError as error:
                _tell_exit(channel, number, EXIT_FAILED << 8, f"no fork: {told(error)}")
                continue
            finally:
                packet.close()
            children[pidfd] = child
            poll.register(pidfd, select.POLLIN)
            messages.send(channel, {"type": "spawned", "number": number, "pid": child.pid}, [pidfd])


def _reap(channel: socket.socket, pidfd: int, child: _Child) -> None:
    os.close(pidfd)
    _tell_exit(channel, child.number, *_ended(child))


def _ended(child: _Child) -> tuple[int, str]:
    """Reap it; return its status and last words."""
    _, status = os.waitpid(child.pid, 0)
    # A worker that got locked down closed its end before the guest's first instruction.
    reason = os.read(child.words, _WORDS_BYTES_MAX).decode("utf-8", "replace")
    os.close(child.words)
    return status, reason


def _tell_exit(channel: socket.socket, number: int, status: int, reason: str) -> None:
    messages.send(channel, {"type": "exited", "number": number, "status": status, "reason": reason})


def _fork(channel: socket.socket, settled: _Settled, number: int, connection: int) -> tuple[int, _Child]:
    hears, says = os.pipe()
    me = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(hears)
        os.close(says)
        raise
    if pid == 0:
        _worker(channel, settled, connection, says, me)
    os.close(says)
    try:
        return os.pidfd_open(pid), _Child(number, pid, hears)
    except OSError:
        # The host is told that there is no worker, and nobody would reap this one.
        os.close(hears)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _worker(channel: socket.socket, settled: _Settled, connection: int, says: int, parent: int) -> NoReturn:
    """What a fork does: lock down, then serve. Nothing of the zygote's is run or closed after it."""
    status = EXIT_NOT_LOCKED
    try:
        try:
            channel.detach()
            os.dup2(says, layers.WORDS_FD, inheritable=False)
            os.dup2(connection, SOCKET_FD, inheritable=False)
            _hold_pagemap()
            served = socket.socket(fileno=SOCKET_FD)  # asks the kernel what it is, which it may not later
            report = layers.lock_down(settled.limits, settled.findings, settled.required, parent=parent)
        except Exception as error:  # noqa: BLE001 - the zygote hears why, whatever it was
            words = getattr(error, "message", f"{type(error).__name__}: {error}")
            os.write(layers.WORDS_FD, words.encode()[:_WORDS_BYTES_MAX])
            os._exit(status)
        status = EXIT_FAILED
        settled.entry.serve(served, report)
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it was, this process ends here
        traceback.print_exc()
    finally:
        os._exit(status)


def _hold_pagemap() -> None:
    # The kernel gives it to its owner only, and who cannot be traced owns nothing of its own /proc.
    process.dumpable(True)
    fd = os.open("self/pagemap", os.O_RDONLY, dir_fd=layers.PROC_FD)
    os.dup2(fd, PAGEMAP_FD, inheritable=False)
    os.close(fd)
    hold_pagemap(PAGEMAP_FD, IMAGE_FD)
    make_no_files()
