"""`SessionOpening`: a session that somebody asked for, to be awaited or to be entered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from rlm_wasm.errors import UsageError

if TYPE_CHECKING:
    from rlm_wasm.api.sandbox import SandboxSession


class SessionOpening:
    """A session to come, once: ``session = await sandbox.session()``, or ``async with`` that closes it too.

    Nothing is made before it is awaited or entered, which raises what `Sandbox.session` lists.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, SandboxSession]]) -> None:
        self._make = make
        self._taken = False
        self._session: SandboxSession | None = None

    def __await__(self) -> Generator[Any, None, SandboxSession]:
        return self._open().__await__()

    async def _open(self) -> SandboxSession:
        if self._taken:
            raise UsageError("this session was opened already", hint="call `session()` for each session")
        self._taken = True
        return await self._make()

    def __enter__(self) -> NoReturn:
        raise UsageError(
            "this session is opened by `async with` or `await`",
            hint="where a sandbox of `sync()` is open: `with sandbox.session(snapshot=snapshot) as session:`",
        )

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> SandboxSession:
        self._session = session = await self._open()
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, error, trace)
