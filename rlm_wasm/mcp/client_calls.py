"""`ClientCalls`: all that an MCP client may ask for, a function each.

Their signatures are the gate for arguments, which `call_schema` reads by them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal

import anyio
import anyio.to_thread

from rlm_wasm.api.inputs import Inputs
from rlm_wasm.api.runtime import Runtime
from rlm_wasm.engine.run_tally import RunTally
from rlm_wasm.errors import RlmWasmError, UsageError
from rlm_wasm.events import Event
from rlm_wasm.inputs.folder_choice import FolderChoice
from rlm_wasm.inputs.folder_input import told_of_left_out
from rlm_wasm.inputs.roots import Roots
from rlm_wasm.limits import McpLimits
from rlm_wasm.mcp.call_results import (
    FileContents,
    FileEntry,
    FileList,
    FileWritten,
    RanPython,
    RunAnswer,
    SessionNames,
)
from rlm_wasm.mcp.client_sessions import ClientSessions
from rlm_wasm.outcomes import SessionState
from rlm_wasm.policy.model import Policy

# Tells a client how far a call is: a number that rises, and a line.
Report = Callable[[int, str], Awaitable[None]]
CALLS: Final = (
    "run_python",
    "open_session",
    "close_session",
    "list_sessions",
    "fork",
    "write_file",
    "read_file",
    "list_files",
    "ask_over_files",
)
_GONE: Final = "the client has cancelled the call, or is gone"


@dataclass(frozen=True, slots=True)
class Served:
    """What all clients of one server share. Without a runtime no question can be asked."""

    policy: Policy
    sessions: ClientSessions
    runtime: Runtime | None
    roots: Roots

    @property
    def limits(self) -> McpLimits:
        """What bounds what crosses."""
        return self.policy.mcp_limits()

    def offered(self) -> tuple[str, ...]:
        """Return the names of the calls that can be made."""
        return tuple(name for name in CALLS if name != "ask_over_files" or self.can_ask)

    @property
    def can_ask(self) -> bool:
        """Whether there is a model to ask, and a folder to ask it about."""
        return self.runtime is not None and bool(self.roots)


@dataclass(frozen=True, slots=True)
class ClientCalls:
    """The calls of one client. Each raises what the API below raises, and UsageError for bad arguments."""

    served: Served
    client: str
    report: Report

    async def run_python(
        self,
        code: Annotated[str, "Python source. The value of its last expression is the result."],
        session: Annotated[
            str | None, "The session to run it in. Without one: a fresh session that is gone afterwards."
        ] = None,
    ) -> RanPython:
        """Run Python in a sandbox: CPython in WebAssembly, without network and without files of this machine.

        Variables, imports and files last from one call to the next in the same session.
        """
        sessions = self.served.sessions
        async with sessions.using(self.client, session) as found:
            result = await found.exec(code)
        if session is not None and result.session_state is SessionState.LOST:
            await sessions.drop(self.client, session)
        return RanPython.of(result, session)

    async def open_session(
        self, name: Annotated[str | None, "What to call it. Without one it gets a name."] = None
    ) -> SessionNames:
        """Open a session: a Python interpreter of its own, which keeps its variables and files."""
        return SessionNames([await self.served.sessions.open(self.client, name)])

    async def close_session(self, session: Annotated[str, "The session's name."]) -> SessionNames:
        """Close a session, and return the names of those that are left."""
        await self.served.sessions.close(self.client, session)
        return await self.list_sessions()

    async def list_sessions(self) -> SessionNames:
        """Return the names of the open sessions."""
        return SessionNames(list(self.served.sessions.names(self.client)))

    async def fork(
        self,
        session: Annotated[str, "The session to begin with. It stays as it is."],
        names: Annotated[list[str] | None, "What to call the new ones: one for each name."] = None,
        count: Annotated[int, "How many, where no names are given."] = 1,
    ) -> SessionNames:
        """Make new sessions that begin with all that a session has: variables, imports, files.

        They do not see each other. For trying several ways on from one point.
        """
        most = self.served.limits.sessions_max
        if names is None and not 1 <= count <= most:
            raise UsageError(f"count is a number from 1 to {most}, which is mcp.sessions_max")
        wanted: list[str | None] = [None] * count if names is None else [*names]
        return SessionNames(await self.served.sessions.fork(self.client, session, wanted))

    async def write_file(
        self,
        session: Annotated[str, "The session whose file it becomes."],
        path: Annotated[str, "A whole path in the session, such as /inputs/data.csv."],
        data: Annotated[str, "What the file is to hold."],
        encoding: Annotated[Literal["utf-8", "base64"], "What `data` is: the text, or base64."] = "utf-8",
    ) -> FileWritten:
        """Write a file of a session's, with the folders above it. No file of this machine is touched."""
        contents = _decoded(data, encoding)
        async with self.served.sessions.using(self.client, session) as found:
            await found.write_file(path, contents)
        return FileWritten(path, len(contents))

    async def read_file(
        self,
        session: Annotated[str, "The session whose file it is."],
        path: Annotated[str, "A whole path in the session, such as /out/result.csv."],
        encoding: Annotated[Literal["utf-8", "base64"], "How `data` is to come."] = "utf-8",
    ) -> FileContents:
        """Read a file of a session's."""
        most = self.served.limits.result_bytes_max
        async with self.served.sessions.using(self.client, session) as found:
            contents = await found.read_file(path, bytes_max=most)
        if encoding == "base64":
            return FileContents(path, len(contents), encoding, base64.b64encode(contents).decode())
        try:
            return FileContents(path, len(contents), encoding, contents.decode())
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path!a} is not UTF-8 text (byte {error.start})", hint='ask for it with encoding "base64"'
            ) from error

    async def list_files(
        self,
        session: Annotated[str, "The session whose files they are."],
        path: Annotated[str, "A file or folder of the session's."] = "/out",
    ) -> FileList:
        """List a file of a session's, or a folder and everything below it."""
        async with self.served.sessions.using(self.client, session) as found:
            return FileList([FileEntry.of(file) for file in await found.list_files(path)])

    async def ask_over_files(
        self,
        question: Annotated[str, "What is to be answered."],
        paths: Annotated[
            list[str],
            "Files and folders below the folders that this server was given; `*` and `**` may be used.",
        ],
        include: Annotated[list[str] | None, "Of folders these files alone, as in a .gitignore."] = None,
        exclude: Annotated[list[str] | None, "Of folders not these files, as in a .gitignore."] = None,
    ) -> RunAnswer:
        """Answer a question about files of any size: a model writes code that looks into them, in a sandbox.

        It may take minutes and costs what its models cost, within the budget of this server's policy.
        Progress is reported; a call that is cancelled ends the run.
        """
        runtime, policy = self.served.runtime, self.served.policy
        if runtime is None or not self.served.can_ask:
            raise UsageError("this server can ask no model", hint="its start says why, on its stderr")
        most = policy.input_limits().files_max
        if not 0 < len(paths) <= most:
            raise UsageError(f"paths are 1 to {most} files or folders; the most is inputs.files_max")
        places: list[tuple[str | None, str]] = [(None, self.served.roots.placed(path)) for path in paths]
        read = partial(
            Inputs.read_pairs,
            policy,
            places,
            kind="auto",
            encoding=None,
            choice=FolderChoice(tuple(include or ()), tuple(exclude or ()), False),
            opener=self.served.roots.open,
        )
        inputs = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
        failure: RlmWasmError | None = None
        tally, news = RunTally(policy), _News()

        def take(event: Event) -> None:
            tally.take(event)
            news.wake()

        run = runtime.start(question, inputs, sinks=[take], tenant=self.client, file_names=inputs.file_names)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(news.tell, self.report, tally.line)
            try:
                result = await run.result()
            except RlmWasmError as error:
                failure = error
            except BaseException:
                # Nobody waits any more: the run ends by its own rules, and its one result is dropped.
                run.cancel(_GONE)
                raise
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        left_out = [
            told_of_left_out(each.source, len(each.files), each.left_out) for each in inputs.items_read
        ]
        return RunAnswer.of(result, [told for told in left_out if told])


class _News:
    """Tells of progress no faster than it is taken: what comes meanwhile is one news."""

    def __init__(self) -> None:
        self._came = anyio.Event()

    def wake(self) -> None:
        """Say that there is something new."""
        self._came.set()

    async def tell(self, report: Report, line: Callable[[], str]) -> None:
        """Report each line that is new, until cancelled."""
        told, number = "", 0
        while True:
            await self._came.wait()
            self._came = anyio.Event()
            if (now := line()) != told:
                told, number = now, number + 1
                await report(number, told)


def _decoded(data: str, encoding: Literal["utf-8", "base64"]) -> bytes:
    try:
        return data.encode() if encoding == "utf-8" else base64.b64decode(data, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise UsageError(f"data is no {encoding}: {error}") from error
