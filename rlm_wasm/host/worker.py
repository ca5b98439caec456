"""The interface of a worker, whichever process its sessions are in.

`engine/` uses these and nothing else of a worker, so that a policy chooses the isolation and no
other code knows which it got. `inline.worker.InlineWorker` keeps the guests in this process.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from rlm_wasm.host.answers import Answer, TakeOutput
from rlm_wasm.host.held_inputs import HeldInputs
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.limits import BoundaryLimits, SessionLimits
from rlm_wasm.lockdown import Grade
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.results import CellResult


@runtime_checkable
class Measured(Protocol):
    """A session of which may be known what its process used."""

    def cpu_ns(self) -> int | None:
        """Return the CPU time of its process; None if that is not this session's alone, or is gone."""


@runtime_checkable
class Guarded(Protocol):
    """A session that says what stands around the process it is in."""

    @property
    def lockdown(self) -> str:
        """The word of a `lockdown.Grade`; "none": its guest is in the host's own process."""


def lockdown_of(session: WorkerSession) -> str:
    """Return the word of what stands around a session's process; of one that does not say, "none"."""
    return session.lockdown if isinstance(session, Guarded) else Grade.NONE.value


class WorkerSession(Protocol):
    """One guest. Not for concurrent use: one operation at a time. Close it, or use `async with`."""

    @property
    def inputs(self) -> HeldInputs:
        """Its inputs that lie with the host."""

    async def load(self, name: str, value: str | bytes | InputFile, *, file: str | None = None) -> None:
        """Bind an input in the guest, and make it the file of this name, if any, in /inputs.

        Raises UsageError, MemoryExceeded or another GuestError.
        """

    async def rebase(self) -> None:
        """Make the present state the session's origin: worth one copy after large inputs were loaded."""

    async def snapshot(self) -> SessionSnapshot:
        """Return the state between two cells. Raises UsageError if the session is lost."""

    async def run(
        self,
        cell: Cell,
        answer: Answer | None = None,
        *,
        checkpoint_bytes_max: int = 0,
        on_output: TakeOutput | None = None,
    ) -> CellResult:
        """Run a cell; `answer` turns each request frame of the guest into a response frame.

        A GuestError raised by `answer` ends the cell and is its result; another Exception interrupts it, and
        is raised here when it has ended. Where a cell ends the guest, the session goes back to the state
        before it if that took no more than `checkpoint_bytes_max`; else it is lost. Cancelling this call ends
        the cell.
        """

    @property
    def last_result(self) -> CellResult | None:
        """What the last cell came to, also when `run` was cancelled; None if none has ended."""

    def interrupt(self) -> None:
        """Ask the cell that runs to end by an exception in the guest. Does nothing between cells."""

    async def aclose(self) -> None:
        """Free the guest. Safe to call again."""

    def abandon(self) -> None:
        """Free the guest without waiting for anything. Safe to call again, and after the worker closed."""

    async def __aenter__(self) -> Self:
        """Return the session."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""


class Worker(Protocol):
    """Makes sessions. Enter it before the first, or close it after the last."""

    async def session(
        self,
        limits: SessionLimits,
        boundary: BoundaryLimits,
        *,
        tenant: str = "",
        start: SessionSnapshot | None = None,
    ) -> WorkerSession:
        """Make a session for a tenant, or fork one from an image.

        Raises:
            ArtifactError: no guest is built, or it is not what was built.
            PolicyError: the memory cap is below the guest's image.
            UsageError: the image cannot be used here, or is another tenant's.
        """

    async def aclose(self) -> None:
        """End every session. Safe to call again."""

    async def __aenter__(self) -> Self:
        """Return the worker, ready."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
