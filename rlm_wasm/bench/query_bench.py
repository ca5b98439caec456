"""The cost of a query from the guest's `llm_query` to its answer, with a model that takes no time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

import anyio

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.bench.measurement import Measurement
from rlm_wasm.errors import InternalError
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.base import Completion, Provider, Query

_ROOT: Final = "script:root"
_SUB: Final = "script:sub"
_SESSIONS: Final = 1_000
_QUERIES_EACH: Final = 40
_WAITING: Final = 5_000
_BATCH: Final = 100
_LATENCY_S: Final = 1.0
_BIG: Final = 10_000_000


class _Root:
    """A root model that knows one program and says so at once."""

    def __init__(self, source: str) -> None:
        self._reply = f"```repl\n{source}\n```"

    async def complete(self, query: Query) -> Completion:
        return Completion(self._reply, 100, 20)

    async def aclose(self) -> None: ...


class _Instant:
    """A model that answers at once. The prompt "ready" is answered when as many are as were asked for."""

    def __init__(self, ready_at: int = 0) -> None:
        self._missing = ready_at
        self._everybody = anyio.Event()
        self.began_ns = 0

    async def complete(self, query: Query) -> Completion:
        if query.messages[0].content == "ready":
            self._missing -= 1
            if self._missing == 0:
                self.began_ns = perf_counter_ns()
                self._everybody.set()
            await self._everybody.wait()
        return Completion("ok", 3, 1)

    async def aclose(self) -> None: ...


class _Slow(_Instant):
    """A model that takes a second."""

    async def complete(self, query: Query) -> Completion:
        if query.messages[0].content != "ready":
            await anyio.sleep(_LATENCY_S)
        return await super().complete(query)


class QueryBench:
    """Measurements of whole queries: guest, boundary, scheduler, provider call, and all the way back."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._policy = policy
        self._scale = 10 if quick else 1

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        return {
            "query_us": self._query,
            "queries_per_s": self._throughput,
            "waiting_5000_s": self._waiting,
        }

    def _query(self) -> Measurement:
        queries, runs = 2_000 // self._scale, 9
        source = f"llm_query('ready')\nfor _ in range({queries}): llm_query('x')\nFINAL('done')"
        each = []
        for _ in range(runs):
            took_ns = self._time(source, sessions=1, permits=64, model=_Instant)
            each.append(took_ns / queries / 1e3)
        note = f"one session, an instant model, mean of {queries} queries a run"
        return Measurement("query_us", statistics.median(each), "us", runs, note)

    def _throughput(self) -> Measurement:
        sessions = _SESSIONS // self._scale
        source = f"llm_query('ready')\nfor _ in range({_QUERIES_EACH}): llm_query('x')\nFINAL('done')"
        rates = []
        for _ in range(3):
            took_ns = self._time(source, sessions=sessions, permits=sessions, model=_Instant)
            rates.append(sessions * _QUERIES_EACH / took_ns * 1e9)
        note = f"{sessions} sessions ask {_QUERIES_EACH} times each, an instant model, one process"
        return Measurement("queries_per_s", statistics.median(rates), "s", 3, note)

    def _waiting(self) -> Measurement:
        waiting = _WAITING // self._scale
        sessions = waiting // _BATCH
        source = f"llm_query('ready')\nllm_query_batched(['x'] * {_BATCH})\nFINAL('done')"
        times = []
        for _ in range(3):
            times.append(self._time(source, sessions=sessions, permits=waiting, model=_Slow) / 1e9)
        note = f"{waiting} queries of {sessions} sessions wait at once for a model that takes 1 s"
        return Measurement("waiting_5000_s", statistics.median(times), "s", 3, note)

    def _time(self, source: str, *, sessions: int, permits: int, model: Callable[[int], _Instant]) -> int:
        """Return the nanoseconds from when every session is ready until the last one has finished."""

        async def main() -> int:
            sub, root = model(sessions), _Root(source)

            def route(name: str) -> tuple[Provider, str]:
                return (root if name == _ROOT else sub), name

            async with Runtime(self._generous(permits), route=route) as runtime:

                async def one() -> None:
                    result = await runtime.ask("measure")
                    if result.answer != "done":
                        raise InternalError(f"a benchmark's run failed: {result.reason}")

                async with anyio.create_task_group() as tasks:
                    for _ in range(sessions):
                        tasks.start_soon(one)
                return perf_counter_ns() - sub.began_ns

        return anyio.run(main)

    def _generous(self, permits: int) -> Policy:
        """Return the policy with budgets that no measurement meets, and its other limits as they are."""
        return self._policy.replace(
            tenants=None,  # there is one
            budget={
                **{"calls_max": _BIG, "requests_max": _BIG, "cost_microdollars_max": 10**9},
                **{"input_tokens_max": 10**10, "output_tokens_max": 10**10},
            },
            cell={"requests_max": 100_000, "fuel_max": 10**12, "wall_ms_max": 300_000},
            run={"permits_max": permits, "events_max": 1_000_000},
            permits={"total_max": permits, "provider_max": permits, "model_max": permits},
            boundary={"batch_items_max": _BATCH},
            models={"root": _ROOT, "sub": _SUB},
        )
