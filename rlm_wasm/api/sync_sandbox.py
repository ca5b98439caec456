"""`SyncSandbox` and `SyncSession`: the same calls for code that is not async."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, overload

import anyio.to_thread

from rlm_wasm.api.arguments import check_callable
from rlm_wasm.api.background_loop import BackgroundLoop
from rlm_wasm.api.best_of import PARALLEL_MAX, BestOf
from rlm_wasm.api.live_output import OnOutput
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.engine.accounting import Metrics
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.protocol.file_listing import GuestFile
from rlm_wasm.results import CellResult
from rlm_wasm.tools.tool import ToolLike
from rlm_wasm.values import Value

if TYPE_CHECKING:
    from rlm_wasm.api.forks import Forks
    from rlm_wasm.api.sandbox import Sandbox, SandboxSession


class SyncSandbox:
    """A sandbox for code that is not async: ``with Sandbox(policy).sync() as sandbox:``.

    Its sessions live on one event loop, on a thread that `with` starts and ends. Any thread may use it,
    except one where an event loop runs.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._loop = BackgroundLoop(
            "a sandbox of `sync()`",
            instead="use `async with Sandbox(policy) as sandbox, sandbox.session() as session:` here, "
            "and `await session.exec(source)`",
        )

    def __enter__(self) -> Self:
        self._loop.open(self._sandbox)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.close(kind, error, trace)

    def session(self, *, snapshot: Snapshot | None = None, tenant: str = "") -> SyncSession:
        """Make a session. Takes and raises what `Sandbox.session` does."""

        async def make() -> SandboxSession:
            return await self._sandbox.session(snapshot=snapshot, tenant=tenant)

        return SyncSession(self._loop.call(make), self._loop)

    def fork(self, snapshot: Snapshot, n: int) -> SyncForks:
        """Make `n` sessions from a snapshot of this sandbox. Takes and raises what `Snapshot.fork` does."""

        async def make() -> Forks:
            return await snapshot.fork(n)

        return SyncForks(self._loop.call(make), self._loop)

    def exec(
        self, source: str, *, context: str | bytes | InputFile | None = None, tenant: str = ""
    ) -> CellResult:
        """Run one cell in a fresh session, which is closed after it. Raises what `SyncSession`'s calls do."""
        with self.session(tenant=tenant) as session:
            if context is not None:
                session.load("context", context)
            return session.exec(source)

    def load_snapshot(self, path: str | Path, *, key: bytes | None = None, tenant: str = "") -> Snapshot:
        """Read a snapshot. Takes and raises what `Sandbox.load_snapshot` does."""
        return self._sandbox.load_snapshot(path, key=key, tenant=tenant)

    def metrics(self) -> Metrics:
        """Return what `Sandbox.metrics` does."""
        return self._sandbox.metrics()


class SyncSession:
    """A session for code that is not async. Close it, or use `with`.

    One thread runs a cell in it at a time; any other may `interrupt` that cell. Ctrl-C ends the cell.
    """

    def __init__(self, session: SandboxSession, loop: BackgroundLoop) -> None:
        self._session = session
        self._loop = loop

    @property
    def lockdown(self) -> str:
        """What stands around the process that holds it, as `SandboxSession.lockdown` says."""
        return self._session.lockdown

    def load(self, name: str, value: str | bytes | InputFile, *, file: str | None = None) -> None:
        """Bind a str, bytes or file. Takes and raises what `SandboxSession.load` does."""
        self._loop.call(lambda: self._session.load(name, value, file=file))

    def set(self, name: str, value: object) -> None:
        """Bind a value. Takes and raises what `SandboxSession.set` does."""
        self._loop.call(self._session.set, name, value)

    def get(self, name: str) -> Value:
        """Return the value of a variable. Takes and raises what `SandboxSession.get` does."""
        return self._loop.call(self._session.get, name)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a whole file of the guest's. Takes and raises what `SandboxSession.write_file` does."""
        self._loop.call(self._session.write_file, path, data)

    def read_file(self, path: str, *, bytes_max: int | None = None) -> bytes:
        """Return a whole file of the guest's. Takes and raises what `SandboxSession.read_file` does."""
        return self._loop.call(lambda: self._session.read_file(path, bytes_max=bytes_max))

    def list_files(self, path: str) -> tuple[GuestFile, ...]:
        """Return what lies in a folder. Takes and raises what `SandboxSession.list_files` does."""
        return self._loop.call(self._session.list_files, path)

    def exec(
        self,
        source: str,
        *,
        on_output: OnOutput | None = None,
        answer_frames: Callable[[bytes], Awaitable[bytes]] | None = None,
        tools: Iterable[ToolLike] | None = None,
    ) -> CellResult:
        """Run Python. Takes and raises what `SandboxSession.exec` does.

        `on_output`, and an `on_query` or a tool that is async, are called on the loop's thread.
        """
        return self._loop.call(
            self._session.exec, source, on_output=on_output, answer_frames=answer_frames, tools=tools
        )

    def interrupt(self) -> None:
        """Ask the cell that runs to end, as `SandboxSession.interrupt` does; from another thread."""
        self._loop.do(self._session.interrupt)

    def snapshot(self) -> Snapshot:
        """Return the session's state. Raises what `SandboxSession.snapshot` does."""
        return self._loop.call(self._session.snapshot)

    def fork(self, n: int) -> SyncForks:
        """Make `n` sessions with the state of this one. Takes and raises what `SandboxSession.fork` does."""

        async def make() -> Forks:
            return await self._session.fork(n)

        return SyncForks(self._loop.call(make), self._loop)

    def best_of(
        self,
        n: int,
        attempt: str | Sequence[str] | Callable[[SyncSession, int], Any],
        *,
        score: Callable[[SyncSession, Any], float | None],
        parallel_max: int = PARALLEL_MAX,
    ) -> SyncBestOf:
        """Keep the best of `n` candidates. Takes and raises what `SandboxSession.best_of` does.

        The functions are given a SyncSession and are not async; each call is on a thread of its own.
        """
        loop = self._loop

        async def tried(session: SandboxSession, number: int) -> Any:
            assert callable(attempt)
            fork = SyncSession(session, loop)
            return await anyio.to_thread.run_sync(attempt, fork, number, abandon_on_cancel=True)

        def scored(session: SandboxSession, result: Any) -> float | None:
            return score(SyncSession(session, loop), result)

        async def make() -> BestOf:
            function = tried if callable(attempt) else attempt
            return await self._session.best_of(n, function, score=scored, parallel_max=parallel_max)

        check_callable("score", score)
        return SyncBestOf(loop.call(make), loop)

    def close(self) -> None:
        """Free the guest."""
        self._loop.call(self._session.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop.is_open:  # else the session was closed with its sandbox
            self.close()


class SyncForks(Sequence[SyncSession]):
    """Forks of a session for code that is not async, as `Forks`. Close them, or use `with`."""

    def __init__(self, forks: Forks, loop: BackgroundLoop) -> None:
        self._forks = forks
        self._loop = loop
        self._sessions = tuple(SyncSession(session, loop) for session in forks)

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, index: int) -> SyncSession: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SyncSession]: ...
    def __getitem__(self, index: int | slice) -> SyncSession | Sequence[SyncSession]:
        return self._sessions[index]

    def close(self) -> None:
        """Free all their guests. Safe to call again."""
        self._loop.call(self._forks.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop.is_open:  # else they were closed with their sandbox
            self.close()


class SyncBestOf:
    """The best of several candidates for code that is not async, as `BestOf`. Close it, or use `with`."""

    def __init__(self, found: BestOf, loop: BackgroundLoop) -> None:
        self.session: Final = SyncSession(found.session, loop)
        self.best: Final = found.best
        self.candidates: Final = found.candidates

    def close(self) -> None:
        """Free the guest of the best one."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.__exit__(kind, error, trace)
