"""The cost of a tree of runs: how soon a thousand children have answered, what each holds as it waits."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

import anyio

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.bench.measurement import Measurement
from rlm_wasm.bench.memory import pss_kb
from rlm_wasm.errors import InternalError
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, Provider, Query

_DRIVER: Final = "script:driver"
_SUB: Final = "script:sub"
_FAN_OUT: Final = 10
_DEPTH: Final = 3
_BIG: Final = 10_000_000
# Every run of the tree runs this; the answer is how many runs there were below it, and itself.
_COUNT: Final = f"""\
if budget()['depth']['available']:
    FINAL(sum(map(int, rlm_query_batched(['count'] * {_FAN_OUT}))) + 1)
FINAL(1)"""
_WAIT: Final = f"""\
if budget()['depth']['available']:
    FINAL(sum(map(int, rlm_query_batched(['count'] * {_FAN_OUT}))) + 1)
llm_query('wait')
FINAL(1)"""


class _Driver:
    """A model that knows one program and says so at once."""

    def __init__(self, source: str) -> None:
        self._reply = f"```repl\n{source}\n```"

    async def complete(self, query: Query) -> Completion:
        return Completion(self._reply, 100, 50)

    async def aclose(self) -> None: ...


class _Gate:
    """A model that answers when as many wait as were expected, and weighs the process at that moment."""

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._everybody = anyio.Event()
        self.pss_kb = 0

    async def complete(self, query: Query) -> Completion:
        self._missing -= 1
        if self._missing == 0:
            self.pss_kb = pss_kb()
            self._everybody.set()
        await self._everybody.wait()
        return Completion("ok", 3, 1)

    async def aclose(self) -> None: ...


class RecursionBench:
    """Measurements of whole trees of runs."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._policy = policy
        self._depth = _DEPTH - 1 if quick else _DEPTH

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        return {"fanout_1111_s": self._fan_out, "waiting_child_kb": self._waiting}

    @property
    def _runs(self) -> int:
        return sum(_FAN_OUT**depth for depth in range(self._depth + 1))

    def _fan_out(self) -> Measurement:
        times = []
        for _ in range(3):
            began = perf_counter_ns()
            anyio.run(self._grow, _COUNT, None)
            times.append((perf_counter_ns() - began) / 1e9)
        note = f"{self._runs} runs, depth {self._depth}, {_FAN_OUT} children each, an instant model"
        return Measurement("fanout_1111_s", statistics.median(times), "s", 3, note)

    def _waiting(self) -> Measurement:
        leaves = _FAN_OUT**self._depth
        each = []
        for _ in range(3):
            before = pss_kb()
            after = anyio.run(self._grow, _WAIT, leaves)
            each.append((after - before) / self._runs)
        note = f"{self._runs} runs of one tree, each in its own session, {leaves} of them in llm_query"
        return Measurement("waiting_child_kb", statistics.median(each), "kb", 3, note)

    async def _grow(self, source: str, leaves: int | None) -> int:
        """Run one tree to its end; return what the process held when every leaf waited."""
        driver, gate = _Driver(source), _Gate(leaves or 0)

        def route(name: str) -> tuple[Provider, str]:
            return (driver if name == _DRIVER else gate), name

        async with Runtime(self._generous(), route=route) as runtime:
            result = await runtime.ask("count")
        if result.answer != str(self._runs):
            raise InternalError(f"a benchmark's run failed: {result.answer}, {result.reason}")
        return gate.pss_kb

    def _generous(self) -> Policy:
        """Return the policy with room for the tree, and its other limits as they are."""
        return self._policy.replace(
            tenants=None,  # there is one
            budget={
                **{"calls_max": _BIG, "requests_max": _BIG, "cost_microdollars_max": 10**9},
                **{"input_tokens_max": 10**10, "output_tokens_max": 10**10, "iterations_max": 10_000},
                **{"fuel_max": 10**15, "children_max": _BIG, "observation_bytes_max": 10**9},
            },
            run={
                **{"depth_max": self._depth, "fanout_max": _FAN_OUT, "sessions_max": self._runs},
                **{"child_share_percent": 100, "permits_max": self._runs, "events_max": 1_000_000},
            },
            permits={"total_max": self._runs, "provider_max": self._runs, "model_max": self._runs},
            models={"root": _DRIVER, "sub": _SUB, "child": [_DRIVER]},
        )
