"""Serving MCP over standard input and output, for one client: whoever started this process.

Standard output belongs to the protocol alone: while it is served, whatever else this process writes there
goes to standard error, and what it starts reads nothing of the client's.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    jsonrpc_message_adapter,
)

from rlm_wasm.mcp.lines import LineReader, LineWriter, LongLine
from rlm_wasm.mcp.message_gate import id_of, refusal_of
from rlm_wasm.mcp.server import McpServer

# How long a client that is gone, or does not read, may keep what was still to be said to it.
_LAST_WORDS_SECONDS: Final = 1.0
_WAITING_MAX: Final = 64
# How often it is looked whether a client that does not read is still there.
_LOOK_SECONDS: Final = 0.5


async def serve_stdio(server: McpServer, message_bytes_max: int) -> None:
    """Serve until the client closes its end, or reads no more."""
    with _claimed(0, os.O_RDONLY) as source, _claimed(1, None) as sink:
        came, comes = anyio.create_memory_object_stream[Any](0)
        goes, went = anyio.create_memory_object_stream[Any](0)
        answers = _Answers(LineWriter(sink), went)
        async with anyio.create_task_group() as tasks:
            reader = LineReader(source, message_bytes_max)
            tasks.start_soon(_read, reader, came, goes.clone(), answers, message_bytes_max)
            tasks.start_soon(answers.write, tasks.cancel_scope)
            library = server.server
            await library.run(comes, goes, library.create_initialization_options())
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_SECONDS


async def _read(reader: LineReader, came: Any, goes: Any, answers: _Answers, bytes_max: int) -> None:
    async with came, goes:
        async for line in reader:
            # Who does not read is not read from: what there is to say to it would pile up.
            if not await answers.have_room(reader):
                return
            if isinstance(line, LongLine):
                told = f"a message is longer than {bytes_max} bytes, which is mcp.message_bytes_max"
                await goes.send(_refused(id_of(line.begin, line.end), INVALID_REQUEST, told))
            elif (why := refusal_of(line)) is not None:
                await goes.send(_refused(id_of(line, line), INVALID_REQUEST, why))
            else:
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    await goes.send(_refused(None, PARSE_ERROR, "a line is no message of JSON-RPC"))
                    continue
                try:
                    await came.send(SessionMessage(message))
                except anyio.BrokenResourceError:
                    return


class _Answers:
    """What goes to the client, one after the other."""

    def __init__(self, writer: LineWriter, went: Any) -> None:
        self._writer = writer
        self._went = went
        self._written = anyio.Event()

    async def have_room(self, reader: LineReader) -> bool:
        """Wait until few enough wait to be written. False: the client reads none, and has closed its end."""
        while self._went.statistics().tasks_waiting_send >= _WAITING_MAX:
            if reader.hung_up:
                return False
            with anyio.move_on_after(_LOOK_SECONDS):
                await self._written.wait()
        return True

    async def write(self, scope: anyio.CancelScope) -> None:
        """Write them, until there are no more to come; where nobody reads them, cancel all."""
        async with self._went as went:
            async for message in went:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await self._writer.write(text.encode("utf-8", "replace"))
                except OSError:
                    scope.cancel()
                    return
                written, self._written = self._written, anyio.Event()
                written.set()


def _refused(request: int | str | None, code: int, told: str) -> Any:
    error = ErrorData(code=code, message=told)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=request, error=error))


@contextmanager
def _claimed(number: int, null_flags: int | None) -> Iterator[int]:
    """Give a standard stream another number, and put /dev/null, or standard error, in its place."""
    own = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        instead = os.dup(2) if null_flags is None else os.open(os.devnull, null_flags)
        os.dup2(instead, number)
        os.close(instead)
        try:
            yield own
        finally:
            os.dup2(own, number)
    finally:
        os.close(own)
