"""`ClientSessions`: the sessions that MCP clients have open, each client's by names of its own.

A client is whoever has one key, or the other end of one pipe. For it no session of another client exists. How
many it may have, and for how long without a call, is in the policy.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from rlm_wasm.api.sandbox import Sandbox, SandboxSession
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.errors import Overloaded, UsageError
from rlm_wasm.limits import McpLimits

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(eq=False, slots=True)
class _OpenSession:
    """A session of a client's; None while it is made."""

    session: SandboxSession | None
    used_at: float
    users: int = 0
    # One call after the other: who comes second waits.
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class ClientSessions:
    """Opens, finds, forks and closes them. `now` is a clock in seconds."""

    def __init__(
        self, sandbox: Sandbox, limits: McpLimits, now: Callable[[], float] = anyio.current_time
    ) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._now = now
        self._of: defaultdict[str, dict[str, _OpenSession]] = defaultdict(dict)
        self._numbers: defaultdict[tuple[str, str], int] = defaultdict(int)

    def names(self, client: str) -> tuple[str, ...]:
        """Return what a client's sessions are called, in the order in which they were opened."""
        return tuple(
            name
            for name, each in self._of.get(client, {}).items()
            if each.session is not None and _NAME.fullmatch(name)
        )

    async def open(self, client: str, name: str | None = None) -> str:
        """Open a fresh session and return its name, which is one of our own where none is wanted.

        Raises:
            UsageError: the name is none, or the client has a session of that name.
            Overloaded: the client has all the sessions that it may have. Else as `Sandbox.session`.
        """
        (made,) = await self._make(client, [name], None)
        return made

    async def fork(self, client: str, name: str, names: list[str | None]) -> list[str]:
        """Return the names of new sessions that begin with all that a session has: all of them, or none.

        Raises as `open` and `SandboxSession.snapshot` do.
        """
        async with self.using(client, name) as session:
            snapshot = await session.snapshot()
        return await self._make(client, names, snapshot)

    @asynccontextmanager
    async def using(self, client: str, name: str | None) -> AsyncIterator[SandboxSession]:
        """Have a session for one call: the client's of that name, or a fresh one that is closed behind it.

        Raises UsageError: the client has no such session. Without a name as `open` does.
        """
        if name is None:
            # Among the client's places, by a name that no client can give.
            (own,) = self._reserve(client, [None], "one call's ")
            await self._fill(client, [own], None)
            try:
                async with self.using(client, own) as session:
                    yield session
            finally:
                with anyio.CancelScope(shield=True):
                    await self._forget(client, own)
            return
        found = self._of.get(client, {}).get(name)
        if found is None or found.session is None:
            raise _no_such(name)
        found.users += 1
        try:
            async with found.turn:
                if self._of.get(client, {}).get(name) is not found:
                    raise _no_such(name)  # closed by who came before
                yield found.session
        finally:
            found.users -= 1
            found.used_at = self._now()

    async def close(self, client: str, name: str) -> None:
        """Close a session, behind the call that has it. Raises UsageError: there is none of that name."""
        async with self.using(client, name):
            await self._forget(client, name)

    async def drop(self, client: str, name: str) -> None:
        """Close a session of which nothing is left."""
        await self._forget(client, name)

    async def aclose(self) -> None:
        """Close all of them."""
        with anyio.CancelScope(shield=True):
            for client in list(self._of):
                for name in list(self._of[client]):
                    await self._forget(client, name)

    async def close_idle(self) -> float:
        """Close those that nobody used for too long; return in how many seconds to look again."""
        most = self._limits.session_idle_ms_max / 1000
        left = most
        for client in list(self._of):
            for name, each in list(self._of[client].items()):
                if each.session is None or each.users:
                    continue
                rest = each.used_at + most - self._now()
                if rest <= 0:
                    await self._forget(client, name)
                else:
                    left = min(left, rest)
        return left

    async def _make(self, client: str, names: list[str | None], snapshot: Snapshot | None) -> list[str]:
        wanted = self._reserve(client, names, "s")
        await self._fill(client, wanted, snapshot)
        return wanted

    async def _fill(self, client: str, wanted: list[str], snapshot: Snapshot | None) -> None:
        own = self._of[client]
        try:
            for name in wanted:
                own[name].session = await self._sandbox.session(snapshot=snapshot, tenant=client)
                own[name].used_at = self._now()
        except BaseException:
            with anyio.CancelScope(shield=True):
                for name in wanted:
                    await self._forget(client, name)
            raise

    def _reserve(self, client: str, names: list[str | None], free_names: str) -> list[str]:
        """Take the names and the places of sessions before they are made: others are asked for meanwhile.

        Where no name is given it is `free_names` and a number.
        """
        own, most = self._of[client], self._limits.sessions_max
        if len(own) + len(names) > most:
            raise Overloaded(
                f"{len(own)} sessions are open and {len(names)} are wanted; mcp.sessions_max is {most}",
                hint="close some, or raise `mcp.sessions_max` in the policy",
            )
        wanted: list[str] = []
        for name in names:
            if name is not None:
                _check_name(name)
            while name is None:
                self._numbers[client, free_names] += 1
                free = f"{free_names}{self._numbers[client, free_names]}"
                name = None if free in own or free in wanted or free in names else free
            if name in own or name in wanted:
                raise UsageError(f"there is a session {name} already")
            wanted.append(name)
        own.update((name, _OpenSession(None, self._now())) for name in wanted)
        return wanted

    async def _forget(self, client: str, name: str) -> None:
        found = self._of[client].pop(name, None)
        if not self._of[client]:
            del self._of[client]
        if found is not None and found.session is not None:
            await found.session.aclose()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:100]!a} is no name of a session: up to 64 letters, digits, _, . and -")


def _no_such(name: str) -> UsageError:
    return UsageError(
        f"there is no session {name[:100]!a}",
        hint="open_session opens one; list_sessions names those there are",
    )
