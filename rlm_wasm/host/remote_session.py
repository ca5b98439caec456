"""A session in a worker process, for an async host: the same calls as one in this process."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

import anyio

from rlm_wasm.errors import UsageError, WorkerLost
from rlm_wasm.host.answers import Answer, TakeOutput
from rlm_wasm.host.cell_accounting import lost_result
from rlm_wasm.host.cell_slots import CellSlot
from rlm_wasm.host.connection import Connection
from rlm_wasm.host.session import CLOSE_SECONDS_MAX, HostSession
from rlm_wasm.ids import SessionId
from rlm_wasm.limits import BoundaryLimits, SessionLimits
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.commands import Done, Load, Open, Report
from rlm_wasm.protocol.input_value import HeldInput, Input
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.protocol.text_layout import LaidOut
from rlm_wasm.results import CellResult
from rlm_wasm.system.os_errors import wrap_os_error
from rlm_wasm.system.threads import in_thread

# A value of fewer bytes travels in its frame; a larger one in a file of its own.
FILE_FROM_BYTES: Final = 32 << 10
# Laying out more than this takes milliseconds, so another thread does it.
_THREAD_FROM_UNITS: Final = 1 << 20


class ProcessSession(HostSession):
    """One guest in a worker process. Not for concurrent use. Close it, or use `async with`.

    When its process is gone, `run` returns a result that says so; everything else raises WorkerLost.
    """

    def __init__(
        self,
        connection: Connection,
        number: SessionId,
        limits: SessionLimits,
        boundary: BoundaryLimits,
        cell_slot: CellSlot,
        *,
        alone: bool = False,
    ) -> None:
        super().__init__(connection, number, boundary, cell_slot)
        self._limits = limits
        self._process_id: Final = connection.child.pid
        self._connection: Final = connection
        self._alone: Final = alone

    @property
    def process_id(self) -> int:
        """The process that holds the guest, also when it is gone."""
        return self._process_id

    @property
    def lockdown(self) -> str:
        """What stands around that process: the word of a `lockdown.Grade`."""
        return self._connection.child.grade.value

    def cpu_ns(self) -> int | None:
        """Return the CPU time of the process; None if it is not this session's alone, or is gone."""
        return self._connection.child.cpu_ns() if self._alone and self._connection.lost is None else None

    async def _load(self, name: str, value: str | bytes, held: HeldInput | None) -> None:
        # Before a copy is made of it. The worker checks again, for itself.
        wanted = Input.of(name, value, size_max=self._limits.context_bytes_max)
        plain, encoding = wanted.value, wanted.encoding
        if isinstance(plain, LaidOut):
            raise UsageError(f"{name} is a LaidOut; give a str or bytes")

        def lay_out() -> LaidOut:
            made = LaidOut.of(plain, encoding, file_from_bytes=FILE_FROM_BYTES)
            return replace(made, is_json=True) if wanted.is_json else made

        large = len(plain) >= _THREAD_FROM_UNITS
        try:
            laid_out = await in_thread(lay_out) if large else lay_out()
        except OSError as error:
            failure = wrap_os_error(error, "an input cannot be laid out", ours=True)
            raise failure from failure.__cause__
        await self._operate(Load(self._number, name, laid_out, held), None)

    async def run(
        self,
        cell: Cell,
        answer: Answer | None = None,
        *,
        checkpoint_bytes_max: int = 0,
        on_output: TakeOutput | None = None,
    ) -> CellResult:
        """Run a cell, as a session of this process does; a worker that is gone is a result too."""
        cell.encoded()  # what it raises, it raises here, also where the worker is gone
        try:
            return await super().run(
                cell, answer, checkpoint_bytes_max=checkpoint_bytes_max, on_output=on_output
            )
        except WorkerLost as lost:
            if self._connection.lost is None:
                raise  # another worker, of which whoever answers has heard
            # It was gone before the cell began.
            self.last_result = lost_result(lost, 0)
            return self.last_result

    async def aclose(self) -> None:
        """Free the guest, and wait until its place is free: with a process of its own, until that is gone."""
        await super().aclose()
        if self._alone and not self._home.inherited:
            with anyio.move_on_after(CLOSE_SECONDS_MAX):
                await self._connection.gone.wait()

    def _received(self, report: Report) -> None:
        super()._received(report)
        # The end of an operation that is being answered: its worker is gone, and nobody wants the answer.
        if isinstance(report, Done) and self._answering is not None:
            self._answering.cancel()

    async def open_in(self, limits: SessionLimits, start: SessionSnapshot | None) -> None:
        """Make the guest. Called once, by the pool."""
        # The worker has its own source of random bytes: nothing of ours is called from there.
        command = Open(self._number, limits, self._boundary, os.urandom, self._received, start)
        await self._operate(command, None)
