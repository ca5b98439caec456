"""The broker without a guest: what it waits for at the end of a run."""

from __future__ import annotations

from time import monotonic_ns

import anyio
import pytest

from rlm_wasm.engine.broker import Broker
from rlm_wasm.providers.base import Completion, Query
from rlm_wasm.scheduler.request import Response
from rlm_wasm.scheduler.scheduler import RunEnded, StartChild, StopChild
from tests.support.core_facts import RUN, permit_limits, query, started

pytestmark = pytest.mark.anyio


class SlowToHangUp:
    """A model that never answers, and lets a cancelled call go when the test says so."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_go = [anyio.Event(), anyio.Event()]

    async def complete(self, query: Query) -> Completion:
        number, self.calls = self.calls, self.calls + 1
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.may_go[number].wait()
        raise AssertionError

    async def aclose(self) -> None:
        pass


class Nobody:
    """A driver of a run without conversations."""

    def end(self, reason: str) -> None: ...

    def start_child(self, effect: StartChild) -> None: ...

    def stop_child(self, effect: StopChild) -> None: ...


async def test_a_run_ends_with_its_last_call_whichever_hangs_up_first() -> None:
    broker, model = Broker(permit_limits(2), monotonic_ns), SlowToHangUp()
    responses: list[Response] = []
    ended = anyio.Event()

    async def finish() -> None:
        await broker.finish_run(RunEnded(RUN), RUN)
        ended.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(broker.serve)
        broker.start_run(started(), lambda name: (model, name), [], Nobody())
        broker.ask(RUN, [query(1), query(2)], lambda found, _: responses.extend(found))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(finish)
        for number in (1, 0):
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
            model.may_go[number].set()
        with anyio.fail_after(3):  # less than what a call gets that never hangs up
            await ended.wait()
        assert [response.status for response in responses] == ["cancelled", "cancelled"]
        assert broker.idle
        tasks.cancel_scope.cancel()
