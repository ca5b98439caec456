"""`RLM`: the class of the library `rlms` by its arguments and its result, over a runtime of ours.

    from rlm_wasm.compat import RLM

    rlm = RLM(backend="openai", backend_kwargs={"model_name": "gpt-5"})
    print(rlm.completion(text, root_prompt="How many?").response)

The library need not be installed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self

from rlm_wasm.api.runtime import Runtime
from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.api.sync_runtime import SyncRuntime
from rlm_wasm.compat.backend import Backend, GivenKeys, in_milliseconds, without_key
from rlm_wasm.compat.custom_tools import CustomTools
from rlm_wasm.compat.environment import setup_code_of
from rlm_wasm.compat.limits_met import CancellationError, answer_of
from rlm_wasm.compat.printed_run import PrintedRun
from rlm_wasm.compat.recorder import Callbacks, Recorder
from rlm_wasm.compat.records import RLMChatCompletion, RLMIteration, RLMMetadata
from rlm_wasm.compat.trajectory_log import TrajectoryLog
from rlm_wasm.compat.wanted_policy import UNPRICED, WantedPolicy
from rlm_wasm.errors import UsageError
from rlm_wasm.host.affinity import require_no_loop
from rlm_wasm.host.machine_grade import POLICY_OF, grade_here
from rlm_wasm.integrations.host_functions import plain
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import RunResult

# What is asked where everything is in the prompt, as that library's callers may have it.
IN_CONTEXT: Final = "Your task is in the variable `context`: read it, and do what it asks."
_THRESHOLD: Final = 0.85


def policy_here() -> Policy:
    """Return the strictest built-in policy that this machine gives. Raises what `RLM.policy` does."""
    return Policy.builtin(POLICY_OF.get(grade_here(), "strict"))


class RLM:
    """Answers prompts of any size, with the arguments of the library's class of this name.

    `policy` is ours alone: what holds where no argument says otherwise; without one it is the strictest
    built-in policy that this machine gives. `docs/compat.md` says what each argument comes to.

    Used as a `with` or an `async with`, it keeps its workers for all completions of that block; else each
    completion starts and ends its own. Several threads may use it at once, with no logger or one each.

    Raises:
        UsageError: an argument has no counterpart, or is none; it says what to do instead.
        PolicyError: a number is out of the range of the key that it becomes.
    """

    def __init__(
        self,
        backend: str = "openai",
        backend_kwargs: Mapping[str, Any] | None = None,
        environment: str = "local",
        environment_kwargs: Mapping[str, Any] | None = None,
        depth: int = 0,
        max_depth: int = 1,
        max_iterations: int = 30,
        max_budget: float | None = None,
        max_timeout: float | None = None,
        max_tokens: int | None = None,
        max_errors: int | None = None,
        custom_system_prompt: str | None = None,
        other_backends: list[str] | None = None,
        other_backend_kwargs: list[dict[str, Any]] | None = None,
        logger: TrajectoryLog | None = None,
        verbose: bool = False,
        persistent: bool = False,
        custom_tools: Mapping[str, Any] | None = None,
        custom_sub_tools: Mapping[str, Any] | None = None,
        compaction: bool = False,
        compaction_threshold_pct: float = _THRESHOLD,
        max_concurrent_subcalls: int | None = None,
        on_subcall_start: Callable[[int, str, str], None] | None = None,
        on_subcall_complete: Callable[[int, str, float, str | None], None] | None = None,
        on_iteration_start: Callable[[int, int], None] | None = None,
        on_iteration_complete: Callable[[int, int, float], None] | None = None,
        sampling_args: Mapping[str, Any] | None = None,
        sub_sampling_args: Mapping[str, Any] | None = None,
        orchestrator: bool = True,
        user_prologue: str | None = None,
        *,
        policy: Policy | None = None,
    ) -> None:
        # Before anything is raised: no frame of ours shows a key.
        self.backend_kwargs, key = without_key(backend_kwargs)
        others = [without_key(each) for each in other_backend_kwargs or ()]
        del backend_kwargs, other_backend_kwargs
        if depth != 0:
            raise UsageError("depth is of a child; children are made here by code, with rlm_query")
        if persistent:
            raise UsageError(
                "persistent=True has no counterpart: each completion has sessions of its own",
                hint="give what is to be known again in the prompt, as {'earlier': …, 'now': …}",
            )
        _whole("max_depth", max_depth, "0 asks a model without a session: ask its provider for that")
        _whole("max_iterations", max_iterations)
        if custom_sub_tools is not None and max_depth > 1 and custom_sub_tools != (custom_tools or {}):
            raise UsageError(
                "custom_sub_tools other than custom_tools have no counterpart: children have the tools of "
                "the root",
                hint="leave the argument out, or max_depth=1, which has no children",
            )
        self.backend = backend
        self.environment_type = environment
        self.max_depth = max_depth
        self.max_iterations = max_iterations
        self.logger = logger
        self._keys: Final = GivenKeys()
        root = Backend.of(backend, backend, self.backend_kwargs, key, self._keys, sampling_args)
        sub = self._sub(root, key, other_backends, others, sampling_args, sub_sampling_args)
        self._setup_code = setup_code_of(environment, environment_kwargs)
        self._tools = CustomTools.of(custom_tools)
        self._tokens_max = None if max_tokens is None else _whole("max_tokens", max_tokens)
        self._errors_max = None if max_errors is None else _whole("max_errors", max_errors)
        self._instructions = _instructions(custom_system_prompt, user_prologue, self._tools.told)
        self._callbacks = Callbacks(
            on_subcall_start=on_subcall_start,
            on_subcall_complete=on_subcall_complete,
            on_iteration_start=on_iteration_start,
            on_iteration_complete=on_iteration_complete,
        )
        self._given_policy = policy
        self._wanted = WantedPolicy(
            root=root,
            sub=sub,
            turns_max=max_iterations,
            depth_max=max_depth - 1,
            budget=None if max_budget is None else _dollars(max_budget),
            tokens=self._tokens_max,
            timeout_ms=None if max_timeout is None else in_milliseconds("max_timeout", max_timeout),
            permits=None
            if max_concurrent_subcalls is None
            else _whole("max_concurrent_subcalls", max_concurrent_subcalls),
            compact_percent=_percent(compaction, compaction_threshold_pct),
            instructions=self._instructions or "",
            tools=tuple(tool.name for tool in self._tools.tools),
            texts=logger is not None or verbose or on_subcall_start is not None,
            is_callers=policy is not None,
        )
        # What is wrong with the arguments is told now; which lock-down there is, when it is wanted.
        self._wanted.over(policy or Policy.builtin("strict"))
        self._printed = PrintedRun() if verbose else None
        self._metadata = RLMMetadata(
            root.model,
            max_depth,
            max_iterations,
            backend,
            plain(self.backend_kwargs),
            environment,
            plain(dict(environment_kwargs or {})),
            None if other_backends is None else list(other_backends),
        )
        if self.logger is not None:
            self.logger.log_metadata(self._metadata)
        if self._printed is not None:
            self._printed.begin(self._metadata)
        self._model = root.model
        self._lock: Final = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._open: ExitStack | None = None
        self._open_async: AsyncExitStack | None = None
        self._runtime: Runtime | None = None
        self._sync_runtime: SyncRuntime | None = None
        del orchestrator  # an addendum to that library's prompt; ours has its own

    def _sub(
        self,
        root: Backend,
        key: Any,
        kinds: list[str] | None,
        others: list[Any],
        sampling_args: Mapping[str, Any] | None,
        sub_sampling_args: Mapping[str, Any] | None,
    ) -> Backend:
        """Return what answers `llm_query`."""
        if kinds is None:
            if others:
                raise UsageError("other_backend_kwargs is given without other_backends")
            if sub_sampling_args is None:
                return root
            # As that library: the root's backend once more, with the other arguments over the root's.
            merged = {**(sampling_args or {}), **sub_sampling_args}
            return Backend.of("other", self.backend, self.backend_kwargs, key, self._keys, merged)
        if len(kinds) != 1 or len(others) > 1:
            raise UsageError("other_backends is one backend, which answers llm_query")
        given, own_key = others[0] if others else ({}, None)
        [kind] = kinds
        made = Backend.of("other", kind, given, own_key, self._keys, sub_sampling_args)
        # One provider for both where nothing but the model differs, so that a policy's price is found.
        where = {**made.table, "api_key_env": None} == {**root.table, "api_key_env": None}
        same_key = (own_key and own_key.reveal()) == (key and key.reveal())
        if kind == self.backend and where and same_key and made.model != root.model:
            return replace(made, provider=root.provider, table=root.table)
        return made

    @cached_property
    def policy(self) -> Policy:
        """The policy that completions run under.

        Raises:
            LockdownError, HostExhausted: none was given, and no process can be locked down here.
        """
        return self._wanted.over(self._given_policy or policy_here())

    # -- completions ------------------------------------------------------------------------------

    def completion(self, prompt: Any, root_prompt: str | None = None) -> RLMChatCompletion:
        """Answer `root_prompt` about `prompt`, a text or any value of JSON; without it what `prompt` asks.

        Raises:
            UsageError: an event loop runs on this thread, which `acompletion` is for; or as `Runtime.ask`.
            BudgetExceededError, TokenLimitExceededError, TimeoutExceededError, ErrorThresholdExceededError:
                that limit ended it; `partial_answer` is the best answer there is.
            CancellationError: it was interrupted with Ctrl-C.
            RunStopped: it ended early for another reason.
            LockdownError, ArtifactError, HostExhausted, Overloaded, GuestError: as `Runtime.ask`; GuestError
                also for what `setup_code` raises.
        """
        require_no_loop("completion", "use `await rlm.acompletion(prompt)` here")
        recorder = self._recorder()
        try:
            with ExitStack() as stack:
                runtime = self._sync_runtime
                if runtime is None:
                    runtime = stack.enter_context(self._new_runtime().sync())
                result = runtime.ask(**self._asked(prompt, root_prompt, recorder, self._start_sync()))
        except KeyboardInterrupt:
            words = "the completion was cancelled: interrupted"
            raise CancellationError(words, recorder.last_reply) from None
        return self._made(prompt, result, recorder)

    async def acompletion(self, prompt: Any, root_prompt: str | None = None) -> RLMChatCompletion:
        """Answer as `completion` does, on this event loop, and raise what that raises."""
        recorder = self._recorder()
        async with AsyncExitStack() as stack:
            runtime = self._runtime
            if runtime is None:
                runtime = await stack.enter_async_context(self._new_runtime())
            result = await runtime.ask(**self._asked(prompt, root_prompt, recorder, await self._start()))
        return self._made(prompt, result, recorder)

    def _asked(
        self, prompt: Any, root_prompt: str | None, recorder: Recorder, start: Snapshot | None
    ) -> dict[str, Any]:
        if prompt is None:
            raise UsageError("prompt is a text or a value of JSON, not None")
        if self.logger is not None:
            self.logger.clear_iterations()
        return {
            "question": root_prompt or IN_CONTEXT,
            "context": {"context": prompt},
            "sinks": [recorder.take],
            "watch": recorder.watch,
            "instructions": self._instructions,
            "snapshot": start,
        }

    def _recorder(self) -> Recorder:
        prices = self.policy.models.prices

        def priced(spec: str) -> bool:
            return spec in prices and prices[spec].source != UNPRICED

        return Recorder(
            replace(self._callbacks, on_iteration=self._iteration),
            priced,
            tokens_max=self._tokens_max,
            errors_max=self._errors_max,
            run_metadata=None if self.logger is None else self._metadata.to_dict(),
        )

    def _iteration(self, iteration: RLMIteration, number: int) -> None:
        if self.logger is not None:
            self.logger.log(iteration)
        if self._printed is not None:
            self._printed.iteration(iteration, number)

    def _made(self, prompt: Any, result: RunResult, recorder: Recorder) -> RLMChatCompletion:
        if recorder.failure is not None:
            raise recorder.failure
        made = RLMChatCompletion(
            self._model,
            prompt,
            answer_of(result),
            recorder.usage,
            result.wall_ms / 1e3,
            None if self.logger is None else self.logger.get_trajectory(),
            run=result,
        )
        if self._printed is not None:
            self._printed.end(made)
        return made

    # -- what is open -----------------------------------------------------------------------------

    def _new_runtime(self) -> Runtime:
        return Runtime(self.policy, environ=self._keys, tools=self._tools.tools)

    @property
    def _prepares(self) -> bool:
        return bool(self._tools.values or self._setup_code)

    def _start_sync(self) -> Snapshot | None:
        """Return what each session begins with: the values of `custom_tools`, and what `setup_code` made."""
        with self._lock:
            if self._snapshot is None and self._prepares:
                with Sandbox(self.policy).sync() as sandbox, sandbox.session() as session:
                    for name, value in (self._tools.values or {}).items():
                        session.set(name, plain(value))
                    if self._setup_code:
                        session.exec(self._setup_code).raise_for_outcome()
                    self._snapshot = session.snapshot()
            return self._snapshot

    async def _start(self) -> Snapshot | None:
        if self._snapshot is None and self._prepares:
            async with Sandbox(self.policy) as sandbox, sandbox.session() as session:
                for name, value in (self._tools.values or {}).items():
                    await session.set(name, plain(value))
                if self._setup_code:
                    (await session.exec(self._setup_code)).raise_for_outcome()
                self._snapshot = await session.snapshot()
        return self._snapshot

    def close(self) -> None:
        """End what a `with` began. Harmless where nothing is open."""
        opened, self._open, self._sync_runtime = self._open, None, None
        if opened is not None:
            opened.close()

    async def aclose(self) -> None:
        """End what an `async with` began. Harmless where nothing is open."""
        opened, self._open_async, self._runtime = self._open_async, None, None
        if opened is not None:
            await opened.aclose()

    def __enter__(self) -> Self:
        require_no_loop(
            "`with RLM(…)`", "use `async with RLM(…) as rlm:` here, and `await rlm.acompletion(…)`"
        )
        self._check_closed()
        with ExitStack() as stack:
            self._sync_runtime = stack.enter_context(self._new_runtime().sync())
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._check_closed()
        async with AsyncExitStack() as stack:
            self._runtime = await stack.enter_async_context(self._new_runtime())
            self._open_async = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _check_closed(self) -> None:
        if self._open is not None or self._open_async is not None:
            raise UsageError("this RLM is open already")


def _whole(name: str, number: object, why: str | None = None) -> int:
    if type(number) is not int or number < 1:
        raise UsageError(f"{name} is an int from 1 on, not {number!r}", hint=why)
    return number


def _dollars(number: Any) -> float:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not 0 < number <= 1e6:
        raise UsageError(f"max_budget is a number of dollars above 0, 1,000,000 at most, not {number!r}")
    return float(number)


def _percent(compaction: bool, threshold: float) -> int | None:
    """Return how full a window may be before a history is made shorter; None: what the policy says."""
    if not compaction:
        if threshold != _THRESHOLD:
            raise UsageError("compaction_threshold_pct is given without compaction=True")
        return None
    if not isinstance(threshold, int | float) or not 0.01 <= threshold <= 0.9:
        raise UsageError(f"compaction_threshold_pct is a number from 0.01 to 0.9, not {threshold!r}")
    return round(threshold * 100)


def _instructions(system_prompt: object, prologue: object, values: str) -> str | None:
    """Return the caller's own words, which stand beside our system prompt."""
    parts = []
    for name, text in (("custom_system_prompt", system_prompt), ("user_prologue", prologue)):
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            raise UsageError(f"{name} is a str, not a {type(text).__name__}")
        parts.append(_filled(text) if name == "custom_system_prompt" else text)
    return "\n\n".join([*parts, *filter(None, [values])]) or None


def _filled(prompt: str) -> str:
    """Return a system prompt as that library fills it in; the place of the tools is left empty."""
    try:
        return prompt.format(custom_tools_section="")
    except (KeyError, IndexError, ValueError, AttributeError):
        return prompt  # written with braces of its own
