"""The cost of a worker process: how soon it answers, what it holds, what a query pays for it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import anyio

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.bench.lockdown import sandbox_keys
from rlm_wasm.bench.measurement import Measurement
from rlm_wasm.engine.accounting import Accounting
from rlm_wasm.engine.isolation import make_worker
from rlm_wasm.errors import InternalError
from rlm_wasm.host.pool import WorkerPool
from rlm_wasm.host.worker import Worker, WorkerSession
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell
from rlm_wasm.providers.base import Completion, Provider, Query

_ROOT: Final = "script:root"
_SUB: Final = "script:sub"
_CELL: Final = "1+1"
_BIG: Final = 10_000_000
# Live at once where memory is measured; the policy `strict` allows twice as many.
_PROCESSES: Final = 32
# Sessions one after another, fewer than a worker prepares while it is idle.
_IN_A_ROW: Final = 6


class _Model:
    """A root model that asks so many questions in one cell, and a model that answers each at once."""

    def __init__(self, queries: int) -> None:
        code = (
            f"llm_query('begin')\nfor _ in range({queries}): llm_query('x')\nllm_query('end')\nFINAL('done')"
        )
        self._code = f"```repl\n{code}\n```"
        self.marks: dict[str, int] = {}

    async def complete(self, query: Query) -> Completion:
        if query.model == _ROOT:
            return Completion(self._code, 100, 20)
        said = query.messages[0].content
        if said != "x":
            self.marks[said] = perf_counter_ns()
        return Completion("ok", 3, 1)

    async def aclose(self) -> None: ...


class WorkerBench:
    """Measurements of locked worker processes, under the policy's limits."""

    def __init__(self, policy: Policy, *, quick: bool) -> None:
        self._policy = policy
        self._quick = quick

    def measurements(self) -> dict[str, Callable[[], Measurement]]:
        """Return each measurement by its name, not yet taken."""
        return {
            "locked_first_result_ms": self._first_locked,
            "locked_pss_mb": self._pss,
            "shared_first_result_us": self._first_shared,
            "shared_next_result_us": self._next_shared,
            "worker_query_us": self._query,
        }

    def _first_locked(self) -> Measurement:
        count = 10 if self._quick else 200

        async def main() -> list[float]:
            times = []
            async with self._worker("session") as worker:
                await (await self._first_result(worker)).aclose()  # the zygote is warm from here on
                for _ in range(count):
                    began = perf_counter_ns()
                    session = await self._first_result(worker)
                    times.append((perf_counter_ns() - began) / 1e6)
                    await session.aclose()
            return times

        times = anyio.run(main)
        note = f"session in a process of its own, from a warm zygote, to 1+1; p99 {_p99(times):.1f} ms"
        return Measurement("locked_first_result_ms", statistics.median(times), "ms", count, note)

    def _pss(self) -> Measurement:
        count = 8 if self._quick else _PROCESSES

        async def main() -> list[float]:
            async with self._worker("session") as worker:
                sessions = [await self._first_result(worker) for _ in range(count)]
                if not isinstance(worker, WorkerPool):
                    raise InternalError("the sessions measured are not in processes")
                sizes = [_pss_kb(connection.child.pid) / 1024 for connection in worker.connections]
                for session in sessions:
                    await session.aclose()
            return sizes

        note = f"a process after its first cell, {count} of them at once: they share code and image"
        return Measurement("locked_pss_mb", statistics.median(anyio.run(main)), "mb", count, note)

    def _first_shared(self) -> Measurement:
        count = 20 if self._quick else 500

        async def main() -> list[float]:
            times = []
            async with self._worker("shared") as worker:
                # One stays, so that the process does.
                kept = await worker.session(self._policy.session_limits(), self._policy.boundary)
                for _ in range(count):
                    began = perf_counter_ns()
                    async with await worker.session(
                        self._policy.session_limits(), self._policy.boundary
                    ) as session:
                        await session.run(Cell(_CELL, self._policy.cell))
                        times.append((perf_counter_ns() - began) / 1e3)
                    # What the process prepares while it is idle is part of what it is.
                    await anyio.sleep(0.02)
                await kept.aclose()
            return times

        times = anyio.run(main)
        note = f"in a running worker, to the result of 1+1; p99 {_p99(times):.0f} us"
        return Measurement("shared_first_result_us", statistics.median(times), "us", count, note)

    def _next_shared(self) -> Measurement:
        rounds = 5 if self._quick else 100

        async def main() -> list[float]:
            times = []
            async with self._worker("shared", workers_max=1) as worker:
                kept = await worker.session(self._policy.session_limits(), self._policy.boundary)
                for _ in range(rounds + 1):
                    times.append([await self._opened_and_run(worker) for _ in range(_IN_A_ROW)])
                    await anyio.sleep(0.05)  # until the worker has prepared as many again
                await kept.aclose()
            # Nothing is prepared before the first round.
            return [each for row in times[1:] for each in row[1:]]

        times = anyio.run(main)
        note = f"right after another one in the same worker, to the result of 1+1; p99 {_p99(times):.0f} us"
        return Measurement("shared_next_result_us", statistics.median(times), "us", len(times), note)

    async def _opened_and_run(self, worker: Worker) -> float:
        """Return the time to a session's first result; the session is closed."""
        began = perf_counter_ns()
        session = await self._first_result(worker)
        took = (perf_counter_ns() - began) / 1e3
        await session.aclose()
        return took

    def _query(self) -> Measurement:
        queries, runs = (200, 3) if self._quick else (2_000, 7)

        async def one() -> float:
            model = _Model(queries)

            def route(name: str) -> tuple[Provider, str]:
                return model, name

            async with Runtime(self._generous(), route=route) as runtime:
                result = await runtime.ask("measure")
            if result.answer != "done":
                raise InternalError(f"a benchmark's run failed: {result.reason}")
            return (model.marks["end"] - model.marks["begin"]) / 1e3 / (queries + 1)

        each = [anyio.run(one) for _ in range(runs)]
        note = f"guest in a locked process, an instant model, mean of {queries} queries a run"
        return Measurement("worker_query_us", statistics.median(each), "us", runs, note)

    async def _first_result(self, worker: Worker) -> WorkerSession:
        """Open a session and run a cell."""
        session = await worker.session(self._policy.session_limits(), self._policy.boundary)
        result = await session.run(Cell(_CELL, self._policy.cell))
        if result.result != "2":
            raise InternalError(f"1+1 is not 2 but {result.outcome}")
        return session

    def _worker(self, isolation: str, *, workers_max: int = 2 * _PROCESSES) -> Worker:
        policy = self._policy.replace(
            sandbox={"isolation": isolation, **sandbox_keys()},
            workers={"workers_max": workers_max, "sessions_max": 2 * _PROCESSES},
        )
        return make_worker(policy, Accounting())

    def _generous(self) -> Policy:
        return self._policy.replace(
            sandbox={"isolation": "session", **sandbox_keys()},
            budget={
                **{"calls_max": _BIG, "requests_max": _BIG, "cost_microdollars_max": 10**9},
                **{"input_tokens_max": 10**10, "output_tokens_max": 10**10},
            },
            cell={"requests_max": 100_000, "fuel_max": 10**12, "wall_ms_max": 300_000},
            run={"events_max": 1_000_000},
            models={"root": _ROOT, "sub": _SUB, "child": [_ROOT]},
        )


def _p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise InternalError(f"/proc/{pid}/smaps_rollup has no Pss line")
