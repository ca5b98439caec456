"""A session's files, for its host: written, read and listed by cells that the guest runs for it.

The host never looks into a guest's files itself. What a guest says of them is decoded like anything else
that it says, and it may say what it likes: of its own session only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from rlm_wasm.errors import BoundaryViolation, UsageError
from rlm_wasm.limits import CellLimits
from rlm_wasm.outcomes import Outcome
from rlm_wasm.protocol.cell import with_room_for
from rlm_wasm.protocol.file_listing import GuestFile, decode_listing, decode_part, guest_path
from rlm_wasm.results import CellResult

# How much of a file comes with one cell, and what a listing may take.
PART_BYTES: Final = 256 << 10
LISTING_BYTES_MAX: Final = 4 << 20
_NAME: Final = "_rlm_file"
# A document lies between two marks: what earlier cells left running prints to the same stream. A tracer of
# theirs sees nothing of it.
_CELL: Final = """
import sys, _rlm, rlm_files
traced, profiled = sys.gettrace(), sys.getprofile()
sys.settrace(None), sys.setprofile(None)
try:
    _rlm.emit(1, {mark!a})
    rlm_files.{call}
    _rlm.emit(1, {mark!a})
finally:
    sys.settrace(traced), sys.setprofile(profiled)
"""
_DONE: Final = frozenset({Outcome.COMPLETED, Outcome.GUEST_EXCEPTION})


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """The files of one session. `run` runs a cell in it, `load` binds an input."""

    run: Callable[[str, CellLimits], Awaitable[CellResult]]
    load: Callable[[str, bytes], Awaitable[None]]
    cell_limits: CellLimits
    bytes_max: int
    files_max: int

    async def write(self, path: str, data: bytes) -> None:
        """Write a whole file, with the folders above it.

        Raises:
            UsageError: the path is no absolute one, the data no bytes or larger than
                `sandbox.files_bytes_max`, or the session is closed, lost or busy.
            GuestError: the guest could not; a GuestException names its own error, such as OSError.
        """
        raw = guest_path(path)
        if not isinstance(data, bytes):
            raise UsageError(f"what is written to a file is bytes, not a {type(data).__name__}")
        if len(data) > self.bytes_max:
            raise UsageError(
                f"{path!a} would have {len(data)} bytes; sandbox.files_bytes_max is {self.bytes_max}"
            )
        await self.load(_NAME, data)
        await self._ask(f"put({raw!a}, {_NAME!r})", 0)

    async def read(self, path: str, *, bytes_max: int | None = None) -> bytes:
        """Return a whole file.

        Raises:
            UsageError: the path is no absolute one, the file is larger than `bytes_max` or than
                `sandbox.files_bytes_max`, or the session is closed, lost or busy.
            GuestError: the guest could not; a GuestException names its own error, such as FileNotFoundError.
        """
        raw, most, key = guest_path(path), self.bytes_max, "sandbox.files_bytes_max"
        if bytes_max is not None:
            if not isinstance(bytes_max, int) or bytes_max < 0:
                raise UsageError(f"bytes_max is a number of bytes, not {bytes_max!a:.100}")
            if bytes_max < most:
                most, key = bytes_max, "bytes_max"
        parts: list[bytes] = []
        size = 0
        while True:
            told = await self._ask(f"get({raw!a}, {size}, {PART_BYTES})", PART_BYTES // 3 * 4 + 8)
            part = decode_part(told, bytes_max=PART_BYTES)
            parts.append(part)
            size += len(part)
            if size > most:
                raise UsageError(f"{path!a} has more than {most} bytes, which is {key}")
            if len(part) < PART_BYTES:
                return b"".join(parts)

    async def list(self, path: str) -> tuple[GuestFile, ...]:
        """Return a file, or a folder and everything below it; links are not followed.

        Raises:
            UsageError: the path is no absolute one, more than `sandbox.files_max` names lie below it, or the
                session is closed, lost or busy.
            GuestError: the guest could not; a GuestException names its own error, such as FileNotFoundError.
        """
        # A file may have many names, so there may be more of them than files: one more would show that.
        most = self.files_max + 1
        told = await self._ask(f"tell({guest_path(path)!a}, {most})", LISTING_BYTES_MAX)
        found = decode_listing(told, entries_max=most)
        if len(found) == most:
            raise UsageError(f"{path!a} has more than {self.files_max} names, which is sandbox.files_max")
        return found

    async def _ask(self, call: str, bytes_max: int) -> bytes:
        # No random one: a session that is repeatable stays so.
        mark = f"<{hashlib.sha256(call.encode()).hexdigest()}>"
        most = max(bytes_max + 2 * len(mark), self.cell_limits.stdout_bytes_max)
        cell = _CELL.format(mark=mark.encode(), call=call)
        # With names of its own, so that it takes none of the session's.
        source = f"exec({cell!a}, {{}})"
        limits = with_room_for(source, self.cell_limits)
        result = await self.run(source, replace(limits, stdout_bytes_max=most))
        _, begun, rest = result.stdout.partition(mark)
        told, ended, _ = rest.partition(mark)
        if not (begun and ended and result.outcome in _DONE):  # else, what failed is not what was asked for
            result.raise_for_outcome()
            raise BoundaryViolation("the guest did not say what it was asked")
        return told.encode("utf-8", "replace")


# What is done with the files of a run's session once its answer is known, while the session is still there.
Outputs = Callable[[SessionFiles], Awaitable[None]]
