"""What a build shows: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import Progress

from rlm_wasm.cli.build_progress import BarProgress, PlainProgress


def test_elsewhere_each_stage_is_a_plain_line() -> None:
    out = io.StringIO()
    progress = PlainProgress(Console(file=out))
    progress.plan([("link", 5)])
    progress.begin("link", "linking [bold]as it is[/bold]")
    progress.advance(0.5)
    progress.end()
    progress.note("a note")
    lines = out.getvalue().splitlines()
    assert lines[0] == "link: linking [bold]as it is[/bold]"
    assert lines[1].startswith("  done in ")
    assert lines[2] == "note: a note"


def test_on_a_terminal_the_bar_moves_by_each_stages_share() -> None:
    bar = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    progress = BarProgress(bar.console, bar)
    shown: list[float] = []

    def look() -> None:
        shown.append(bar.tasks[0].percentage)

    progress.plan([("first", 30), ("second", 70)])
    look()
    progress.begin("first", "one")
    progress.advance(0.5)
    look()
    progress.end()
    look()
    progress.begin("second", "two")
    progress.advance(0.5)
    look()
    progress.end()
    look()
    assert shown == [0, 15, 30, 65, 100]


def test_a_new_plan_starts_again() -> None:
    bar = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    progress = BarProgress(bar.console, bar)
    progress.plan([("download", 1), ("first", 1)])
    progress.begin("download", "one")
    progress.advance(1.0)
    progress.plan([("download", 1), ("first", 3)])
    assert bar.tasks[0].percentage == 0
