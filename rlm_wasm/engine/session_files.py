"""A session's files, for its host: written, read and listed by cells that the guest runs for it.

The host never looks into a guest's files itself. What a guest says of them is decoded like anything else
that it says, and it may say what it likes: of its own session only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from rlm_wasm.errors import UsageError
from rlm_wasm.limits import CellLimits
from rlm_wasm.protocol.file_listing import GuestFile, decode_listing, decode_part, guest_path
from rlm_wasm.results import CellResult

# How much of a file comes with one cell, and what a listing may take.
PART_BYTES: Final = 256 << 10
LISTING_BYTES_MAX: Final = 4 << 20
_NAME: Final = "_rlm_file"


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
        raw, most = guest_path(path), self.bytes_max if bytes_max is None else min(bytes_max, self.bytes_max)
        parts: list[bytes] = []
        size = 0
        while True:
            told = await self._ask(f"get({raw!a}, {size}, {PART_BYTES})", PART_BYTES // 3 * 4 + 8)
            part = decode_part(told, bytes_max=PART_BYTES)
            parts.append(part)
            size += len(part)
            if size > most:
                raise UsageError(
                    f"{path!a} has more than {most} bytes; sandbox.files_bytes_max is {self.bytes_max}"
                )
            if len(part) < PART_BYTES:
                return b"".join(parts)

    async def list(self, path: str) -> tuple[GuestFile, ...]:
        """Return a file, or a folder and everything below it; links are not followed.

        Raises:
            UsageError: the path is no absolute one, or the session is closed, lost or busy.
            GuestError: the guest could not; a GuestException names its own error, such as FileNotFoundError.
        """
        told = await self._ask(f"tell({guest_path(path)!a}, {self.files_max})", LISTING_BYTES_MAX)
        return decode_listing(told, entries_max=self.files_max)

    async def _ask(self, call: str, bytes_max: int) -> bytes:
        limits = replace(self.cell_limits, stdout_bytes_max=max(bytes_max, self.cell_limits.stdout_bytes_max))
        result = await self.run(f"__import__('rlm_files').{call}", limits)
        return result.raise_for_outcome().stdout.encode("utf-8", "replace")


# What is done with the files of a run's session once its answer is known, while the session is still there.
Outputs = Callable[[SessionFiles], Awaitable[None]]
