"""`Runtime`: answers questions about inputs of any size, within a policy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from time import monotonic_ns
from types import TracebackType
from typing import Any, Self

import anyio

from rlm_wasm.core.scheduler import RunCancelled, RunStarted
from rlm_wasm.errors import UsageError
from rlm_wasm.events import Event
from rlm_wasm.ids import RunId, make_run_id
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.registry import ProviderSet
from rlm_wasm.runtime.broker import Broker, Router
from rlm_wasm.runtime.contexts import Contexts, named_contexts
from rlm_wasm.runtime.isolation import make_worker
from rlm_wasm.runtime.run import ActiveRun, RunResult
from rlm_wasm.worker.worker import Worker


class Runtime:
    """Runs questions under one policy; many at once share its permits.

    Use it as an async context manager, on asyncio or trio, or call `ask_sync`. `model` and
    `sub_model` override the policy's, as ``provider:name``; `environ` is where provider keys are
    read, the process's environment unless given. `route` replaces the providers (for embedding a
    model of your own): it maps a model's name to a provider and the name there. `worker` makes the
    sessions instead of the policy's kind, and is closed with the runtime; `clock` gives the nanoseconds
    of every deadline and event, and must go as the event loop's own clock does; `entropy(n)` gives the
    random bytes of run ids. The three are for repeating a run exactly.

    Raises:
        PolicyError: a model has no price, so that its cost cannot be budgeted.
        UsageError: a model or its key is not there.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        model: str | None = None,
        sub_model: str | None = None,
        environ: Mapping[str, str] | None = None,
        route: Router | None = None,
        worker: Worker | None = None,
        clock: Callable[[], int] = monotonic_ns,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.policy = policy.with_models(root=model, sub=sub_model)
        self._providers = ProviderSet(self.policy, environ)
        self._route: Router = route or self._providers.get
        self._worker: Worker = worker or make_worker(self.policy)
        self._clock = clock
        self._entropy = entropy
        self._broker: Broker | None = None
        self._stack = AsyncExitStack()
        self._runs: dict[RunId, ActiveRun] = {}

    async def __aenter__(self) -> Self:
        if self._broker is not None:
            raise UsageError("the runtime is open already")
        async with AsyncExitStack() as stack:
            # Also when opening fails: then it is not open.
            stack.callback(self._forget_broker)
            stack.push_async_callback(self._providers.aclose)
            # Before any guest runs: a missing key or a broken script is the operator's to know at once.
            for name in {self.policy.models.root, self.policy.models.sub}:
                self._route(name)
            self._broker = Broker(self.policy.run.permits_max, self._clock)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            await stack.enter_async_context(self._worker)
            await tasks.start(self._broker.serve)
            self._stack = stack.pop_all()
        return self

    def _forget_broker(self) -> None:
        self._broker = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # The task group wraps what the body raised; who wrote the body wants it as it was.
            if error is not None and group.exceptions == (error,):
                return False
            raise

    async def ask(
        self,
        question: str,
        context: Contexts = None,
        *,
        sinks: Iterable[Callable[[Event], None]] = (),
    ) -> RunResult:
        """Answer `question`. `context` is a str or bytes, or several by variable name.

        Every event of the run goes to each of `sinks`, in order. Ending early (a budget, a
        deadline, `cancel`) is a result with `partial=True`, not an exception.
        """
        if self._broker is None:
            raise UsageError("the runtime is not open; use it as an async context manager")
        if not question.strip():
            raise UsageError("the question is empty")
        run_id = make_run_id(self._entropy(8))
        run = ActiveRun(
            run_id, self.policy, self._broker, self._worker, question, named_contexts(context), self._clock
        )
        self._broker.start_run(
            RunStarted(
                run_id=run_id,
                budget=self.policy.budget_limits(),
                run=self.policy.run_limits(),
                query=self.policy.query_limits(),
                boundary=self.policy.boundary_limits(),
                prices=self.policy.prices(),
                seed=self.policy.sandbox.seed,
                texts=self.policy.events.texts,
            ),
            self._route,
            sinks,
            run.end,
        )
        self._runs[run_id] = run
        try:
            return await run.drive()
        finally:
            del self._runs[run_id]

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask every run to end now; each returns its best partial answer."""
        if self._broker is not None:
            for run_id in list(self._runs):
                self._broker.submit(RunCancelled(run_id, reason))

    def ask_sync(self, question: str, context: Contexts = None, **arguments: Any) -> RunResult:
        """Answer one question from code that is not async. Starts and stops everything it needs."""

        async def main() -> RunResult:
            async with self:
                return await self.ask(question, context, **arguments)

        return anyio.run(main)
