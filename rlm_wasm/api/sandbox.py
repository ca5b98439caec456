"""`Sandbox`: full CPython behind the wall, without the RLM on top."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from keyword import iskeyword
from pathlib import Path
from time import monotonic_ns
from types import TracebackType
from typing import Final, Self

import anyio

from rlm_wasm.api.arguments import check_callable, check_plain_function, check_policy
from rlm_wasm.api.best_of import PARALLEL_MAX, Attempt, BestOf, Candidates, Score, check_candidates
from rlm_wasm.api.cell_hook import CellHook
from rlm_wasm.api.cell_requests import CellRequests
from rlm_wasm.api.fork_streams import fork_stream
from rlm_wasm.api.forks import Forks, check_count
from rlm_wasm.api.live_output import LiveOutput, OnOutput
from rlm_wasm.api.opening import BestOpening, ForksOpening, SessionOpening
from rlm_wasm.api.query_hook import OnQuery, QueryHook
from rlm_wasm.api.snapshot import Snapshot, check_snapshot, load_snapshot
from rlm_wasm.api.sync_sandbox import SyncSandbox
from rlm_wasm.engine.accounting import Accounting, Meter, Metrics
from rlm_wasm.engine.contexts import REBASE_FROM_UNITS, as_input, check_name, copied_size
from rlm_wasm.engine.isolation import make_worker
from rlm_wasm.engine.no_host import nobody_answers
from rlm_wasm.engine.request_reader import RequestReader
from rlm_wasm.engine.session_files import SessionFiles
from rlm_wasm.errors import GuestException, UsageError
from rlm_wasm.host.affinity import Affinity, require_no_loop
from rlm_wasm.host.answers import TakeOutput
from rlm_wasm.host.input_file import InputFile
from rlm_wasm.host.worker import Worker, WorkerSession, lockdown_of
from rlm_wasm.limits import CellLimits
from rlm_wasm.policy.model import Policy
from rlm_wasm.protocol.cell import Cell, with_room_for
from rlm_wasm.protocol.file_listing import GuestFile
from rlm_wasm.protocol.session_names import TOOLS_NAME
from rlm_wasm.results import CellResult
from rlm_wasm.tenant import checked_tenant
from rlm_wasm.tools.calls import ToolCalls
from rlm_wasm.tools.granted import GrantedTools, ToolGrants
from rlm_wasm.tools.tool import ToolLike, as_tools
from rlm_wasm.values import Value


class SandboxSession:
    """One guest with its variables; cells run in it one after another. Close it, or use `async with`."""

    def __init__(
        self,
        session: WorkerSession,
        sandbox: Sandbox,
        tenant: str,
        meter: Meter,
        tools: GrantedTools,
        stream: int,
    ) -> None:
        self._session = session
        # Which stream of the policy's seed it draws from, and how many snapshots were taken of it: by both,
        # what is forked from it has streams of its own.
        self._stream = stream
        self._snapshots = 0
        self._meter = meter
        self._sandbox = sandbox
        self._tenant = tenant
        self._tools = tools
        self._calls = ToolCalls()
        # What the guest was told of its tools.
        self._told = tools.told

    @property
    def lockdown(self) -> str:
        """What stands around the process that holds it: full, namespaced, filtered, partial or none.

        The words are those of the event `session_ended`; under isolation = "inline" it is none.
        """
        return lockdown_of(self._session)

    async def load(self, name: str, value: str | bytes | InputFile, *, file: str | None = None) -> None:
        """Bind a str or bytes in the guest, in one copy. Cancelling this may lose the session.

        An `InputFile` is bound as a text, or bytes, of which the guest has only what its code looks at. It is
        the file /inputs/NAME as well; so is any other value for which `file` gives that name, and which is
        kept here until the session is closed, or another one has its name.

        Raises:
            UsageError: the name is no variable's or one of the session's own, the value is neither str nor
                bytes or exceeds `sandbox.context_bytes_max`, `file` is no name of a file, or the session is
                closed, lost or busy.
            MemoryExceeded: the guest has no room for it.
            GuestTrap: the guest could not take it.
            WorkerLost: the process that held the session is gone.
            HostExhausted: this machine has no room for a copy of it.
        """
        check_name(name)
        await self._session.load(name, value, file=file)
        if self._sandbox.policy.sandbox.checkpoint_bytes_max and copied_size([value]) > REBASE_FROM_UNITS:
            await self._session.rebase()

    async def set(self, name: str, value: object) -> None:
        """Bind a value in the guest: a str or bytes as `load` does, anything else by way of JSON.

        There it is a dict, list, str, int, float, bool or None of the guest's own. Tuples become lists;
        dataclasses, msgspec Structs and pydantic models the dict of their fields; a datetime, date or time
        its ISO 8601 text; an Enum its value. Its text counts against `sandbox.context_bytes_max`.
        Cancelling this may lose the session.

        Raises:
            NoJsonForm: the value, or a part of it, is something else, a NaN or an infinity, or holds itself.
            UsageError, MemoryExceeded, GuestError, WorkerLost, HostExhausted: as `load`.
        """
        await self.load(name, as_input(name, value))

    async def get(self, name: str) -> Value:
        """Return the value of a variable: a str or bytes, or what JSON can say; a tuple comes as a list.

        It costs a cell, and is bounded as a cell's result is: by `cell.result_bytes_max`, whole or not at
        all. What comes is the guest's, whatever its code made of it: typed and bounded, and no more.

        Raises:
            UsageError: there is no such variable; the session is closed, lost or busy.
            NoJsonForm: the value, or a part of it, has no JSON form: an object, bytes in a list, a NaN, a key
                that is no text, a list that holds itself.
            ValueTooLarge: it takes more than `cell.result_bytes_max`.
            BoundaryViolation: the guest sent nonsense.
            GuestError: a limit ended the cell that was to tell the value.
            HostExhausted: this machine has no more room for what the cell needs.
        """
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise UsageError(f"{name!a} is not a variable name")
        source = f'__import__("rlm_values").tell({name})'
        limits = with_room_for(source, self._sandbox.cell_limits)
        result = await self._run_cell(Cell(source, limits, report_value=True), nobody_answers)
        if isinstance(result.error, GuestException) and result.error.type_name == NameError.__name__:
            raise UsageError(f"the session has no variable {name}")
        if result.error is not None:
            raise result.error
        return result.told_value()

    async def exec(
        self,
        source: str,
        *,
        on_output: OnOutput | None = None,
        answer_frames: Callable[[bytes], Awaitable[bytes]] | None = None,
        tools: Iterable[ToolLike] | None = None,
    ) -> CellResult:
        """Run Python and return what it came to; the guest's failures are in the result, not raised.

        Who wants them raised calls the result's `raise_for_outcome`.

        What its code asks a model is answered by the sandbox's `on_query`; without one, `llm_query` raises a
        QueryError in the guest. A GuestError that it raises ends the cell and is its result. Cancelling this
        call ends the cell and undoes what it did, as far as its session can go back (below); `interrupt` ends
        it too, and keeps what it did. `answer_frames` is the low level, in its place: it turns the bytes of
        each request into those of its response (`protocol.guest_frames` has both directions).

        `tools` are functions that this cell may call, beside the sandbox's; one of the same name takes that
        one's place. What a tool raises is raised in the guest: a ToolError as it is, of anything else that it
        failed, and the logger `rlm_wasm.tools` has the rest.

        `on_output` is given what the cell writes while it runs, as `Output`s: in order, line by line as a
        rule, all that is in `stdout` and `stderr` at the end.

        Where a cell has to be stopped, the session goes back to its state before it, if that took no more
        than `sandbox.checkpoint_bytes_max`; else it is lost. The result's `session_state` tells.

        Raises:
            UsageError: `source` is no str or longer than `cell.source_bytes_max`, `on_query` returned
                no str, a tool is none or not allowed by the policy, or the session is closed, lost or busy.
            MemoryExceeded: the guest has no room for what it is told of the tools.
            HostExhausted: this machine has no more room for what the cell needs.
            InternalError: a bug of ours.
            Exception: whatever else `on_query` or `on_output` raises. The cell is interrupted first, so that
                the guest can unwind; the session lives on.
        """
        if on_output is not None:
            check_plain_function("on_output", on_output)
        granted = self._tools
        if tools is not None:
            granted = self._sandbox.grants.of(as_tools(tools), self._tenant, wanted=True).over(granted)
        if granted.told != self._told:
            await self._session.load(TOOLS_NAME, granted.told)
            self._told = granted.told
        answer = answer_frames or self._sandbox.answer(self._calls, granted)
        if on_output is None:
            return await self._run_cell(self._cell(source), answer)
        live = LiveOutput(on_output)
        cell = replace(self._cell(source), live=True)
        result = await self._run_cell(cell, answer, live.take)
        live.end()
        return result

    async def exec_turn(
        self, source: str, *, on_query: OnQuery | None = None
    ) -> tuple[CellResult, str | None]:
        """Run a cell of a conversation; return its result, and the answer that its code declared, if it did.

        `on_query` answers what it asks models, in the place of the sandbox's. Else as `exec`, and raises what
        that does.
        """
        hook = self._sandbox.hook(self._calls, self._tools, on_query)
        return await self._run_cell(self._cell(source), hook), hook.finish

    @property
    def policy(self) -> Policy:
        """The policy of its sandbox."""
        return self._sandbox.policy

    def _cell(self, source: str) -> Cell:
        return Cell(source, self._sandbox.cell_limits, report_variables=True, report_value=True)

    async def _run_cell(
        self,
        cell: Cell,
        answer: Callable[[bytes], Awaitable[bytes]],
        on_output: TakeOutput | None = None,
    ) -> CellResult:
        kept = self._sandbox.policy.sandbox.checkpoint_bytes_max
        with self._meter.cell_of(self._session):
            return await self._session.run(cell, answer, checkpoint_bytes_max=kept, on_output=on_output)

    async def write_file(self, path: str, data: bytes) -> None:
        """Write a whole file of the guest's, with the folders above it.

        The guest runs a cell for it, on the tenant's account, as for the other calls over files. Cancelling
        this may lose the session.

        Raises:
            UsageError: the path is no absolute one, the data no bytes or larger than
                `sandbox.files_bytes_max`, or the session is closed, lost or busy.
            GuestError: the guest could not: no room, say. A GuestException names the guest's own error.
        """
        await self._files().write(path, data)
        if self._sandbox.policy.sandbox.checkpoint_bytes_max and len(data) > REBASE_FROM_UNITS:
            await self._session.rebase()

    async def read_file(self, path: str, *, bytes_max: int | None = None) -> bytes:
        """Return a whole file of the guest's.

        Raises:
            UsageError: the path is no absolute one, the file is larger than `bytes_max` or than
                `sandbox.files_bytes_max`, or the session is closed, lost or busy.
            GuestError: the guest could not; a GuestException names its own error, such as FileNotFoundError.
        """
        return await self._files().read(path, bytes_max=bytes_max)

    async def list_files(self, path: str) -> tuple[GuestFile, ...]:
        """Return a file of the guest's, or a folder and everything below it; links are not followed.

        Raises:
            UsageError: the path is no absolute one, more than `sandbox.files_max` names lie below it, or the
                session is closed, lost or busy.
            GuestError: the guest could not; a GuestException names its own error, such as FileNotFoundError.
        """
        return await self._files().list(path)

    def _files(self) -> SessionFiles:
        box = self._sandbox.policy.sandbox

        async def run(source: str, limits: CellLimits) -> CellResult:
            return await self._run_cell(Cell(source, limits), nobody_answers)

        return SessionFiles(
            run, self._session.load, self._sandbox.cell_limits, box.files_bytes_max, box.files_max
        )

    def interrupt(self) -> None:
        """Ask the cell that runs to end, with an exception it can unwind from; the session lives on.

        A cell that ignores it is stopped soon after. Returns at once; does nothing between cells.

        Raises:
            UsageError: the sandbox is closed, and the session is not.
        """
        self._session.interrupt()

    async def snapshot(self) -> Snapshot:
        """Return the session's state between two cells, to fork or to save.

        Raises:
            UsageError: the session is closed or lost, or a cell runs.
            WorkerLost: the process that held the session is gone.
            HostExhausted: this machine has no more room for a snapshot.
        """
        sandbox = self._sandbox
        state = await self._session.snapshot()
        stream = fork_stream(self._stream, self._snapshots)
        self._snapshots += 1
        return Snapshot(
            sandbox.policy, state, self._tenant, sandbox=sandbox, inputs=self._session.inputs, stream=stream
        )

    def fork(self, n: int) -> ForksOpening:
        """Make `n` sessions with the state of this one, which lives on: all of them, or none.

        ``async with session.fork(4) as forks:`` closes them at the end; ``await session.fork(4)`` leaves that
        to the caller. They have its variables, files and inputs, are its tenant's, share its memory until
        they write, and do not see each other. Each draws random bytes of its own; under `entropy = "seeded"`
        the same ones in each program that forks it so, in whatever order the forks run.

        Raises:
            UsageError: `n` is no number, below 1, or more than the sessions that one tenant may have
                (`workers.sessions_max`); a cell runs; the session is closed or lost; the sandbox is closed.
            Overloaded: there is no place for all of them: the policy's sessions, workers or memory are used
                up, or the tenant's part.
            WorkerLost: the process that held the session is gone, or one that was to hold a fork.
            HostExhausted: this machine has no more room for a snapshot, or for a fork.
            ArtifactError, PolicyError, LockdownError: as `Sandbox.session`.
        """
        check_count(n, self._sandbox.policy)

        async def make() -> Forks:
            return await (await self.snapshot()).fork(n)

        return ForksOpening(make)

    def best_of(
        self, n: int, attempt: Attempt, *, score: Score, parallel_max: int = PARALLEL_MAX
    ) -> BestOpening:
        """Try `n` candidates, each in a fork of this session, and keep the one with the highest score.

        A candidate is what `attempt` says: the source of a cell (each draws random numbers of its own), a
        list of `n` sources, or an async function of the fork and its number from 0 on. `score(fork, result)`
        gives a number, or None for no candidate to be kept; it may be async, and look into the fork. Of equal
        scores the first candidate counts. What a candidate, its cell or its scoring fails by is told with it,
        is no score, and loses no other one.

        ``async with session.best_of(…) as best:`` closes `best.session` at the end; awaited, that is left to
        the caller. All other forks are closed then. `parallel_max` of them run at a time, fewer where the
        policy has no place for as many; this session lives on.

        Raises:
            NoCandidate: none has a score.
            UsageError: an argument is none that can be used; a cell runs; the session is closed or lost.
            WorkerLost, HostExhausted: as `snapshot`.
        """
        check_candidates(n, attempt, score, parallel_max)

        async def make() -> BestOf:
            opened = (await self.snapshot()).forking(n)
            return await Candidates(opened, attempt, score).best_of(n, parallel_max)

        return BestOpening(make)

    def abandon(self) -> None:
        """Free the guest without waiting until its place is free, as `aclose` does. Safe to call again.

        Raises:
            UsageError: another event loop runs here than that of the session.
        """
        self._session.abandon()

    async def aclose(self) -> None:
        """Free the guest."""
        await self._session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, trace)


class Sandbox:
    """Makes sessions under one policy. Use it as an async context manager, on asyncio or trio.

    `on_query` answers what their code asks a model (`llm_query`, `rlm_query` and their batches): it takes a
    `ModelQuery` and returns the answer, a str, or raises a QueryError for the code to catch. It may be async;
    one that is not is called on a thread. The prompts of a batch come side by side, at most
    `permits.total_max` at a time, and a cell has `cell.requests_max` of them.

    `tools` are functions that their code may call by name: `Tool`s, or functions, which are made to be some.
    The policy's table [tools] says which of them a tenant has; one that nobody may have is a UsageError.
    """

    def __init__(
        self, policy: Policy, *, on_query: OnQuery | None = None, tools: Iterable[ToolLike] = ()
    ) -> None:
        check_policy(policy)
        if on_query is not None:
            check_callable("on_query", on_query)
        self.policy = policy
        self._on_query = on_query
        self._tools: Final = as_tools(tools)
        self.grants: Final = ToolGrants(policy.tools, policy.boundary)
        self.grants.check(self._tools)
        # Made once: the same object in each cell is what a session knows the limits by.
        self.cell_limits: Final = policy.cell
        self._accounting = Accounting()
        self._worker: Worker = make_worker(policy, self._accounting)
        self._entered = False
        # How many sessions it was asked for since it was opened: the stream of each.
        self._sessions = 0
        self._home: Affinity | None = None  # where it is open

    async def __aenter__(self) -> Self:
        if self._home is not None:
            raise UsageError("the sandbox is open already")
        if self._entered:  # a worker that was closed stays so
            self._worker = make_worker(self.policy, self._accounting)
        self._entered = True
        self._sessions = 0
        self._home = Affinity()
        try:
            await self._worker.__aenter__()
        except BaseException:
            self._home = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home is not None:
            if self._home.inherited:
                return
            self._home.check("the sandbox")
        try:
            await self._worker.__aexit__(kind, error, trace)
        finally:
            self._home = None

    def session(self, *, snapshot: Snapshot | None = None, tenant: str = "") -> SessionOpening:
        """Make a fresh guest for a tenant, or fork one from a snapshot of the same tenant.

        ``async with sandbox.session() as session:`` closes it at the end; ``await sandbox.session()`` leaves
        that to the caller.

        Raises:
            ArtifactError: no guest is built, or it is not what was built.
            PolicyError: the memory cap is below the guest's image.
            LockdownError: the policy demands a layer of the lock-down that this machine does not have.
            Overloaded: the policy's sessions, workers, zygotes or memory are used up, or the tenant's part.
            HostExhausted: this machine has no more room for a session.
            UsageError: the sandbox is not open, or on another event loop; the snapshot is another
                tenant's, of another image, or of another kind of worker; or the tenant's name is too long or
                no text.
            WorkerLost: the process that was to hold the session is gone.
        """
        return SessionOpening(lambda: self._open_session(snapshot, tenant))

    async def open_fork(self, snapshot: Snapshot, tenant: str, stream: int) -> SandboxSession:
        """Make a session from a snapshot that draws from a stream of its own. Raises as `session`."""
        return await self._open_session(snapshot, tenant, stream)

    async def _open_session(
        self, snapshot: Snapshot | None, tenant: str, stream: int | None = None
    ) -> SandboxSession:
        if self._home is not None:
            self._home.check("the sandbox")
        tenant = checked_tenant(tenant)
        if snapshot is not None:
            check_snapshot(snapshot, self.policy)
        meter = self._accounting.meter(tenant)
        if stream is None:
            self._sessions += 1
            stream = self._sessions
        made = await self._worker.session(
            replace(self.policy.session_limits(), stream=stream),
            self.policy.boundary,
            tenant=tenant,
            start=None if snapshot is None else snapshot.state_for(tenant),
        )
        if snapshot is not None:
            made.inputs.begin_with(snapshot.inputs)
        tools = self.grants.of(self._tools, tenant)
        if tools:
            try:
                await made.load(TOOLS_NAME, tools.told)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await made.aclose()
                raise
        meter.session_opened()
        return SandboxSession(made, self, tenant, meter, tools, stream)

    def answer(self, calls: ToolCalls, tools: GrantedTools) -> Callable[[bytes], Awaitable[bytes]]:
        """Return what answers the frames of one cell."""
        if self._on_query is None and not tools:
            return nobody_answers
        return self.hook(calls, tools)

    def hook(self, calls: ToolCalls, tools: GrantedTools, on_query: OnQuery | None = None) -> CellHook:
        """Return what answers the frames of one cell, and keeps the answer that its code declares."""
        policy = self.policy
        requests = CellRequests(policy.cell.requests_max)
        queries, asked = None, on_query or self._on_query
        if asked is not None:
            queries = QueryHook(asked, requests, policy.boundary, parallel_max=policy.permits.total_max)
        reader = RequestReader(policy.boundary, policy.cell.wall_ms_max, monotonic_ns)
        return CellHook(reader, requests, queries, calls, tools)

    def sync(self) -> SyncSandbox:
        """Return the same sandbox for code that is not async: ``with Sandbox(policy).sync() as sandbox:``.

        It is opened by that `with`, and so must not be open otherwise.
        """
        return SyncSandbox(self)

    def metrics(self) -> Metrics:
        """Return what each tenant's sessions have used, and how the pool of workers stands.

        Of calls, tokens and cost it knows nothing: `on_query` is the caller's. Any thread may ask, also
        when the sandbox is closed. What `exec_sync` uses is not in it.
        """
        return self._accounting.metrics()

    def load_snapshot(self, path: str | Path, *, key: bytes | None = None, tenant: str = "") -> Snapshot:
        """Read a snapshot that `Snapshot.save` wrote; the key is chosen as there.

        Raises:
            UsageError: there is no key, or it has not 32 bytes; or the tenant's name is too long.
            ArtifactError: no guest is built, or the file is missing, cut, changed, or of another key,
                tenant or guest build, or of a larger memory than `sandbox.memory_bytes_max`.
        """
        return load_snapshot(self.policy, path, key, tenant, sandbox=self)

    def exec_sync(self, source: str, *, context: str | bytes | InputFile | None = None) -> CellResult:
        """Run one cell in a fresh session from code that is not async, and stop all that it took.

        For more than one, `sync` starts it once.

        Raises what `session`, `SandboxSession.load` and `SandboxSession.exec` raise; UsageError also where an
        event loop runs on this thread.
        """
        require_no_loop(
            "exec_sync",
            "use `async with Sandbox(policy) as sandbox, sandbox.session() as session:` here, "
            "and `await session.exec(source)`",
        )

        async def main() -> CellResult:
            # Of its own, so that any thread may do this at any time.
            own = Sandbox(self.policy, on_query=self._on_query, tools=self._tools)
            async with own as sandbox, sandbox.session() as session:
                if context is not None:
                    await session.load("context", context)
                return await session.exec(source)

        return anyio.run(main)
