"""A `CodeInterpreter` for DSPy: what `dspy.RLM`, `CodeAct` and `ProgramOfThought` run, behind our wall.

    rlm = dspy.RLM("context, query -> answer", interpreter_factory=SandboxInterpreter)

The package `dspy`, 3.4 or later, is an extra: ``pip install 'rlm-wasm[dspy]'``.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from keyword import iskeyword
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.api.sync_sandbox import SyncSandbox, SyncSession
from rlm_wasm.errors import (
    GuestError,
    GuestException,
    NoJsonForm,
    RlmWasmError,
    UsageError,
    ValueTooLarge,
)
from rlm_wasm.integrations.dspy_guest import SUBMIT, TOOL_NAME, binding
from rlm_wasm.integrations.given_variables import GivenVariables
from rlm_wasm.integrations.host_functions import HostFunctions, docstring, plain
from rlm_wasm.integrations.tool_policy import with_tool
from rlm_wasm.outcomes import SessionState
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult
from rlm_wasm.values import JsonText

try:
    from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
    from dspy.utils.callback import with_callbacks
except ImportError as error:
    raise ImportError("the package dspy is not installed: pip install 'rlm-wasm[dspy]'") from error

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])
# A decorator of a package without types.
_called_back: Final[Callable[[_F], _F]] = with_callbacks
_INSTRUCTIONS: Final = (
    "Code runs in CPython compiled to WebAssembly. State persists across executions, and variables keep what "
    "code made of them. The standard library is there, and files in memory; there is no network and no "
    "subprocess. Host tools and SUBMIT are global functions."
)


def dspy_policy(base: Policy | None = None) -> Policy:
    """Return `base`, or the strictest built-in policy that this machine gives, with room for DSPy's tools.

    Those of a guest are all called through one of ours, `dspy_tool`, which the policy must allow.

    Raises:
        LockdownError, HostExhausted: no `base`, and no process can be locked down here.
    """
    return with_tool(base, TOOL_NAME)


class SandboxInterpreter:
    """Runs code in a session of its own, under a policy: DSPy's `CodeInterpreter`.

    `tools` are host functions by name, which DSPy adds to; `output_fields` are what SUBMIT takes. Without a
    `policy` it is `dspy_policy()`. `sandbox` is one that is open and shared with others, in place of a policy
    and a process of its own; `SandboxInterpreters` makes such ones.

    One thread at a time executes; any may, also one where an event loop runs, which then stands still as with
    DSPy's own interpreters. Tools are called on threads of their own, in the context of who called `execute`.
    """

    execution_instructions = _INSTRUCTIONS

    def __init__(
        self,
        tools: Mapping[str, Callable[..., Any]] | None = None,
        output_fields: Iterable[Mapping[str, Any]] | None = None,
        *,
        policy: Policy | None = None,
        sandbox: SyncSandbox | None = None,
        callbacks: Iterable[Any] | None = None,
    ) -> None:
        if policy is not None and sandbox is not None:
            raise UsageError("a sandbox has its policy: give one of the two")
        self.tools: dict[str, Callable[..., Any]] = dict(tools or {})
        self.output_fields = None if output_fields is None else [dict(each) for each in output_fields]
        self.callbacks: list[Any] = list(callbacks or [])
        self._policy = policy
        self._shared = sandbox
        self._own: SyncSandbox | None = None
        self._session: SyncSession | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._functions: Final = HostFunctions(TOOL_NAME, self._call_tool)
        # What the guest has: functions by name and SUBMIT's fields, and the JSON or text of each variable.
        self._bound: tuple[dict[str, str], list[str] | None] | None = None
        self._given: Final = GivenVariables()
        # Of the execution under way.
        self._submitted: FinalOutput | None = None

    @_called_back
    def start(self) -> None:
        """Open the session; it is opened by the first `execute` otherwise. Raises CodeInterpreterError."""
        self._check_alive()
        if self._session is None:
            self._off_loop(self._open)

    @_called_back
    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run code and return what SUBMIT was given, else what it wrote, or its last expression's value.

        A variable is bound again only where it is another value than the one that was given before: what code
        made of it stays.

        Raises:
            SyntaxError: the code is none.
            CodeExecutionError: the code or a tool raised, or a limit ended it; the session lives on.
            CodeInterpreterError: a name or value that cannot be given, or the session is lost.
        """
        if not self._lock.acquire(blocking=False):
            raise CodeInterpreterError("this interpreter is executing already")
        try:
            self.start()
            self._functions.begin()
            self._submitted = None
            try:
                return self._off_loop(lambda: self._execute(code, variables or {}))
            except UsageError as error:  # code that is too long, say
                raise CodeExecutionError(str(error)) from error
            except RlmWasmError as error:
                self._fail(error)
        finally:
            self._lock.release()

    @_called_back
    def shutdown(self) -> None:
        """Free the session, for good."""
        self._ended = True
        self._off_loop(self._close)

    def __call__(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Do what `execute` does."""
        return self.execute(code, variables)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    @_called_back
    def invoke_tool(self, tool_name: str, kwargs: dict[str, Any]) -> Any:
        """Call a tool as the guest does. Raises what it raises."""
        if tool_name not in self.tools:
            raise CodeInterpreterError(f"there is no tool {tool_name}")
        made = self.tools[tool_name](**kwargs)
        return asyncio.run(_awaited(made)) if inspect.isawaitable(made) else made

    # -- the session -----------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            sandbox = self._shared
            if sandbox is None:
                opened = Sandbox(self._policy or dspy_policy()).sync()
                sandbox = self._own = opened.__enter__()
            self._session = sandbox.session()
            self._bind(self._session)
            self._check_alive()  # another thread may have ended it meanwhile, and found nothing to close
        except RlmWasmError as error:
            self._fail(error)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        session, self._session = self._session, None
        own, self._own = self._own, None
        if session is not None:
            session.close()
        if own is not None:
            own.__exit__(None, None, None)

    def _check_alive(self) -> None:
        if self._ended:
            raise CodeInterpreterError("this interpreter has ended: make another one")

    def _fail(self, error: RlmWasmError) -> NoReturn:
        """Raise what an error of ours is to DSPy; nothing is known of the session any more."""
        self._ended = True
        self._off_loop(self._close)
        raise CodeInterpreterError(str(error)) from error

    def _off_loop(self, function: Callable[[], _T]) -> _T:
        """Call what waits, on another thread where an event loop runs on this one."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return function()
        done: Future[_T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
                done.set_exception(error)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
        thread.start()
        return done.result()

    # -- one execution ---------------------------------------------------------------------------

    def _execute(self, code: str, variables: dict[str, Any]) -> Any:
        session = self._session
        assert session is not None, "it was started"
        if not isinstance(code, str):
            raise CodeInterpreterError(f"code is a str, not a {type(code).__name__}")
        self._bind(session)
        for name, value in variables.items():
            self._give(session, name, value)
        result = session.exec(code, tools=[self._functions.tool])
        if self._functions.interruption is not None:
            raise self._functions.interruption
        return self._outcome(result)

    def _bind(self, session: SyncSession) -> None:
        """Give the guest the functions that there are now, where they are not those that it has."""
        for name in self.tools:
            _checked_name(name, "a tool")
        functions = {name: docstring(name, function) for name, function in self.tools.items()}
        fields = None
        if self.output_fields is not None:
            fields = [_checked_name(each.get("name"), "an output field") for each in self.output_fields]
        wanted = (functions, fields)
        if wanted == self._bound:
            return
        gone = () if self._bound is None else self._bound[0].keys() - functions.keys()
        self._run_own(session, binding(functions, gone, fields))
        self._bound = wanted

    def _give(self, session: SyncSession, name: str, value: object) -> None:
        _checked_name(name, "a variable")
        if name in self.tools or name == SUBMIT:
            raise CodeInterpreterError(f"{name} is a function here; call the variable something else")
        if isinstance(value, str | bytes):
            sent = value
        else:
            try:
                sent = JsonText.of(plain(value), name)
            except NoJsonForm as error:
                raise CodeInterpreterError(
                    f"the variable {name} cannot cross to the guest: {error}"
                ) from error
        self._given.give(name, sent, session.load, lambda source: self._run_own(session, source))

    def _run_own(self, session: SyncSession, source: str) -> None:
        result = session.exec(source, tools=[self._functions.tool])
        if result.error is not None:
            raise result.error

    def _outcome(self, result: CellResult) -> Any:
        error = result.error
        if result.session_state is SessionState.LOST:
            assert error is not None
            self._fail(error)
        if error is None or isinstance(error, GuestException):
            if self._submitted is not None:
                return self._submitted
            if error is None:
                return _shown(result)
            if error.type_name == SyntaxError.__name__ or error.type_name in _SYNTAX_ERRORS:
                raise SyntaxError(error.guest_message)
        raise CodeExecutionError(_with_output(error, result)) from error

    def _call_tool(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a tool of DSPy's, or take what was submitted."""
        if name == SUBMIT:
            self._submitted = FinalOutput(self._outputs(args, kwargs))
            return None
        if name not in self.tools:
            raise CodeInterpreterError(f"there is no tool {name}")
        return self.invoke_tool(name, _by_name(self.tools[name], args, kwargs))

    def _outputs(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return what was submitted, by the fields that the guest was told of. Raises TypeError: others."""
        fields = None if self._bound is None else self._bound[1]
        if args or set(kwargs) != set(["output"] if fields is None else fields):
            raise TypeError("SUBMIT takes its fields, by name, and no others")
        return kwargs


class SandboxInterpreters:
    """Makes interpreters in one open sandbox: no process is started for each. An `interpreter_factory`.

    with SandboxInterpreters(policy) as interpreters:
        dspy.configure(interpreter_factory=interpreters)
    """

    execution_instructions = _INSTRUCTIONS

    def __init__(self, policy: Policy | None = None) -> None:
        self._sandbox: Final = Sandbox(policy or dspy_policy()).sync()

    def __call__(self) -> SandboxInterpreter:
        """Return a fresh interpreter."""
        return SandboxInterpreter(sandbox=self._sandbox)

    def __enter__(self) -> Self:
        self._sandbox.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.__exit__(kind, error, trace)


_SYNTAX_ERRORS: Final = frozenset({"IndentationError", "TabError"})


def _checked_name(name: object, what: str) -> str:
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or iskeyword(name):
        raise CodeInterpreterError(f"{name!a} cannot be the name of {what}")
    return name


def _by_name(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments by name, as DSPy's tools take them. Raises TypeError."""
    if not args:
        return kwargs
    bound = inspect.signature(function).bind(*args, **kwargs)
    named = dict(bound.arguments)
    for each in bound.signature.parameters.values():
        if each.kind is each.VAR_KEYWORD:
            named |= named.pop(each.name, {})
        elif each.kind in (each.VAR_POSITIONAL, each.POSITIONAL_ONLY) and each.name in named:
            raise TypeError(f"{each.name} cannot be given by name, and a tool takes nothing else")
    return named


async def _awaited(made: Awaitable[_T]) -> _T:
    return await made


def _shown(result: CellResult) -> Any:
    """Return what a cell wrote, and its last expression after it; that one's value if it wrote nothing."""
    try:
        value = result.value
    except (NoJsonForm, ValueTooLarge):
        value = result.result
    written = result.stdout.rstrip("\n")
    if not written:
        return value
    return written if result.result is None else f"{written}\n{result.result}"


def _with_output(error: GuestError, result: CellResult) -> str:
    """Return an error with the lines that it came from, after what was written before it."""
    told = () if isinstance(error, GuestException) and error.traceback else (str(error),)
    parts = (result.stdout, error.traceback, *told)
    return "\n".join(part for each in parts if (part := each.rstrip("\n")))
