"""`SessionOpening`, `ForksOpening` and `BestOpening`: sessions to come, to be awaited or to be entered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Protocol, TypeVar

from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.api.best_of import BestOf  # noqa: F401 - below, in quotes
    from rlm_wasm.api.forks import Forks  # noqa: F401 - below, in quotes
    from rlm_wasm.api.sandbox import SandboxSession  # noqa: F401 - below, in quotes


class _Closed(Protocol):
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


_T = TypeVar("_T", bound=_Closed)


class _Opening(Generic[_T]):
    """Something to come, once."""

    _again: ClassVar[tuple[str, str]]
    _sync: ClassVar[tuple[str, str]]

    def __init__(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._make = make
        self._taken = False
        self._made: _T | None = None

    def __await__(self) -> Generator[Any, None, _T]:
        return self._open().__await__()

    async def _open(self) -> _T:
        if self._taken:
            message, hint = self._again
            raise UsageError(message, hint=hint)
        self._taken = True
        return await self._make()

    def __enter__(self) -> NoReturn:
        message, hint = self._sync
        raise UsageError(message, hint=hint)

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> _T:
        self._made = made = await self._open()
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._made.__aexit__(kind, error, trace)


class SessionOpening(_Opening["SandboxSession"]):
    """A session to come, once: ``session = await sandbox.session()``, or ``async with`` that closes it too.

    Nothing is made before it is awaited or entered, which raises what `Sandbox.session` lists.
    """

    _again = "this session was opened already", "call `session()` for each session"
    _sync = (
        "this session is opened by `async with` or `await`",
        "where a sandbox of `sync()` is open: `with sandbox.session(snapshot=snapshot) as session:`",
    )


class ForksOpening(_Opening["Forks"]):
    """Forks to come, once: ``forks = await session.fork(4)``, or ``async with`` that closes them too.

    Nothing is made before it is awaited or entered, which raises what `SandboxSession.fork` lists.
    """

    _again = "these forks were made already", "call `fork(n)` for each set of forks"
    _sync = (
        "these forks are made by `async with` or `await`",
        "where a sandbox of `sync()` is open: `with session.fork(4) as forks:`",
    )


class BestOpening(_Opening["BestOf"]):
    """The best of several candidates, to be awaited or entered once, which tries them.

    Entered, it closes the session that was kept. It raises what `SandboxSession.best_of` lists.
    """

    _again = "these candidates were tried already", "call `best_of` for each trial"
    _sync = (
        "candidates are tried by `async with` or `await`",
        "where a sandbox of `sync()` is open: `with session.best_of(…) as best:`",
    )
