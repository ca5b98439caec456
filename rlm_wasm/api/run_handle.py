"""`Run`: a question that is being answered, as its owner holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio

from rlm_wasm.engine.broker import Broker, Router
from rlm_wasm.engine.event_stream import EventHub, EventReader
from rlm_wasm.engine.run import ActiveRun
from rlm_wasm.engine.run_tools import ToolCaller
from rlm_wasm.errors import RuntimeClosed
from rlm_wasm.events import Event
from rlm_wasm.host.affinity import Affinity
from rlm_wasm.limits import EventLimits
from rlm_wasm.outcomes import StopReason
from rlm_wasm.results import RunResult
from rlm_wasm.scheduler.scheduler import RunCancelled, RunStarted


class Run:
    """One question under way. Everything here is for the event loop it was started on."""

    def __init__(
        self,
        started: RunStarted,
        active: ActiveRun,
        broker: Broker,
        route: Router,
        sinks: Iterable[Callable[[Event], None]],
        stream: EventLimits,
        home: Affinity,
        tools: ToolCaller,
    ) -> None:
        self.run_id = started.run_id
        self.tenant = started.tenant
        self._started = started
        self._active = active
        self._broker = broker
        self._route = route
        self._tools = tools
        self._hub = EventHub(stream, home)
        self._sinks = [*sinks, self._hub.publish]
        self._home = home
        self._begun = False
        self._stopped: StopReason | None = None
        self._result: RunResult | None = None
        self._error: Exception | None = None
        self._ended = anyio.Event()

    def events(self) -> EventReader:
        """Return a reader of the run's events from now on; there may be several.

        The first one it yields is a Gap if the run has begun already. A slow reader never blocks the
        run: it gets a Gap where it was too far behind.

        Raises:
            UsageError: another event loop runs here, or none.
        """
        self._home.check("the run")
        return self._hub.reader()

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask the run to end now, with its best partial answer. Returns at once.

        Raises:
            UsageError: another event loop runs here, or none.
        """
        self._home.check("the run")
        self.stop(StopReason.cancelled(reason))

    def stop(self, stop: StopReason) -> None:
        """Ask the run to end now, for this reason. Called by the runtime, on its event loop."""
        if self._begun:
            self._broker.submit(RunCancelled(self.run_id, stop))
            self._active.end_hand_out()  # for the scheduler the run may have ended before
        elif self._stopped is None:
            self._stopped = stop

    async def result(self) -> RunResult:
        """Wait for the end and return what the run came to; cancelling this does not end the run.

        Raises:
            UsageError, ArtifactError, PolicyError, GuestError, Overloaded, HostExhausted, InternalError:
                as `Runtime.ask`, for what kept the run from having its session.
            RuntimeClosed: the runtime was torn down around it.
        """
        self._home.check("the run")
        await self._ended.wait()
        if self._result is not None:
            return self._result
        raise self._error or RuntimeClosed("the runtime was closed")

    async def drive(self) -> RunResult:
        """Run to the end. Called once, by the runtime."""
        try:
            self._broker.start_run(self._started, self._route, self._sinks, self._active, self._tools)
            self._begun = True
            if self._stopped is not None:
                self._broker.submit(RunCancelled(self.run_id, self._stopped))
            return await self._active.drive()
        finally:
            self._hub.end()
            self._ended.set()

    async def drive_in_background(self) -> None:
        """Run to the end and keep what comes out for `result`."""
        try:
            self._result = await self.drive()
        except Exception as error:  # noqa: BLE001 - raised by `result`, where somebody asks
            self._error = error

    async def ended(self) -> None:
        """Wait for the end of a run that was begun, or started, whatever it is."""
        await self._ended.wait()
