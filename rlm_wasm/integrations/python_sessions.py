"""`PythonSessions`: sessions in which agents run their models' code, call by call: what tools are made of.

What a call comes to is one text for the model: what code wrote, its last value, its error.
"""

from __future__ import annotations

import contextvars
from collections import OrderedDict, deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

import anyio

from rlm_wasm.api.sandbox import SandboxSession
from rlm_wasm.conversation.observations import format_observation
from rlm_wasm.conversation.ran_cell import RanCell
from rlm_wasm.errors import Overloaded, RuntimeClosed, UsageError
from rlm_wasm.integrations.open_sandbox import OpenSandbox
from rlm_wasm.integrations.tool_policy import with_tools
from rlm_wasm.outcomes import SessionState
from rlm_wasm.policy.model import Policy
from rlm_wasm.results import CellResult
from rlm_wasm.tools.tool import Tool, ToolLike, as_tools

# The name and the words by which a model is offered it, unless its program says others.
TOOL_NAME: Final = "run_python"
DESCRIPTION: Final = (
    "Run Python code in a sandbox. It returns what the code printed, the value of its last expression and "
    "its error, if there is one. Variables, functions and imports stay for the next call. The standard "
    "library is there, and files in memory; there is no network, no subprocess and nothing to install."
)
_SESSIONS_MAX: Final = 16
_LOST_MAX: Final = 1_024
_EVICTED: Final = "This session is a new one: the variables and functions of the last one are gone."


def described(tools: Iterable[Tool[..., Any]]) -> str:
    """Return `DESCRIPTION`, and how the code calls each of these."""
    lines = []
    for each in tools:
        words = each.description.strip().partition("\n")[0]
        lines.append(f"{each.name}{each.signature}" + (f": {words}" if words else ""))
    return (
        f"{DESCRIPTION}\n\nThe code may call these functions:\n{chr(10).join(lines)}"
        if lines
        else DESCRIPTION
    )


class _Place:
    """Where the calls of one key take turns. Equal to itself alone."""

    def __init__(self, key: str) -> None:
        self.key: Final = key
        self.turn: Final = anyio.Lock()
        self.session: SandboxSession | None = None
        # Calls that run or wait.
        self.calls = 0
        self.scopes: Final[set[anyio.CancelScope]] = set()
        self.note = ""


# The places whose code waits, through a tool, for what runs in this context.
_INSIDE: Final[contextvars.ContextVar[tuple[_Place, ...]]] = contextvars.ContextVar(
    "rlm_wasm_inside", default=()
)


class PythonSessions:
    """Runs code in a session for each key, under one policy. Use it in a `with`, or `close` it.

    Any thread and any event loop may call. Calls of one key take turns, those of others run side by side. Of
    more than `sessions_max` keys, the one that was not used for longest starts anew.

    `tools` are functions that code may call, as `Sandbox` has them. Without a `policy`, it is the strictest
    built-in one that this machine gives, with those tools allowed.

    Raises:
        UsageError: a tool is none, or the policy allows it nobody.
        LockdownError, HostExhausted: no `policy`, and no process can be locked down here.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        tools: Iterable[ToolLike] = (),
        sessions_max: int = _SESSIONS_MAX,
        tenant: str = "",
    ) -> None:
        if type(sessions_max) is not int or sessions_max < 1:
            raise UsageError(f"sessions_max is an int from 1 on, not {sessions_max!r}")
        self.tools: Final[tuple[Tool[..., Any], ...]] = as_tools(tools)
        self._sandbox: Final = OpenSandbox(
            policy or with_tools(None, [each.name for each in self.tools]), self.tools
        )
        self._sessions_max: Final = sessions_max
        self._tenant: Final = tenant
        # Of the sandbox's loop alone, as all of a place is; the one used last is last.
        self._places: Final[OrderedDict[str, _Place]] = OrderedDict()
        # Keys whose session ended without their program's wish, the last ones: the next call is told.
        self._lost: Final[OrderedDict[str, None]] = OrderedDict()
        # Keys that nobody will use any more; any thread adds some.
        self._over: Final[deque[str]] = deque()

    @classmethod
    def given_or_own(cls, given: Self | None, policy: Policy | None, tools: Iterable[ToolLike]) -> Self:
        """Return what is given, or new ones. Raises UsageError: both are described."""
        tools = list(tools)
        if given is None:
            return cls(policy, tools=tools)
        if policy is not None or tools:
            raise UsageError("sessions have their policy and tools: give one of the two")
        return given

    def run(self, code: str, key: str = "", *, tools: Iterable[ToolLike] = ()) -> str:
        """Run code and return what a model is to see of it, of at most `observation.bytes_max`.

        `tools` are for this call, beside those of all. What the code fails with is in the text, and loses no
        variable that was there before it, unless the text says so.

        Raises:
            UsageError: it is closed; the code of this key's session asked for this itself, through a tool; a
                tool is not allowed.
            RuntimeClosed: the session, or all of it, was ended meanwhile.
            Overloaded, HostExhausted, LockdownError, ArtifactError: no session can be opened.
        """
        return self._sandbox.call(self._run, code, key, as_tools(tools), _INSIDE.get())

    async def run_async(self, code: str, key: str = "", *, tools: Iterable[ToolLike] = ()) -> str:
        """Do what `run` does, for a caller on an event loop. Cancelled, it ends the code and its session."""
        return await self._sandbox.wait(self._run, code, key, as_tools(tools), _INSIDE.get())

    def end(self, key: str) -> None:
        """Free the session of a key. Calls of it that run or wait end with RuntimeClosed."""
        self._sandbox.call(self._end, key)

    async def end_async(self, key: str) -> None:
        """Do what `end` does, for a caller on an event loop."""
        await self._sandbox.wait(self._end, key)

    def end_soon(self, key: str) -> None:
        """Have the session of a key freed with the next call, without a wait: for a finalizer."""
        self._over.append(key)

    def keys(self) -> list[str]:
        """Return the keys that have a session, the one used last at the end."""

        async def keys() -> list[str]:
            return [key for key, place in self._places.items() if place.session is not None]

        return self._sandbox.call(keys)

    def close(self) -> None:
        """End all sessions, for good. Where an event loop runs on this thread, it stands still meanwhile."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        self._sandbox.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- on the sandbox's loop -------------------------------------------------------------------

    async def _run(
        self, code: str, key: str, tools: tuple[Tool[..., Any], ...], inside: tuple[_Place, ...]
    ) -> str:
        self._sandbox.check_tools(tools, self._tenant)
        while self._over:
            await self._end(self._over.popleft())
        place = self._places.setdefault(key, _Place(key))
        if place in inside:
            raise UsageError(
                "a tool was called by the code of this session, and may not run code in it",
                hint="give it a session of its own: another key",
            )
        self._places.move_to_end(key)
        place.calls += 1
        scope = anyio.CancelScope()
        place.scopes.add(scope)
        try:
            with scope:
                async with place.turn:
                    _INSIDE.set((*inside, place))  # of this task, and of the tools that the code calls
                    result = await self._exec(place, code, tools)
                    note, place.note = place.note, ""
                    if result.session_state is SessionState.LOST:
                        await self._free(place)
        except UsageError as error:
            if place.session is None:
                raise
            return f"Nothing ran: {error}"
        finally:
            place.scopes.discard(scope)
            place.calls -= 1
            self._forget(key, place)
        if scope.cancelled_caught:
            raise RuntimeClosed("the session was ended before the call had")
        text = format_observation(RanCell(code, result), self._sandbox.policy.observation).strip("\n")
        return f"{text}\n\n{note}" if note else text

    async def _exec(self, place: _Place, code: str, tools: tuple[Tool[..., Any], ...]) -> CellResult:
        if place.session is None:
            place.session = await self._opened()
            if place.key in self._lost:
                del self._lost[place.key]
                place.note = _EVICTED
        done = False
        try:
            result = await place.session.exec(code, tools=tools)
            done = True
            return result
        except UsageError:
            done = True
            raise
        finally:
            if not done:  # cancelled, or this machine is out of something: who knows what is left
                self._lose(place.key)
                with anyio.CancelScope(shield=True):
                    await self._free(place)

    async def _opened(self) -> SandboxSession:
        """Open a session, in the place of those not used for longest."""
        held = [each for each in self._places.values() if each.session is not None]
        idle = self._idle()
        over = len(held) + 1 - self._sessions_max
        for key in idle[: max(0, over)]:
            await self._evict(key)
        while True:
            try:
                return await self._sandbox.session(self._tenant)
            except Overloaded:  # the policy gives fewer
                if not await self._evict(next(iter(self._idle()), "")):
                    raise

    def _idle(self) -> list[str]:
        return [key for key, each in self._places.items() if each.session is not None and not each.calls]

    async def _evict(self, key: str) -> bool:
        """Free the session of a key that nobody uses. Return whether there is still such a one."""
        place = self._places.get(key)
        if place is None or place.session is None or place.calls:
            return False
        self._lose(key)
        del self._places[key]
        await self._free(place)
        return True

    async def _end(self, key: str) -> None:
        place = self._places.get(key)
        if place is None:
            return
        for scope in place.scopes:
            scope.cancel()
        async with place.turn:
            await self._free(place)
        self._lost.pop(key, None)
        self._forget(key, place)

    def _lose(self, key: str) -> None:
        self._lost[key] = None
        if len(self._lost) > _LOST_MAX:
            self._lost.popitem(last=False)

    def _forget(self, key: str, place: _Place) -> None:
        if place.session is None and not place.calls and self._places.get(key) is place:
            del self._places[key]

    async def _free(self, place: _Place) -> None:
        session, place.session = place.session, None
        if session is not None:
            await session.aclose()
