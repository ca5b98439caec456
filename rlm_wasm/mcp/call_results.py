"""The results of calls that MCP clients make: typed, of JSON alone, and bounded as one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from rlm_wasm.errors import GuestException, RlmWasmError, UsageError
from rlm_wasm.protocol.file_listing import GuestFile
from rlm_wasm.results import CellResult, RunResult


@dataclass(frozen=True, slots=True)
class CallProblem:
    """Why something failed. `key` and `limit` are of a limit of the policy's, `traceback` is the guest's."""

    type: str
    message: str
    hint: str | None = None
    key: str | None = None
    limit: int | None = None
    traceback: str | None = None

    @classmethod
    def of(cls, error: RlmWasmError) -> Self:
        """Return what there is to say of an error."""
        if isinstance(error, GuestException):
            return cls(error.type_name, error.guest_message, traceback=error.traceback or None)
        key, limit = getattr(error, "key", None), getattr(error, "limit", None)
        return cls(type(error).__name__, error.message, error.hint, key, limit)


@dataclass(frozen=True, slots=True)
class RanPython:
    """What code came to. `outcome` is "completed" where nothing went wrong, else `problem` says what did.

    `session` is the name of the session that it ran in, null of a fresh one that is gone again, and
    `session_state` what is left of that one: "alive", "restored" (what the code did is undone) or "lost".
    """

    session: str | None
    outcome: str
    session_state: str
    stdout: str
    stderr: str
    # The repr of the last expression.
    result: str | None
    problem: CallProblem | None
    fuel_used: int
    memory_peak_bytes: int

    @classmethod
    def of(cls, result: CellResult, session: str | None) -> Self:
        """Return it of a cell's result."""
        return cls(
            session,
            result.outcome.value,
            result.session_state.value,
            result.stdout,
            result.stderr,
            result.result,
            None if result.error is None else CallProblem.of(result.error),
            result.fuel_used,
            result.memory_peak_bytes,
        )


@dataclass(frozen=True, slots=True)
class SessionNames:
    """The names of sessions."""

    sessions: list[str]


@dataclass(frozen=True, slots=True)
class FileWritten:
    """A file that was written, and its size."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class FileContents:
    """What a file holds: as text, or in base64 as `encoding` says."""

    path: str
    bytes: int
    encoding: Literal["utf-8", "base64"]
    data: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, folder or link of a session."""

    path: str
    kind: Literal["file", "folder", "link"]
    bytes: int

    @classmethod
    def of(cls, file: GuestFile) -> Self:
        """Return it of a guest's. Bytes of its path that are no UTF-8 are replaced."""
        return cls(file.path.encode("utf-8", "replace").decode(), file.kind, file.size)


@dataclass(frozen=True, slots=True)
class FileList:
    """The files below a path."""

    files: list[FileEntry]


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What a question came to. `partial` says that the model declared no answer; `reason` why the run ended.

    `spent` is what it used, by the dimensions of its budget; `left_out` the files of folders that were not
    read, by the reason.
    """

    answer: str | None
    partial: bool
    reason: str
    run_id: str
    spent: dict[str, int]
    wall_ms: int
    left_out: list[str]

    @classmethod
    def of(cls, result: RunResult, left_out: list[str]) -> Self:
        """Return it of a run's result."""
        return cls(
            result.answer,
            result.partial,
            result.reason,
            result.run_id,
            dict(result.spent),
            result.wall_ms,
            left_out,
        )


Result = RanPython | SessionNames | FileWritten | FileContents | FileList | RunAnswer


def as_json(result: Result, bytes_max: int) -> tuple[dict[str, Any], str]:
    """Return a result as plain data and as its JSON text.

    Raises UsageError: the text is longer than the policy allows.
    """
    data = asdict(result)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    if size > bytes_max:
        raise UsageError(
            f"the result takes {size} bytes; mcp.result_bytes_max is {bytes_max}",
            hint="ask for less, or raise `mcp.result_bytes_max` in the policy",
        )
    return data, text
