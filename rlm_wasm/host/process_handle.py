"""A worker process as its host holds it: a socket to talk over, a pidfd to end it by."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from rlm_wasm.lockdown import Grade
from rlm_wasm.system import forks

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
# CPUCLOCK_SCHED of the kernel's include/linux/posix-timers.h: what all threads of a process ran.
_CPU_CLOCK: Final = 2


@dataclass(slots=True, eq=False, weakref_slot=True)
class ProcessHandle:
    """A process that serves sessions. Whoever forked it reaps it; the pidfd names no other, ever."""

    pid: int
    pidfd: int  # -1: closed, or another process's, which this one was forked from
    connection: socket.socket
    # What stands around it, as far as is known.
    grade: Grade = field(default=Grade.PARTIAL, kw_only=True)

    def __post_init__(self) -> None:
        forks.disown_in_child(self)

    def disown(self) -> None:
        """Let go of it without ending it: it is the parent's of this process."""
        with contextlib.suppress(OSError):
            self.close()

    def kill(self) -> None:
        """End the process now, whatever it does. Safe when it has ended."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether the process has ended."""
        if self.pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the descriptors; the process must have been told to end. Safe to call again."""
        pidfd, self.pidfd = self.pidfd, -1  # its number may become another's at once
        try:
            self.connection.close()
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def memory_bytes(self) -> int | None:
        """Return the memory that is the process's own, page tables too; None if the kernel does not say."""
        return _memory_bytes(self.pid)

    def cpu_ms(self) -> int | None:
        """Return the CPU time it has used; None if the kernel does not say."""
        return cpu_ms_of(self.pid)

    def cpu_ns(self) -> int | None:
        """Return the CPU time, of user and kernel, that it has used; None if it is gone, or nobody says.

        Exact, where `cpu_ms` counts in ticks of 10 ms: a worker for one session may live for less.
        """
        try:
            # The number that clock_getcpuclockid(3) makes of a process's.
            used = time.clock_gettime_ns((~self.pid << 3) | _CPU_CLOCK)
        except (OSError, OverflowError):
            return None
        try:
            # Not reaped up to now, so its number was no other process's when the clock was read.
            signal.pidfd_send_signal(self.pidfd, 0)
        except PermissionError:
            pass
        except OSError:
            return None
        return used


def cpu_ms_of(pid: int) -> int | None:
    """Return the CPU time that a process has used; None if the kernel does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 // _CLOCK_TICKS
    except (OSError, ValueError, IndexError):
        return None


def _memory_bytes(pid: int) -> int | None:
    # Not smaps: its totals need more rights than a host may have over an undumpable process.
    wanted = {b"RssAnon:", b"VmPTE:", b"VmSwap:"}
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = (line.split() for line in file)
            return sum(int(line[1]) * 1024 for line in lines if line and line[0] in wanted)
    except (OSError, ValueError, IndexError):
        return None


class ExitReporter(Protocol):
    """Where worker processes come from: a zygote, ready to fork."""

    async def fork(self) -> ProcessHandle:
        """Return a fresh process that serves sessions.

        Raises:
            PolicyError: the kernel lacks what the policy demands.
            ArtifactError: no guest is built, or it is not what was built.
            WorkerLost: the process that forks is gone; another call starts another one.
        """

    async def aclose(self) -> None:
        """End it; the processes it forked live on until they are ended. Safe to call again."""
