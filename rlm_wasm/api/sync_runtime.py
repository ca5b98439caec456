"""`SyncRuntime` and `SyncRun`: the same calls for code that is not async."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rlm_wasm.api.arguments import check_plain_function, checked_sinks
from rlm_wasm.api.background_loop import BackgroundLoop
from rlm_wasm.api.snapshot import Snapshot
from rlm_wasm.engine.accounting import Metrics
from rlm_wasm.engine.cell_judge import OnCell
from rlm_wasm.engine.contexts import Contexts
from rlm_wasm.engine.session_files import Outputs
from rlm_wasm.engine.transcript import Watch
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.events import Event, Gap
from rlm_wasm.guidance import Example
from rlm_wasm.results import RunResult

if TYPE_CHECKING:
    from rlm_wasm.api.run_handle import Run
    from rlm_wasm.api.runtime import Runtime
    from rlm_wasm.engine.event_stream import EventReader
    from rlm_wasm.ids import RunId

_T = TypeVar("_T")


class SyncRuntime:
    """A runtime for code that is not async: ``with Runtime(policy).sync() as runtime:``.

    Its runs live on one event loop, on a thread that `with` starts and ends; sinks are called there. Any
    thread may use it, several at once too, except one where an event loop runs.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._loop = BackgroundLoop(
            "a runtime of `sync()`",
            instead="use `async with Runtime(policy) as runtime:` here, and `await runtime.ask(question)`",
        )

    def __enter__(self) -> Self:
        self._loop.open(self._runtime)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.close(kind, error, trace)

    def ask(
        self,
        question: str,
        context: Contexts = None,
        *,
        sinks: Iterable[Callable[[Event], None]] = (),
        tenant: str = "",
        snapshot: Snapshot | None = None,
        outputs: Outputs | None = None,
        file_names: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        instructions: str | None = None,
        examples: Iterable[Example] = (),
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> RunResult:
        """Answer `question`. Takes and raises what `Runtime.ask` does."""
        kept = _KeptExits()
        try:
            result = self._loop.call(
                self._runtime.ask,
                question,
                context,
                sinks=kept.of(sinks),
                tenant=tenant,
                snapshot=snapshot,
                outputs=outputs,
                file_names=file_names,
                watch=kept.watcher(watch),
                instructions=instructions,
                examples=examples,
                on_cell=on_cell,
                output=output,
            )
        except RlmWasmError:
            kept.raise_first()  # of a watcher
            raise
        kept.raise_first()
        return result

    def start(
        self,
        question: str,
        context: Contexts = None,
        *,
        sinks: Iterable[Callable[[Event], None]] = (),
        tenant: str = "",
        snapshot: Snapshot | None = None,
        file_names: Mapping[str, str] | None = None,
        instructions: str | None = None,
        examples: Iterable[Example] = (),
        on_cell: OnCell | None = None,
        output: Any = None,
    ) -> SyncRun:
        """Begin to answer `question` and return at once. Takes and raises what `Runtime.start` does.

        The run begins at once too: what `SyncRun.events` yields may begin with a Gap; a sink misses nothing.
        """
        kept = _KeptExits()
        run = self._loop.do(
            self._runtime.start,
            question,
            context,
            sinks=kept.of(sinks),
            tenant=tenant,
            snapshot=snapshot,
            file_names=file_names,
            instructions=instructions,
            examples=examples,
            on_cell=on_cell,
            output=output,
        )
        return SyncRun(run, self._loop, kept)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask every run to end now, as `Runtime.cancel` does."""
        self._loop.do(self._runtime.cancel, reason)

    def load_snapshot(self, path: str | Path, *, key: bytes | None = None, tenant: str = "") -> Snapshot:
        """Read a snapshot. Takes and raises what `Runtime.load_snapshot` does."""
        return self._runtime.load_snapshot(path, key=key, tenant=tenant)

    def metrics(self) -> Metrics:
        """Return what `Runtime.metrics` does."""
        return self._runtime.metrics()


class SyncRun:
    """One question under way, for code that is not async."""

    def __init__(self, run: Run, loop: BackgroundLoop, kept: _KeptExits) -> None:
        self._run = run
        self._loop = loop
        self._kept = kept

    @property
    def run_id(self) -> RunId:
        """The run's number in its events."""
        return self._run.run_id

    @property
    def tenant(self) -> str:
        """Whose run it is."""
        return self._run.tenant

    def events(self) -> Iterator[Event | Gap]:
        """Yield the run's events from now on, each when it comes, as `Run.events` does."""
        # Made now, not when the first one is wanted.
        return self._each(self._loop.do(self._run.events))

    def _each(self, reader: EventReader) -> Iterator[Event | Gap]:
        async def following() -> Event | Gap | None:
            return await anext(reader, None)

        while (event := self._loop.call(following)) is not None:
            yield event

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask the run to end now, as `Run.cancel` does."""
        self._loop.do(self._run.cancel, reason)

    def result(self) -> RunResult:
        """Wait for the end. Raises what `Run.result` does; Ctrl-C ends the wait, not the run."""
        result = self._loop.call(self._run.result)
        self._kept.raise_first()
        return result


class _KeptExits:
    """Keeps what sinks and watchers raise that ends a program, for the thread that waits.

    It would end the loop. The run ends as one whose sink has failed.
    """

    def __init__(self) -> None:
        self._errors: list[BaseException] = []

    def of(self, sinks: Iterable[Callable[[Event], None]]) -> list[Callable[[Event], None]]:
        return [self._guarded(sink, "a sink") for sink in checked_sinks(sinks)]

    def watcher(self, watch: Watch | None) -> Watch | None:
        if watch is None:
            return None
        check_plain_function("watch", watch)
        return self._guarded(watch, "watch")

    def _guarded(self, function: Callable[[_T], None], name: str) -> Callable[[_T], None]:
        def guarded(given: _T) -> None:
            try:
                function(given)
            except (KeyboardInterrupt, SystemExit) as error:
                self._errors.append(error)
                raise RlmWasmError(f"{name} raised {type(error).__name__}") from error

        return guarded

    def raise_first(self) -> None:
        if self._errors:
            raise self._errors[0]
