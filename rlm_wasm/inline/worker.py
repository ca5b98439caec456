"""Sessions in this process, for an async host: the worker loop's thread behind awaitable calls.

`isolation = "inline"`: lowest latency, for trusted code and tests. The wasm wall stands; there is
no locked-down process around it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from time import monotonic_ns
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import current_token

from rlm_wasm.errors import HostExhausted, UsageError
from rlm_wasm.host.cell_slots import CellSlots
from rlm_wasm.host.guest_search import found_guest
from rlm_wasm.host.input_window import LocalWindow
from rlm_wasm.host.session import HostSession
from rlm_wasm.ids import SessionId
from rlm_wasm.inline.connection import InlineConnection
from rlm_wasm.inline.loop_mailbox import LoopMailbox
from rlm_wasm.inline.worker_loop import WorkerLoop
from rlm_wasm.limits import BASE_IMAGE, NO_TENANT_LIMITS, BoundaryLimits, SessionLimits
from rlm_wasm.protocol.commands import Done, InputWanted, Open, Report
from rlm_wasm.protocol.input_reads import InputAsked
from rlm_wasm.protocol.session_snapshot import SessionSnapshot
from rlm_wasm.system.host_limits import check_host_limits
from rlm_wasm.system.threads import in_thread
from rlm_wasm.tenant import checked_tenant
from rlm_wasm.vm.entropy import session_entropy
from rlm_wasm.vm.snapshot import MemorySnapshot


class InlineSession(HostSession):
    """One guest of this process. Not for concurrent use. Close it, or use `async with`."""

    _window: LocalWindow | None = None

    async def open(
        self,
        limits: SessionLimits,
        entropy: Callable[[int], bytes],
        start: MemorySnapshot | None,
        loop_mailbox: LoopMailbox,
    ) -> None:
        """Make the guest. Called once, by InlineWorker."""
        self._loop_mailbox = loop_mailbox
        sink = functools.partial(loop_mailbox.post, self._received)
        await self._operate(Open(self._number, limits, self._boundary, entropy, sink, start), None)

    def _received(self, report: Report) -> None:
        if isinstance(report, InputWanted):
            report = replace(report, into=self._window_for(report.asked))
        elif isinstance(report, Done):
            self._window = None
        super()._received(report)

    def _window_for(self, asked: InputAsked) -> LocalWindow | None:
        if not asked.wants_window:
            return None
        if self._window is None or self._window.abandoned:
            self._window = LocalWindow()
        return self._window

    def _notice_of_end(self) -> Callable[[], None]:
        return functools.partial(self._loop_mailbox.post, lambda _: self._freed.set(), None)


class InlineWorker:
    """Makes sessions in this process. Close it, or use `async with`; that ends every session.

    Closed, it makes none until it is entered again: who asks late would start a thread that is nobody's.

    `clock` gives nanoseconds and decides who has a turn, and for how long. Of one tenant `cells_max` cells
    compute at one moment. `image` names the packages that its sessions have.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = monotonic_ns,
        cells_max: int = NO_TENANT_LIMITS.cells_max,
        image: str = BASE_IMAGE,
    ) -> None:
        self._image = image
        self._cell_slots = CellSlots(cells_max)
        self._clock = clock
        self._loop = WorkerLoop(clock=clock, image=image)
        self._numbers = itertools.count(1)
        self._started = False
        self._closed = False
        self._link: InlineConnection | None = None

    async def session(
        self,
        limits: SessionLimits,
        boundary: BoundaryLimits,
        *,
        tenant: str = "",
        start: SessionSnapshot | None = None,
    ) -> InlineSession:
        """Make a session, or fork one from a snapshot; every tenant's is in this process.

        Raises:
            ArtifactError: no guest is built, or it is not what was built.
            HostExhausted: the kernel refuses this process what a guest takes.
            PolicyError: the memory cap is below the guest's image.
            UsageError: `start` is no snapshot of this process, or the worker is closed.
        """
        if self._closed:
            raise UsageError("the worker is closed")
        if start is not None and not isinstance(start, MemorySnapshot):
            raise UsageError("the image was made by another kind of worker; save it and load it here")
        if not self._started:
            check_host_limits(processes=False)
            self._loop.start()
            self._started = True
        token = current_token()
        if self._link is None or self._link.loop_mailbox.token != token:
            self._link = self._make_link(LoopMailbox(token, self._clock))
        number = SessionId(next(self._numbers))
        session = InlineSession(
            self._link, number, boundary, self._cell_slots.cell_slot(checked_tenant(tenant))
        )
        entropy = session_entropy(limits, number)
        try:
            await session.open(limits, entropy, start, self._link.loop_mailbox)
        except BaseException:
            session.abandon()  # cancelled: the guest may be there although nobody wants it
            raise
        return session

    def _make_link(self, loop_mailbox: LoopMailbox) -> InlineConnection:
        return InlineConnection(self._loop, loop_mailbox, self._clock)

    async def aclose(self) -> None:
        """End every session and the thread."""
        self._closed = True
        if self._started:
            self._started = False
            loop, self._loop = self._loop, WorkerLoop(clock=self._clock, image=self._image)
            self._link = None
            with anyio.CancelScope(shield=True):
                try:
                    await in_thread(loop.stop)
                except HostExhausted:
                    loop.stop()  # with nobody to wait for it; a guest's turn takes milliseconds

    async def __aenter__(self) -> Self:
        await found_guest(self._image)  # before anybody on the event loop asks for it
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
