"""`Forks`: sessions that begin with the state of one, made and closed together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, overload

import anyio

from rlm_wasm.api.side_by_side import side_by_side
from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.api.sandbox import SandboxSession
    from rlm_wasm.policy.model import Policy

# So many are made at a time: each may be a process.
_MADE_AT_A_TIME: Final = 8


class Forks(Sequence["SandboxSession"]):
    """Sessions with the state of one, in the order of their numbers. Close them, or use `async with`.

    One that was closed by itself stays in its place.
    """

    def __init__(self, sessions: Sequence[SandboxSession]) -> None:
        self._sessions = tuple(sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, index: int) -> SandboxSession: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SandboxSession]: ...
    def __getitem__(self, index: int | slice) -> SandboxSession | Sequence[SandboxSession]:
        return self._sessions[index]

    def __iter__(self) -> Iterator[SandboxSession]:
        return iter(self._sessions)

    async def aclose(self) -> None:
        """Free all their guests. Safe to call again."""
        for session in self._sessions:
            session.abandon()  # so that nobody waits for them one after the other
        for session in self._sessions:
            await session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions:
            session.abandon()
        for session in self._sessions:
            await session.__aexit__(kind, error, trace)


def check_count(n: object, policy: Policy) -> None:
    """Raise UsageError for what is no number of forks, or more than a tenant may have sessions."""
    if not isinstance(n, int) or isinstance(n, bool):
        raise UsageError(f"a number of forks is an int, not a {type(n).__name__}")
    if n < 1:
        raise UsageError(f"a number of forks is at least 1, not {n}")
    most = policy.tenant_limits().share_of(policy.workers.sessions_max)
    if n > most:
        raise UsageError(
            f"{n} forks are more than the {most} sessions that one tenant may have",
            hint="raise `workers.sessions_max` or `tenants.share_percent` in the policy, or fork fewer at a "
            "time",
        )


async def make_forks(count: int, make: Callable[[int], Awaitable[SandboxSession]]) -> Forks:
    """Return so many sessions, each made by its number: all of them or, raising what one raised, none."""
    made: dict[int, SandboxSession] = {}

    async def one(number: int) -> None:
        made[number] = await make(number)

    try:
        await side_by_side(count, _MADE_AT_A_TIME, one)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await Forks(list(made.values())).aclose()
        raise
    return Forks([made[number] for number in range(count)])
