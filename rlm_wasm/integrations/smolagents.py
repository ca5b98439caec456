"""A `PythonExecutor` for smolagents: what its `CodeAgent` runs, behind our wall.

    agent = CodeAgent(tools=[…], model=model, executor=SandboxExecutor())

The package `smolagents`, 1.24 or later, is an extra: ``pip install 'rlm-wasm[smolagents]'``.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from rlm_wasm.api.sandbox import SandboxSession
from rlm_wasm.errors import GuestError, GuestException, NoJsonForm, UsageError, ValueTooLarge
from rlm_wasm.integrations.given_variables import GivenVariables, checked_name
from rlm_wasm.integrations.host_functions import HostFunctions
from rlm_wasm.integrations.open_sandbox import OpenSandbox
from rlm_wasm.integrations.smolagents_guest import FINAL_ANSWER, TOOL_NAME, binding
from rlm_wasm.integrations.tool_policy import with_tool
from rlm_wasm.outcomes import SessionState
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult
from rlm_wasm.values import JsonText

try:
    from smolagents.local_python_executor import (
        DEFAULT_MAX_LEN_OUTPUT,
        CodeOutput,
        InterpreterError,
        PythonExecutor,
    )
    from smolagents.utils import truncate_content
except ImportError as error:
    raise ImportError(
        "the package smolagents is not installed: pip install 'rlm-wasm[smolagents]'"
    ) from error

# Where the agent looks for what code wrote before it failed.
_WRITTEN: Final = "_print_outputs"
_LOST: Final = "Nothing is left of the session: define all variables and functions again."


def smolagents_policy(base: Policy | None = None) -> Policy:
    """Return `base`, or the strictest built-in policy that this machine gives, with room for agents' tools.

    Those of a guest are all called through one of ours, `smolagents_tool`, which the policy must allow.

    Raises:
        LockdownError, HostExhausted: no `base`, and no process can be locked down here.
    """
    return with_tool(base, TOOL_NAME)


class SandboxExecutor(PythonExecutor):  # type: ignore[misc]  # the package may be absent where types are checked
    """Runs an agent's code in a session of its own, under a policy.

    Without a `policy` it is `smolagents_policy()`. `sandbox` is one that is shared with others, in place of a
    policy and a process of its own; `SandboxExecutors` makes such ones. `max_print_outputs_length` is how
    many characters a model is shown of what code wrote.

    `additional_authorized_imports` stands where `LocalPythonExecutor` has it, and allows nothing: code may
    import whatever its guest has, the standard library and the packages of the policy's image, and no more.

    One thread at a time executes, and any may; where an event loop runs on it, that stands still meanwhile.
    Tools are called on threads of their own, in the context of who called.
    """

    def __init__(
        self,
        additional_authorized_imports: Iterable[str] = (),
        max_print_outputs_length: int | None = None,
        *,
        policy: Policy | None = None,
        sandbox: OpenSandbox | None = None,
    ) -> None:
        if policy is not None and sandbox is not None:
            raise UsageError("a sandbox has its policy: give one of the two")
        if any(True for _ in additional_authorized_imports):
            warnings.warn(
                "additional_authorized_imports allows nothing here: code may import all that its guest has, "
                "and a package comes there with the policy's sandbox.image",
                stacklevel=2,
            )
        self.max_print_outputs_length = max_print_outputs_length or DEFAULT_MAX_LEN_OUTPUT
        # What the agent reads of an executor whose code failed.
        self.state: dict[str, Any] = {_WRITTEN: ""}
        self._is_own: Final = sandbox is None
        self._sandbox: Final = sandbox or OpenSandbox(policy or smolagents_policy())
        self._functions: Final = HostFunctions(TOOL_NAME, self._call_tool)
        self._tools: dict[str, Callable[..., Any]] = {}
        self._variables: dict[str, str | bytes | JsonText] = {}
        self._session: SandboxSession | None = None
        self._given = GivenVariables()
        self._lock: Final = threading.Lock()
        self._ended = False
        # Of the execution under way: what final_answer came to.
        self._answers: list[Any] = []

    def send_tools(self, tools: Mapping[str, Callable[..., Any]]) -> None:
        """Take the functions that code may call from now on: tools, and agents that this one manages."""
        with self._one_at_a_time():
            self._tools = {checked_name(name): tool for name, tool in tools.items()}

    def send_variables(self, variables: Mapping[str, Any]) -> None:
        """Take variables that code finds. One that has the value that it had stays what code made of it.

        Raises:
            UsageError: code cannot call one so, or it has no form that can cross to the guest (`NoJsonForm`).
        """
        sent = {checked_name(name): _sendable(name, value) for name, value in variables.items()}
        with self._one_at_a_time():
            self._variables |= sent

    def __call__(self, code_action: str) -> Any:
        """Run code and return smolagents' `CodeOutput`: what it wrote, its last value or the final answer.

        A limit that ends the code leaves variables as they were before it.

        Raises:
            InterpreterError: the code or a tool raised, or a limit ended it; what smolagents tells the model.
            UsageError: it is executing already, or was cleaned up.
            RlmWasmError: this machine can run nothing any more.
        """
        with self._one_at_a_time():
            self.state[_WRITTEN] = ""
            self._answers = []
            self._functions.begin()
            try:
                self._prepare()
            except GuestError as error:  # what code left is in the way, of memory say
                self._drop()
                raise InterpreterError(f"{error}\n{_LOST}") from error
            try:
                result = self._exec(code_action)
            except UsageError as error:  # code that is too long, say
                raise InterpreterError(str(error)) from error
            if self._functions.interruption is not None:
                raise self._functions.interruption
            return self._output(result)

    def cleanup(self) -> None:
        """Free the session, for good; the agent's own `cleanup` calls this."""
        self._ended = True
        self._drop()
        if self._is_own:
            self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if self._ended:
            raise UsageError("this executor was cleaned up: make another one")
        if not self._lock.acquire(blocking=False):
            raise UsageError("this executor is executing already: give each agent one of its own")
        try:
            yield
        finally:
            self._lock.release()

    # -- the session -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Give the session what it is to have. Functions each time: code may have taken their names."""
        if self._session is None:
            self._session = self._sandbox.call(self._sandbox.session)
            self._given = GivenVariables()
            if self._ended:  # another thread cleaned up meanwhile, and found nothing to free
                self._drop()
                raise UsageError("this executor was cleaned up: make another one")
        for name, value in self._variables.items():
            self._given.give(name, value, self._load, self._run_own)
        self._run_own(binding({name: _told(name, tool) for name, tool in self._tools.items()}))

    def _load(self, name: str, value: str | bytes | JsonText) -> None:
        assert self._session is not None, "it was opened"
        self._sandbox.call(self._session.load, name, value)

    def _run_own(self, source: str) -> None:
        self._exec(source).raise_for_outcome()

    def _exec(self, source: str) -> CellResult:
        assert self._session is not None, "it was opened"
        return self._sandbox.call(self._session.exec, source, tools=[self._functions.tool])

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._sandbox.is_open:
            self._sandbox.call(session.aclose)

    # -- one execution ---------------------------------------------------------------------------

    def _output(self, result: CellResult) -> Any:
        logs = truncate_content(result.stdout + result.stderr, max_length=self.max_print_outputs_length)
        self.state[_WRITTEN] = logs
        error = result.error
        if result.session_state is SessionState.LOST:
            self._drop()
            raise InterpreterError(f"{error}\n{_LOST}") from error
        if self._answers and (error is None or isinstance(error, GuestException)):
            return CodeOutput(output=self._answers[0], logs=logs, is_final_answer=True)
        if error is not None:
            raise InterpreterError(_failure(error)) from error
        return CodeOutput(output=_last_value(result), logs=logs, is_final_answer=False)

    def _call_tool(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name not in self._tools:
            raise NameError(f"there is no tool {name}")
        made = self._tools[name](*args, **kwargs)
        if name == FINAL_ANSWER:
            self._answers.append(made)
            return None
        return made


class SandboxExecutors:
    """Makes executors in one sandbox: no process is started for each agent.

    with SandboxExecutors(policy) as executors:
        agent = CodeAgent(tools=[…], model=model, executor=executors())
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._sandbox: Final = OpenSandbox(policy or smolagents_policy())

    def __call__(
        self, additional_authorized_imports: Iterable[str] = (), max_print_outputs_length: int | None = None
    ) -> SandboxExecutor:
        """Return a fresh executor. Any thread may ask."""
        return SandboxExecutor(additional_authorized_imports, max_print_outputs_length, sandbox=self._sandbox)

    def __enter__(self) -> Self:
        self._sandbox.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()


def _sendable(name: str, value: object) -> str | bytes | JsonText:
    if isinstance(value, str | bytes):
        return value
    try:
        return JsonText.of(value, name)
    except NoJsonForm as error:
        raise NoJsonForm(
            f"the variable {name} cannot cross to the guest: {error.message}",
            hint="give its text, its bytes or plain lists and dicts, or a tool that has parts of it",
        ) from error


def _told(name: str, tool: Any) -> str:
    """Return what `help` shows of a tool: how it is called, and its own words."""
    inputs = getattr(tool, "inputs", None) or {}
    parts = [f"{each}: {about.get('type', 'any')}" for each, about in inputs.items()]
    returns = getattr(tool, "output_type", "any")
    lines = [f"{name}({', '.join(parts)}) -> {returns}", "", str(getattr(tool, "description", "") or "")]
    lines += [f"    {each}: {about.get('description', '')}" for each, about in inputs.items()]
    return "\n".join(lines).strip()


def _last_value(result: CellResult) -> Any:
    try:
        return result.value
    except (NoJsonForm, ValueTooLarge):
        return result.result


def _failure(error: GuestError) -> str:
    """Return what a model is told of code that failed: the lines that it came from, and what it was."""
    if isinstance(error, GuestException) and error.traceback:
        return error.traceback.rstrip("\n")
    return str(error)
