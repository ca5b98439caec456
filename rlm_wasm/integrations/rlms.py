"""An environment for the library `rlms`: what its RLM lets models run, behind our wall.

    with sandboxed():
        print(RLM(backend="openai", backend_kwargs={...}).completion(prompt=text).response)

The package, 0.1.2 or later, is an extra: ``pip install 'rlm-wasm[rlms]'``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rlm_wasm.api.sandbox import Sandbox
from rlm_wasm.api.sync_sandbox import SyncSandbox, SyncSession
from rlm_wasm.errors import GuestError, GuestException, NoJsonForm, UsageError, ValueTooLarge
from rlm_wasm.integrations.host_functions import HostFunctions, docstring, plain
from rlm_wasm.integrations.rlms_guest import AFTER, READY, TOOL_NAME, scaffold_cell
from rlm_wasm.integrations.tool_policy import with_tool
from rlm_wasm.outcomes import SessionState
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult

try:
    import rlm.core.rlm as library
    from rlm.core.types import REPLResult
    from rlm.environments.base_env import NonIsolatedEnv, extract_tool_value, validate_custom_tools
    from rlm.environments.local_repl import LocalREPL
except ImportError as error:
    raise ImportError("the package rlms is not installed: pip install 'rlm-wasm[rlms]'") from error

# Those of the library's own that come back when a cell has taken their names.
_OWN: Final = ("llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched")
_PATCHING: Final = threading.Lock()


def rlms_policy(base: Policy | None = None) -> Policy:
    """Return `base`, or the strictest built-in policy that this machine gives, with room for the library.

    What its guests ask of the host is all asked through one tool of ours, `rlms_tool`, which the policy must
    allow.

    Raises:
        LockdownError, HostExhausted: no `base`, and no process can be locked down here.
    """
    return with_tool(base, TOOL_NAME)


@contextmanager
def sandboxed(policy: Policy | None = None) -> Iterator[SyncSandbox]:
    """Give every completion of the library that begins within this `with` a session of ours.

    It takes the place of `environment="local"`, the library's default, for an RLM and all its children, on
    every thread of this process; one `with` at a time. Without a policy it is `rlms_policy()`.

    Raises:
        UsageError: another one is under way.
        LockdownError, HostExhausted: as `rlms_policy`.
    """
    if not _PATCHING.acquire(blocking=False):
        raise UsageError("the library's environment is replaced already: use one `with sandboxed()` for all")
    try:
        with Sandbox(policy or rlms_policy()).sync() as sandbox:
            before = library.get_environment

            def environment(kind: str, kwargs: dict[str, Any]) -> Any:
                return SandboxREPL(**kwargs, sandbox=sandbox) if kind == "local" else before(kind, kwargs)

            library.get_environment = environment
            try:
                yield sandbox
            finally:
                library.get_environment = before
    finally:
        _PATCHING.release()


class SandboxREPL(NonIsolatedEnv):  # type: ignore[misc]  # the library has no types for it
    """The library's local environment, in a session of an open sandbox.

    The arguments are those of its `LocalREPL`. Variables live on where a cell fails; functions see the
    variables of later cells; a limit that ends a cell is told as an error of its code.
    """

    def __init__(
        self,
        lm_handler_address: tuple[str, int] | None = None,
        context_payload: dict[str, Any] | list[Any] | str | None = None,
        setup_code: str | None = None,
        persistent: bool = False,
        depth: int = 1,
        subcall_fn: Callable[..., Any] | None = None,
        custom_tools: dict[str, Any] | None = None,
        custom_sub_tools: dict[str, Any] | None = None,
        compaction: bool = False,
        max_concurrent_subcalls: int = 4,
        *,
        sandbox: SyncSandbox,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            persistent=persistent, depth=depth, max_concurrent_subcalls=max_concurrent_subcalls, **kwargs
        )
        self.lm_handler_address = lm_handler_address
        self.subcall_fn = subcall_fn
        self.compaction = compaction
        self.custom_tools = custom_tools or {}
        self.custom_sub_tools = self.custom_tools if custom_sub_tools is None else custom_sub_tools
        validate_custom_tools(self.custom_tools)
        self._sandbox: Final = sandbox
        self._lock: Final = threading.Lock()
        self._functions: Final = HostFunctions(TOOL_NAME, self._perform)
        self._callables: dict[str, Callable[..., Any]] = {}
        self._session: SyncSession | None = None
        self._pending_llm_calls: list[Any] = []
        self._last_final_answer: str | None = None
        self._context_count = self._history_count = 0
        self._compacted: list[Any] = []
        self._is_compacted_told = True
        try:
            self.setup()
            if context_payload is not None:
                self.load_context(context_payload)
            if setup_code:
                self.execute_code(setup_code)
        except BaseException:
            self.cleanup()  # nobody else has it
            raise

    # How the library asks its models: its handler's address, or its own recursion.
    _llm_query = LocalREPL._llm_query
    _llm_query_batched = LocalREPL._llm_query_batched
    _rlm_query = LocalREPL._rlm_query
    _rlm_query_batched = LocalREPL._rlm_query_batched

    def setup(self) -> None:
        """Open the session, with the functions and values that its code is to have."""
        self._callables = {name: getattr(self, f"_{name}") for name in _OWN}
        values = {}
        for name, entry in self.custom_tools.items():
            value = extract_tool_value(entry)
            if callable(value):
                self._callables[name] = value
            else:
                values[name] = value
        self._session = self._sandbox.session()
        told = {name: docstring(name, function) for name, function in self._callables.items()}
        self._run_own(scaffold_cell(told, json.dumps(_OWN)))
        for name, value in values.items():
            self._set(name, value)

    def load_context(self, context_payload: dict[str, Any] | list[Any] | str) -> None:
        """Bind what the question is about, as `context` and `context_0`."""
        self.add_context(context_payload, 0)

    def add_context(
        self, context_payload: dict[str, Any] | list[Any] | str, context_index: int | None = None
    ) -> int:
        """Bind another context, and return its number."""
        at = self._context_count if context_index is None else context_index
        self._set(f"context_{at}", context_payload)
        if at == 0:
            self._run_own("context = context_0")
        self._context_count = max(self._context_count, at + 1)
        return at

    def get_context_count(self) -> int:
        """Return how many contexts there are."""
        return self._context_count

    def update_handler_address(self, address: tuple[str, int]) -> None:
        """Ask models at another address of the library's."""
        self.lm_handler_address = address

    def add_history(self, message_history: list[dict[str, Any]], history_index: int | None = None) -> int:
        """Bind a conversation, and return its number."""
        at = self._history_count if history_index is None else history_index
        self._set(f"history_{at}", message_history)
        if at == 0:
            self._run_own("history = history_0")
        self._history_count = max(self._history_count, at + 1)
        return at

    def get_history_count(self) -> int:
        """Return how many conversations there are."""
        return self._history_count

    def append_compaction_entry(self, entry: list[dict[str, Any]] | dict[str, Any]) -> None:
        """Keep what was compacted, as the variable `history`, where the library compacts."""
        if self.compaction:
            self._compacted.append(plain(entry))
            self._is_compacted_told = False

    def execute_code(self, code: str) -> Any:
        """Run a cell and return the library's `REPLResult`.

        Raises:
            GuestError, WorkerLost: the session is lost, with all its variables.
            RlmWasmError: this machine or the sandbox can run nothing any more.
        """
        started = time.perf_counter()
        with self._lock:
            session = self._open()
            self._pending_llm_calls = []
            self._functions.begin()
            if not self._is_compacted_told:
                self._set("history", self._compacted)
                self._is_compacted_told = True
            try:
                result = session.exec(code, tools=[self._functions.tool])
            except UsageError as error:  # a cell that is too long, say
                return self._result(started, CellResult(), f"\n{error}", [])
            if self._functions.interruption is not None:
                raise self._functions.interruption
            if result.session_state is SessionState.LOST:
                assert result.error is not None
                raise result.error
            names = self._names(session)
            return self._result(started, result, "" if result.error is None else f"\n{_told(result)}", names)

    def cleanup(self) -> None:
        """Free the session, for good."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> SandboxREPL:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    # -- the session -----------------------------------------------------------------------------

    def _open(self) -> SyncSession:
        if self._session is None:
            raise UsageError("this environment was cleaned up: make another one")
        return self._session

    def _set(self, name: str, value: object) -> None:
        try:
            self._open().set(name, value)
        except NoJsonForm:
            self._open().set(name, plain(value))

    def _run_own(self, source: str) -> CellResult:
        result = self._open().exec(source, tools=[self._functions.tool])
        if result.error is not None:
            raise result.error
        return result

    def _names(self, session: SyncSession) -> list[str]:
        """Put back what is the library's; return the names of variables, which are the guest's word."""
        result = session.exec(AFTER, tools=[self._functions.tool])
        try:
            names = result.value
        except (GuestError, NoJsonForm, ValueTooLarge):  # it has taken that away, too
            return []
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def _result(self, started: float, result: CellResult, error: str, names: list[str]) -> Any:
        final, self._last_final_answer = self._last_final_answer, None
        return REPLResult(
            stdout=result.stdout,
            stderr=result.stderr + error,
            # What they hold stays in the guest: the library shows their names alone.
            locals=dict.fromkeys(names, ""),
            execution_time=time.perf_counter() - started,
            rlm_calls=list(self._pending_llm_calls),
            final_answer=final,
        )

    def _perform(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> object:
        if name == READY:
            self._last_final_answer = str(args[0]) if args else ""
            return None
        if name not in self._callables:
            raise NameError(f"there is no function {name}")
        return self._callables[name](*args, **kwargs)


def _told(result: CellResult) -> str:
    error = result.error
    if isinstance(error, GuestException):
        return f"{error.type_name}: {error.guest_message}"
    return f"{type(error).__name__}: {error}"
