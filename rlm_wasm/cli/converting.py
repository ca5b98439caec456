"""The sight of documents that are turned into text: a line on a terminal that says how far it is."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rlm_wasm.cli.first_use import wait_for_first_use
from rlm_wasm.cli.output import clean

if TYPE_CHECKING:
    from rich.status import Status

_NAME_CHARS_MAX: Final = 60


class Converting:
    """Shows what it is told of, from the first document on. Silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._status: Status | None = None
        self._shown = False

    def __call__(self, file: str, done: int, total: int) -> None:
        """Take how far a document is."""
        if not self._shown and sys.stderr.isatty():
            from rich.console import Console

            wait_for_first_use()
            self._status = self._stack.enter_context(Console(stderr=True).status(""))
        self._shown = True
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(self.line(file, done, total)))

    @staticmethod
    def line(file: str, done: int, total: int) -> str:
        """Return the line: which document, how many of its parts."""
        name = clean(file).replace("\n", " ")
        name = name if len(name) <= _NAME_CHARS_MAX else f"…{name[-_NAME_CHARS_MAX:]}"
        return f"turning {name} into text: {done:,} of {total:,}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
