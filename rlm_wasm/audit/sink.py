"""The event log as a file: one event a line, on disk before the next thing happens."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Final

from rlm_wasm.audit.line import encode_line
from rlm_wasm.audit.log_lock import hold
from rlm_wasm.errors import RlmWasmError
from rlm_wasm.events import Event


class JsonlSink:
    """Writes events to `path`, which is created or emptied, readable by its owner only, and locked.

    Each event is one `write`, so a run that is interrupted leaves a file complete up to there. A
    write that fails (a full disk) takes its half line back and raises RlmWasmError, then and ever after.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = os.fspath(path)
        self._size = 0
        self._fd: int | None = None
        try:
            # No O_EXCL: writing a log again to the same place is what its owner asked for.
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
        except OSError as exc:
            raise RlmWasmError(f"{self.path}: cannot open the event log: {exc.strerror}") from exc
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        if self._is_file:
            if not hold(fd):
                os.close(fd)
                raise RlmWasmError(f"{self.path}: another run writes this event log")
            os.ftruncate(fd, 0)
            os.fchmod(fd, 0o600)  # it may have been there, open to others
        self._fd = fd

    def write(self, event: Event) -> None:
        """Append one event."""
        if self._fd is None:
            raise RlmWasmError(f"{self.path}: the event log is closed")
        line = encode_line(event)
        try:
            self._write_all(self._fd, line)
        except OSError as exc:
            self._take_back_half_line()
            self.close()
            raise RlmWasmError(f"{self.path}: cannot write the event log: {exc.strerror}") from exc
        self._size += len(line)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> JsonlSink:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @staticmethod
    def _write_all(fd: int, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def _take_back_half_line(self) -> None:
        if self._fd is None or not self._is_file:
            return
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            return  # the first error is the one to report
