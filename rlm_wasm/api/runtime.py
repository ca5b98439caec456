"""`Runtime`: answers questions about inputs of any size, within a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from rlm_wasm.answers.answer_type import AnswerType
from rlm_wasm.api.answers_cache import cache_of, through_cache
from rlm_wasm.api.arguments import (
    check_callable,
    check_plain_function,
    check_policy,
    check_question,
    checked_sinks,
    is_async,
)
from rlm_wasm.api.run_handle import Run
from rlm_wasm.api.snapshot import Snapshot, check_snapshot, load_snapshot
from rlm_wasm.api.sync_runtime import SyncRuntime
from rlm_wasm.api.world import World
from rlm_wasm.engine.accounting import Accounting, Metrics
from rlm_wasm.engine.answer_check import AnswerCheck, RecordedOutput
from rlm_wasm.engine.broker import Broker, Router
from rlm_wasm.engine.cell_judge import CellJudge, OnCell
from rlm_wasm.engine.contexts import Contexts, named_contexts
from rlm_wasm.engine.description import WrittenPolicy
from rlm_wasm.engine.isolation import make_worker
from rlm_wasm.engine.recorded_answers import open_recording
from rlm_wasm.engine.run import ActiveRun
from rlm_wasm.engine.run_tools import GrantedCaller, ToolFacts, nobody_calls
from rlm_wasm.engine.session_files import Outputs
from rlm_wasm.engine.transcript import Watch
from rlm_wasm.errors import Overloaded, UsageError
from rlm_wasm.events import Event
from rlm_wasm.guidance import Example, Guidance
from rlm_wasm.host.affinity import Affinity, require_no_loop
from rlm_wasm.host.worker import Worker
from rlm_wasm.ids import RunId, make_run_id
from rlm_wasm.outcomes import StopReason
from rlm_wasm.policy.model import Policy
from rlm_wasm.providers.litellm import open_litellm
from rlm_wasm.providers.registry import ProviderSet
from rlm_wasm.providers.response_cache import ResponseCache
from rlm_wasm.providers.secret import Keys
from rlm_wasm.results import RunResult
from rlm_wasm.scheduler.routing import Routing
from rlm_wasm.scheduler.scheduler import RunStarted
from rlm_wasm.tenant import checked_tenant
from rlm_wasm.tools.granted import ToolGrants
from rlm_wasm.tools.tool import ToolLike, as_tools


class Runtime:
    """Runs questions under one policy; many at once share its permits.

    Use it as an async context manager, on asyncio or trio, or call `ask_sync`. `model` and
    `sub_model` override the policy's, as ``provider:name``; `environ` is where provider keys are
    read, the process's environment unless given. `route` replaces the providers (for embedding a
    model of your own): it maps a model's name to a provider and the name there. `tools` are functions that
    the code of every run may call by name, as those of `Sandbox`; the models are told of them.

    Raises:
        PolicyError: the policy does not hold with these models.
        UsageError: a tool is none, or one that the policy allows nobody.

    Entering it raises:
        PolicyError: a model has no price, so that its cost cannot be budgeted.
        UsageError: a model or its key is not there, or the runtime is open already.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        model: str | None = None,
        sub_model: str | None = None,
        environ: Mapping[str, str] | None = None,
        route: Router | None = None,
        tools: Iterable[ToolLike] = (),
    ) -> None:
        keys = Keys(environ)
        del environ  # not in this frame when something is raised
        self._set_up(policy, World(), keys, model, sub_model, route, tools)

    @classmethod
    def in_world(
        cls,
        policy: Policy,
        world: World,
        *,
        model: str | None = None,
        sub_model: str | None = None,
        environ: Mapping[str, str] | None = None,
        route: Router | None = None,
        tools: Iterable[ToolLike] = (),
    ) -> Self:
        """Return a runtime whose workers, time and chance are given: for tests, and for replays."""
        keys = Keys(environ)
        del environ  # not in this frame when something is raised
        made = cls.__new__(cls)
        made._set_up(policy, world, keys, model, sub_model, route, tools)
        return made

    def _set_up(
        self,
        policy: Policy,
        world: World,
        keys: Keys,
        model: str | None,
        sub_model: str | None,
        route: Router | None,
        tools: Iterable[ToolLike],
    ) -> None:
        check_policy(policy)
        self._tools = as_tools(tools)
        self._grants = ToolGrants(policy.tools, policy.boundary)
        self._grants.check(self._tools)
        self.policy = policy.with_models(root=model, sub=sub_model)
        self._written = WrittenPolicy.of(self.policy)
        self._providers = ProviderSet(self.policy, keys, open_recording, {"litellm": open_litellm})
        self._route: Router = route or self._providers.get
        self._cache: ResponseCache | None = None
        self._world = world
        self._accounting = Accounting()
        self._worker: Worker = world.worker or make_worker(self.policy, self._accounting)
        self._entered = False
        self._broker: Broker | None = None
        self._home: Affinity | None = None  # where it is open
        self._stack = AsyncExitStack()
        self._runs: dict[RunId, Run] = {}
        self._runs_of: Counter[str] = Counter()
        self._tasks: TaskGroup | None = None  # while runs may begin

    async def __aenter__(self) -> Self:
        if self._broker is not None:
            raise UsageError("the runtime is open already")
        if self._entered and self._world.worker is None:  # a worker that was closed stays so
            self._worker = make_worker(self.policy, self._accounting)
        self._entered = True
        async with AsyncExitStack() as stack:
            # Also when opening fails: then it is not open.
            stack.callback(self._forget_broker)
            stack.push_async_callback(self._providers.aclose)
            if (cache := cache_of(self.policy)) is not None:
                stack.callback(cache.close)
            self._cache = cache
            # Before any guest runs: a missing key or a broken script is the operator's to know at once.
            for name in self.policy.models.asked:
                self._route(name)
            self._home = Affinity()
            self._broker = self._world.make_broker(self.policy.permit_limits(), self._world.clock)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            await stack.enter_async_context(self._worker)
            await tasks.start(self._broker.serve)
            self._tasks = tasks
            stack.push_async_callback(self._end_runs)
            self._stack = stack.pop_all()
        return self

    def _forget_broker(self) -> None:
        self._broker = self._home = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._home is not None:
            if self._home.inherited:
                return None
            self._home.check("the runtime")
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
        tenant: str = "",
        snapshot: Snapshot | None = None,
        outputs: Outputs | None = None,
        file_names: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        instructions: str | None = None,
        examples: Iterable[Example] = (),
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> RunResult:
        """Answer `question` about `context`: a str, bytes or a JSON value, or several by variable name.

        Each is a read-only file in the guest's /inputs as well, called as its variable, or as `file_names`
        says by variable. An `InputFile` may be larger than the guest's memory: it is read a part at a time.

        A list, number or bool becomes the same value in the guest, by the rule of `SandboxSession.set`; so
        does each value of a mapping that is neither str, bytes nor an `InputFile`. A mapping is always one of
        names.

        Runs of one `tenant` share its part of the permits, by the policy's weights. With a `snapshot`,
        every session of the run is forked from it, those of its children as well: what it defines is
        there at every depth.

        Every event of the run goes to each of `sinks`, in order; one that raises ends the run. Ending
        early (a budget, a deadline, `cancel`, a model that fails, a runtime that is closed) is a result with
        `partial=True`, not an exception. What a guest does to itself never raises here. Where a child run
        cannot have its session, its parent's code gets a ChildFailed.

        `outputs` is awaited with the files of the run's session once there is an answer, or none, and if
        that session is still there; what it raises is raised here. It is cancelled at `run.wall_ms_max`
        and by `cancel`; of a run that one of them ended already, after 10 seconds.

        `instructions` and `examples` are told to the root's model in its system prompt, behind the policy's
        own (its table [guidance]), in a place of their own: they change nothing of how the session works or
        how a run finishes. With `guidance.children` the models of child runs are told them too.

        `on_cell` sees each cell before it runs, those of child runs too, and says what becomes of it:
        `PassCell()`, `RefuseCell(reason)`, which its model is told, or `StopRun(reason)`. It may be async;
        one that is not is called on a thread. Several calls may be under way where there are children. One
        that raises, returns anything else or takes longer than `run.hook_ms_max` ends the run, with
        `StopKind.HOOK_FAILED` and what it raised in `RunResult.hook_error`.

        `output` says what the answer is to be: a JSON Schema as a dict, or a type, such as a pydantic model,
        a dataclass or `list[int]`. The model is told; an answer that it declares is checked, and where it
        does not fit the model is told where, and goes on within its budget. `RunResult.value` is the answer
        as that. What a validator of the type's own raises that is no ValueError ends the run and is raised
        here.

        `watch` is called with each turn of the root when its reply is there, and with each of its cells when
        that has ended: what `RunResult.transcript` will have. What it raises ends the run and is raised here.

        Raises:
            UsageError: the runtime is not open, or on another event loop; the question is empty; a tenant's
                or an input's name is none, or an input exceeds `sandbox.context_bytes_max` or has no JSON
                form (NoJsonForm); instructions or examples say nothing, or exceed a limit of [guidance];
                `output` is no type and no schema, or one that could not be checked; the snapshot is another
                tenant's, or of another kind of worker.
            ArtifactError: no guest is built, or it is not what was built.
            PolicyError: the memory cap is below the guest's image. LockdownError: the policy demands a
                layer of the lock-down that this machine does not have.
            GuestError: the root's session could not take an input: MemoryExceeded, for one that the guest
                has no room for, or GuestTrap.
            Overloaded: the tenant has all the runs that it may have; or the policy's sessions, workers,
                zygotes or memory, or the tenant's part of them, are used up when the root needs its session.
            HostExhausted: this machine has no more room for a session.
            InternalError: a bug of ours.
        """
        guidance = Guidance.given(instructions, examples)
        run = self._prepare(
            question, context, sinks, tenant, snapshot, guidance, outputs, file_names, watch, on_cell, output
        )
        try:
            return await run.drive()
        finally:
            self._forget(run)

    def start(
        self,
        question: str,
        context: Contexts = None,
        *,
        sinks: Iterable[Callable[[Event], None]] = (),
        tenant: str = "",
        snapshot: Snapshot | None = None,
        file_names: Mapping[str, str] | None = None,
        instructions: str | None = None,
        examples: Iterable[Example] = (),
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> Run:
        """Begin to answer `question` and return at once: events, result and `cancel` are the run's.

        A reader that is made before the next `await` gets every event. Closing the runtime ends the
        runs that were started.

        Raises:
            UsageError or Overloaded: as `ask`, for what can be told at once; all else is raised by the run's
                `result`.
        """
        guidance = Guidance.given(instructions, examples)
        run = self._prepare(
            question,
            context,
            sinks,
            tenant,
            snapshot,
            guidance,
            file_names=file_names,
            on_cell=on_cell,
            output=output,
        )
        assert self._tasks is not None, "a runtime that takes runs has tasks"
        self._tasks.start_soon(self._drive, run)
        return run

    async def _drive(self, run: Run) -> None:
        try:
            await run.drive_in_background()
        finally:
            self._forget(run)

    async def _end_runs(self) -> None:
        """Let the runs end before what they use is closed, their deadlines with it; no other one begins."""
        self._tasks = None
        for run in (runs := list(self._runs.values())):
            run.stop(StopReason.runtime_closed())
        for run in runs:
            await run.ended()

    def _prepare(
        self,
        question: str,
        context: Contexts,
        sinks: Iterable[Callable[[Event], None]],
        tenant: str,
        snapshot: Snapshot | None,
        guidance: Guidance,
        outputs: Outputs | None = None,
        file_names: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> Run:
        if self._broker is None or self._home is None or self._tasks is None:
            raise UsageError("the runtime is not open; use it as an async context manager")
        self._home.check("the runtime")
        check_question(question)
        tenant = checked_tenant(tenant)
        policy = self.policy
        checked = checked_sinks(sinks)
        if outputs is not None:
            check_callable("outputs", outputs)
        if watch is not None:
            check_plain_function("watch", watch)
        if on_cell is not None:
            check_callable("on_cell", on_cell)
        if snapshot is not None:
            check_snapshot(snapshot, self.policy)
        policy.own_guidance().followed_by(guidance).check(policy.guidance_limits())
        check = self._answer_check(output)
        contexts = named_contexts(context)
        meter = self._accounting.meter(tenant)
        runs_max = policy.tenant_limits().runs_max
        if self._runs_of[tenant] >= runs_max:
            meter.run_refused()
            raise Overloaded(
                f"this tenant has {runs_max} runs, all that one tenant may have",
                hint="raise `tenants.runs_max` in the policy, or wait for a run to end",
            )
        run_id = make_run_id(self._world.entropy(8))
        granted = self._grants.of(self._tools, tenant)
        facts = ToolFacts.of(granted) if self._world.tools is None else self._world.tools
        active = ActiveRun(
            run_id,
            policy,
            self._written,
            self._broker,
            self._worker,
            question,
            contexts,
            meter,
            tenant=tenant,
            image=snapshot,
            outputs=outputs,
            file_names=file_names,
            watch=watch,
            cache=self._cache,
            guidance=guidance,
            hook=self._hook(on_cell, self._tasks),
            tools=facts,
            output=check,
        )
        started = RunStarted(
            run_id=run_id,
            budget=policy.budget,
            run=policy.run,
            query=policy.query,
            boundary=policy.boundary,
            prices=policy.prices(),
            routing=Routing.of(policy.models.fallback, policy.models.sub_up_to_bytes),
            cell_requests_max=policy.cell.requests_max,
            cell_fuel_max=policy.cell.fuel_max,
            seed=policy.sandbox.seed,
            child_models=tuple(policy.models.child),
            texts=policy.events.texts,
            tenant=tenant,
            weight=policy.permits.weights.get(tenant, 1),
            windows=policy.windows(),
            tools=facts.terms,
        )
        run = Run(
            started,
            active,
            self._broker,
            self._route if self._cache is None else through_cache(self._route, self._cache, policy, tenant),
            [meter.take, *checked],
            policy.events,
            self._home,
            nobody_calls if self._world.tools is not None else GrantedCaller(granted),
        )
        self._runs[run_id] = run
        self._runs_of[tenant] += 1
        return run

    def _hook(self, on_cell: OnCell | None, tasks: TaskGroup) -> CellJudge | None:
        limits, recalled = self.policy.run, self._world.verdicts
        if on_cell is None and recalled is None:
            return None
        return CellJudge(
            on_cell,
            recalled,
            tasks,
            is_async=is_async(on_cell),
            ms_max=limits.hook_ms_max,
            reason_bytes_max=limits.hook_reason_bytes_max,
        )

    def _answer_check(self, output: Any) -> AnswerCheck | None:
        wanted: AnswerType | RecordedOutput | None = self._world.output
        if wanted is None and output is not None:
            most = self.policy.guidance_limits().instructions_bytes_max
            wanted = output if isinstance(output, AnswerType) else AnswerType.of(output, most)
        return None if wanted is None else AnswerCheck(wanted, self.policy.cell.result_bytes_max)

    def _forget(self, run: Run) -> None:
        del self._runs[run.run_id]
        self._runs_of[run.tenant] -= 1
        if not self._runs_of[run.tenant]:
            del self._runs_of[run.tenant]

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask every run to end now; each returns its best partial answer.

        To be called on the event loop's thread: from a task, a sink, or a callback of the loop such as
        a signal handler.

        Raises:
            UsageError: another event loop runs here, or none.
        """
        if self._home is not None:
            self._home.check("the runtime")
        for run in list(self._runs.values()):
            run.cancel(reason)

    def load_snapshot(self, path: str | Path, *, key: bytes | None = None, tenant: str = "") -> Snapshot:
        """Read a snapshot that `Snapshot.save` wrote, to begin runs from: ``ask(question, snapshot=…)``.

        The runtime need not be open. Takes and raises what `Sandbox.load_snapshot` does.
        """
        return load_snapshot(self.policy, path, key, tenant)

    def metrics(self) -> Metrics:
        """Return what each tenant has used so far, and how the pool of workers stands.

        Any thread may ask, also when the runtime is closed.
        """
        return self._accounting.metrics()

    def sync(self) -> SyncRuntime:
        """Return the same runtime for code that is not async: ``with Runtime(policy).sync() as runtime:``.

        It is opened by that `with`, and so must not be open otherwise.
        """
        return SyncRuntime(self)

    def ask_sync(
        self,
        question: str,
        context: Contexts = None,
        *,
        sinks: Iterable[Callable[[Event], None]] = (),
        tenant: str = "",
        snapshot: Snapshot | None = None,
        outputs: Outputs | None = None,
        file_names: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        instructions: str | None = None,
        examples: Iterable[Example] = (),
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> RunResult:
        """Answer one question from code that is not async. Starts and stops everything it needs.

        For more than one, `sync` starts it once.

        Takes and raises what `ask` does, and what entering the runtime raises; UsageError also where an event
        loop runs on this thread.
        """
        require_no_loop(
            "ask_sync",
            "use `async with Runtime(policy) as runtime:` here, and `await runtime.ask(question)`",
        )

        async def main() -> RunResult:
            async with self:
                return await self.ask(
                    question,
                    context,
                    sinks=sinks,
                    tenant=tenant,
                    snapshot=snapshot,
                    outputs=outputs,
                    file_names=file_names,
                    watch=watch,
                    instructions=instructions,
                    examples=examples,
                    on_cell=on_cell,
                    output=output,
                )

        return anyio.run(main)
