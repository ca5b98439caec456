"""What faults must not leave behind: processes, descriptors, mappings, files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from tests.support.host_health import assert_same, health
from tests.support.pool_facts import until

GONE_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class Process:
    """One process, told apart from a later one of the same number."""

    pid: int
    started: int

    @property
    def exists(self) -> bool:
        """Whether it is there, as a zombie too."""
        return _stat(self.pid)[1] == self.started


def _stat(pid: int) -> tuple[int, int]:
    """Return a process's parent and when it was started; -1 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1, -1
    return int(fields[1]), int(fields[19])


def _state_of(pid: int) -> str:
    """Return the first lines of what the kernel says of a process: its name, its state."""
    try:
        return " ".join(Path(f"/proc/{pid}/status").read_text().split()[:8])
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def parent_of(pid: int) -> int:
    """Return the process that a process was forked from; -1: it is gone."""
    return _stat(pid)[0]


def children_of(pid: int) -> list[int]:
    """Return the processes that one has started, on whichever of its threads, as the kernel lists them."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    for thread in threads:
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def descendants() -> set[Process]:
    """Return every process that this one has started, and theirs."""
    found: set[Process] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in children_of(waiting.pop()):
            started = _stat(pid)[1]
            if started >= 0:  # it may have gone since it was listed
                found.add(Process(pid, started))
                waiting.append(pid)
    return found


def _shared_files() -> set[str]:
    """Return the files of ours in shared memory."""
    return {name for name in os.listdir("/dev/shm") if "rlm" in name} if os.path.isdir("/dev/shm") else set()


@dataclass
class Seen:
    """The processes that were there at some time."""

    processes: set[Process] = field(default_factory=set)

    def look(self) -> None:
        """Remember who is there now."""
        self.processes |= descendants()


@asynccontextmanager
async def nothing_left() -> AsyncIterator[Seen]:
    """Fail if the block leaves a process, a descriptor, a mapping or a file that was not there."""
    before, files, others = health(), _shared_files(), descendants()
    seen = Seen()
    # A folder of our own: other programs come and go in the usual one.
    with tempfile.TemporaryDirectory() as folder, patch.object(tempfile, "tempdir", folder):
        yield seen
        assert os.listdir(folder) == []
    mine = seen.processes | (descendants() - others)
    with suppress(TimeoutError):
        await until(lambda: not [each for each in mine - others if each.exists], GONE_SECONDS_MAX)
    left = [f"{each.pid}: {_state_of(each.pid)}" for each in mine - others if each.exists]
    assert not left, left
    assert_same(before, health())
    assert _shared_files() <= files, sorted(_shared_files() - files)
