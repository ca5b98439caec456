"""The sight of work that is done once for a machine: a bar on a terminal, else one line each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rlm_wasm.artifacts.first_use import watch
from rlm_wasm.cli import output

_idle: Final = threading.Event()
_idle.set()


def show_first_use() -> None:
    """Show such work on stderr from now on. A command that has nothing of it to do shows nothing."""
    watch(_shown)


def wait_for_first_use() -> None:
    """Wait until nothing of it is shown: for who draws on the terminal next."""
    _idle.wait()


@contextmanager
def _shown(what: str) -> Iterator[None]:
    import sys

    _idle.clear()
    try:
        if not sys.stderr.isatty():
            output.note(f"{what}; this is done once, and takes some seconds")
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        # How far it is nobody says: the bar moves to and fro, and the time beside it is the truth.
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            bar.add_task(f"{what}, once", total=None)
            yield
    finally:
        _idle.set()
